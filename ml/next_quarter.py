"""What a shopper will need over the next 90 days: what they buy again and, apart, what is new.

Repeat: an item's share of buyers who come back for it, times the shopper's own purchases of it,
each of which counts half as much after every `HALF_LIFE` days. That is personal frequency with
recency (Hu et al. 2020, "Modeling Personalized Item Frequency Information for Next-basket
Recommendation") times the item's repeat customer probability (Bhagat et al. 2018, "Buy It Again").
Explore: the recommender's candidates without what the shopper has met.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml.metrics import Estimate, mean_with_interval, ndcg_at, recall_at
from ml.repurchase import Repurchase, learn
from ml.sequences import Events, distinct_pairs

HORIZON = 90
HALF_LIFE = 180
"""Days; chosen among 30, 90, 180 and for ever on Online Retail II, the quarter before its last."""
PLACES = 20
"""Items in each part."""
REPEAT, EXPLORE = "repeat", "explore"
_K = 10


@dataclass(frozen=True)
class Needs:
    """Scored pairs, by user and best first; ties go to the lower item number."""

    user: np.ndarray
    item: np.ndarray
    score: np.ndarray

    def top(self, users: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The first `k` of each of `users`: items int64 [n, k], -1 after the last, and scores."""
        start = np.searchsorted(self.user, users)
        count = np.searchsorted(self.user, users, side="right") - start
        place = np.arange(k)
        there = place < count[:, None]
        at = np.where(there, start[:, None] + place, 0)
        if not len(self.item):
            return np.full(there.shape, -1), np.zeros(there.shape)
        return np.where(there, self.item[at], -1), np.where(there, self.score[at], 0.0)


def repeats(
    purchases: Events, known: Repurchase, end: int, allowed: np.ndarray | None = None
) -> Needs:
    """What each shopper has bought before day `end`, by how much of it they will need.

    `allowed` (bool [items]) leaves out what is not sold any more. An item whose rate is not known
    counts with the mean of those that are.
    """
    usual = np.nanmean(known.rate) if np.isfinite(known.rate).any() else 1.0
    # half a purchase more keeps apart what nobody has bought twice so far
    rate = np.where(np.isnan(known.rate), usual, known.rate) + 0.5 / 100
    return _scored(purchases, end, rate, HALF_LIFE, allowed)


def frequency(purchases: Events, end: int, allowed: np.ndarray | None = None) -> Needs:
    """The baseline, personal top frequency: on how many days a shopper bought an item."""
    return _scored(purchases, end, np.ones(len(purchases.items)), np.inf, allowed)


def _scored(
    purchases: Events, end: int, weight: np.ndarray, half_life: float, allowed: np.ndarray | None
) -> Needs:
    past = purchases.between(None, end)
    if allowed is not None:
        past = past.where(allowed[past.item])
    n_items = len(past.items)
    # several lines of one day are one purchase
    key = np.unique(np.stack([past.user * n_items + past.item, past.day], 1), axis=0)
    pair, where = np.unique(key[:, 0], return_inverse=True)
    counts = np.bincount(where, 2.0 ** (-(end - key[:, 1]) / half_life), minlength=len(pair))
    user, item = pair // n_items, pair % n_items
    score = counts * weight[item]
    order = np.lexsort((item, -score, user))
    return Needs(user[order], item[order], score[order])


@dataclass(frozen=True)
class Comparison:
    """Repeats against personal top frequency on the last 90 days; means over shoppers."""

    repeat: dict[str, Estimate]
    """ndcg and recall at 10, of the items bought again"""
    frequency: dict[str, Estimate]
    difference: Estimate
    """of NDCG@10, shopper by shopper"""
    again: float
    """the share of what they bought in those days that they had bought before"""

    def __str__(self) -> str:
        """In words."""
        own, plain, gain = self.repeat["ndcg"], self.frequency["ndcg"], self.difference
        return (
            f"NDCG@10 {own.value:#.3g}, personal top frequency {plain.value:#.3g}, difference "
            f"{gain.value:+#.3g}, 95 % interval {gain.low:+#.3g} to {gain.high:+#.3g}; "
            f"{own.n:,} shoppers bought an item again, {self.again:.0%} of what was bought was"
        )


def compare(purchases: Events, category: np.ndarray, end: int) -> Comparison | str:
    """Hold both against the last 90 days, or say why that cannot be done.

    Judged on shoppers who bought an item again in those days; everything is learned before them.
    """
    cutoff = end - HORIZON
    first = int(purchases.day.min(initial=end))
    if end - first < 2 * HORIZON:
        return (
            f"not compared with personal top frequency: that takes {2 * HORIZON} days of "
            f"purchases, {HORIZON} to learn from and {HORIZON} to foresee; there are {end - first}"
        )
    n_items = len(purchases.items)
    past, later = purchases.between(None, cutoff), purchases.between(cutoff, end)
    before = distinct_pairs(past.user, past.item, n_items) @ [n_items, 1]
    wanted = distinct_pairs(later.user, later.item, n_items)
    wanted = wanted[np.isin(wanted[:, 0], past.user)]
    again = np.isin(wanted @ [n_items, 1], before)
    truth = wanted[again]
    users = np.unique(truth[:, 0])
    if not len(users):
        return "not compared with personal top frequency: nobody bought an item again in 90 days"
    known = learn(past, category, cutoff)
    row = np.searchsorted(users, truth[:, 0])
    n_true = np.bincount(row)
    values = []
    for needs in (repeats(past, known, cutoff), frequency(past, cutoff)):
        ranking, _ = needs.top(users, _K)
        right = np.isin(ranking + users[:, None] * n_items, truth @ [n_items, 1])
        hit = right & (ranking >= 0)
        values.append((ndcg_at(hit, n_true, _K), recall_at(hit, n_true, _K)))
    told = [
        {"ndcg": mean_with_interval(ndcg), "recall": mean_with_interval(recall)}
        for ndcg, recall in values
    ]
    difference = mean_with_interval(values[0][0] - values[1][0])
    return Comparison(told[0], told[1], difference, float(again.mean()))


def unmet(ranking: np.ndarray, users: np.ndarray, met: np.ndarray, n_items: int) -> np.ndarray:
    """The first `PLACES` of each ranking that its user has not met: columns [n, PLACES], -1: none.

    `met`: user * items + item of every event, distinct and ascending.
    """
    key = users[:, None] * n_items + np.maximum(ranking, 0)
    at = np.minimum(np.searchsorted(met, key), max(len(met) - 1, 0))
    known = (met[at] == key) if len(met) else np.zeros(key.shape, bool)
    fresh = (ranking >= 0) & ~known
    order = np.argsort(~fresh, axis=1, kind="stable")[:, :PLACES]
    return np.where(np.take_along_axis(fresh, order, 1), order, -1)
