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


_GROUP = 32


def top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """The k best columns of float32 scores [n, items], best first, ties by the lower column.

    -inf is never recommended: it gives -1. The result is exact whatever order the hardware works
    in. Of neighbouring columns first the highest alone are ranked: no column outside of the k best
    groups can be among the k best.
    """
    n, n_items = scores.shape
    k = min(k, n_items)
    whole = n_items // _GROUP
    if whole <= 2 * k:
        column = torch.arange(n_items, device=scores.device).expand(n, -1)
        return _ranked(scores.float(), column, k, n_items)
    highest = scores[:, : whole * _GROUP].unflatten(1, (whole, _GROUP)).amax(2)
    if whole * _GROUP < n_items:
        rest = scores[:, whole * _GROUP :].amax(1, keepdim=True)
        highest = torch.cat([highest, rest], dim=1)
    number = torch.arange(highest.shape[1], device=scores.device).expand(n, -1)
    group = _ranked(highest.float(), number, k, highest.shape[1])
    column = (group[:, :, None] * _GROUP + torch.arange(_GROUP, device=scores.device)).flatten(1)
    none = (column < 0) | (column >= n_items)
    column = column.masked_fill(none, 0)
    value = scores.gather(1, column).float().masked_fill(none, -torch.inf)
    return _ranked(value, column, k, n_items)


def _ranked(scores: torch.Tensor, column: torch.Tensor, k: int, n_columns: int) -> torch.Tensor:
    """The columns of the k best scores, -1 for -inf."""
    place = best_places(scores, column, k, n_columns)
    hidden = scores.gather(1, place) == -torch.inf
    return column.gather(1, place).masked_fill(hidden, -1)


def best_places(scores: torch.Tensor, column: torch.Tensor, k: int, n_columns: int) -> torch.Tensor:
    """Where the k best of float32 scores [n, m] stand, best first, ties by the lower `column`.

    Score and column together become one integer that orders alike.
    """
    bits = scores.contiguous().view(torch.int32).to(torch.int64)
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))
    return torch.topk(ordered * n_columns + (n_columns - 1 - column), k, dim=1).indices


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
