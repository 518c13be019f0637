"""Gamma-Gamma: what a customer spends per purchase, from the mean so far and how many it is of.

Fader and Hardie 2013, "The Gamma-Gamma Model of Monetary Value": each purchase is Gamma(p, nu)
around the customer's own mean, and nu is Gamma(q, v) among customers. Spend is taken to be
independent of how often a customer buys; `correlation` tells how far that holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from ml import ModelError, TooLittleHistory
from ml.value.history import Array
from ml.value.likelihood import Fit, maximise


@dataclass(frozen=True)
class GammaGamma:
    """The model with its parameters; `v` in the unit of the amounts."""

    p: float
    q: float
    v: float

    @classmethod
    def fit(cls, purchases: Array, mean: Array, prior: float = 0.0) -> tuple[GammaGamma, Fit]:
        """From [n] how many purchases, and [n] the mean of each customer's amounts.

        Customers without a purchase, or with a mean of 0 or less, tell nothing and are left out;
        raises TooLittleHistory when none are left, ModelError when there is no best model. `prior`
        as in `maximise`.
        """
        x, z = _checked(purchases, mean)
        told = (x > 0) & (z > 0)
        if told.sum() < 3:
            raise TooLittleHistory(f"{int(told.sum())} customers with an amount: too few to fit")
        x, z = x[told], z[told]
        start = np.array([2.0, 2.0, float(z.mean())])
        found = maximise(_Objective(x, z), start, 3, "Gamma-Gamma", prior)
        return cls(*found.parameters.tolist()), found

    def expected(self, purchases: Array, mean: Array) -> Array:
        """[n] mean amount of the purchases to come (formula 5 of the note).

        Without a purchase it is the mean of all customers; NaN where q is at most 1 and that mean
        does not exist.
        """
        x, z = _checked(purchases, mean)
        below = self.p * x + self.q - 1
        amount = self.p * (self.v + x * np.where(x > 0, z, 0)) / np.where(below > 0, below, np.nan)
        return cast(Array, amount)


def correlation(purchases: Array, mean: Array) -> float:
    """Pearson's between how many purchases and their mean: near 0 if the model may be used."""
    x, z = _checked(purchases, mean)
    told = x > 0
    return float(np.corrcoef(x[told], z[told])[0, 1]) if told.sum() > 1 else float("nan")


def _checked(purchases: Array, mean: Array) -> tuple[Array, Array]:
    x, z = np.asarray(purchases, np.float64), np.asarray(mean, np.float64)
    if x.shape != z.shape or x.ndim != 1:
        raise ModelError(f"columns of different lengths: {x.shape} and {z.shape}")
    if not np.isfinite(x).all() or (x < 0).any() or not np.isfinite(z[x > 0]).all():
        raise ModelError("purchases must be counts, and their means numbers")
    return x, z


class _Objective:
    """Log-likelihood (formula 1a of the note) and its gradient."""

    def __init__(self, x: Array, z: Array) -> None:
        self.x, self.total = x, x * z
        self.counts, place = np.unique(x, return_inverse=True)
        self.customers = np.bincount(place).astype(np.float64)
        self.logs = self.x @ np.log(self.total)
        self.fixed = -float(np.log(z).sum())

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        from scipy.special import digamma, gammaln

        p, q, v = parameters
        n, k = self.customers, self.counts
        after = np.log(v + self.total)
        inverse = 1 / (v + self.total)
        shape = p * self.x + q
        value = n @ (gammaln(p * k + q) - gammaln(p * k) - gammaln(q))
        value += n.sum() * q * np.log(v) + p * self.logs - shape @ after + self.fixed
        d_p = n @ (k * (digamma(p * k + q) - digamma(p * k))) + self.logs - self.x @ after
        d_q = n @ (digamma(p * k + q) - digamma(q)) + n.sum() * np.log(v) - after.sum()
        d_v = n.sum() * q / v - shape @ inverse
        return float(value), np.array([d_p, d_q, d_v])
