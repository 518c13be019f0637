"""What is bought again, and after how long: learned from purchases, item by item or by category.

An item speaks for itself where enough shoppers have bought it; otherwise its category does; where
that is too small as well, nothing is known and no rule applies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml.sequences import Events

FOLLOW_UP = 30
"""Days a first purchase must lie back to count: one of yesterday says nothing of a second."""
MIN_BUYERS = 30
"""Shoppers that a rate is learned from, at least."""
MIN_INTERVALS = 5
"""Repeats that a usual interval is learned from, at least."""
DURABLE = 0.05
"""Where fewer than this share of buyers buy the same item again, it lasts."""
TOO_SOON = 0.5
"""Share of the usual interval before which nobody needs a refill."""


@dataclass(frozen=True)
class Repurchase:
    """How items are bought again, and who bought what when; NaN is `not known`."""

    rate: np.ndarray
    """float64 [items]: share of an item's buyers who bought it on another day too"""
    interval: np.ndarray
    """float64 [items]: median days between the days on which one shopper bought it"""
    bought: np.ndarray
    """int64 [m], ascending: user * items + item of every pair that was bought"""
    last_day: np.ndarray
    """int64 [m]: the last day of it"""
    end: int

    def days_since(self, users: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Days since each of `users` [n] bought the items [n, c]; inf for never."""
        key = users[:, None] * len(self.rate) + item
        if not len(self.bought):
            return np.full(key.shape, np.inf)
        at = np.minimum(np.searchsorted(self.bought, key), len(self.bought) - 1)
        return np.where(self.bought[at] == key, self.end - self.last_day[at], np.inf)

    def lasts(self, users: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Where a user has bought what nearly nobody buys twice: bool [n, c]."""
        return (self.rate[item] < DURABLE) & np.isfinite(self.days_since(users, item))

    def too_soon(self, users: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Where a user bought what is bought again, but only just now: bool [n, c]."""
        again = self.rate[item] >= DURABLE
        return again & (self.days_since(users, item) < TOO_SOON * self.interval[item])


def learn(purchases: Events, category: np.ndarray, end: int) -> Repurchase:
    """From purchases before day `end`. `category`: int64 [items], -1 for none."""
    n_items = len(purchases.items)
    purchases = purchases.between(None, end)
    pair = purchases.user * n_items + purchases.item
    days = np.unique(np.stack([pair, purchases.day], 1), axis=0) if len(pair) else _none()
    bought, first, count = np.unique(days[:, 0], return_index=True, return_counts=True)
    same = days[1:, 0] == days[:-1, 0]
    gap, of_item = np.diff(days[:, 1])[same], (days[1:, 0] % n_items)[same]
    settled = days[first, 1] <= end - FOLLOW_UP
    item = bought[settled] % n_items
    again = (count[settled] > 1).astype(np.float64)

    def by(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rate and interval of each item, learned from the items of its group."""
        n_groups = int(group.max(initial=-1)) + 1
        rates = _mean(group[item], again, n_groups, MIN_BUYERS)
        intervals = _median(group[of_item], gap, n_groups, MIN_INTERVALS)
        nowhere = np.append(rates, np.nan), np.append(intervals, np.nan)
        return nowhere[0][group], nowhere[1][group]

    own, wide = by(np.arange(n_items)), by(category)
    return Repurchase(
        rate=np.where(np.isnan(own[0]), wide[0], own[0]),
        interval=np.where(np.isnan(own[1]), wide[1], own[1]),
        bought=bought,
        last_day=days[np.append(first, len(days))[1:] - 1, 1],
        end=end,
    )


def _none() -> np.ndarray:
    return np.zeros((0, 2), np.int64)


def _mean(group: np.ndarray, value: np.ndarray, n: int, enough: int) -> np.ndarray:
    """Mean by group, NaN where there are fewer than `enough`; group -1 is left out."""
    group, value = group[group >= 0], value[group >= 0]
    count = np.bincount(group, minlength=n)
    total = np.bincount(group, value, minlength=n)
    return np.where(count >= enough, total / np.maximum(count, 1), np.nan)


def _median(group: np.ndarray, value: np.ndarray, n: int, enough: int) -> np.ndarray:
    """Median by group, NaN where there are fewer than `enough`; group -1 is left out."""
    group, value = group[group >= 0], value[group >= 0]
    count = np.bincount(group, minlength=n)
    value = np.append(value[np.lexsort((value, group))].astype(np.float64), np.nan)
    start = np.cumsum(count) - count
    low, high = start + np.maximum(count - 1, 0) // 2, start + count // 2
    middle = (value[np.minimum(low, len(value) - 1)] + value[np.minimum(high, len(value) - 1)]) / 2
    return np.where(count >= enough, middle, np.nan)
