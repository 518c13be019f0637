"""From a model's best items to a list for a page: the shop's rules, after scoring.

The lists of many users are made at once: the only loop is over the places of a list. All is
deterministic; what is left to chance hangs on the night and the user alone, and its odds are told.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ml.recommender.data import ItemFacts
from ml.recommender.rank import Ranked
from ml.repurchase import Repurchase
from ml.rules import About, Cap, Exploration, Rules, nothing_fits

CANDIDATES = 4
"""How many times the length of a list is asked of the model, so that rules have a choice."""
POOL = 64
"""Of the new items, how many of the likeliest a user's lot is drawn from."""
_ROWS = 256
"""Users whose candidates are compared at once: bounds the memory."""
_FULL, _HELD = 1e3, 1e6
"""What a full category and a held-back item cost: they give way to anything else, in this order."""


@dataclass(frozen=True)
class Shelf:
    """What rules need to know of the items, by item number."""

    allowed: np.ndarray
    """bool: in the catalogue, in stock and not blocked; nothing else is ever on a list"""
    category: np.ndarray
    """int64, -1 for none"""
    boost: np.ndarray
    """float64: factor on the model's probability"""
    vectors: np.ndarray
    """float32 [items, d], of length 1 or 0: how like two items are"""
    is_new: np.ndarray
    """bool: what exploration may show"""


@dataclass(frozen=True)
class Listed:
    """The lists of n users: int64 [n, k] of item numbers, -1 after the last."""

    users: np.ndarray
    ranking: np.ndarray
    score: np.ndarray
    """float64 [n, k]: the model's probability; of an explored item that among the new ones"""
    propensity: np.ndarray
    """float64 [n, k]: with what odds this item got this place; 1 where nothing was drawn"""
    explored: np.ndarray
    """bool [n, k]: drawn by lot"""
    by_model: bool


def shelf(
    items: pa.Array,
    about: pa.Table,
    candidates: np.ndarray,
    facts: ItemFacts,
    rules: Rules,
    night: date,
    end: int,
) -> Shelf:
    """The items as tonight's rules see them.

    `about`: item_id, and where there are any category_path, brand, is_sold_out. Raises RuleError
    for a rule that fits no item.
    """
    category, brand = (column_of(about, items, name) for name in ("category_path", "brand"))
    sold_out = column_of(about, items, "is_sold_out", pa.bool_())

    def fits(kind: str, rule: About) -> np.ndarray:
        mask = np.ones(len(items), bool)
        if rule.items:
            mask &= _bool(pc.is_in(items, pa.array(rule.items, pa.string())))
        if rule.category:
            below = pc.starts_with(category, rule.category + " > ")
            mask &= _bool(pc.or_(pc.equal(category, rule.category), below))
        if rule.brand:
            mask &= _bool(pc.equal(brand, rule.brand))
        if not mask.any():
            raise nothing_fits(kind, rule)
        return mask

    allowed = candidates & ~_bool(sold_out)
    for rule in rules.block:
        if rule.holds(night):
            allowed &= ~fits("block", rule)
    boost = np.ones(len(items))
    for wish in rules.boost:
        if wish.holds(night):
            boost[fits("boost", wish)] *= wish.factor
    days = rules.exploration.days if rules.exploration else 0
    return Shelf(
        allowed=allowed,
        category=numbered(category),
        boost=boost,
        vectors=facts.text,
        is_new=allowed & (facts.first_day >= end - days),
    )


def column_of(about: pa.Table, items: pa.Array, name: str, type: Any = None) -> pa.Array:
    """A column of a table about items (text, unless another type is given) by item number.

    NULL where nothing is known.
    """
    type = type or pa.string()
    if name not in about.column_names:
        return pa.nulls(len(items), type)
    place = pc.index_in(items, about["item_id"].cast(pa.string()).combine_chunks())
    return about[name].combine_chunks().cast(type).take(place)


def numbered(words: pa.Array) -> np.ndarray:
    """Equal words as equal numbers, int64; -1 where there is none."""
    codes = words.dictionary_encode().indices
    return pc.fill_null(codes, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _bool(values: pa.Array) -> np.ndarray:
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False)


def seeds(users: pa.Array, night: date) -> np.ndarray:
    """A number for each user of a night, uint64: all that chance hangs on."""
    ids = users.to_numpy(zero_copy_only=False)
    return pd.util.hash_array(ids, hash_key=f"{night:%Y%m%d}-perenni", categorize=False)


def rerank(
    ranked: Ranked, pool: Ranked | None, on: Shelf, known: Repurchase, rules: Rules,
    seed: np.ndarray, k: int,
) -> Listed:  # fmt: skip
    """The first `k` places for the users of `ranked`, which holds more candidates than that.

    `pool`: the same users' likeliest new items, or None without exploration; `seed`: uint64 [users]
    by user number. A list is as long as there are items that may be on it: a full category and
    what a user need not buy again come after everything else, instead of leaving places empty.
    """
    parts = []
    for start in range(0, max(1, len(ranked.users)), _ROWS):  # nobody has lists of no rows
        rows = slice(start, start + _ROWS)
        users, item, score = ranked.users[rows], ranked.ranking[rows], ranked.score[rows]
        chosen = choose(_worth(users, item, score, on, known, rules), item, on, rules, k)
        there = np.maximum(chosen, 0)
        parts.append(
            (
                np.where(chosen < 0, -1, np.take_along_axis(item, there, 1)),
                np.take_along_axis(np.clip(score.astype(np.float64), 0, 1), there, 1),
            )
        )
    ranking, value = (np.concatenate(each) for each in zip(*parts, strict=True))
    sure, none = np.ones(ranking.shape), np.zeros(ranking.shape, bool)
    plain = Listed(ranked.users, ranking, value, sure, none, ranked.by_model)
    if pool is None or rules.exploration is None:
        return plain
    return explore(plain, pool, on, known, rules, rules.exploration, seed)


def _worth(
    users: np.ndarray, item: np.ndarray, score: np.ndarray, on: Shelf, known: Repurchase,
    rules: Rules,
) -> torch.Tensor:  # fmt: skip
    """log of the boosted probability, less for what a user need not buy again; -inf for no item."""
    there = np.maximum(item, 0)
    with np.errstate(divide="ignore"):
        worth = np.log(np.maximum(score.astype(np.float64), 1e-30)) + np.log(on.boost[there])
    worth -= _HELD * held_back(users, there, known, rules)
    return torch.from_numpy(np.where((item < 0) | ~on.allowed[there], -np.inf, worth))


def held_back(users: np.ndarray, item: np.ndarray, known: Repurchase, rules: Rules) -> np.ndarray:
    """Which of the items [n, c] each user need not buy now, as far as the rules ask: bool."""
    held = np.zeros(item.shape, bool)
    if rules.no_durable_repeats:
        held |= known.lasts(users, item)
    if rules.refill_intervals:
        held |= known.too_soon(users, item)
    return held


def choose(worth: torch.Tensor, item: np.ndarray, on: Shelf, rules: Rules, k: int) -> np.ndarray:
    """Candidates for the places 1..k, best first: int64 [n, k] of columns of `item`, -1 for none.

    Greedy maximal marginal relevance (Carbonell & Goldstein 1998): each place goes to the candidate
    whose worth, less `diversity` times its likeness to the likest item above it, is highest. Ties
    go to the candidate that the model ranked higher.
    """
    there = np.maximum(item, 0)
    alike = None
    if rules.diversity:
        vectors = torch.from_numpy(on.vectors[there])
        alike = rules.diversity * torch.bmm(vectors, vectors.transpose(1, 2)).clamp(min=0)
    category = torch.from_numpy(on.category[there])
    left, row = worth.clone(), torch.arange(len(worth))
    like = torch.zeros_like(worth)
    taken = torch.zeros_like(category)
    chosen = torch.full((len(worth), k), -1)
    for place in range(min(k, worth.shape[1])):
        value = left - like
        if rules.category_cap and place < rules.category_cap.places:
            value = value - _FULL * _is_full(taken, category, rules.category_cap)
        most, best = value.max(1)  # the first of equals
        chosen[:, place] = torch.where(most > -torch.inf, best, -1)
        left[row, best] = -torch.inf
        taken += category == category[row, best][:, None]
        if alike is not None:
            like = torch.maximum(like, alike[row, best])
    return chosen.numpy()


def _is_full(taken: torch.Tensor, category: torch.Tensor, cap: Cap) -> torch.Tensor:
    return (taken >= cap.items) & (category >= 0)


def explored_places(wanted: Exploration, k: int) -> np.ndarray:
    """The places that are drawn by lot, counted from 0: evenly spread, every 1/share-th."""
    reached = np.floor(np.arange(k + 1) * wanted.share + 1e-9)
    return np.flatnonzero(np.diff(reached))


def explore(
    plain: Listed, pool: Ranked, on: Shelf, known: Repurchase, rules: Rules, wanted: Exploration,
    seed: np.ndarray,
) -> Listed:  # fmt: skip
    """Put new items into the explored places, and move what stood there down.

    A user's new items are dealt to the places, which turn by lot, and at each place one of those
    dealt to it is drawn, half evenly and half by the model's odds. So no item comes twice, and the
    odds of an item at its place are exactly (1 / places that turn) x (its share of those dealt
    there): over all that a place could show they add up to 1. Where nothing may be drawn, which is
    no matter of the lot, the ranked list goes on.
    """
    places = explored_places(wanted, plain.ranking.shape[1])
    item, score = pool.ranking, np.maximum(pool.score.astype(np.float64), 0)
    may = (item >= 0) & ~(item[:, :, None] == plain.ranking[:, None, :]).any(2)
    may &= ~held_back(plain.users, np.maximum(item, 0), known, rules)
    lot = seed[plain.users]
    capped = int((places < rules.category_cap.places).sum()) if rules.category_cap else 0
    dealt = _deal(may, item, plain, on, rules.category_cap, capped, len(places), _uniform(lot, 0))

    drawn = np.full((len(item), len(places)), -1)
    value, odds = np.zeros(drawn.shape), np.ones(drawn.shape)
    for number in range(len(places)):
        mine = (dealt.fits if number < capped else may) & (dealt.place == number)
        own = np.where(mine, score, 0) / np.maximum(np.where(mine, score, 0).sum(1), 1e-30)[:, None]
        even = mine / np.maximum(mine.sum(1), 1)[:, None]
        share = np.where(own.sum(1, keepdims=True) > 0.5, (own + even) / 2, even)
        reached = np.cumsum(share, 1) / np.maximum(share.sum(1), 1e-30)[:, None]
        hit = mine & (reached > _uniform(lot, number + 1)[:, None])
        at = hit.argmax(1)[:, None]
        drawn[:, number] = np.where(hit.any(1), np.take_along_axis(item, at, 1)[:, 0], -1)
        value[:, number] = np.take_along_axis(score, at, 1)[:, 0]
        odds[:, number] = np.take_along_axis(share / dealt.turning, at, 1)[:, 0]
    return _woven(plain, drawn, value, odds, places)


@dataclass(frozen=True)
class _Dealt:
    """Where each of the new items [n, c] of the users fell."""

    place: np.ndarray
    """int64: which of the explored places, from 0"""
    turning: np.ndarray
    """int64: how many places it could fall to by lot, each as likely"""
    fits: np.ndarray
    """bool: may be drawn in a capped place"""


def _deal(
    may: np.ndarray, item: np.ndarray, plain: Listed, on: Shelf, cap: Cap | None, capped: int,
    places: int, lot: np.ndarray,
) -> _Dealt:  # fmt: skip
    """Deal what may be drawn (bool [n, c]) to the explored places, the first of which are capped.

    What fits in the capped places turns through them and the later ones; what does not fit is dealt
    to the later ones that are left over, or turns along where there are none.
    """
    filled, fits = np.zeros(len(may), np.int64), may
    if cap and capped:
        filled, fits = _fitting(may, item, plain, on, cap, capped)
    usable = filled + places - capped
    turns = np.minimum(fits.sum(1), usable)[:, None]
    left = usable[:, None] - turns
    turning, later = np.maximum(turns, 1), np.cumsum(may & ~fits, 1) - 1
    beside = np.where(left > 0, turns + later % np.maximum(left, 1), later % turning)
    place = np.where(fits, (np.cumsum(fits, 1) - 1) % turning, beside)
    by_lot = place < turns
    place = np.where(by_lot, (place + (lot[:, None] * turns).astype(np.int64)) % turning, place)
    passed = capped - filled[:, None]  # capped places that nothing can fill
    place = np.where(place < filled[:, None], place, place + passed)
    return _Dealt(place, np.where(by_lot, turning, 1), fits)


def _fitting(
    may: np.ndarray, item: np.ndarray, plain: Listed, on: Shelf, cap: Cap, capped: int
) -> tuple[np.ndarray, np.ndarray]:
    """How many of the capped places can be filled, int64 [n], and with which items, bool [n, c].

    Each that is filled moves one of the ranked list out of the capped places: as many are filled as
    have their room then. Where a category has room for fewer than are filled, only so many of its
    items fit, the likeliest: whatever is drawn, the cap holds.
    """
    category = np.where(item < 0, -1, on.category[item])
    above = plain.ranking[:, : cap.places]
    same = category[:, :, None] == np.where(above < 0, -1, on.category[above])[:, None, :]
    alike = (category[:, :, None] == category[:, None, :]) & may[:, None, :]
    earlier = np.tril(alike, -1).sum(2)  # of those that may be drawn, likelier ones of its category
    filled, fits = np.zeros(len(may), np.int64), may.copy()
    for number in range(capped, 0, -1):
        room = cap.items - same[:, :, : above.shape[1] - number].sum(2)
        fit = may & ((category < 0) | (room >= number) | (earlier < room))
        best = (filled == 0) & (fit.sum(1) >= number)
        filled[best], fits[best] = number, fit[best]
    return filled, fits


def _woven(
    plain: Listed, drawn: np.ndarray, value: np.ndarray, odds: np.ndarray, places: np.ndarray
) -> Listed:
    """The plain lists with what was drawn in its places."""
    item, score, chance = (np.full(plain.ranking.shape, fill) for fill in (-1, 0.0, 1.0))
    item[:, places], score[:, places], chance[:, places] = drawn, value, odds
    explored = item >= 0
    # which of the plain list stands at a place that was not drawn
    take = np.maximum(np.cumsum(~explored, 1) - 1, 0)
    return Listed(
        plain.users,
        np.where(explored, item, np.take_along_axis(plain.ranking, take, 1)),
        np.where(explored, score, np.take_along_axis(plain.score, take, 1)),
        np.where(explored, chance, 1.0),
        explored,
        plain.by_model,
    )


def _uniform(seed: np.ndarray, draw: int) -> np.ndarray:
    """The nth random number of each seed, in [0, 1): SplitMix64 (Steele, Lea & Flood 2014)."""
    mixed = seed + np.uint64((draw + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
