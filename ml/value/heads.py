"""One target learned from features: gradient-boosted trees, calibrated, with an interval.

A probability is one set of trees. An amount is two: whether anything is spent, and, of those who
spend, the logarithm of how much; their product is the mean of a lognormal with a heap at zero
(Wang, Liu, Miao 2019 fit the same three numbers with one network). Users set apart decide when the
trees are many enough, and put what they say on the scale of what came (Platt 1999 on log odds; one
factor for amounts), neither of which moves anybody past another.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml import ModelError, TooLittleHistory
from ml.value.history import Array

SHARE = 0.8
"""of the intervals"""
_HALF = 1.2816  # normal deviations on either side that hold this share
_BINS = 10
_LEAST = 200
"""Rows to learn from, and of either outcome a tenth of that."""
_NEAR = 1e-6
_CHUNK = 50_000


@dataclass(frozen=True)
class Config:
    """How trees are grown; the same for every target."""

    seed: int
    rounds: int = 400
    patience: int = 30
    learning_rate: float = 0.05
    leaves: int = 15
    rows_in_leaf: int = 100
    features: float = 0.3
    rows: float = 0.6
    ridge: float = 10.0
    fades_days: float = 180.0
    """a moment so many days before the newest counts 1/e of it"""

    def lightgbm(self, objective: str, n: int, threads: int) -> dict[str, Any]:
        """What LightGBM is told for n rows."""
        return {
            "objective": objective,
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": max(5, min(self.rows_in_leaf, n // 50)),
            "feature_fraction": self.features,
            "bagging_fraction": self.rows,
            "bagging_freq": 1,
            "lambda_l2": self.ridge,
            "seed": self.seed,
            "num_threads": threads,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }


@dataclass(frozen=True)
class Rows:
    """n moments of users: what was known, what came, whose they are, how much they count."""

    x: np.ndarray
    """float32 [n, f]"""
    y: Array
    user: np.ndarray
    """int64 [n]"""
    weight: Array

    def of(self, which: np.ndarray) -> Rows:
        """Some of them."""
        return Rows(*(each[which] for each in vars(self).values()))


@dataclass(frozen=True)
class Bands:
    """How far the truth may lie from what is told, by how much is told."""

    edge: list[float]
    """[b - 1] between bins of equal counts"""
    half: list[float]
    """[b] of the interval"""

    @classmethod
    def fit(cls, told: Array, came: Array, user: np.ndarray) -> Bands:
        """What chance and a wrong scale leave open, bin by bin; rows of one user are one user."""
        order = np.argsort(told, kind="stable")
        parts = [p for p in np.array_split(order, _BINS) if len(p)]
        edge = [float(told[part[0]]) for part in parts[1:]]
        half = []
        for part in parts:
            people = len(np.unique(user[part]))
            error = float(came[part].std()) / math.sqrt(max(people, 1))
            off = abs(float(came[part].mean() - told[part].mean()))
            half.append(_HALF * error + off)
        return cls(edge, half)

    def around(self, told: Array, highest: float) -> tuple[Array, Array]:
        """[n] low and [n] high."""
        half = np.array(self.half)[np.searchsorted(self.edge, told, side="right")]
        return np.maximum(told - half, 0), np.minimum(told + half, highest)


@dataclass(frozen=True)
class Head:
    """Trees for one target, and the scale that they are put on."""

    features: tuple[str, ...]
    trees: tuple[str, ...]
    """LightGBM's own text; of an amount two, whether and how much"""
    scale: tuple[float, ...]
    """of a probability: slope and shift of its log odds; of an amount: the factor"""
    bands: Bands

    @property
    def is_amount(self) -> bool:
        """Whether it tells an amount."""
        return len(self.trees) == 2

    def tell(self, x: np.ndarray) -> Array:
        """[n] probabilities or amounts from float32 [n, f]."""
        raw = [self._raw(i, x) for i in range(len(self.trees))]
        if self.is_amount:
            return self.scale[0] * _logistic(raw[0]) * np.exp(raw[1])
        return _logistic(self.scale[0] * raw[0] + self.scale[1])

    def interval(self, told: Array) -> tuple[Array, Array]:
        """[n] low and [n] high, between which the expectation lies four times in five."""
        return self.bands.around(told, math.inf if self.is_amount else 1.0)

    def contributions(self, x: np.ndarray) -> Array:
        """[n, f] what each feature adds to the log odds, or to the logarithm of the amount.

        Shapley values of the trees (Lundberg, Erion, Lee 2018), summed over the two sets of trees.
        """
        return np.concatenate(
            [
                sum(
                    booster.predict(x[start : start + _CHUNK], pred_contrib=True)[:, :-1]
                    for booster in self._boosters()
                )
                for start in range(0, len(x), _CHUNK)
            ]
        )

    def _raw(self, i: int, x: np.ndarray) -> Array:
        return np.asarray(self._boosters()[i].predict(x, raw_score=True), np.float64)

    def _boosters(self) -> list[Any]:
        import lightgbm

        return [lightgbm.Booster(model_str=text) for text in self.trees]

    def save(self, folder: Path) -> None:
        """Write the head; the same one gives the same bytes."""
        for i, text in enumerate(self.trees):
            (folder / f"trees_{i}.txt").write_text(text)
        about = {name: value for name, value in asdict(self).items() if name != "trees"}
        (folder / "head.json").write_text(json.dumps(about) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Read what `save` wrote; raises ModelError when it cannot be read."""
        try:
            about = json.loads((folder / "head.json").read_text())
            trees = tuple(p.read_text() for p in sorted(folder.glob("trees_*.txt")))
            bands = Bands(**about["bands"])
            return cls(tuple(about["features"]), trees, tuple(about["scale"]), bands)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder} holds no readable model: roll back ({error})") from error


def fit(
    features: tuple[str, ...], learn: Rows, spared: Rows, is_amount: bool, config: Config,
    threads: int,
) -> Head:  # fmt: skip
    """A head from rows to learn from, and rows of other users to stop and to scale by.

    Raises TooLittleHistory when there is not enough of either outcome.
    """
    some = learn.y > 0
    few = min(some.sum(), (~some).sum() if not is_amount else len(some))
    paid = spared.y > 0
    if len(learn.y) < _LEAST or few < _LEAST // 10 or paid.sum() < 10 or paid.all():
        raise TooLittleHistory(f"{len(learn.y):,} rows, {int(some.sum()):,} of which are positive")
    bought, others = some.astype(np.float64), paid.astype(np.float64)
    whether = _grow(learn.x, bought, learn.weight, spared.x, others, "binary", config, threads)
    trees: tuple[str, ...] = (_text(whether),)
    scale: tuple[float, ...]
    if not is_amount:
        odds = np.asarray(whether.predict(spared.x, raw_score=True), np.float64)
        scale = _platt(odds, spared.y, spared.weight)
    else:
        log = np.log(learn.y[some])
        amount = _grow(
            learn.x[some], log, learn.weight[some], spared.x[paid], np.log(spared.y[paid]),
            "regression", config, threads,
        )  # fmt: skip
        trees = (*trees, _text(amount))
        told = Head(features, trees, (1.0,), Bands([], [0.0])).tell(spared.x)
        # the factor holds the lognormal's exp(variance / 2) as well
        scale = (float(spared.weight @ spared.y / (spared.weight @ told)),)
    head = Head(features, trees, scale, Bands([], [0.0]))
    bands = Bands.fit(head.tell(spared.x), spared.y, spared.user)
    return Head(features, trees, scale, bands)


def _grow(
    x: np.ndarray, y: Array, weight: Array, other_x: np.ndarray, other_y: Array, objective: str,
    config: Config, threads: int,
) -> Any:  # fmt: skip
    import lightgbm

    parameters = config.lightgbm(objective, len(y), threads)
    own = lightgbm.Dataset(x, y, weight=weight, free_raw_data=True)
    booster = lightgbm.train(
        parameters,
        own,
        config.rounds,
        valid_sets=[lightgbm.Dataset(other_x, other_y, reference=own)],
        callbacks=[lightgbm.early_stopping(config.patience, verbose=False)],
    )
    return booster


def _text(booster: Any) -> str:
    return str(booster.model_to_string(num_iteration=booster.best_iteration))


def _platt(odds: Array, came: Array, weight: Array) -> tuple[float, float]:
    """Slope (positive) and shift of the log odds that are most likely."""
    from scipy.optimize import minimize

    def loss(place: Array) -> tuple[float, Array]:
        slope = math.exp(place[0])
        p = _logistic(slope * odds + place[1])
        error = weight * (p - came) / weight.sum()
        p = np.clip(p, _NEAR, 1 - _NEAR)
        value = -(weight @ (came * np.log(p) + (1 - came) * np.log1p(-p))) / weight.sum()
        return float(value), np.array([error @ odds * slope, error.sum()])

    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-2, 2), (-5, 5)])
    return math.exp(found.x[0]), float(found.x[1])


def _logistic(odds: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(odds, -30, 30)))
