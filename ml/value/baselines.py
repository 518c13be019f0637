"""What a shop would do without a model: by recency alone, and by recency, frequency and money."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml.value.history import Array

_FIFTHS = 5
_SHRINK = 20.0
"""Users of the mean that every cell is mixed with."""
_NEVER = 1e6


@dataclass(frozen=True)
class Recency:
    """The mean outcome as it falls with the days since the last order, else the last event."""

    day: Array
    value: Array

    @classmethod
    def fit(cls, day: Array, came: Array, rises: bool) -> Recency:
        """From [n] days (NaN: never) and [n] what came: it rises or falls with them (isotonic)."""
        from sklearn.isotonic import IsotonicRegression

        ordered = IsotonicRegression(increasing=rises, out_of_bounds="clip")
        ordered.fit(np.nan_to_num(day, nan=_NEVER), came)
        return cls(ordered.X_thresholds_, ordered.y_thresholds_)

    def tell(self, day: Array) -> Array:
        """[n] what to expect."""
        return np.interp(np.nan_to_num(day, nan=_NEVER), self.day, self.value)


@dataclass(frozen=True)
class Rfm:
    """The mean outcome of the cell that recency, frequency and money put a user in."""

    edges: Array
    """[3, 4] between the fifths of each"""
    value: Array
    """[125]"""

    @classmethod
    def fit(cls, rfm: Array, came: Array) -> Rfm:
        """From [n, 3] days since the last order, orders and amount (NaN: none), and what came."""
        known = _filled(rfm)
        edges = np.quantile(known, np.arange(1, _FIFTHS) / _FIFTHS, axis=0).T
        cell = _cell(known, edges)
        n, total = (np.bincount(cell, w, _FIFTHS**3) for w in (None, came))
        return cls(edges, (total + _SHRINK * came.mean()) / (n + _SHRINK))

    def tell(self, rfm: Array) -> Array:
        """[n] what to expect."""
        return self.value[_cell(_filled(rfm), self.edges)]


def _filled(rfm: Array) -> Array:
    return np.where(np.isnan(rfm), [_NEVER, 0, 0], rfm)


def _cell(known: Array, edges: Array) -> np.ndarray:
    fifth = [np.searchsorted(edges[i], known[:, i]) for i in range(3)]
    return (fifth[0] * _FIFTHS + fifth[1]) * _FIFTHS + fifth[2]
