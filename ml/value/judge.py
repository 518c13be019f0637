"""How good is a prediction of every user? Measures with intervals, and differences with theirs.

All intervals are 95 % and come from one bootstrap over users: the same resampled users for every
model, so that a difference between two models is one over the same users. A resample is a count of
how often each user was drawn; sorting is done once and a resample costs some sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from ml.metrics import Estimate
from ml.value.history import Array

BG_NBD = "bg_nbd"
RESAMPLES = 200
DECILES = 10
_LEAST = 1e-6
"""A probability nearer to 0 or 1 counts as this near in the log loss."""
AUC, GINI = "auc", "gini"
QUALITY = pa.schema(
    [
        ("target", pa.string()),
        ("horizon_days", pa.int32()),
        ("model", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
    ]
)
DECILE_TABLE = pa.schema(
    [
        ("night", pa.date32()),
        ("origin", pa.string()),
        ("target", pa.string()),
        ("horizon_days", pa.int32()),
        ("decile", pa.int32()),
        ("predicted", pa.float64()),
        ("actual", pa.float64()),
        ("n", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Prediction:
    """What was foretold of n users, and what came: probabilities and 0 or 1, or amounts."""

    told: Array
    came: Array
    is_amount: bool
    order: np.ndarray = field(init=False)
    """int64 [n] users by what was foretold, highest first"""
    ends: np.ndarray = field(init=False)
    """int64 [t] where in that order each run of equals ends"""

    def __post_init__(self) -> None:
        order = np.argsort(-self.told, kind="stable")
        told = self.told[order]
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "ends", np.flatnonzero(np.append(told[1:] != told[:-1], True)))

    @property
    def primary(self) -> str:
        """The measure that decides which model is used."""
        return GINI if self.is_amount else AUC

    def measures(self, weight: Array) -> dict[str, float]:
        """Every measure, with each user counted `weight` [n] times."""
        if self.is_amount:
            return {
                GINI: self._gini(weight, self._captured(weight, self.order, self.ends)),
                "decile_gini": self._decile_gini(weight),
                "mae": float(weight @ np.abs(self.told - self.came) / weight.sum()),
                "predicted_over_actual": _ratio(weight, self.told, self.came),
            }
        p = np.clip(self.told, _LEAST, 1 - _LEAST)
        loss = -(self.came * np.log(p) + (1 - self.came) * np.log1p(-p))
        hits, total = self._captured(weight, self.order, self.ends)
        return {
            AUC: _auc(hits, total - hits),
            "pr_auc": _average_precision(hits, total),
            "gini": 2 * _auc(hits, total - hits) - 1,
            "log_loss": float(weight @ loss / weight.sum()),
            "brier": float(weight @ (self.told - self.came) ** 2 / weight.sum()),
            "ece": self._ece(weight),
            "predicted_over_actual": _ratio(weight, self.told, self.came),
        }

    def by_decile(self) -> list[tuple[int, float, float, int]]:
        """(decile, mean foretold, mean that came, users), 1 is the highest; few users: fewer."""
        parts = np.array_split(self.order, min(DECILES, len(self.order)))
        return [
            (i + 1, float(self.told[part].mean()), float(self.came[part].mean()), len(part))
            for i, part in enumerate(parts)
        ]

    def _captured(self, weight: Array, order: np.ndarray, ends: np.ndarray) -> tuple[Array, Array]:
        """[t] each: what had come, and users, up to the end of each run of equals."""
        value, users = np.cumsum((weight * self.came)[order]), np.cumsum(weight[order])
        return value[ends], users[ends]

    def _gini(self, weight: Array, captured: tuple[Array, Array]) -> float:
        """Area under the curve of what the first users bring, over that of the best order."""
        best = self._captured(weight, self._best, np.arange(len(self._best)))
        highest = _area(*best)
        return _area(*captured) / highest if highest > 0 else float("nan")

    def _decile_gini(self, weight: Array) -> float:
        """The same of the curve through the ends of the tenths of users alone."""
        value, users = self._captured(weight, self.order, np.arange(len(self.order)))
        tenths = np.linspace(0, users[-1], DECILES + 1)
        at = np.interp(tenths, np.append(0, users), np.append(0, value))
        best, people = self._captured(weight, self._best, np.arange(len(self._best)))
        ideal = np.interp(tenths, np.append(0, people), np.append(0, best))
        highest = _area(ideal[1:], tenths[1:])
        return _area(at[1:], tenths[1:]) / highest if highest > 0 else float("nan")

    @cached_property
    def _best(self) -> np.ndarray:
        return np.argsort(-self.came, kind="stable")

    def _ece(self, weight: Array) -> float:
        """Mean |foretold - came| over ten bins of equal counts."""
        gap = np.cumsum((weight * (self.told - self.came))[self.order])
        total = np.cumsum(weight[self.order])
        # users foretold alike stand in no order: cut only between runs of equals, by share
        edges = np.interp(
            np.linspace(0, total[-1], 11),
            np.append(0, total[self.ends]),
            np.append(0, gap[self.ends]),
        )
        return float(np.abs(np.diff(edges)).sum() / total[-1])


def _area(value: Array, users: Array) -> float:
    """Of the curve of value by users, above the diagonal, both as shares."""
    if not value[-1]:
        return 0.0
    y, x = np.append(0, value / value[-1]), np.append(0, users / users[-1])
    return float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)) - 0.5)


def _auc(hits: Array, others: Array) -> float:
    """How often somebody with the outcome was foretold more than somebody without; ties half."""
    if not hits[-1] or not others[-1]:
        return float("nan")
    y, x = np.append(0, hits / hits[-1]), np.append(0, others / others[-1])
    return float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)))


def _average_precision(hits: Array, total: Array) -> float:
    if not hits[-1]:
        return float("nan")
    precision = hits / np.maximum(total, 1e-12)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])


def _ratio(weight: Array, above: Array, below: Array) -> float:
    total = float(weight @ below)
    return float(weight @ above) / total if total else float("nan")


@dataclass(frozen=True)
class Judged:
    """Some models on the same users."""

    quality: pa.Table
    """model, metric, value, low, high, n"""
    leads: dict[str, Estimate]
    """of the challenger over each rival, in the primary measure"""
    primary: str
    values: dict[str, float]
    """the primary measure by model"""


def judge(
    challenger: str, told: dict[str, Array], came: Array, is_amount: bool, seed: int
) -> Judged:
    """All of `told` (model: [n]) against what came [n]; differences of one of them to the rest."""
    predictions = {name: Prediction(each, came, is_amount) for name, each in told.items()}
    n = len(came)
    random = np.random.default_rng(seed)
    found = {name: [each.measures(np.ones(n))] for name, each in predictions.items()}
    for _ in range(RESAMPLES):
        weight = np.bincount(random.integers(n, size=n), minlength=n).astype(np.float64)
        for name, each in predictions.items():
            found[name].append(each.measures(weight))
    rows, drawn = [], {}
    primary = next(iter(predictions.values())).primary
    for name, measures in found.items():
        for metric, value in measures[0].items():
            many = np.array([each[metric] for each in measures[1:]])
            rows.append((name, metric, value, *_interval(many), n))
            drawn[name, metric] = np.append(value, many)
    own = drawn[challenger, primary]
    leads = {}
    for name in told:
        if name != challenger:
            lead = own - drawn[name, primary]
            leads[name] = Estimate(float(lead[0]), *_interval(lead[1:]), n)
    names = ("model", "metric", "value", "low", "high", "n")
    quality = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    return Judged(quality, leads, primary, {name: float(drawn[name, primary][0]) for name in told})


def _interval(many: Array) -> tuple[float, float]:
    known = many[np.isfinite(many)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)
