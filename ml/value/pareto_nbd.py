"""Pareto/NBD: customers buy at a rate of their own until they are lost, at any time.

Schmittlein, Morrison and Colombo 1987, "Counting Your Customers: Who Are They and What Will They Do
Next?": purchases are Poisson with rates that are Gamma(r, alpha) among customers, lifetimes are
exponential with rates that are Gamma(s, beta).

The likelihood of a customer holds an integral over the time of loss,

    s * integral from recency to age of (alpha + y)^-(r + x) (beta + y)^-(s + 1) dy,

usually written with two hypergeometric functions whose difference cancels for large counts. Here it
is summed over the logarithm of alpha + y or beta + y, whichever is smaller: a smooth function
without a second peak, cut where it has sunk by `_SUNK`, at fixed nodes (Gauss and Legendre). The
same sums weighted give the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ml import ModelError
from ml.value.history import Array, History
from ml.value.likelihood import Fit, maximise

Made = TypeVar("Made")
NODES = 24
_SUNK = 40.0
"""What lies further below the beginning, as a logarithm, adds nothing to a float."""
_NEWTON = 6
PREVIEW = 20_000
"""Customers on whom the search begins, where there are many more."""
CHUNK = 1 << 13
"""Customers whose nodes are in memory at once, for each thread."""


@dataclass(frozen=True)
class ParetoNbd:
    """The model with its parameters; `alpha` and `beta` in the unit of the history's times.

    Traits shift them (Fader and Hardie 2007, "Incorporating Time-Invariant Covariates"): a customer
    buys exp(traits @ buying) times as often, and is lost exp(traits @ leaving) times as soon.
    """

    r: float
    alpha: float
    s: float
    beta: float
    buying: tuple[float, ...] = ()
    leaving: tuple[float, ...] = ()

    @classmethod
    def fit(cls, history: History) -> tuple[ParetoNbd, Fit]:
        """The most likely model; raises ModelError when there is no such thing."""
        rows = history.distinct()
        age, k = max(float(np.mean(rows.age)), 1e-3), rows.traits.shape[1]
        start, spread = np.array([1.0, age, 1.0, age, *[0.0] * 2 * k]), None
        if len(rows) > 2 * PREVIEW:
            few = np.random.default_rng(0).choice(len(rows), PREVIEW, replace=False)
            try:
                preview = maximise(_Objective(rows.rows(np.sort(few))), start, 4, "Pareto/NBD")
            except ModelError:  # what few customers leave open all may tell
                pass
            else:
                start, spread = preview.parameters, preview.covariance
        found = maximise(_Objective(rows), start, 4, "Pareto/NBD", spread=spread)
        return cls.of(found.parameters), found

    @classmethod
    def of(cls, parameters: Array) -> ParetoNbd:
        """From the parameters of a fit, r, alpha, s, beta, buying, leaving."""
        one, two, three, four, *shifts = parameters.tolist()
        k = len(shifts) // 2
        return cls(one, two, three, four, tuple(shifts[:k]), tuple(shifts[k:]))

    def p_alive(self, history: History) -> Array:
        """[n] probability that a customer is not lost yet."""
        parts = _each(_pieces(history), lambda rows: _parts(rows, self)[:2])
        alive, gone = (np.concatenate(each) for each in zip(*parts, strict=True))
        return cast(Array, np.exp(alive - np.logaddexp(alive, gone)))

    def expected(self, history: History, horizon: float) -> Array:
        """[n] purchases to expect in the `horizon` after the end of what was observed.

        Formula 41 of Fader and Hardie 2005, "A Note on Deriving the Pareto/NBD Model".
        """
        alpha, beta = _own(history, self)
        later = np.log1p(horizon / (beta + history.age))
        s = self.s - 1
        lifetime = later if abs(s) < 1e-12 else -np.expm1(-s * later) / s
        rate = (self.r + history.repeats) / (alpha + history.age)
        return cast(Array, self.p_alive(history) * rate * (beta + history.age) * lifetime)


def _own(history: History, model: ParetoNbd) -> tuple[Array, Array]:
    """alpha and beta of each customer, [n]."""
    return model.alpha / history.times(model.buying), model.beta / history.times(model.leaving)


def _pieces(history: History) -> list[History]:
    starts = range(0, len(history), CHUNK)
    return [history.rows(slice(start, start + CHUNK)) for start in starts]


def _each(pieces: list[History], work: Callable[[History], Made]) -> list[Made]:
    """What `work` makes of each piece, in their order, on as many threads as torch may use.

    torch's own threads would wait for each other in every operation: with other work on the
    machine ten times as long as one thread alone.
    """
    threads = torch.get_num_threads()
    alone: dict[str, Any] = {"initializer": torch.set_num_threads, "initargs": (1,)}
    try:
        with ThreadPoolExecutor(threads, **alone) as pool:
            return list(pool.map(work, pieces))
    finally:
        torch.set_num_threads(threads)  # the number is also that of threads yet to come


def _parts(history: History, model: ParetoNbd) -> tuple[Array, Array, Array]:
    """Logs of what is proportional to being there still and to being gone [n] each.

    The third, [4, n], are the means over the time of loss of the logs and inverses by which the
    gradient is made: log(alpha + y), 1 / (alpha + y), log(beta + y), 1 / (beta + y).
    """
    columns = (history.repeats, history.recency, history.age, *_own(history, model))
    x, recency, age, alpha, beta = (torch.from_numpy(each) for each in columns)
    r, s = model.r, model.s
    alive = -(r + x) * torch.log(alpha + age) - s * torch.log(beta + age)
    # exp(-fast * w) * (exp(w) + far)^-slow, w = log of the smaller of alpha + y and beta + y
    far, order = (alpha - beta).abs(), alpha <= beta
    least = torch.minimum(alpha, beta)
    fast = torch.where(order, r + x - 1, s)
    slow = torch.where(order, s + 1, r + x)
    first = torch.log(least + recency)
    level = torch.log(torch.exp(first) + far)

    def sunk(w: Tensor) -> Tensor:
        """By how much the logarithm of the function lies below that at its beginning."""
        return fast * (w - first) + slow * (torch.log(torch.exp(w) + far) - level)

    end = torch.log(least + age)
    for _ in range(_NEWTON):  # convex, and begun above: each step ends above the root again
        slope = fast + slow * torch.exp(end) / (torch.exp(end) + far)
        over = (sunk(end) - _SUNK).clamp(min=0)
        end = end - over / slope.where(over > 0, 1)
    node, weight = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(NODES))
    span = (end - first) / 2
    w = first + span * (1 + node[:, None])
    near = torch.exp(w)
    wide = near + far
    log_wide = torch.log(wide)
    share = torch.exp(-fast * (w - first) - slow * (log_wide - level)) * weight[:, None] * span
    whole = share.sum(0)
    # log(0): nobody is lost between a purchase and the same moment
    gone = math.log(s) - fast * first - slow * level + torch.log(whole)
    share = share / whole.where(whole > 0, 1)
    means = [(share * each).sum(0) for each in (w, 1 / near, log_wide, 1 / wide)]
    smaller, larger = torch.stack(means[:2]), torch.stack(means[2:])
    by_alpha, by_beta = torch.where(order, smaller, larger), torch.where(order, larger, smaller)
    return alive.numpy(), gone.numpy(), torch.cat([by_alpha, by_beta]).numpy()


class _Objective:
    """Log-likelihood (formula 18 of the note) and its gradient."""

    def __init__(self, history: History) -> None:
        self.pieces = _pieces(history)
        self.counts, place = np.unique(history.repeats, return_inverse=True)
        self.customers = np.bincount(place, weights=history.customers)

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        from scipy.special import digamma, gammaln

        model = ParetoNbd.of(parameters)
        n, k = self.customers, self.counts
        value = n @ (gammaln(model.r + k) - gammaln(model.r))
        gradient = np.zeros(len(parameters))
        gradient[0] = n @ (digamma(model.r + k) - digamma(model.r))
        for some, more in _each(self.pieces, lambda rows: _piece(rows, model)):
            value += some
            gradient += more
        return float(value), gradient


def _piece(rows: History, model: ParetoNbd) -> tuple[float, Array]:
    """What some customers add to the value and the gradient."""
    alive, gone, (log_a, over_a, log_b, over_b) = _parts(rows, model)
    both = np.logaddexp(alive, gone)
    n, x = rows.customers, rows.repeats
    r, s = model.r, model.s
    alpha, beta = _own(rows, model)
    there = n * np.exp(alive - both)
    lost = n - there
    a, b = alpha + rows.age, beta + rows.age
    d_r = n * np.log(alpha) - there * np.log(a) - lost * log_a
    d_s = n * np.log(beta) - there * np.log(b) - lost * (log_b - 1 / s)
    # by the logarithms of alpha and beta, which the traits shift
    d_alpha = n * r - alpha * (r + x) * (there / a + lost * over_a)
    d_beta = n * s - beta * (there * s / b + lost * (s + 1) * over_b)
    value = n @ (r * np.log(alpha) + s * np.log(beta) + both)
    first = [d_r.sum(), d_alpha.sum() / model.alpha, d_s.sum(), d_beta.sum() / model.beta]
    shifts = [*-(d_alpha @ rows.traits), *-(d_beta @ rows.traits)]
    return float(value), np.array([*first, *shifts])
