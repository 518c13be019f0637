"""What a night gives the value models, as tables and as arrays, and how its past is cut."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from ml import TooLittleHistory
from ml.sequences import Events, from_arrow, sorted_ids
from ml.value.matrix import Moments, feature_names, folds
from ml.value.outcomes import Orders, day_numbers, user_numbers
from ml.value.targets import Target

BY_TIME, BY_USERS = "later days", "other users"
JUDGED, SPARED, TEACHING = 0, 1, 2
"""Folds of users: judged on where time cannot be split; spared to stop and to scale by; those whom
the network of `ml.value.taste` learns from."""
EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class ValueInputs:
    """All that the value models are given for one night.

    past: user_id, event_timestamp and the features of the service at moments before tonight.
    tonight: the same, one row a user, at the night's end. orders: user_id, order_date, net_revenue
    of valid orders. bought: user_id, trade_date, one row a day on which orders were placed,
    whatever became of them. users: user_id, country. events: user_id, item_id, event_type, event_ts
    (UTC without zone) of the types that say what users meet (`met`) and want (`wanted`).
    """

    past: pa.Table
    tonight: pa.Table
    orders: pa.Table
    bought: pa.Table
    users: pa.Table
    events: pa.Table
    met: tuple[str, ...]
    wanted: tuple[str, ...]
    night: date
    churn_days: int | None

    @property
    def end(self) -> int:
        """The first day the night does not know, in days since 1970."""
        return (self.night - EPOCH).days + 1


@dataclass(frozen=True)
class Prepared:
    """The same as arrays."""

    ids: pa.Array
    past: Moments
    now: Moments
    orders: Orders
    bought: Orders
    met: Events
    wanted: Events
    fold: np.ndarray
    """int64 [users]"""
    end: int
    country: np.ndarray
    """object [users]"""

    @classmethod
    def of(cls, inputs: ValueInputs) -> Prepared:
        """Raises TooLittleHistory where nobody is known."""
        ids = sorted_ids(
            *(table["user_id"] for table in (inputs.past, inputs.tonight, inputs.users)),
            *(table["user_id"] for table in (inputs.orders, inputs.bought)),
        )
        if not inputs.tonight.num_rows:
            raise TooLittleHistory("nobody is known yet")
        names = feature_names(inputs.tonight)
        country = np.full(len(ids), None, object)
        country[user_numbers(inputs.users["user_id"], ids)] = inputs.users["country"].to_pylist()
        kinds = sorted({*inputs.met, *inputs.wanted})
        events = from_arrow(inputs.events, ids, sorted_ids(inputs.events["item_id"]), kinds)
        return cls(
            ids=ids,
            past=Moments.of(inputs.past, ids, names),
            now=Moments.of(inputs.tonight, ids, names),
            orders=orders_of(inputs.orders, "order_date", ids, "net_revenue"),
            bought=orders_of(inputs.bought, "trade_date", ids),
            met=events.of_kinds(inputs.met),
            wanted=events.of_kinds(inputs.wanted),
            fold=folds(ids),
            end=inputs.end,
            country=country,
        )


def orders_of(table: pa.Table, day: str, ids: pa.Array, amount: str | None = None) -> Orders:
    """A table's orders, or trade days, as arrays."""
    value = table[amount].cast(pa.float64()).to_numpy() if amount else np.zeros(table.num_rows)
    return Orders.of(user_numbers(table["user_id"], ids), day_numbers(table[day]), value, len(ids))


@dataclass(frozen=True)
class Cut:
    """Which moments are learned from and which are judged on."""

    learn: Moments
    spared: Moments
    judged: Moments
    split: str
    day: int
    """the moment that is judged at"""


def cut(target: Target, data: Prepared) -> Cut | None:
    """The newest moment whose days are over, and what may be learned from by then; None without."""
    past = data.past
    if target.of_customers:
        past = past.where(np.nan_to_num(past.column("orders")) > 0)
    over = past.where(past.day + target.days <= data.end)
    if not len(over.day):
        return None
    day = int(over.day.max())
    judged = over.where(over.day == day)
    before = over.where(over.day + target.days <= day)
    split = BY_TIME
    if not len(before.day):
        before, split = over.where(data.fold[over.user] != JUDGED), BY_USERS
        judged = judged.where(data.fold[judged.user] == JUDGED)
    spared = data.fold[before.user] == SPARED
    return Cut(before.where(~spared), before.where(spared), judged, split, day)
