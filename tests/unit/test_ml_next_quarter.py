"""What will be bought again, on a few purchases that can be counted by hand."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from ml.next_quarter import Comparison, compare, frequency, repeats, unmet
from ml.repurchase import Repurchase, learn
from ml.sequences import Events, from_arrow

START = datetime(2026, 1, 1)
FIRST = (START - datetime(1970, 1, 1)).days
IDS = pa.array(["lamp", "rug", "soap", "tea"])
LAMP, RUG, SOAP, TEA = range(4)


def buys(*rows: tuple[str, str, int]) -> Events:
    users, items, days = zip(*rows, strict=True)
    stamps = [START + timedelta(day) for day in days]
    table = pa.table(
        {
            "user_id": users,
            "item_id": items,
            "event_type": ["purchase"] * len(rows),
            "event_ts": pa.array(stamps, pa.timestamp("us")),
        }
    )
    return from_arrow(table, pa.array(sorted(set(users))), IDS, ["purchase"])


def known(rate: list[float]) -> Repurchase:
    none = np.zeros(0, np.int64)
    return Repurchase(np.array(rate), np.full(4, np.nan), none, none, FIRST)


def test_frequency_counts_days_and_recency_halves_them() -> None:
    bought = buys(("a", "soap", 0), ("a", "soap", 0), ("a", "tea", 0), ("a", "tea", 179),
                  ("a", "lamp", 200), ("b", "rug", 3))  # fmt: skip
    end = FIRST + 180
    assert frequency(bought, end).top(np.array([0, 1]), 3)[0].tolist() == [
        [TEA, SOAP, -1],  # the lamp comes after the end
        [RUG, -1, -1],
    ]
    items, scores = repeats(bought, known([0.095, 0.095, 0.495, np.nan]), end).top(np.array([0]), 3)
    # soap was bought half a life ago: 0.5 x 1/2; tea has the mean rate of the others
    tea = (0.685 / 3 + 0.005) * (0.5 + 0.5 ** (1 / 180))
    assert items.tolist() == [[TEA, SOAP, -1]]
    assert scores[0].tolist() == pytest.approx([tea, 0.25, 0])
    sold_out = np.array([True, True, True, False])
    assert repeats(bought, known([0.1] * 4), end, sold_out).top(np.array([0]), 2)[0].tolist() == [
        [SOAP, -1]
    ]


def test_what_is_bought_again_comes_before_what_lasts() -> None:
    bought = buys(("a", "lamp", 10), ("a", "soap", 5))
    end = FIRST + 20
    assert frequency(bought, end).top(np.array([0]), 2)[0].tolist() == [[LAMP, SOAP]]
    lasting = repeats(bought, known([0.0, 0.0, 0.4, 0.4]), end)
    assert lasting.top(np.array([0]), 2)[0].tolist() == [[SOAP, LAMP]]


def test_the_comparison_learns_from_before_the_quarter_alone() -> None:
    """40 shoppers bought a lamp and soap; in the last quarter they buy soap again."""
    people = [f"u{i:02}" for i in range(40)]
    past = [(who, "lamp", day) for who in people for day in (30,)]
    past += [(who, "soap", day) for who in people for day in (0, 25)]
    past += [("u00", "tea", 0)]
    later = [(who, "soap", 120) for who in people] + [("u00", "rug", 121), ("new", "soap", 130)]
    none = np.full(4, -1)
    found = compare(buys(*past, *later), none, FIRST + 180)
    assert isinstance(found, Comparison)
    assert found.repeat["ndcg"].value == 1 and found.repeat["ndcg"].n == 40
    assert found.frequency["recall"].value == 1  # two items each: both find it among ten
    assert found.again == pytest.approx(40 / 41)
    assert "40 shoppers bought an item again, 98% of what was bought was" in str(found)
    # another future changes who is judged, never what is foreseen
    cutoff = FIRST + 90
    one = repeats(buys(*past, *later), learn(buys(*past, *later), none, cutoff), cutoff)
    two = repeats(buys(*past, ("new", "tea", 130)), learn(buys(*past), none, cutoff), cutoff)
    users = np.arange(1, 41)  # `new` comes first in the alphabet
    assert one.top(users, 4)[1].tolist() == two.top(users, 4)[1].tolist()


def test_a_young_shop_is_told_so() -> None:
    rows = [("a", "soap", day) for day in (0, 60, 120)]
    said = compare(buys(*rows), np.full(4, -1), FIRST + 179)
    assert "that takes 180 days of purchases" in said and said.endswith("there are 179")
    assert "nobody bought an item again" in compare(
        buys(("a", "soap", 0)), np.full(4, -1), FIRST + 180
    )


def test_explore_leaves_out_what_was_met() -> None:
    ranking = np.array([[2, 0, 3, 1], [1, 3, -1, -1]])
    met = np.array([0 * 4 + 2, 0 * 4 + 1, 5 * 4 + 3])
    column = unmet(ranking, np.array([0, 5]), np.sort(met), 4)
    assert column.tolist() == [[1, 2, -1, -1], [0, -1, -1, -1]]
    assert unmet(ranking, np.array([0, 5]), met[:0], 4)[0].tolist() == [0, 1, 2, 3]
