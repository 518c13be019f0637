"""A trained network on disk, and on another day's catalogue.

Weights are kept with the ids they belong to: the catalogue of the night that is scored has other
items than the one that was trained on. An item the network has not met has no id vector there and
is ranked by its text.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ml import ModelError
from ml.recommender.data import Examples, ItemFacts
from ml.recommender.model import Recommender
from ml.recommender.tower import Shape
from ml.words import Lexicon

WEIGHTS, ABOUT = "model.safetensors", "model.json"
LAYOUT = 3
"""What `ABOUT` says; raised when older code cannot read what this one writes, or the reverse."""
_WORDS = "words."
PER_ITEM = (".item.weight", ".met")
"""How the names of weights end that have one row an item."""
_DAMAGED = (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError)
"""What reading a folder raises where a file is cut off, has other bytes in it or lacks a part."""


@dataclass(frozen=True)
class Scale:
    """How item statistics were standardised in training: mean and deviation by column."""

    mean: list[float]
    std: list[float]

    @staticmethod
    def of(stats: np.ndarray) -> Scale:
        """The scale of raw statistics [snapshots, items, s]; a constant column stays as it is."""
        mean = stats.mean(axis=(0, 1), dtype=np.float64)
        std = stats.std(axis=(0, 1), dtype=np.float64)
        return Scale(mean.tolist(), np.where(std > 1e-6, std, 1.0).tolist())

    def apply(self, stats: np.ndarray) -> np.ndarray:
        """Standardised, with the row of zeros in front that means `nothing known yet`."""
        scaled = ((stats - self.mean) / self.std).astype(np.float32)
        return np.concatenate([np.zeros((1, *scaled.shape[1:]), np.float32), scaled])


@dataclass(frozen=True)
class Learned:
    """A trained network with what its numbers mean."""

    shape: Shape
    weights: dict[str, torch.Tensor]
    items: pa.Array
    """ids by item number"""
    kinds: tuple[str, ...]
    """event types by number"""
    input_events: tuple[str, ...]
    scale: Scale
    lexicon: Lexicon

    @staticmethod
    def of(
        model: Recommender,
        data: Examples,
        input_events: tuple[str, ...],
        scale: Scale,
        lexicon: Lexicon,
    ) -> Learned:
        """What there is to keep of a trained network."""
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        return Learned(
            *(model.shape, weights, data.events.items, data.events.kinds),
            *(input_events, scale, lexicon),
        )

    def save(self, folder: Path) -> None:
        """Write weights and description into a folder; the same network gives the same bytes."""
        words = {
            _WORDS + "weight": torch.from_numpy(self.lexicon.weight),
            _WORDS + "directions": torch.from_numpy(self.lexicon.directions),
        }
        save_file(self.weights | words, folder / WEIGHTS)
        about = {
            "layout": LAYOUT,
            "shape": asdict(self.shape),
            "items": self.items.to_pylist(),
            "kinds": self.kinds,
            "input_events": self.input_events,
            "scale": asdict(self.scale),
            "terms": self.lexicon.terms,
        }
        (folder / ABOUT).write_text(json.dumps(about) + "\n")

    @staticmethod
    def is_of_this_layout(folder: Path) -> bool:
        """Whether the version of the code that wrote the folder kept models as this one does.

        True as well for a folder that is damaged: `load` says so.
        """
        try:
            return bool(json.loads((folder / ABOUT).read_text()).get("layout") == LAYOUT)
        except (OSError, ValueError, AttributeError):
            return True

    @staticmethod
    def load(folder: Path) -> Learned:
        """Read a folder that `save` wrote; raises ModelError when it is not one."""
        try:
            about = json.loads((folder / ABOUT).read_text())
            if about.get("layout") != LAYOUT:
                raise ModelError(
                    f"{folder} was written by another version of this code (layout "
                    f"{about.get('layout', 1)}, not {LAYOUT}): retrain, or go back to that version"
                )
            return Learned._from(about, load_file(folder / WEIGHTS))
        except _DAMAGED as error:
            raise ModelError(
                f"{folder} holds no readable model: roll back or retrain ({error})"
            ) from error

    @staticmethod
    def _from(about: dict[str, Any], weights: dict[str, torch.Tensor]) -> Learned:
        words = [weights.pop(_WORDS + name) for name in ("weight", "directions")]
        for name, value in weights.items():
            if name.endswith(PER_ITEM) and len(value) != len(about["items"]):
                raise ValueError(f"{name} is of {len(value)} items, not {len(about['items'])}")
        return Learned(
            shape=Shape(**about["shape"] | {"towers": tuple(about["shape"]["towers"])}),
            weights=weights,
            items=pa.array(about["items"], pa.string()),
            kinds=tuple(about["kinds"]),
            input_events=tuple(about["input_events"]),
            scale=Scale(**about["scale"]),
            lexicon=Lexicon(about["terms"], *(each.numpy() for each in words)),
        )

    def on(self, items: pa.Array, facts: ItemFacts) -> Recommender:
        """The network over another catalogue (ids in order of number) with that night's facts."""
        text, stats, first_day = facts.tensors()
        if text.shape[1] != self.shape.text_dim:
            raise ModelError(
                f"the model reads texts of {self.shape.text_dim} numbers, not {text.shape[1]}: "
                "the text encoder was changed; train before scoring"
            )
        shape = replace(self.shape, n_items=len(items))
        model = Recommender(shape, text, stats, first_day)
        old = pc.fill_null(pc.index_in(items, self.items), -1).to_numpy()
        there = torch.from_numpy(old >= 0)
        moved = {}
        for name, value in self.weights.items():
            if name.endswith(PER_ITEM):  # zeros: not met
                moved[name] = torch.zeros(len(items), *value.shape[1:], dtype=value.dtype)
                moved[name][there] = value[old[old >= 0]]
        try:
            model.load_state_dict(self.weights | moved)
        except RuntimeError as error:
            raise ModelError(
                f"the weights are not those of the network that {ABOUT} tells of: roll back or "
                f"retrain ({error})"
            ) from error
        return model.eval()
