"""Is a probability as good for every group of shoppers?

The same measures for each group, with fairlearn's MetricFrame: does it tell buyers from others
(AUC), is it too high or too low on average (calibration), and anywhere along its range (ECE)? The
gap is the largest value less the smallest.

Chance alone makes an ECE and a gap larger than they are, so quantiles of resampled ones would never
reach 0. The intervals are the value -+ the 95 % quantile of how far resampling moves it at most:
a gap is moved by no more than the range of the groups' own errors, an ECE by no more than the sum
of its bins'. Where such an interval begins above 0, chance is not the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml import ModelError

SMALLEST = 100
"""Users that a group must have, of either outcome; smaller ones are taken together."""
OTHER, UNKNOWN, GAP = "other", "unknown", "gap"
_RESAMPLES = 200
_BINS = 10

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("grp", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
    ]
)


def gaps(
    probability: np.ndarray, outcome: np.ndarray, groups: dict[str, np.ndarray], seed: int
) -> pa.Table:
    """AUC, calibration and ECE of each group of each kind, with 95 % bootstrap intervals.

    `outcome` is 0 or 1; `groups` names each user's group by kind, such as country (a missing one is
    'unknown'). Groups that are too small to measure, or have one outcome alone, become 'other', and
    are left out when that is too small as well. The row 'gap' is there for two groups or more.
    """
    if not ((outcome == 0) | (outcome == 1)).all() or not np.isfinite(probability).all():
        raise ModelError("fairness needs outcomes of 0 or 1 and probabilities that are numbers")
    tables = [SCHEMA.empty_table()]
    for kind, named in groups.items():
        if not len(probability) == len(outcome) == len(named):
            raise ModelError(f"columns of different lengths: the groups by {kind}")
        group = _large_enough(named, outcome)
        kept = group != ""
        if kept.any():
            tables.append(_measure(kind, probability[kept], outcome[kept], group[kept], seed))
    return pa.concat_tables(tables)


def _large_enough(named: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """The group of each user, small ones as 'other'; '' where that is too small too."""
    names = pa.array(named, from_pandas=True).cast(pa.string())
    group = pc.fill_null(names, UNKNOWN).to_numpy(zero_copy_only=False)
    for instead in (OTHER, ""):
        place = np.unique(group, return_inverse=True)[1]
        n, events = np.bincount(place), np.bincount(place, weights=outcome)
        small = (n < SMALLEST) | (events == 0) | (events == n)
        group[small[place]] = instead
    return group


def _measure(
    kind: str, probability: np.ndarray, outcome: np.ndarray, group: np.ndarray, seed: int
) -> pa.Table:
    from fairlearn.metrics import MetricFrame

    frame = MetricFrame(
        metrics=METRICS, y_true=outcome, y_pred=probability, sensitive_features={kind: group}
    )
    random = np.random.default_rng(seed)
    rows, errors = [], []
    for name in frame.by_group.index:
        mine = group == name
        users = _Users.of(outcome[mine], probability[mine])
        # MetricFrame's own bootstrap copies users one by one: 95 s for 20,000 of them
        draws = np.array([users.again(random).parts() for _ in range(_RESAMPLES)])
        errors.append(draws - users.parts())
        values = frame.by_group.loc[name].to_numpy(np.float64)
        rows += _rows(kind, name, values, _moved(errors[-1]), int(mine.sum()))
    if len(errors) > 1:
        rows += _rows(kind, GAP, frame.difference().to_numpy(), _apart(errors), len(group))
    return pa.Table.from_arrays([*map(pa.array, zip(*rows, strict=True))], schema=SCHEMA)


def _moved(errors: np.ndarray) -> np.ndarray:
    """[resamples, 3]: how far each measure of one group is moved, from errors of its parts."""
    sizes = np.abs(errors)
    return np.column_stack([sizes[:, :2], sizes[:, 2:].sum(1)])


def _apart(errors: list[np.ndarray]) -> np.ndarray:
    """[resamples, 3]: how far the gap of each measure is moved, from all groups' errors."""
    signed = np.array(errors)[:, :, :2]
    moved = np.sort([_moved(each)[:, 2] for each in errors], axis=0)
    return np.column_stack([np.nanmax(signed, 0) - np.nanmin(signed, 0), moved[-2:].sum(0)])


def _rows(kind: str, name: str, values: np.ndarray, moved: np.ndarray, n: int) -> list[tuple]:
    half = np.nanquantile(moved, 0.95, axis=0)
    floor = np.array([-1 if m == "calibration" and name != GAP else 0 for m in METRICS])
    ends = (np.maximum(values - half, floor), np.minimum(values + half, 1))
    columns = (each.tolist() for each in (values, *ends))
    return [(kind, name, *row, n) for row in zip(METRICS, *columns, strict=True)]


@dataclass(frozen=True)
class _Users:
    """The users of a group by their probability, so that a sample of them is sorted already."""

    value: np.ndarray
    """[v] distinct probabilities, in order"""
    place: np.ndarray
    """[n] which of them each user has"""
    outcome: np.ndarray
    """[n]"""

    @classmethod
    def of(cls, outcome: np.ndarray, probability: np.ndarray) -> _Users:
        value, place = np.unique(np.asarray(probability, np.float64), return_inverse=True)
        return cls(value, place, np.asarray(outcome))

    def again(self, random: np.random.Generator) -> _Users:
        """As many users, drawn from these with replacement."""
        drawn = random.integers(len(self.place), size=len(self.place))
        return _Users(self.value, self.place[drawn], self.outcome[drawn])

    def parts(self) -> np.ndarray:
        """What the measures are made of: AUC, calibration, and each bin's share of the ECE.

        The bins hold equal counts; where an edge falls among users with the same probability, they
        count in both by share. A tie counts half in the AUC.
        """
        total = np.bincount(self.place, minlength=len(self.value))
        events = np.bincount(self.place, self.outcome, len(self.value))
        others = total - events
        n, pairs = total.sum(), events.sum() * others.sum()
        above = events @ (np.cumsum(others) - others / 2)
        error = np.cumsum(self.value * total - events) / n
        edges = np.linspace(0, n, _BINS + 1)
        bins = np.interp(edges, np.append(0, np.cumsum(total)), np.append(0, error))
        return np.array([above / pairs if pairs else np.nan, error[-1], *np.diff(bins)])


def auc(outcome: np.ndarray, probability: np.ndarray) -> float:
    """How often a user with the outcome was given more than one without."""
    return float(_Users.of(outcome, probability).parts()[0])


def calibration(outcome: np.ndarray, probability: np.ndarray) -> float:
    """Mean predicted less the share that was observed: above 0 is too high."""
    return float(_Users.of(outcome, probability).parts()[1])


def ece(outcome: np.ndarray, probability: np.ndarray) -> float:
    """Expected calibration error: mean of |predicted - observed| over ten bins of equal counts."""
    return float(np.abs(_Users.of(outcome, probability).parts()[2:]).sum())


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "auc": auc,
    "calibration": calibration,
    "ece": ece,
}
