"""The simulated shop: the same seed tells the same story, and the story can be learned from."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shops.demo import delivery, words
from shops.demo.delivery import Delivery
from shops.demo.simulate import SCALES, Day, Shelves, World
from shops.demo.tables import START

DAYS = 90


@pytest.fixture(scope="module")
def story() -> tuple[World, list[Day]]:
    """The world after DAYS days, and the days."""
    world = World(SCALES["small"])
    return world, [world.day(number) for number in range(DAYS)]


@pytest.fixture(scope="module")
def events(story: tuple[World, list[Day]]) -> pa.Table:
    return pa.concat_tables([day.events for day in story[1]]).unify_dictionaries()


def of(events: pa.Table, *actions: str) -> pa.Table:
    return events.filter(pc.is_in(events["action"].cast(pa.string()), pa.array(actions)))


def numbers(names: pa.ChunkedArray) -> np.ndarray:
    """Customer and item numbers from names like C000123; -1 for none."""
    return np.array([int(name[1:]) - 1 if name else -1 for name in names.to_pylist()])


def test_the_same_seed_gives_the_same_days_and_another_does_not(
    story: tuple[World, list[Day]],
) -> None:
    again, other = World(SCALES["small"]), World(SCALES["small"], seed=8)
    for number in range(5):
        assert again.day(number) == story[1][number]
        assert other.day(number) != story[1][number]


def test_all_that_happens_on_a_day_lies_within_it_in_utc(story: tuple[World, list[Day]]) -> None:
    """So that the file of a day is complete on its own night, summer time included."""
    for number, day in enumerate(story[1]):
        times = day.events["ts_ms"].to_numpy()
        midnight = np.datetime64(START).astype("datetime64[ms]").astype(int) + number * 86_400_000
        assert times.min() >= midnight and times.max() < midnight + 86_400_000
        assert (np.diff(times) >= 0).all()


def test_every_purchase_was_in_the_basket_and_every_refund_was_bought(events: pa.Table) -> None:
    def lines(table: pa.Table, *names: str) -> set[tuple]:
        return set(zip(*(table[name].to_pylist() for name in names), strict=True))

    paid, returned = of(events, "paid"), of(events, "returned")
    assert lines(paid, "visit", "sku") <= lines(of(events, "basket_add"), "visit", "sku")
    assert lines(paid, "order_no") <= lines(of(events, "checkout_start"), "order_no")
    same = ("customer", "order_no", "sku", "pieces", "price_cents")
    assert returned.num_rows > 20
    assert lines(returned, *same) <= lines(paid, *same)


def test_items_are_shown_and_sold_only_once_they_exist(
    story: tuple[World, list[Day]],
) -> None:
    known: set[str] = set()
    for day in story[1]:
        known |= set(day.catalogue["sku"].to_pylist())
        assert set(day.events["sku"].drop_null().to_pylist()) <= known
    assert len(known) > SCALES["small"].items * 0.6, "new items came after the first day"


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0.01, 100)), min_size=1, max_size=30),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
)
def test_a_draw_comes_from_its_shelf_and_the_odds_sum_to_one(
    items: list[tuple[int, float]], dice: list[float]
) -> None:
    group, weight = np.array([g for g, _ in items]), np.array([w for _, w in items])
    shelves = Shelves(group, weight, 4)
    for wanted in np.unique(group):
        drawn = shelves.draw(np.full(len(dice), wanted), np.array(dice))
        assert (group[drawn] == wanted).all()
        members = np.flatnonzero(group == wanted)
        assert shelves.probability(members).sum() == pytest.approx(1)


def test_propensities_are_those_of_the_draw(events: pa.Table) -> None:
    """An item's share of the lists of one day, in its slot, is what was written with it."""
    shown = of(events, "list_shown")
    slot = shown["slot"].to_numpy()
    assert sorted(set(slot)) == list(range(6))
    assert (numbers(shown["sku"]) % 6 == slot).all()
    propensity = shown["propensity"].to_numpy()
    assert ((propensity > 0) & (propensity < 1)).all()
    # Weighted by 1 / propensity, every slot's items sum to how many there are.
    items = 0.6 * SCALES["small"].items / 6, SCALES["small"].items / 6
    means = [np.mean(1 / propensity[slot == number]) for number in range(6)]
    assert all(items[0] * 0.8 < mean < items[1] * 1.2 for mean in means)


def test_shoppers_buy_what_suits_them(story: tuple[World, list[Day]], events: pa.Table) -> None:
    world, _ = story
    paid = of(events, "paid").filter(pc.is_valid(of(events, "paid")["customer"]))
    user, item = numbers(paid["customer"]), numbers(paid["sku"])
    match = world._match(user, item, DAYS)
    anyone = world._match(user, np.random.default_rng(1).permutation(item), DAYS)
    assert match.mean() > anyone.mean() + 0.7


def test_text_carries_taste(story: tuple[World, list[Day]], events: pa.Table) -> None:
    """Things one shopper puts into the basket share style or colour words far above chance."""
    world, _ = story
    added = of(events, "basket_add").filter(pc.is_valid(of(events, "basket_add")["customer"]))
    order = np.argsort(numbers(added["customer"]), kind="stable")
    user, item = numbers(added["customer"])[order], numbers(added["sku"])[order]
    row, lag = (grid.ravel() for grid in np.mgrid[: len(user) - 5, 1:6])  # with the five after it
    other = row + lag
    pairs = (user[row] == user[other]) & (item[row] != item[other])
    one, another = item[row[pairs]], item[other[pairs]]
    texts = [set(title.lower().replace(",", "").split()) for title in world.items.title]

    def shared(left: np.ndarray, right: np.ndarray) -> float:
        vocabulary = {w for group in (words.STYLES, words.COLOURS) for w in group}
        return float(
            np.mean(
                [bool(texts[a] & texts[b] & vocabulary) for a, b in zip(left, right, strict=True)]
            )
        )

    by_chance = shared(one, np.random.default_rng(1).permutation(another))
    assert shared(one, another) > by_chance * 1.3


def test_there_is_more_to_learn_than_popularity_and_neighbours(
    story: tuple[World, list[Day]], events: pa.Table
) -> None:
    """Of what is added in the last two weeks, knowing tastes finds more than the baselines."""
    world, _ = story
    items, users = len(world.items.sku), len(world.users.name)
    known = events.filter(pc.is_valid(events["customer"]))
    day = known["ts_ms"].to_numpy() // 86_400_000
    past = day < day[0] + DAYS - 14

    def counts(rows: np.ndarray, *actions: str) -> np.ndarray:
        chosen = known.filter(pa.array(rows & np.isin(known["action"].to_pylist(), actions)))
        table = np.zeros((users, items))
        np.add.at(table, (numbers(chosen["customer"]), numbers(chosen["sku"])), 1)
        return table

    seen, wanted = counts(past, "page_view") > 0, counts(~past, "basket_add") > 0
    judged = seen.any(axis=1) & wanted.any(axis=1)

    def recall(scores: np.ndarray) -> float:
        top = np.argsort(-scores[judged], axis=1, kind="stable")[:, :10]
        hits = np.take_along_axis(wanted[judged], top, axis=1).sum(axis=1)
        return float(np.mean(hits / np.minimum(wanted[judged].sum(axis=1), 10)))

    popularity = recall(np.broadcast_to(seen.sum(axis=0), seen.shape))
    together = seen.T.astype(float) @ seen
    size = np.sqrt(np.diag(together).clip(1))
    neighbours = recall(seen @ (together / size / size[:, None]))
    kinds = np.eye(len(words.KINDS))[world.items.kind]
    interest = np.log1p(seen @ kinds)[:, world.items.kind]
    taste = world._taste(np.arange(users), DAYS) @ world.items.vector.T
    informed = recall(interest + 0.6 * taste)
    assert judged.sum() > 100
    assert popularity < neighbours
    assert informed > 1.2 * neighbours


def test_shoppers_dwell_longer_on_what_suits_them(
    story: tuple[World, list[Day]], events: pa.Table
) -> None:
    viewed = of(events, "page_view").filter(pc.is_valid(of(events, "page_view")["customer"]))
    match = story[0]._match(numbers(viewed["customer"]), numbers(viewed["sku"]), DAYS)
    dwell = viewed["on_page_ms"].to_numpy()
    low, high = np.quantile(match, [0.25, 0.75])
    assert np.median(dwell[match > high]) > 1.3 * np.median(dwell[match < low])


def test_shoppers_have_their_hours_and_days(events: pa.Table) -> None:
    """A shopper's visits lie closer together in the day, and in the week, than visits at large."""
    known = events.filter(pc.and_(pc.is_valid(events["customer"]), pc.is_valid(events["visit"])))
    at = np.unique(known["visit"].to_numpy(), return_index=True)[1]
    user, time = numbers(known["customer"])[at], known["ts_ms"].to_numpy()[at]
    hour = time % 86_400_000 / 3_600_000
    weekend = (time // 86_400_000 + 3) % 7 >= 5
    often = np.bincount(user)[user] >= 10

    def within(values: np.ndarray) -> float:
        mean = (np.bincount(user, values) / np.bincount(user).clip(1))[user]
        return float(np.var((values - mean)[often]))

    assert within(hour) < 0.4 * np.var(hour[often])
    habit = np.bincount(user, weekend)[user] / np.bincount(user)[user]
    assert np.var(habit[often]) > 0.015, "with no habit, chance alone would make about 0.01"


def test_many_leave_and_some_stay(events: pa.Table) -> None:
    visits = of(events, "page_view").filter(pc.is_valid(of(events, "page_view")["customer"]))
    user = numbers(visits["customer"])
    day = (visits["ts_ms"].to_numpy() - visits["ts_ms"].to_numpy()[0]) // 86_400_000
    first = np.full(user.max() + 1, DAYS)
    np.minimum.at(first, user, day)
    old = first <= DAYS - 60

    def share(low: int, high: int) -> float:
        age = day - first[user]
        return len(np.unique(user[old[user] & (age >= low) & (age < high)])) / old.sum()

    weeks = [share(1, 8), share(15, 22), share(50, 57)]
    assert weeks == sorted(weeks, reverse=True)
    assert weeks[2] > 0.1 and weeks[0] > 1.5 * weeks[2]


def test_consumables_are_bought_again(events: pa.Table, story: tuple[World, list[Day]]) -> None:
    paid = of(events, "paid").filter(pc.is_valid(of(events, "paid")["customer"]))
    user, item = numbers(paid["customer"]), numbers(paid["sku"])
    consumed = np.array([kind.consumed for kind in words.KINDS])[story[0].items.kind[item]]

    def again(chosen: np.ndarray) -> float:
        pairs = user[chosen] * 100_000 + item[chosen]
        return 1 - len(np.unique(pairs)) / len(pairs)

    assert again(consumed) > 2 * again(~consumed)


def test_reviews_follow_the_experience() -> None:
    world = World(SCALES["default"])
    reviews = pa.concat_tables([world.day(number).reviews for number in range(45)])
    stars = reviews["stars"].to_numpy()
    text = reviews["words"]
    late = pc.match_substring(text, "much too late").to_numpy()
    broken = pc.match_substring(text, "was broken").to_numpy()
    praise = pc.match_substring_regex(text, "love it|wonderful|Better than").to_numpy()
    match = world._match(numbers(reviews["customer"]), numbers(reviews["sku"]), 45)
    assert len(stars) > 300 and set(stars) == {1, 2, 3, 4, 5}
    assert stars[late].mean() < stars[~late].mean() - 0.8
    assert stars[broken].mean() < stars[~broken].mean() - 1
    assert (stars[praise] == 5).all() and praise[stars == 5].all()
    assert np.corrcoef(match, stars)[0, 1] > 0.2


def test_messages_are_conversations(story: tuple[World, list[Day]]) -> None:
    messages = pa.concat_tables([day.messages for day in story[1]])
    tickets = messages.group_by("ticket").aggregate(
        [("from", "list"), ("order_no", "count_distinct"), ("sent_at", "list")]
    )
    assert tickets.num_rows > 20
    for senders in tickets["from_list"].to_pylist():
        assert senders == ["customer", "agent", "customer"]
    for sent in tickets["sent_at_list"].to_pylist():
        assert sent == sorted(sent)
    assert pc.max(tickets["order_no_count_distinct"]).as_py() == 1


def test_the_catalogue_changes(story: tuple[World, list[Day]]) -> None:
    first, *later = [day.catalogue for day in story[1] if day.catalogue.num_rows]
    changes = pa.concat_tables(later)
    known = first["sku"].to_pylist()
    before = dict(zip(known, first["price_eur"].to_pylist(), strict=True))
    repriced = [
        sku
        for sku, price in zip(
            changes["sku"].to_pylist(), changes["price_eur"].to_pylist(), strict=True
        )
        if sku in before and price != before[sku]
    ]
    assert repriced
    assert any("better packaging" in text for text in changes["text"].to_pylist())


def test_rows_go_wrong_at_the_known_rates(story: tuple[World, list[Day]]) -> None:
    deliveries = Delivery(seed=7)
    files = [deliveries.events(number, day.events) for number, day in enumerate(story[1])]
    true = sum(day.events.num_rows for day in story[1])
    ids = [file["id"].to_numpy() for file in files]
    twice = sum(map(len, ids)) - len(np.unique(np.concatenate(ids)))
    late = sum(int((np.unique(own) // 10_000_000 <= n).sum()) for n, own in enumerate(ids))
    kinds = pa.concat_tables(
        [file.select(["ts_ms", "action", "sku", "price_cents"]) for file in files]
    )
    broken = (
        kinds["ts_ms"].null_count
        + pc.sum(pc.equal(kinds["ts_ms"], 0)).as_py()
        + pc.sum(pc.equal(kinds["action"].cast(pa.string()), "beacon")).as_py()
        + pc.sum(pc.less(kinds["price_cents"], 0)).as_py()
    )
    assert twice / true == pytest.approx(delivery.TWICE, rel=0.15)
    # Half of the rows that come twice come with a later file too.
    assert late / true == pytest.approx(delivery.LATE + delivery.TWICE / 2, rel=0.15)
    assert delivery.BROKEN * 0.7 < broken / true < delivery.BROKEN * 1.1
    assert len(np.unique(np.concatenate(ids))) > true * 0.999, "nothing is lost on the way"
