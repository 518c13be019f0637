"""BG/NBD: customers buy at a rate of their own and may be gone after any purchase.

Fader, Hardie and Lee 2005, "Counting Your Customers the Easy Way": purchases are Poisson with rates
that are Gamma(r, alpha) among customers; after each repeat purchase a customer is lost with a
probability that is Beta(a, b) among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from ml.value.history import Array, History, alike
from ml.value.likelihood import Fit, maximise

_NEAR_ONE = 1e-6
"""The expectation's formula has no value at a = 1 nor a + b = 1: so close, they are moved away."""
_MANY = 20
"""From so many purchases on the hypergeometric series is summed here: of some SciPy makes NaN."""


@dataclass(frozen=True)
class BgNbd:
    """The model with its parameters; `alpha` in the unit of the history's times.

    Traits shift two of them (after Fader and Hardie 2007, "Incorporating Time-Invariant
    Covariates"): alpha * exp(-traits @ buying), so a customer buys exp(traits @ buying) times as
    often, and a * exp(traits @ leaving), so it is as many times as likely, against staying, to be
    lost with a purchase.
    """

    r: float
    alpha: float
    a: float
    b: float
    buying: tuple[float, ...] = ()
    leaving: tuple[float, ...] = ()

    @classmethod
    def fit(cls, history: History, prior: float = 0.0) -> tuple[BgNbd, Fit]:
        """The most likely model; raises ModelError when there is no such thing.

        `prior` as in `maximise`.
        """
        rows = history.distinct()
        k = rows.traits.shape[1]
        start = np.array([1.0, max(float(np.mean(rows.age)), 1e-3), 1.0, 1.0, *[0.0] * 2 * k])
        found = maximise(_Objective(rows), start, 4, "BG/NBD", prior)
        return cls.of(found.parameters), found

    @classmethod
    def of(cls, parameters: Array) -> BgNbd:
        """From the parameters of a fit, r, alpha, a, b, buying, leaving."""
        one, two, three, four, *shifts = parameters.tolist()
        k = len(shifts) // 2
        return cls(one, two, three, four, tuple(shifts[:k]), tuple(shifts[k:]))

    def p_alive(self, history: History) -> Array:
        """[n] probability that a customer is not lost yet (1 for those without a repeat)."""
        alpha, a = self.alpha / history.times(self.buying), self.a * history.times(self.leaving)
        alive, gone = _parts(history, self.r, alpha, a, self.b)
        return cast(Array, np.exp(alive - np.logaddexp(alive, gone)))

    def p_buys(self, history: History, horizon: float) -> Array:
        """[n] probability of a purchase in the `horizon` after the end of what was observed.

        Somebody who is there still buys nothing with the gamma mixture's probability of no event.
        """
        late = self.alpha / history.times(self.buying) + history.age
        nothing = (self.r + history.repeats) * np.log1p(horizon / late)
        return cast(Array, self.p_alive(history) * -np.expm1(-nothing))

    def expected(self, history: History, horizon: float) -> Array:
        """[n] purchases to expect in the `horizon` after the end of what was observed.

        Formula 10 of the paper, with its hypergeometric function transformed (Euler) so that its
        arguments do not grow with the number of purchases.
        """
        x, r, b = history.repeats, self.r, self.b
        alpha, a = self.alpha / history.times(self.buying), self.a * history.times(self.leaving)
        a = np.where(np.abs(a - 1) > _NEAR_ONE, a, 1 + _NEAR_ONE)
        a = np.where(np.abs(a + b - 1) > _NEAR_ONE, a, a + 2 * _NEAR_ONE)
        z = horizon / (alpha + history.age + horizon)
        left = (1 - z) ** (a - 1) * _hypergeometric(a + b - 1 - r, a - 1, a + b - 1, x, z)
        return cast(Array, (a + b + x - 1) / (a - 1) * (1 - left) * self.p_alive(history))


def _hypergeometric(first: Array, second: Array, third: Array, x: Array, z: Array) -> Array:
    """[n] 2F1(first, second; third + x; z) for 0 < z < 1."""
    from scipy.special import hyp2f1

    many = x >= _MANY
    found = np.empty(len(x))
    few = ~many
    found[few] = hyp2f1(first[few], second[few], third[few] + x[few], z[few])
    first, second, bottom, z = first[many], second[many], (third + x)[many], z[many]
    term, whole, k = np.ones(len(z)), np.ones(len(z)), 0
    while len(z) and (np.abs(term) > 1e-17 * np.abs(whole)).any():
        term = term * (first + k) * (second + k) / ((bottom + k) * (k + 1)) * z
        whole, k = whole + term, k + 1
    found[many] = whole
    return found


def _parts(history: History, r: float, alpha: Array, a: Array, b: float) -> tuple[Array, Array]:
    """[n] each: logs of what is proportional to being there still, and to being gone."""
    x = history.repeats
    alive = -(r + x) * np.log(alpha + history.age)
    # those without a repeat cannot be gone, whatever the formula says
    odds = np.log(a) - np.log(np.where(x > 0, b + x - 1, 1))
    gone = odds - (r + x) * np.log(alpha + history.recency)
    return alive, np.where(x > 0, gone, -np.inf)


class _Objective:
    """Log-likelihood (formula 6 of the paper, in logarithms throughout) and its gradient."""

    def __init__(self, history: History) -> None:
        self.history = history
        # the special functions depend on few different rows: the purchases, and the traits
        first, self.place = alike(history.repeats, history.traits)
        self.groups = history.rows(first)
        self.customers = self._sum(history.customers)

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        from scipy.special import betaln, digamma, gammaln

        own = BgNbd.of(parameters)
        r, b, x, n = own.r, own.b, self.groups.repeats, self.customers
        alphas = own.alpha / self.groups.times(own.buying)
        many_a = own.a * self.groups.times(own.leaving)
        alpha, a = alphas[self.place], many_a[self.place]
        alive, gone = _parts(self.history, r, alpha, a, b)
        both = np.logaddexp(alive, gone)
        p = np.exp(alive - both)
        weight = self.history.customers
        late, early = alpha + self.history.age, alpha + self.history.recency
        known = gammaln(r + x) - gammaln(r) + r * np.log(alphas)
        known += betaln(many_a, b + x) - betaln(many_a, b)
        value = n @ known + weight @ both
        lost = self._sum(weight * (1 - p))
        mean_log = self._sum(weight * (p * np.log(late) + (1 - p) * np.log(early)))
        mean_inverse = self._sum(weight * (p / late + (1 - p) / early))
        ends = digamma(many_a + b) - digamma(many_a + b + x)
        d_r = n * (digamma(r + x) - digamma(r) + np.log(alphas)) - mean_log
        # by the logarithms of alpha and a, which the traits shift
        d_alpha = n * r - (r + x) * mean_inverse * alphas
        d_a = n * many_a * ends + lost
        d_b = n * (ends + digamma(b + x) - digamma(b))
        d_b -= lost / np.where(x > 0, b + x - 1, 1)
        first = [d_r.sum(), d_alpha.sum() / own.alpha, d_a.sum() / own.a, d_b.sum()]
        traits = self.groups.traits
        return float(value), np.array([*first, *-(d_alpha @ traits), *(d_a @ traits)])

    def _sum(self, each: Array) -> Array:
        return cast(Array, np.bincount(self.place, weights=each, minlength=len(self.groups)))
