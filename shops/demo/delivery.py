"""What goes wrong between a shop and its files: rows delivered twice, late, or broken.

Real deliveries are at-least-once and out of order. Here the rates are known, so that a test can say
what must be found again downstream.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shops.demo.simulate import FAULTS, FORMS

TWICE = 0.005  # of the rows are delivered again, half of them in the next day's file
LATE = 0.01  # of the rows come in the file of a later day
LATEST = 3  # days after their own, at most
BROKEN = 0.003  # of the rows break the contract, in one of five ways
WRONG_STARS = 0.005  # of the reviews have zero stars


class Delivery:
    """Turns the true events of a day into the file of that day; keeps what is held back."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.held: dict[int, list[pa.Table]] = defaultdict(list)

    def events(self, day: int, events: pa.Table) -> pa.Table:
        """The rows of the day's file: on time, then delivered again, then late ones."""
        rng = np.random.default_rng([self.seed, FAULTS, day])
        events = _break_some(rng, events)
        size = events.num_rows
        wait = np.where(rng.random(size) < LATE, rng.integers(1, LATEST + 1, size), 0)
        again = np.where(rng.random(size) < TWICE, rng.integers(0, 2, size), -1)
        for days in range(1, LATEST + 1):
            self.held[day + days].append(events.filter(pa.array(wait == days)))
        self.held[day + 1].append(events.filter(pa.array(again == 1)))
        today = [events.filter(pa.array(wait == 0)), events.filter(pa.array(again == 0))]
        return pa.concat_tables([*today, *self.held.pop(day, [])]).unify_dictionaries()

    def reviews(self, day: int, reviews: pa.Table) -> pa.Table:
        """The reviews, some with the zero stars of a form sent unfinished."""
        rng = np.random.default_rng([self.seed, FORMS, day])
        stars = np.where(rng.random(reviews.num_rows) < WRONG_STARS, 0, reviews["stars"])
        return _with(reviews, "stars", pa.array(stars))


def _break_some(rng: np.random.Generator, events: pa.Table) -> pa.Table:
    """Spoil BROKEN of the rows; where a fault does not apply the time is lost instead."""
    size = events.num_rows
    fault = np.where(rng.random(size) < BROKEN, rng.integers(0, 5, size), -1)
    hit = np.flatnonzero(fault >= 0)  # few: only they are looked at
    spoilt = events.take(pa.array(hit))
    fault = fault[hit]
    priced = spoilt["price_cents"].is_valid().to_numpy()
    item_needed = np.isin(spoilt["action"].to_pylist(), ["page_view", "basket_add", "paid"])
    fault = np.where((fault == 3) & ~item_needed | (fault == 4) & ~priced, 0, fault)
    spoilt = _replace(spoilt, "ts_ms", fault == 0, pa.scalar(None, pa.int64()))
    spoilt = _replace(spoilt, "ts_ms", fault == 1, pa.scalar(0))
    spoilt = _replace(spoilt, "action", fault == 2, pa.scalar("beacon"))
    spoilt = _replace(spoilt, "sku", fault == 3, pa.scalar(None, pa.string()))
    spoilt = _replace(spoilt, "price_cents", fault == 4, pc.negate(spoilt["price_cents"]))
    whole = np.arange(size)
    whole[hit] = size + np.arange(len(hit))
    both = pa.concat_tables([events, spoilt]).unify_dictionaries()
    return both.take(pa.array(whole))


def _replace(
    table: pa.Table, name: str, where: NDArray[np.bool_], value: pa.Scalar | pa.ChunkedArray
) -> pa.Table:
    """`value` where it is wanted; a column of codes stays one."""
    column = table[name]
    coded = pa.types.is_dictionary(column.type)
    column = pc.if_else(pa.array(where), value, column.cast(pa.string()) if coded else column)
    return _with(table, name, column.dictionary_encode() if coded else column)


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)
