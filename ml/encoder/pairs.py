"""From events to lessons: which item is met or bought after which.

A lesson is a pair of items, one that a shopper met and another that the same shopper met as a
target event within some days after it. Only events before the cutoff are ever looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from pandas.util import hash_array
from scipy.sparse import csr_matrix

from ml.metrics import top_k
from ml.sequences import DAY, Events

SPARED = 10
"""Of so many shoppers one says when to stop, and one whether it was worth it; by hash of the id."""
LAST_PAIRS = 5
"""Of a spared shopper only the latest pairs are asked, so that nobody counts for hundreds."""
_CHUNK = 1024


@dataclass(frozen=True)
class Pairs:
    """n pairs in the order of users and time."""

    user: np.ndarray
    """int64 [n]"""
    past: np.ndarray
    """int64 [n] item"""
    next: np.ndarray
    """int64 [n] item"""

    def where(self, mask: np.ndarray) -> Pairs:
        """The pairs where `mask` is true."""
        return Pairs(self.user[mask], self.past[mask], self.next[mask])


@dataclass(frozen=True)
class Lessons:
    """Pairs to learn from, and those of shoppers who are kept out of it."""

    learn: Pairs
    stop: Pairs
    judge: Pairs
    n_items: int

    @property
    def log_chance(self) -> np.ndarray:
        """How much likelier than others an item is the next one, log: float32 [items].

        In a batch an item meets the others as often as it is bought: subtracted from the scores,
        this keeps popular items from being pushed away for their popularity (logQ correction).
        """
        count = np.bincount(self.learn.next, minlength=self.n_items)
        return np.log(np.maximum(count, 1) * self.n_items / max(1, count.sum())).astype(np.float32)


def lessons(
    events: Events,
    target_events: tuple[str, ...],
    cutoff_day: int,
    has_text: np.ndarray,
    reach: int,
    window_days: int,
) -> Lessons:
    """The lessons in the events before `cutoff_day`; later ones are dropped, whoever passes them.

    An item is paired with up to `reach` items that the shopper met last before it, at most
    `window_days` earlier. Items without a text (bool [items]) teach nothing.
    """
    events = events.between(None, cutoff_day)
    events = events.where(has_text[events.item])
    same = (events.user[1:] == events.user[:-1]) & (events.item[1:] == events.item[:-1])
    # a view, a cart and a payment of one thing in a row are one meeting, and count as the payment
    wanted = np.isin(events.kind, [i for i, k in enumerate(events.kinds) if k in target_events])
    meeting = np.cumsum(np.r_[True, ~same]) - 1 if len(events.user) else np.zeros(0, np.int64)
    first = np.flatnonzero(np.r_[True, ~same][: len(events.user)])
    user, item, time = events.user[first], events.item[first], events.time[first]
    is_target = np.bincount(meeting, weights=wanted, minlength=len(first)) > 0
    parts = []
    for back in range(1, reach + 1):
        this, that = np.arange(back, len(user)), np.arange(len(user) - back)
        keep = is_target[this] & (user[this] == user[that]) & (item[this] != item[that])
        keep &= time[this] - time[that] <= window_days * DAY
        parts.append((this[keep], that[keep], np.full(keep.sum(), back)))
    this, that, steps = (np.concatenate([part[i] for part in parts]) for i in range(3))
    order = np.lexsort((steps, this))
    this, that, steps = this[order], that[order], steps[order]
    pairs = Pairs(user[this], item[that], item[this])
    group = groups(events.users)[pairs.user]
    return Lessons(
        learn=pairs.where(group > 1),
        stop=_latest(pairs.where((group == 0) & (steps == 1))),
        judge=_latest(pairs.where((group == 1) & (steps == 1))),
        n_items=len(events.items),
    )


def groups(users: pa.Array) -> np.ndarray:
    """0: says when to stop, 1: judges, 2 and up: learned from; the same every night."""
    ids = np.array(users.to_pylist(), dtype=object)
    return (hash_array(ids) % SPARED).astype(np.int64) if len(ids) else np.zeros(0, np.int64)


def _latest(pairs: Pairs) -> Pairs:
    """The last pairs of each user."""
    end = np.searchsorted(pairs.user, pairs.user, side="right")
    return pairs.where(end - np.arange(len(pairs.user)) <= LAST_PAIRS)


def hard_negatives(vectors: np.ndarray, known: Pairs, n: int) -> np.ndarray:
    """The items whose texts are nearest but were never met together: int64 [items, n], -1: none.

    `vectors` float32 [items, d] of the frozen encoder, zeros without a text.
    """
    n_items = len(vectors)
    there = vectors.any(axis=1)
    ones = np.ones(len(known.past), np.float32)
    together = csr_matrix((ones, (known.past, known.next)), (n_items, n_items))
    together = (together + together.T).tocsr()
    found = np.full((n_items, n), -1, np.int64)
    for start in range(0, n_items, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, n_items))
        scores = vectors[rows] @ vectors.T
        scores[together[rows].toarray() > 0] = -np.inf
        scores[:, ~there] = -np.inf
        scores[np.arange(len(rows)), rows] = -np.inf
        best = top_k(torch.from_numpy(scores), n).numpy()
        found[rows, : best.shape[1]] = best
    found[~there] = -1
    return found


def recall(vectors: np.ndarray, pairs: Pairs, k: int = 10) -> np.ndarray:
    """Is the next item among the k nearest of the one before? The mean of each user, in order.

    All items with a text are ranked by cosine, but for the one before itself.
    """
    there = vectors.any(axis=1)
    hit = np.zeros(len(pairs.past), bool)
    for start in range(0, len(hit), _CHUNK):
        rows = slice(start, start + _CHUNK)
        scores = vectors[pairs.past[rows]] @ vectors.T
        scores[:, ~there] = -np.inf
        np.put_along_axis(scores, pairs.past[rows, None], -np.inf, axis=1)
        best = top_k(torch.from_numpy(scores), k).numpy()
        hit[rows] = (best == pairs.next[rows, None]).any(axis=1)
    _, number = np.unique(pairs.user, return_inverse=True)
    return np.bincount(number, weights=hit) / np.maximum(np.bincount(number), 1)
