"""From events to examples: nothing lost, nothing from the future, no order that matters."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.baselines import item_knn, popularity, recent_positions
from ml.recommender.data import ItemFacts, draw_moments, examples, stats_from_events, windows
from ml.sequences import from_arrow, sorted_ids, vectors

KINDS = ("purchase", "view")
START = datetime(2026, 1, 1)

rows = st.lists(
    st.tuples(
        st.integers(0, 3),  # user
        st.integers(0, 5),  # item
        st.sampled_from(KINDS),
        st.integers(0, 40 * 24 * 3600),  # seconds
    ),
    min_size=1,
    max_size=60,
    unique=True,
)


def table(rows):
    return pa.table(
        {
            "user_id": pa.array([f"u{r[0]}" for r in rows]),
            "item_id": pa.array([f"i{r[1]}" for r in rows]),
            "event_type": pa.array([r[2] for r in rows]),
            "event_ts": pa.array(
                [START + timedelta(seconds=r[3]) for r in rows], pa.timestamp("us")
            ),
        }
    )


def read(rows, kinds=KINDS):
    ids = pa.array([f"u{i}" for i in range(4)]), pa.array([f"i{i}" for i in range(6)])
    return from_arrow(table(rows), *ids, kinds)


@given(rows, st.randoms())
def test_the_order_of_rows_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    one, two = read(rows), read(shuffled)
    for name in ("user", "item", "kind", "time"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert (np.diff(one.user) >= 0).all()


def test_guests_and_unknown_items_are_left_out():
    events = table([(0, 0, "view", 5), (1, 1, "view", 6), (2, 2, "search", 7)])
    events = events.set_column(0, "user_id", pa.array([None, "u1", "u2"]))
    users, items = sorted_ids(events["user_id"]), sorted_ids(events["item_id"])
    assert users.to_pylist() == ["u1", "u2"]
    assert from_arrow(events, users, items, KINDS).item.tolist() == [1]


def facts(events, cutoff):
    first = np.full(6, 10**6)
    np.minimum.at(first, events.item, events.day)
    stats = stats_from_events(events, events, np.array([cutoff]), first)
    empty = np.zeros_like(stats[:1])
    text, words = np.zeros((6, 2), np.float32), np.zeros((6, 0), np.float32)
    return ItemFacts(text, words, np.r_[empty, stats], np.array([cutoff]), first)


@settings(max_examples=200)
@given(rows, st.integers(2, 40), st.integers(1, 20), st.integers(0, 5))
def test_a_moment_knows_only_its_past_and_foresees_only_its_future(rows, day, horizon, seed):
    events = read(rows)
    cutoff = int(np.datetime64(START, "D").astype(int)) + day
    inputs, targets = events, events.of_kinds(["purchase"])
    data = examples(inputs, targets, cutoff, horizon)
    moments = draw_moments(data, facts(events, cutoff), np.random.default_rng(seed))
    assert (data.day < cutoff).all()
    for last, asof, truth, weight in zip(
        moments.last, moments.asof, moments.truth, moments.weight, strict=True
    ):
        user = data.events.user[last]
        assert data.day[last] < asof <= cutoff
        later = (data.events.user == user) & (data.day < asof)
        assert last == np.flatnonzero(later).max()  # the latest known event
        ahead = (targets.user == user) & (targets.day >= asof) & (targets.day < asof + horizon)
        bought = set(targets.item[ahead & (targets.day < cutoff)])
        assert set(truth[weight > 0]) <= bought
        assert weight.sum() == pytest.approx(1, abs=1e-5)


@given(rows, st.integers(0, 5), st.sampled_from([0.01, 0.4, 1.0]))
def test_a_later_truth_weighs_less(rows, seed, fade):
    events = read(rows)
    cutoff = int(events.day.max(initial=0)) + 1
    data = examples(events, events, cutoff, 5)
    known = facts(events, cutoff)
    moments = draw_moments(data, known, np.random.default_rng(seed), fade)
    for last, asof, truth, weight in zip(
        moments.last, moments.asof, moments.truth, moments.weight, strict=True
    ):
        ahead = (events.user == data.events.user[last]) & (events.day >= asof)
        ahead &= (events.day < asof + 5) & (known.first_day[events.item] < asof)
        pairs = set(zip(events.day[ahead] - asof, events.item[ahead], strict=True))
        total = sum(fade**days for days, _ in pairs)
        for item in set(truth[weight > 0]):
            wanted = sum(fade**days for days, which in pairs if which == item) / total
            assert weight[truth == item].sum() == pytest.approx(wanted, abs=1e-5)


@given(rows, st.integers(2, 9), st.integers(0, 3))
def test_windows_hold_every_event_once(rows, length, seed):
    events = read(rows)
    data = examples(events, events, 10**5, 7)
    start, stop = windows(data, length, np.random.default_rng(seed))
    assert ((stop - start) <= length).all()
    covered = np.concatenate([np.arange(a, b) for a, b in zip(start, stop, strict=True)])
    assert np.array_equal(np.sort(covered), np.arange(len(events.user)))
    for a, b in zip(start, stop, strict=True):
        assert len(set(events.user[a:b])) == 1


def test_statistics_count_the_past_of_each_day():
    events = read([(0, 0, "purchase", 0), (1, 0, "purchase", 86400), (0, 1, "purchase", 86400)])
    day = int(np.datetime64(START, "D").astype(int))
    first = np.array([day, day + 1, 10**6, 10**6, 10**6, 10**6])
    stats = stats_from_events(events, events, np.array([day, day + 1, day + 9]), first)
    week, _, ever, _, age = np.moveaxis(np.expm1(stats)[:, :2, :5], 2, 0).round(4)
    assert week.tolist() == [[0, 0], [1, 0], [0, 0]]
    assert ever.tolist() == [[0, 0], [1, 0], [2, 1]]
    assert age.tolist() == [[0, 0], [1, 0], [9, 8]]
    assert stats[:, :3, 5].tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]  # met by nobody yet


@given(rows)
def test_item_knn_equals_the_definition(rows):
    events = read(rows)
    met = np.zeros((4, 6))
    met[events.user, events.item] = 1
    norm = np.maximum(np.sqrt((met**2).sum(0)), 1)
    alike = (met.T @ met) / np.outer(norm, norm)
    users = np.unique(events.user)
    assert np.allclose(item_knn(events)(users).numpy(), met[users] @ alike, atol=1e-5)


@given(rows, st.integers(1, 4))
def test_recent_items_are_the_last_distinct_ones(rows, recent):
    events = read(rows)
    positions = recent_positions(events, recent)
    for user in range(4):
        mine = [int(events.item[i]) for i in np.flatnonzero(events.user == user)][::-1]
        expected = list(dict.fromkeys(mine))[:recent]
        assert [int(events.item[i]) for i in positions if events.user[i] == user] == expected


def test_popularity_looks_at_the_last_weeks():
    old = [(0, 0, "purchase", s) for s in range(5)]
    new = [(0, 1, "purchase", 39 * 86400), (1, 1, "purchase", 39 * 86400)]
    events = read(old + new)
    cutoff = int(np.datetime64(START, "D").astype(int)) + 40
    scores = popularity(events, cutoff)(np.array([0, 3]))
    assert scores.argsort(descending=True)[:, :2].tolist() == [[1, 0], [1, 0]]


def test_vectors_are_aligned_and_missing_ones_are_zero():
    features = pa.table({"item_id": ["b", "a", "c"], "embedding": [[1.0, 2.0], [3.0, 4.0], None]})
    got = vectors(features, pa.array(["a", "b", "c", "d"]), "item_id", "embedding")
    assert got.tolist() == [[3, 4], [1, 2], [0, 0], [0, 0]]
    twice = pa.concat_tables([features, features])
    with pytest.raises(ValueError, match="more than once"):
        vectors(twice, pa.array(["a"]), "item_id", "embedding")
