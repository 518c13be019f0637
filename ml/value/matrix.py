"""The numbers that the heads read of each user and moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.value.buying import Buying, Known
from ml.value.history import Array
from ml.value.outcomes import Orders, day_numbers, user_numbers
from ml.value.targets import Target

KEYS = ("user_id", "event_timestamp")
BUYING = ("expected_purchases", "p_alive", "expected_spend")
_RFM = ("days_since_last_order", "orders", "amount_per_day")
FOLDS = 5


@dataclass(frozen=True)
class Moments:
    """n moments of users, each with what the feature service knew then."""

    user: np.ndarray
    """int64 [n]"""
    day: np.ndarray
    """int64 [n] the day, since 1970, before which all is known"""
    names: tuple[str, ...]
    values: np.ndarray
    """float32 [n, f], NaN where nothing was known"""

    @classmethod
    def of(cls, table: pa.Table, users: pa.Array, names: tuple[str, ...]) -> Moments:
        """From user_id, event_timestamp and features; a feature that is not there is NaN."""
        values = np.full((table.num_rows, len(names)), np.nan, np.float32)
        for place, name in enumerate(names):
            if name in table.column_names:
                column = pc.cast(table[name], pa.float32())
                values[:, place] = column.to_numpy(zero_copy_only=False)
        user = user_numbers(table["user_id"], users)
        return cls(user, day_numbers(table["event_timestamp"]), names, values)

    def where(self, mask: np.ndarray | slice) -> Moments:
        """Some of them."""
        return Moments(self.user[mask], self.day[mask], self.names, self.values[mask])

    def column(self, name: str) -> Array:
        """[n] one feature, NaN where it was not known."""
        if name not in self.names:
            return np.full(len(self.user), np.nan)
        return self.values[:, self.names.index(name)].astype(np.float64)

    @property
    def rfm(self) -> Array:
        """[n, 3] days since the last order, orders, and what they have brought."""
        recency, orders, per_day = (self.column(name) for name in _RFM)
        return np.column_stack([recency, orders, per_day * self.column("days_since_first_order")])

    @property
    def recency(self) -> Array:
        """[n] days since the last order; of those without one since the last event, much longer."""
        since = self.column("days_since_last_order")
        return np.where(np.isnan(since), 1e4 + self.column("days_since_last_event"), since)

    def buyers(self, bought: Orders) -> tuple[Known, np.ndarray]:
        """Those who had bought, and int64 [c] which of these moments they are."""
        history, those = bought.history(self.user, self.day)
        orders, value = self.column("orders")[those], self.column("order_value")[those]
        told = (orders > 0) & np.isfinite(value) & (value > 0)
        return Known(history, np.where(told, orders, 0), np.where(told, value, 0)), those


def feature_names(table: pa.Table) -> tuple[str, ...]:
    """The numeric columns of a training set but for its keys."""
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return tuple(
        field.name
        for field in table.schema
        if field.name not in KEYS and any(kind(field.type) for kind in numeric)
    )


def matrix(
    moments: Moments, target: Target, buying: Buying | None, bought: Orders
) -> tuple[np.ndarray, tuple[str, ...]]:
    """float32 [n, f] and the names of its columns: features, and what the rhythm of buying says."""
    more = np.full((len(moments.user), len(BUYING)), np.nan, np.float32)
    known, those = moments.buyers(bought)
    if buying is not None and len(those):
        count = buying.purchases.expected(known.history, target.days)
        more[those, 0] = count
        more[those, 1] = buying.purchases.p_alive(known.history)
        more[those, 2] = count * buying.amounts.expected(known.orders, known.mean)
    return np.concatenate([moments.values, more], 1), (*moments.names, *BUYING)


def folds(users: pa.Array) -> np.ndarray:
    """int64 [users] 0 .. 4 by the id alone, so that a user stays where it is as others come."""
    from pandas.util import hash_array

    return (hash_array(users.to_numpy(zero_copy_only=False)) % FOLDS).astype(np.int64)
