"""Maximum likelihood: the search, and how sure its result is.

The search runs over the logarithms of parameters that are positive and over the others as they are,
so that none can leave its range; analytic gradients make it a matter of some tens of passes over
the customers. The covariance is that of what is searched over, from the curvature at the optimum
(differences of the analytic gradient).

Some customers leave a parameter open: where nobody seems to be lost, any small chance of it is as
likely as another, and the optimum lies at the end of the world. `prior` holds the logarithms of
positive parameters near 0, as a normal prior of that precision does; a weak one decides nothing
that the data decide, and every night has a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml import ModelError

Array = NDArray[np.float64]
Objective = Callable[[Array], tuple[float, Array]]
"""From parameters [p] to the log-likelihood and its gradient by the parameters [p]."""

_FAR = 14.0
"""Furthest that the logarithm of a parameter may go from 0 (a million, a millionth)."""
_STEP = 1e-4
"""of the differences of gradients"""


@dataclass(frozen=True)
class Fit:
    """Parameters [p] at the optimum, and how sure they are."""

    parameters: Array
    covariance: Array
    """[p, p] of the logarithms of the positive ones, of the others as they are"""
    positive: int
    """how many of the first parameters are positive"""
    log_likelihood: float
    evaluations: int

    def interval(self) -> Array:
        """[p, 2] 95 % interval of each parameter (Wald, on the scale of the search)."""
        half = 1.959964 * np.sqrt(np.diag(self.covariance))
        place = _searched(self.parameters, self.positive)
        ends = [_natural(place + sign * half, self.positive) for sign in (-1, 1)]
        return np.stack(ends, 1)

    def draws(self, n: int, seed: int) -> Array:
        """[n, p] parameters that are as likely as the data say."""
        rng = np.random.default_rng(seed)
        place = _searched(self.parameters, self.positive)
        drawn = rng.multivariate_normal(place, self.covariance, n, method="svd")
        return _natural(np.clip(drawn, -_FAR, _FAR), self.positive)


def maximise(
    objective: Objective, start: Array, positive: int, what: str, prior: float = 0.0,
    spread: Array | None = None,
) -> Fit:  # fmt: skip
    """The most likely parameters; raises ModelError when the search ends nowhere.

    `start` [p], of which the first `positive` are positive; `what` names the model in the words of
    the error; `prior` is a precision, 0 for none. `spread` [p, p] is the covariance that some of
    the customers gave: in steps of its shape the search is a few passes.
    """
    from scipy.optimize import minimize

    def negative(place: Array) -> tuple[float, Array]:
        parameters = _natural(place, positive)
        value, gradient = objective(parameters)
        gradient = -gradient
        gradient[:positive] *= parameters[:positive]
        gradient[:positive] += prior * place[:positive]
        return -value + prior / 2 * float(place[:positive] @ place[:positive]), gradient

    begin = _searched(start, positive)
    scale = abs(negative(begin)[0]) or 1.0  # steps and tolerances are for numbers near 1
    shape = np.eye(len(begin)) if spread is None else np.linalg.cholesky(spread)

    def scaled(step: Array) -> tuple[float, Array]:
        value, gradient = negative(np.clip(shape @ step, -_FAR, _FAR))
        return value / scale, gradient @ shape / scale

    found = minimize(
        scaled,
        np.linalg.solve(shape, begin),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-_FAR, _FAR)] * len(begin) if spread is None else None,
        options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-9},
    )
    place = np.clip(shape @ found.x, -_FAR, _FAR)
    at_edge = np.abs(place) >= _FAR - 1e-6
    if not np.isfinite(found.fun) or at_edge.any():
        raise ModelError(
            f"{what}: the likelihood has no maximum within reach (parameters "
            f"{_natural(place, positive).round(4).tolist()}); customers may be too few or too "
            "much alike"
        )
    covariance = _covariance(negative, place, what)
    parameters = _natural(place, positive)
    value = float(objective(parameters)[0])
    return Fit(parameters, covariance, positive, value, int(found.nfev))


def _natural(place: Array, positive: int) -> Array:
    """Parameters [..., p] at a place of the search."""
    return np.concatenate([np.exp(place[..., :positive]), place[..., positive:]], -1)


def _searched(parameters: Array, positive: int) -> Array:
    return np.concatenate([np.log(parameters[..., :positive]), parameters[..., positive:]], -1)


def _covariance(negative: Objective, place: Array, what: str) -> Array:
    """The inverse of the second derivatives."""
    steps = np.eye(len(place)) * _STEP
    columns = [
        (negative(place + step)[1] - negative(place - step)[1]) / (2 * _STEP) for step in steps
    ]
    curvature = np.stack(columns)
    curvature = (curvature + curvature.T) / 2
    values, vectors = np.linalg.eigh(curvature)
    if values.min() <= 0:
        raise ModelError(f"{what}: the data do not tell the parameters apart; more are needed")
    return (vectors / values) @ vectors.T  # type: ignore[no-any-return]
