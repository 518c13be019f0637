"""How good is a ranking? Recall, NDCG, coverage, each over users with its interval.

A ranking is int64 [users, k] of item numbers, best first (-1 where a model has nothing more to
say); the truth is a 0/1 matrix of what each user did in the held-out days.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Estimate:
    """A mean over users with its 95 % interval (normal); NaN bounds where there is none."""

    value: float
    low: float
    high: float
    n: int


def mean_with_interval(values: np.ndarray) -> Estimate:
    """The mean of one value per user, and mean -+ 1.96 standard errors."""
    n = len(values)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    mean = float(values.mean())
    half = 1.96 * float(values.std(ddof=1)) / n**0.5 if n > 1 else float("nan")
    return Estimate(mean, mean - half, mean + half, n)


def top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """The k best columns of float32 scores [n, items], best first, ties by the lower column.

    -inf is never recommended: it gives -1. Each score becomes an integer that orders alike, with
    the column below it, so that the result is exact whatever order the hardware works in.
    """
    bits = scores.float().contiguous().view(torch.int32).to(torch.int64)
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))
    n_items = scores.shape[1]
    column = torch.arange(n_items - 1, -1, -1, device=scores.device)
    best = torch.topk(ordered * n_items + column, min(k, n_items), dim=1).values
    result = n_items - 1 - best % n_items
    result[torch.gather(scores, 1, result) == -torch.inf] = -1
    return result


def hits(ranking: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Which places of the ranking are right: bool [users, k]; `truth` is bool [users, items]."""
    found = np.take_along_axis(truth, np.maximum(ranking, 0), axis=1)
    return found & (ranking >= 0)


def recall_at(hit: np.ndarray, n_true: np.ndarray, k: int) -> np.ndarray:
    """Right items among the first k, over all right items: one value per user."""
    return hit[:, :k].sum(axis=1) / n_true


def ndcg_at(hit: np.ndarray, n_true: np.ndarray, k: int) -> np.ndarray:
    """Discounted gain 1/log2(place + 1) of the first k, over that of a perfect ranking."""
    discount = 1 / np.log2(np.arange(2, k + 2))
    gain = hit[:, :k] @ discount[: hit[:, :k].shape[1]]
    best = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(n_true, k)]
    return gain / best


def coverage_at(ranking: np.ndarray, k: int, n_items: int) -> float:
    """The share of the catalogue that is among anybody's first k."""
    shown = np.unique(ranking[:, :k])
    return float((shown >= 0).sum() / n_items) if n_items else float("nan")
