"""What lists are like beside being right: how much of the shop they show, and how evenly.

A ranking is int64 [users, k] of item numbers, best first, -1 after the last.
"""

from __future__ import annotations

import numpy as np

from ml.metrics import coverage_at

PLACES = 10
"""Figures are about the first ten places: what a page shows."""


def quality(
    ranking: np.ndarray, candidates: np.ndarray, vectors: np.ndarray, met_by: np.ndarray, users: int
) -> dict[str, float]:
    """Coverage, Gini of exposure, intra-list diversity and novelty of the first places.

    `candidates`: bool [items], what could be shown; `vectors`: float32 [items, d] of length 1 or 0;
    `met_by`: how many of the `users` ever met each item.
    """
    shown = ranking[:, :PLACES]
    return {
        "coverage": coverage_at(shown, PLACES, int(candidates.sum())),
        "gini_of_exposure": gini(exposure(shown, len(candidates))[candidates]),
        "intra_list_diversity": intra_list_diversity(shown, vectors),
        "novelty": novelty(shown, met_by, users),
    }


def exposure(ranking: np.ndarray, n_items: int) -> np.ndarray:
    """On how many lists each item is, int64 [items]."""
    return np.bincount(ranking[ranking >= 0], minlength=n_items)


def gini(counts: np.ndarray) -> float:
    """0 where all count alike, towards 1 where one has everything; NaN without any count."""
    n, total = len(counts), counts.sum()
    if not total:
        return float("nan")
    rank = np.arange(1, n + 1)
    return float((2 * rank - n - 1) @ np.sort(counts) / (n * total))


def intra_list_diversity(ranking: np.ndarray, vectors: np.ndarray) -> float:
    """1 - cosine, mean over the pairs of a list, then over lists of two items and more.

    The cosines of all pairs add up to the square of the summed vectors, less each one's own.
    """
    there = ranking >= 0
    total, own = np.zeros((len(ranking), vectors.shape[1])), np.zeros(len(ranking))
    for place in range(ranking.shape[1]):
        vector = vectors[np.maximum(ranking[:, place], 0)] * there[:, place, None]
        total += vector
        own += (vector**2).sum(1)
    count = there.sum(1)
    pairs = count * (count - 1)
    some = pairs > 0
    alike = ((total**2).sum(1) - own)[some] / pairs[some]
    return float(1 - alike.mean()) if some.any() else float("nan")


def novelty(ranking: np.ndarray, met_by: np.ndarray, users: int) -> float:
    """Mean self-information in bits (Zhou et al. 2010): -log2 of the share who met an item.

    One user more has met everything, so that an item that nobody met has a finite one.
    """
    bits = -np.log2((met_by + 1) / (users + 1))
    return float(bits[ranking[ranking >= 0]].mean()) if (ranking >= 0).any() else float("nan")
