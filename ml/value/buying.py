"""BG/NBD and Gamma-Gamma as one: what buying histories alone say of every target."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ml import TooLittleHistory
from ml.value.bg_nbd import BgNbd
from ml.value.gamma_gamma import GammaGamma
from ml.value.history import Array, History
from ml.value.targets import CHURN, Target

PRIOR = 0.05
"""Precision that keeps a parameter which the data leave open from running away."""
_LEAST = 30
"""Customers with a second purchase below which nothing is fitted."""
_DRAWS = 24


@dataclass(frozen=True)
class Known:
    """n customers: their buying, and the mean amount of their orders."""

    history: History
    orders: Array
    """[n] how many orders the mean is of"""
    mean: Array
    """[n]"""


@dataclass(frozen=True)
class Buying:
    """Both models, and draws of their parameters that are as likely as the data say."""

    purchases: BgNbd
    amounts: GammaGamma
    drawn: tuple[tuple[BgNbd, GammaGamma], ...] = ()

    @classmethod
    def fit(cls, known: Known, seed: int) -> Buying:
        """The most likely ones; raises ModelError where customers are too few to tell."""
        repeaters = int((known.history.repeats > 0).sum())
        if repeaters < _LEAST:
            raise TooLittleHistory(f"{repeaters} customers have bought twice, {_LEAST} are needed")
        purchases, fit = BgNbd.fit(known.history, PRIOR)
        amounts, other = GammaGamma.fit(known.orders, known.mean, PRIOR)
        pairs = zip(fit.draws(_DRAWS, seed), other.draws(_DRAWS, seed), strict=True)
        drawn = tuple((BgNbd.of(one), GammaGamma(*two.tolist())) for one, two in pairs)
        return cls(purchases, amounts, drawn)

    def tell(self, target: Target, known: Known) -> Array:
        """[n] the probability, or the expected amount, of a target."""
        if target.is_amount:
            count = self.purchases.expected(known.history, target.days)
            return count * self.amounts.expected(known.orders, known.mean)
        buys = self.purchases.p_buys(known.history, target.days)
        return 1 - buys if target.name == CHURN else buys

    def interval(self, target: Target, known: Known, share: float) -> tuple[Array, Array]:
        """[n] low and [n] high, between which the expectation lies with that probability."""
        tails = ((1 - share) / 2, (1 + share) / 2)
        told = np.array([replace(self, purchases=a, amounts=b).tell(target, known)
                         for a, b in self.drawn])  # fmt: skip
        low, high = np.quantile(told, tails, axis=0)
        return low, high

    def as_dict(self) -> dict[str, Any]:
        """For a model's folder, without the draws."""
        return {"bg_nbd": asdict(self.purchases), "gamma_gamma": asdict(self.amounts)}

    @classmethod
    def of(cls, known: dict[str, Any]) -> Buying:
        """From `as_dict`."""
        shifts = {name: tuple(known["bg_nbd"][name]) for name in ("buying", "leaving")}
        return cls(BgNbd(**known["bg_nbd"] | shifts), GammaGamma(**known["gamma_gamma"]))
