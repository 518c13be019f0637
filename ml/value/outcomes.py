"""What came to pass after a moment, and what had come to pass before it.

A moment is the beginning of a UTC day, given as that day's number since 1970: everything before it
is known. Orders lie in one run by user and day, so every count and sum between two days is a
difference of two places in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.value.history import Array, History
from ml.value.targets import CHURN, Target

_SPAN = 1 << 20
"""Days since 1970 fit below this: user * span + day orders by user, then by day."""


def user_numbers(ids: pa.ChunkedArray | pa.Array, users: pa.Array) -> np.ndarray:
    """The place of each id in `users`, int64; raises ValueError for one that is not there."""
    found = pc.index_in(ids.cast(pa.string()), users)
    if found.null_count:
        raise ValueError(f"{found.null_count} rows are of users that are not among those known")
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def day_numbers(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Dates or timestamps as days since 1970, int64."""
    days = column.cast(pa.timestamp("us")).cast(pa.date32()).cast(pa.int32())
    return np.asarray(days.to_numpy(), np.int64)


@dataclass(frozen=True)
class Orders:
    """Orders by user and day."""

    key: np.ndarray
    """int64 [m] user * span + day, ascending"""
    amount: np.ndarray
    """float64 [m + 1] sum of the amounts before each"""
    n_users: int

    @classmethod
    def of(cls, user: np.ndarray, day: np.ndarray, amount: np.ndarray, n_users: int) -> Orders:
        """From one entry an order, in any order."""
        key = user * _SPAN + day
        order = np.argsort(key, kind="stable")
        return cls(key[order], np.concatenate([[0.0], np.cumsum(amount[order])]), n_users)

    def between(self, user: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[Array, Array]:
        """[n] orders, and [n] their amounts, of users on days in [start, end)."""
        low, high = (np.searchsorted(self.key, user * _SPAN + day) for day in (start, end))
        return (high - low).astype(np.float64), self.amount[high] - self.amount[low]

    def history(self, user: np.ndarray, moment: np.ndarray) -> tuple[History, np.ndarray]:
        """Of those who had bought before their moment: the history in days, and who they are.

        Several orders of a day are one purchase. The second is int64 [c], places in `user`.
        """
        low = np.searchsorted(self.key, user * _SPAN)
        high = np.searchsorted(self.key, user * _SPAN + moment)
        those = np.flatnonzero(high > low)
        if not len(those):  # which is no mistake of the caller's, as it would be for History.of
            none = np.empty(0)
            return History(none, none, none, none, np.empty((0, 0))), those
        low, high = low[those], high[those]
        new_day = np.concatenate([[0], np.cumsum(np.diff(self.key, prepend=-1) != 0)])
        days = new_day[high] - new_day[low]
        first, last = self.key[low] % _SPAN, self.key[high - 1] % _SPAN
        history = History.of(days - 1.0, last - first, moment[those] - first)
        return history, those


def outcome(target: Target, orders: Orders, user: np.ndarray, moment: np.ndarray) -> Array:
    """[n] what came of a target in its days from each moment on: 0 or 1, or an amount."""
    count, amount = orders.between(user, moment, moment + target.days)
    if target.is_amount:
        return np.maximum(amount, 0)
    return ((count == 0) if target.name == CHURN else (count > 0)).astype(np.float64)
