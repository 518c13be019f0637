"""What a small recommender makes of each user: a few numbers that say what they are drawn to.

The recommender of the night has learned from the very days that a head is judged on, so the heads
have a network of their own (`ml.recommender`, ids alone), fitted to events before the moment that
is judged at and kept with the head. Its vector of a user is what it ranks the items by, brought
down to the directions in which users differ most. One user in five teaches the network; heads learn
from the vectors of the others, since those of its own users hold some of what came next.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ml import ModelError, TooLittleHistory
from ml.recommender.data import Examples, ItemFacts, examples, make_batch
from ml.recommender.files import Learned, Scale
from ml.recommender.model import Recommender
from ml.recommender.tower import IDS
from ml.recommender.train import Config, train
from ml.sequences import Events
from ml.value.reasons import TASTE
from ml.words import NO_WORDS

WIDTH = 8
NAMES = tuple(f"{TASTE}{i + 1}" for i in range(WIDTH))
_AHEAD = 28
"""Days that the network foresees."""
_SMALL = {"dim": 32, "layers": 1, "max_length": 32, "max_epochs": 4, "max_steps": 100}
_FOLDER, _ABOUT = "taste", "taste.json"
_CHUNK = 4096
_KEY_SPAN = 1 << 20
_FOREVER = 1 << 19
"""A day that does not come."""


@dataclass(frozen=True)
class Taste:
    """A network, and the directions in which its users differ most."""

    learned: Learned
    mean: np.ndarray
    """float32 [dim]"""
    axes: np.ndarray
    """float32 [dim, WIDTH]"""

    @classmethod
    def fit(cls, met: Events, wanted: Events, day: int, seed: int) -> Taste | None:
        """From what users met and wanted before a day; None where that is too little.

        Events from `day` on are not read, whoever passes them.
        """
        data = examples(met, wanted, day, _AHEAD)
        try:
            config = Config(seed=seed, towers=(IDS,), log_every=10**9, **_SMALL)
            model = train(data, _facts(data.events), config, log=lambda _: None).model
        except TooLittleHistory:
            return None
        scale = Scale([0.0], [1.0])
        learned = Learned.of(model, data, data.events.kinds, scale, NO_WORDS)
        users = np.unique(data.events.user)
        raw, _ = _vectors(learned, data.events, users, np.full(len(users), day))
        mean = raw.mean(0)
        values, axes = np.linalg.eigh((raw - mean).T.astype(np.float64) @ (raw - mean))
        axes = axes[:, np.argsort(-values, kind="stable")[:WIDTH]]
        # an axis has no sign of its own: its largest number is positive
        axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(WIDTH)])
        return cls(learned, mean, axes.astype(np.float32))

    def of(self, met: Events, user: np.ndarray, day: np.ndarray) -> np.ndarray:
        """float32 [n, WIDTH] of users at the beginning of days; NaN where nothing was met yet."""
        raw, there = _vectors(self.learned, met, user, day)
        found = np.full((len(user), WIDTH), np.nan, np.float32)
        found[there] = (raw - self.mean) @ self.axes
        return found

    def save(self, folder: Path) -> None:
        """Write it into a folder below; the same one gives the same bytes."""
        (folder / _FOLDER).mkdir()
        self.learned.save(folder / _FOLDER)
        about = {"mean": self.mean.tolist(), "axes": self.axes.tolist()}
        (folder / _FOLDER / _ABOUT).write_text(json.dumps(about) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Taste | None:
        """Read what `save` wrote, None where nothing was; raises ModelError for damage."""
        if not (folder / _FOLDER).exists():
            return None
        learned = Learned.load(folder / _FOLDER)
        try:
            about = json.loads((folder / _FOLDER / _ABOUT).read_text())
            mean, axes = (np.array(about[name], np.float32) for name in ("mean", "axes"))
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder} holds no readable model: roll back ({error})") from error
        return cls(learned, mean, axes)


def _facts(events: Events) -> ItemFacts:
    """Nothing of the items but who met them: no texts, no statistics."""
    n = len(events.items)
    first = np.full(n, _FOREVER)
    np.minimum.at(first, events.item, events.day)
    nothing = np.zeros((n, 1), np.float32)
    return ItemFacts(nothing, nothing[:, :0], nothing[None], np.zeros(0, np.int64), first)


@torch.no_grad()
def _vectors(
    learned: Learned, met: Events, user: np.ndarray, day: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """float32 [m, dim] of those who had met something, and int64 [m] who they are.

    Moments between the same two events differ by the days waited alone: read once.
    """
    met = _as_known(met, learned.kinds)
    data, facts = examples(met, met.between(None, 0), _FOREVER, _AHEAD), _facts(met)
    model = learned.on(met.items, facts)
    key = met.user * _KEY_SPAN + met.day
    stop = np.searchsorted(key, user * _KEY_SPAN + day)
    there = np.flatnonzero(stop > met.offsets[user])
    last, which = np.unique(stop[there] - 1, return_inverse=True)
    states = _states(model, data, facts, last)
    wait = torch.from_numpy(day[there] - data.day[last[which]])
    (tower,) = model.towers
    return tower.after(states[torch.from_numpy(which)], wait).numpy(), there


def _states(model: Recommender, data: Examples, facts: ItemFacts, last: np.ndarray) -> torch.Tensor:
    """float32 [e, dim]: the network's state after each of some events."""
    (items,), (tower,) = model.item_vectors(), model.towers
    begin = data.events.offsets[data.events.user[last]]
    start = np.maximum(begin, last + 1 - model.shape.max_length)
    order = np.argsort(last - start, kind="stable")
    states = torch.empty(len(last), model.shape.dim)
    for at in range(0, len(order), _CHUNK):
        rows = order[at : at + _CHUNK]
        moment = (np.arange(len(rows)), last[rows], data.day[last[rows]] + 1)
        batch = make_batch(data, facts, start[rows], last[rows] + 1, *moment)
        states[torch.from_numpy(rows)] = tower.encode(batch, items)[batch.row, batch.place]
    return states


def _as_known(met: Events, kinds: tuple[str, ...]) -> Events:
    """The events of the types that the network knows, numbered as it numbers them."""
    number = np.array([kinds.index(k) if k in kinds else -1 for k in met.kinds], np.int64)
    known = met.where(number[met.kind] >= 0)
    return Events(
        met.users, met.items, kinds, known.user, known.item, number[known.kind], known.time
    )
