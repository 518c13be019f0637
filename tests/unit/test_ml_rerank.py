"""The shop's rules on a handful of items, each list worked out by hand."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.recommender.data import ItemFacts
from ml.recommender.rank import Ranked
from ml.repurchase import Repurchase, learn
from ml.rerank import Listed, Shelf, explored_places, rerank, seeds, shelf
from ml.rules import RuleError, Rules, load
from ml.sequences import Events, from_arrow

NIGHT, END = date(2026, 3, 31), 1000
IDS = pa.array(["a", "b", "c", "d", "e", "f"])
ABOUT = pa.table(
    {
        "item_id": ["f", "e", "d", "c", "b", "a"],  # in any order
        "category_path": ["Bath > soap", "Bath", "Desk > pen", "Desk", "Bath > soap", "Bath > tub"],
        "brand": ["Wren", None, "Lumo", "Lumo", "Lumo", "Wren"],
        "is_sold_out": [False, False, False, True, False, False],
    }
)


def shelf_of(n: int, **more: np.ndarray) -> Shelf:
    plain = {
        "allowed": np.ones(n, bool),
        "category": np.full(n, -1),
        "boost": np.ones(n),
        "vectors": np.zeros((n, 2), np.float32),
        "is_new": np.zeros(n, bool),
    }
    return Shelf(**plain | more)


def nothing_bought(n: int) -> Repurchase:
    none = np.zeros(0, np.int64)
    return Repurchase(np.full(n, np.nan), np.full(n, np.nan), none, none, END)


def ranked(*lists: dict[int, float]) -> Ranked:
    """One list for each user: item number and probability, best first."""
    width = max(map(len, lists))
    item = [[*each, *[-1] * (width - len(each))] for each in lists]
    score = [[*each.values(), *[0.0] * (width - len(each))] for each in lists]
    return Ranked(np.arange(len(lists)), np.array(item), np.array(score, np.float32), True)


def listed(on: Shelf, rules: Rules, *lists: dict[int, float], k: int = 3, known=None, pool=None):
    n = len(on.allowed)
    seed = seeds(pa.array([f"u{i}" for i in range(len(lists))]), NIGHT)
    return rerank(ranked(*lists), pool, on, known or nothing_bought(n), rules, seed, k)


def facts(rules: Rules, first_day: int = 0) -> Shelf:
    days = np.array([first_day] * 5 + [END - 3])
    none = np.zeros((6, 2), np.float32)
    known = ItemFacts(none, none, none[None], np.zeros(0, np.int64), days)
    return shelf(IDS, ABOUT, np.ones(6, bool), known, rules, NIGHT, END)


def test_without_rules_the_model_has_its_order() -> None:
    out = listed(shelf_of(4), Rules(), {2: 0.4, 0: 0.4, 3: 0.1, 1: 0.1}, {1: 0.9}, k=3)
    assert out.ranking.tolist() == [[2, 0, 3], [1, -1, -1]]
    assert out.score[0].tolist() == pytest.approx([0.4, 0.4, 0.1])
    assert (out.propensity == 1).all() and not out.explored.any()


def test_what_is_sold_out_or_blocked_may_not_be_shown() -> None:
    assert facts(Rules()).allowed.tolist() == [True, True, False, True, True, True]  # c: sold out
    block = [
        {"name": "recall", "items": ["a"]},
        {"name": "season", "category": "Bath", "brand": "Lumo"},
        {"name": "over", "brand": "Wren", "until": "2026-03-30"},
    ]
    on = facts(Rules.model_validate({"block": block}))
    assert on.allowed.tolist() == [False, False, False, True, True, True]  # b: Bath > soap, Lumo
    out = listed(on, Rules(), {0: 0.5, 1: 0.2, 2: 0.1, 3: 0.1, 4: 0.05, 5: 0.05}, k=6)
    assert out.ranking.tolist() == [[3, 4, 5, -1, -1, -1]]


def test_a_category_ends_at_its_separator() -> None:
    with pytest.raises(RuleError, match=r"block 'x' fits no item .*category Bath > s"):
        facts(Rules.model_validate({"block": [{"name": "x", "category": "Bath > s"}]}))


def test_a_boost_lifts_an_item_as_far_as_its_factor() -> None:
    wish = {"boost": [{"name": "house", "brand": "Wren", "factor": 3}]}
    on = facts(Rules.model_validate(wish))
    assert on.boost.tolist() == [3, 1, 1, 1, 1, 3]
    out = listed(on, Rules.model_validate(wish), {1: 0.5, 3: 0.28, 0: 0.1, 5: 0.09}, k=4)
    assert out.ranking.tolist() == [[1, 0, 3, 5]]  # a counts 0.3, f 0.27
    assert out.score[0].tolist() == pytest.approx([0.5, 0.1, 0.28, 0.09])  # the model's own


def test_of_two_boosts_each_counts_for_an_item_of_both() -> None:
    house = {"name": "house", "brand": "Wren", "factor": 3}
    bath = {"name": "bath", "category": "Bath", "factor": 0.5}
    # a and f are both: 3 x 0.5; b and e are of the bath alone
    for boosts in ([house, bath], [bath, house]):
        on = facts(Rules.model_validate({"boost": boosts}))
        assert on.boost.tolist() == [1.5, 0.5, 1, 1, 0.5, 1.5]


def test_diversity_puts_another_kind_between_likes() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], np.float32)
    scores = {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}
    on = shelf_of(4, vectors=vectors)
    assert listed(on, Rules(), scores, k=4).ranking.tolist() == [[0, 1, 2, 3]]
    # b is just like a: 0.3 exp(-1) = 0.11 < 0.2; then 0.11 > d, which is 0.8 like c: 0.1 exp(-0.8)
    assert listed(on, Rules(diversity=1), scores, k=4).ranking.tolist() == [[0, 2, 1, 3]]
    assert listed(on, Rules(diversity=0.2), scores, k=4).ranking.tolist() == [[0, 1, 2, 3]]


def test_an_item_is_held_against_all_above_it_and_not_only_the_last() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 0], [-0.6, 0.8]], np.float32)
    scores = {0: 0.4, 1: 0.3, 2: 0.16, 3: 0.14}
    on = shelf_of(4, vectors=vectors)
    # c is just like a, two places above: 0.16 exp(-1) = 0.059; d is 0.8 like b: 0.14 exp(-0.8) =
    # 0.063, and that it is the contrary of a does not count for it
    assert listed(on, Rules(diversity=1), scores, k=4).ranking.tolist() == [[0, 1, 3, 2]]
    contrary = shelf_of(3, vectors=np.array([[1, 0], [0, 1], [-1, 0]], np.float32))
    scores = {0: 0.4, 1: 0.3, 2: 0.2}
    assert listed(contrary, Rules(diversity=1), scores).ranking.tolist() == [[0, 1, 2]]


def test_a_category_cap_holds_in_the_first_places_and_leaves_none_empty() -> None:
    on = shelf_of(5, category=np.array([7, 7, 7, 7, -1]))
    rules = Rules.model_validate({"category_cap": {"places": 3, "items": 1}})
    scores = {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.09, 4: 0.01}
    # the third place would be empty: the cap gives way; after the third nothing is capped
    assert listed(on, rules, scores, k=5).ranking.tolist() == [[0, 4, 1, 2, 3]]


def test_the_first_place_after_the_capped_ones_is_free() -> None:
    on = shelf_of(4, category=np.array([7, 7, 7, 8]))
    rules = Rules.model_validate({"category_cap": {"places": 2, "items": 1}})
    scores = {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}
    assert listed(on, rules, scores, k=4).ranking.tolist() == [[0, 3, 1, 2]]


def test_items_without_a_category_are_not_capped_as_if_they_were_of_one() -> None:
    on = shelf_of(5, category=np.array([-1, -1, -1, 7, 7]))
    rules = Rules.model_validate({"category_cap": {"places": 5, "items": 1}})
    scores = {0: 0.4, 3: 0.3, 1: 0.2, 4: 0.06, 2: 0.04}
    assert listed(on, rules, scores, k=5).ranking.tolist() == [[0, 3, 1, 2, 4]]


def buys(*rows: tuple[str, str, int]) -> Events:
    start = datetime(2026, 1, 1)
    table = pa.table(
        {
            "user_id": [user for user, _, _ in rows],
            "item_id": [item for _, item, _ in rows],
            "event_type": ["purchase"] * len(rows),
            "event_ts": pa.array([start + timedelta(day) for *_, day in rows], pa.timestamp("us")),
        }
    )
    users = pa.array(sorted({user for user, _, _ in rows}))
    return from_arrow(table, users, IDS, ["purchase"])


FIRST = (datetime(2026, 1, 1) - datetime(1970, 1, 1)).days


def test_rates_and_intervals_are_learned_from_purchases() -> None:
    """a: 40 buyers, 10 of them again after 20 days, one after 30 more; b: 40, none again.

    c has 3 buyers, so its category speaks for it: a's. d has no category and is not known.
    """
    rows = [(f"u{i:02}", "a", 0) for i in range(40)] + [(f"u{i:02}", "a", 20) for i in range(10)]
    rows += [("u00", "a", 50)] + [(f"u{i:02}", "b", 1) for i in range(40)]
    rows += [(f"u{i:02}", "c", 2) for i in range(3)] + [("u00", "d", 3)]
    known = learn(buys(*rows), np.array([1, 0, 1, -1, 5, 5]), FIRST + 60)
    assert known.rate[:3].tolist() == pytest.approx([10 / 40, 0, 10 / 43])
    assert np.isnan(known.rate[3:]).all()
    assert known.interval[[0, 2]].tolist() == [20, 20] and np.isnan(known.interval[[1, 3]]).all()
    item = np.array([[0, 1, 2, 3], [0, 1, 2, 3]])
    users = np.array([0, 39])
    assert known.days_since(users, item).tolist() == [[10, 59, 58, 57], [60, 59, np.inf, np.inf]]
    assert known.lasts(users, item).tolist() == [[False, True, False, False]] * 2
    # u00 bought a 10 days ago, when 20 are usual: due again today, yesterday it was not
    assert not known.too_soon(users, item).any()
    day_before = learn(buys(*rows), np.array([1, 0, 1, -1, 5, 5]), FIRST + 59)
    assert day_before.too_soon(users, item)[0].tolist() == [True, False, False, False]


def test_a_purchase_of_yesterday_says_nothing_of_a_second_one() -> None:
    rows = [(f"u{i:02}", "a", 0) for i in range(40)]
    assert learn(buys(*rows), np.full(6, -1), FIRST + 30).rate[0] == 0
    assert np.isnan(learn(buys(*rows), np.full(6, -1), FIRST + 29).rate[0])


def test_what_is_bought_from_the_night_on_is_not_known_yet() -> None:
    """An old night that is run again must not learn from what came after it."""
    past = [(f"u{i:02}", "a", 0) for i in range(40)]
    past += [(f"u{i:02}", "a", 20) for i in range(10)]
    later = [(f"u{i:02}", "a", 60) for i in range(40)]
    later += [(f"u{i:02}", "b", 60 + i % 3) for i in range(40)]
    end, category = FIRST + 60, np.array([1, 1, 5, 5, 5, 5])
    then, again = learn(buys(*past), category, end), learn(buys(*past, *later), category, end)
    assert again.rate.tolist() == pytest.approx(then.rate.tolist(), nan_ok=True)
    assert again.interval.tolist() == pytest.approx(then.interval.tolist(), nan_ok=True)
    assert again.rate[0] == 10 / 40 and again.interval[0] == 20
    users, item = np.arange(40), np.tile([0, 1], (40, 1))
    assert again.days_since(users, item).tolist() == then.days_since(users, item).tolist()
    assert again.days_since(np.array([39]), item[:1]).tolist() == [[60, np.inf]]


def test_what_lasts_and_what_was_just_bought_are_held_back_where_asked() -> None:
    known = Repurchase(
        rate=np.array([0.0, 0.3, 0.3, np.nan]),
        interval=np.array([np.nan, 20.0, 20.0, 20.0]),
        bought=np.array([0, 1, 2, 3]),  # user 0 bought all four
        last_day=np.array([END - 90, END - 9, END - 10, END - 1]),
        end=END,
    )
    scores = {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}

    def order(**wishes: bool) -> list[list[int]]:
        return listed(
            shelf_of(4), Rules(**wishes), scores, scores, k=4, known=known
        ).ranking.tolist()

    assert order() == [[0, 1, 2, 3]] * 2
    assert order(no_durable_repeats=True) == [[1, 2, 3, 0], [0, 1, 2, 3]]
    assert order(refill_intervals=True) == [[0, 2, 3, 1], [0, 1, 2, 3]]
    assert order(no_durable_repeats=True, refill_intervals=True)[0] == [2, 3, 0, 1]


EXPLORE = Rules.model_validate({"exploration": {"share": 0.4}})


def explored(n_users: int, new: dict[int, float], k: int = 5) -> Listed:
    on = shelf_of(20, is_new=np.isin(np.arange(20), list(new)))
    plain = {i: 0.1 - i / 1000 for i in range(10)}
    pool = ranked(*[new] * n_users)
    return listed(on, EXPLORE, *[plain] * n_users, k=k, pool=pool)


def test_a_share_of_the_places_goes_to_new_items_by_lot() -> None:
    assert explored_places(EXPLORE.exploration, 10).tolist() == [2, 4, 7, 9]
    new = {11: 0.6, 12: 0.2, 13: 0.1, 14: 0.1, 3: 0.0}  # 3 stands on the list anyway
    out = explored(4000, new)
    assert out.explored.tolist() == [[False, False, True, False, True]] * 4000
    assert out.ranking[:, [0, 1, 3]].tolist() == [[0, 1, 2]] * 4000  # the rest has moved down
    drawn = out.ranking[:, [2, 4]]
    assert set(drawn.ravel().tolist()) == {11, 12, 13, 14}
    assert (drawn[:, 0] != drawn[:, 1]).all()
    # 11 and 13 are one group, 12 and 14 the other; half evenly, half by the model's odds
    odds = {11: (1 / 2 + 6 / 7) / 4, 13: (1 / 2 + 1 / 7) / 4, 12: 7 / 24, 14: 5 / 24}
    for item, expected in odds.items():
        here = out.ranking == item
        assert out.propensity[here] == pytest.approx(expected)
        for place in (2, 4):
            shown = here[:, place].mean()
            assert abs(shown - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5
    assert sum(odds.values()) == pytest.approx(1)
    assert (out.propensity[~out.explored] == 1).all()


def test_exploration_shows_nothing_that_a_shopper_need_not_buy_again() -> None:
    on = shelf_of(5, is_new=np.arange(5) > 2)
    known = Repurchase(
        np.array([0.3, 0.3, 0.3, 0.0, 0.3]), np.full(5, np.nan), np.array([3]), np.array([900]), END
    )
    rules = Rules.model_validate({"no_durable_repeats": True, "exploration": {"share": 0.5}})
    plain, new = {0: 0.5, 1: 0.3, 2: 0.2}, {3: 0.9, 4: 0.1}
    out = listed(on, rules, plain, plain, k=2, known=known, pool=ranked(new, new))
    assert out.ranking[0].tolist() == [0, 4]  # of two new ones user 0 has the lasting one
    assert out.propensity[0].tolist() == [1, 1] and out.propensity[1, 1] < 1


CAPPED = {"category_cap": {"places": 4, "items": 2}, "exploration": {"share": 0.5}}


def test_exploration_keeps_to_the_category_cap() -> None:
    """Ten items of five categories in the model's order, two new ones of categories 0, 1 and 9."""
    category = np.array([0, 0, 1, 2, 3, 4, 1, 2, 3, 4, 0, 0, 1, 1, 9, 9])
    on = shelf_of(16, category=category, is_new=np.arange(16) > 9)
    plain = {i: 0.1 - i / 1000 for i in range(10)}
    new = {10: 0.4, 11: 0.2, 12: 0.1, 13: 0.1, 14: 0.1, 15: 0.1}
    n = 500
    out = listed(on, Rules.model_validate(CAPPED), *[plain] * n, k=8, pool=ranked(*[new] * n))
    assert out.explored.tolist() == [[False, True] * 4] * n
    assert out.ranking[:, ::2].tolist() == [[0, 1, 2, 3]] * n
    # two of category 0 are ranked above: a new one of it comes after the capped places alone
    first, later = out.ranking[:, [1, 3]], out.ranking[:, [5, 7]]
    assert set(first.ravel().tolist()) == {12, 13, 14, 15}
    assert set(later.ravel().tolist()) == {10, 11, 12, 13, 14, 15}


def test_what_exploration_drew_counts_for_the_next_draw() -> None:
    category = np.array([0, 1, 2, 3, 9, 9, 9])
    on = shelf_of(7, category=category, is_new=np.arange(7) > 3)
    rules = Rules.model_validate(CAPPED | {"category_cap": {"places": 4, "items": 1}})
    plain, new = {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}, {4: 0.5, 5: 0.3, 6: 0.2}
    out = listed(on, rules, *[plain] * 500, k=4, pool=ranked(*[new] * 500))
    # one of category 9 has room: the other explored place goes to the next of the ranked list
    assert out.explored.tolist() == [[False, True, False, False]] * 500
    assert out.ranking[:, [0, 2, 3]].tolist() == [[0, 1, 2]] * 500
    assert set(out.ranking[:, 1].tolist()) == {4, 5, 6}


def within(ranking: np.ndarray, on: Shelf, places: int) -> np.ndarray:
    """Of each category how many are in the first places, [n, categories]."""
    first = ranking[:, :places]
    category = np.where(first < 0, -1, on.category[first])
    return (category[:, :, None] == np.arange(on.category.max(initial=0) + 1)).sum(1)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_with_exploration_the_cap_holds_and_the_propensity_is_how_often_it_comes(
    data: st.DataObject,
) -> None:
    n, n_new, n_users = data.draw(st.integers(4, 12)), data.draw(st.integers(1, 8)), 1500
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    kinds = data.draw(st.integers(1, 6))
    on = shelf_of(n + n_new, category=rng.integers(-1, kinds, n + n_new))
    cap = {"places": data.draw(st.integers(1, 10)), "items": data.draw(st.integers(1, 3))}
    share = data.draw(st.floats(0.1, 0.5))
    explore = Rules.model_validate({"category_cap": cap, "exploration": {"share": share}})
    plain = {int(i): float(p) for i, p in zip(rng.permutation(n), rng.random(n), strict=True)}
    new = {n + i: float(p) for i, p in enumerate(rng.random(n_new))}
    k = data.draw(st.integers(1, n))
    without = listed(on, Rules.model_validate({"category_cap": cap}), plain, k=k)
    out = listed(on, explore, *[plain] * n_users, k=k, pool=ranked(*[new] * n_users))

    before, after = (within(each.ranking, on, cap["places"]) for each in (without, out))
    assert (after <= np.maximum(before, cap["items"])).all()
    # the lot decides what is drawn, but neither where nor what else there is, and leaves no gap
    assert (out.explored == out.explored[0]).all() and (out.ranking >= 0).all()
    ranked_on = out.ranking[0, ~out.explored[0]]
    assert ranked_on.tolist() == without.ranking[0, : len(ranked_on)].tolist()
    assert (out.ranking[:, ~out.explored[0]] == ranked_on).all()
    # as many places as there is something new for: one more in the capped ones would break the cap
    wanted = explored_places(explore.exploration, k)
    capped, first = (wanted < cap["places"]).sum(), out.explored[0, : cap["places"]].sum()
    assert out.explored.sum(1)[0] == min(n_new, len(wanted) - capped + first)
    if first < capped:
        standing = within(without.ranking[:, : min(k, cap["places"]) - first - 1], on, k)[0]
        fits = on.category[n:] < 0
        assert first + 1 > fits.sum() + sum(
            min((on.category[n:] == kind).sum(), max(0, cap["items"] - count))
            for kind, count in enumerate(standing)
        )
    for place in np.flatnonzero(out.explored[0]):
        shown, at, times = np.unique(out.ranking[:, place], return_index=True, return_counts=True)
        odds = out.propensity[at, place]
        assert (
            out.propensity[:, place] == odds[np.searchsorted(shown, out.ranking[:, place])]
        ).all()
        assert odds.sum() <= 1 + 1e-9
        assert (abs(times / n_users - odds) < 5 * np.sqrt(odds * (1 - odds) / n_users) + 1e-9).all()


def test_fewer_new_items_than_places_leave_no_place_empty() -> None:
    out = explored(50, {11: 1.0})
    assert (out.explored.sum(1) == 1).all() and (out.ranking >= 0).all()
    assert out.propensity[out.explored] == pytest.approx(1)
    none = explored(50, {3: 1.0})
    assert not none.explored.any() and none.ranking[0].tolist() == [0, 1, 2, 3, 4]


def test_chance_hangs_on_the_night_and_the_user_alone() -> None:
    users = pa.array(["u1", "u2", "u3"])
    again = seeds(pa.array(["u3", "u1"]), NIGHT)
    assert seeds(users, NIGHT)[[2, 0]].tolist() == again.tolist()
    assert set(seeds(users, NIGHT)).isdisjoint(seeds(users, date(2026, 4, 1)))
    one, two = (
        explored(300, {11: 0.5, 12: 0.5, 13: 0.5}),
        explored(300, {11: 0.5, 12: 0.5, 13: 0.5}),
    )
    assert one.ranking.tolist() == two.ranking.tolist()
    assert len({tuple(row) for row in one.ranking.tolist()}) > 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_the_rules_a_list_is_whole_allowed_and_without_doubles(
    data: st.DataObject,
) -> None:
    n = data.draw(st.integers(3, 25))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    vectors = rng.normal(size=(n, 3)).astype(np.float32)
    on = shelf_of(
        n,
        allowed=rng.random(n) < 0.8,
        category=rng.integers(-1, 3, n),
        boost=rng.uniform(0.5, 2, n),
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    )
    new = on.allowed & (rng.random(n) < 0.4)
    bought = np.flatnonzero(rng.random(4 * n) < 0.3)
    last_day = END - rng.integers(1, 60, len(bought))
    known = Repurchase(rng.random(n) / 5, rng.uniform(5, 50, n), bought, last_day, END)
    cap = {"places": data.draw(st.integers(1, 8)), "items": data.draw(st.integers(1, 3))}
    rules = Rules.model_validate(
        {
            "diversity": data.draw(st.floats(0, 5)),
            "category_cap": cap,
            "no_durable_repeats": data.draw(st.booleans()),
            "refill_intervals": data.draw(st.booleans()),
            "exploration": {"share": data.draw(st.floats(0.05, 0.5))},
        }
    )
    everything = [
        dict(zip(rng.permutation(n).tolist(), rng.random(n), strict=True)) for _ in range(4)
    ]
    pools = [{i: 0.5 for i in each if new[i]} for each in everything]
    k = data.draw(st.integers(1, n))
    pool = ranked(*pools) if new.any() else None
    out = listed(on, rules, *everything, k=k, known=known, pool=pool)
    for row, score in zip(out.ranking, out.score, strict=True):
        there = row[row >= 0]
        assert len(there) == min(k, on.allowed.sum()) and len(set(there)) == len(there)
        assert on.allowed[there].all() and (row[: len(there)] >= 0).all()
        assert ((score >= 0) & (score <= 1)).all()
    assert ((out.propensity > 0) & (out.propensity <= 1)).all()
    assert new[out.ranking[out.explored]].all()


def test_no_file_means_no_rules(tmp_path) -> None:
    assert load(tmp_path / "rules.yml") == Rules()
    (tmp_path / "rules.yml").write_text("# nothing yet\n")
    assert load(tmp_path / "rules.yml") == Rules()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("diversty: 1", r"- diversty: Extra inputs are not permitted"),
        ("diversity: 9", r"- diversity: .*less than or equal to 5"),
        ("boost: [{name: a, brand: b, factor: 2}, {name: spring, brand: b, factor: 0}]",
         r"- boost number 2 'spring' factor: .*greater than 0"),
        ("block: [{name: all}]", r"- block number 1 'all': .*name items, a category or a brand"),
        ("block: [{items: [a]}]", r"- block number 1 name: Field required"),
        ("block: [{name: a, items: [a], until: soon}]", r"- block number 1 'a' until: .*date"),
        ("exploration: {share: 0.9}", r"- exploration share: .*less than or equal to 0.5"),
        ("category_cap: {items: 0}", r"- category_cap items: .*greater than or equal to 1"),
        ("[1, 2", r"is no YAML"),
        ("- a", r"- the file: .*dictionary"),
    ],
)  # fmt: skip
def test_a_bad_rule_is_named_with_its_file(tmp_path, written: str, said: str) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(written)
    with pytest.raises(RuleError, match=said) as raised:
        load(path)
    assert str(path) in str(raised.value)
    assert "is no YAML" in said or "correct these rules or take them out" in str(raised.value)


def test_a_rule_about_nothing_is_an_error_while_it_holds() -> None:
    typo = {"name": "push", "brand": "Wrenn", "factor": 2, "until": "2026-03-31"}
    with pytest.raises(
        RuleError, match=r"rules.yml: boost 'push' fits no item .*brand Wrenn.*`until`"
    ):
        facts(Rules.model_validate({"boost": [typo]}))
    facts(Rules.model_validate({"boost": [typo | {"until": "2026-03-30"}]}))


def test_new_is_what_came_within_the_days() -> None:
    wish = {"exploration": {"share": 0.1, "days": 3}}
    assert facts(Rules.model_validate(wish)).is_new.tolist() == [False] * 5 + [True]
    wish["exploration"]["days"] = 2
    assert not facts(Rules.model_validate(wish)).is_new.any()
    sold_out = facts(Rules.model_validate(wish), first_day=END - 1).is_new
    assert sold_out.tolist() == [True, True, False, True, True, False]
