"""The small recommender whose vectors of users the heads read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml import ModelError
from ml.sequences import Events
from ml.value.taste import WIDTH, Taste

USERS, DAYS = 120, 60


def events(seed: int = 0) -> Events:
    """Two kinds of shoppers who each stay among ten items of their own."""
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(USERS), 20)
    item = user % 2 * 10 + random.integers(0, 10, len(user))
    time = np.sort(random.integers(0, DAYS * 86_400, (USERS, 20)), 1).ravel()
    ids = pa.array([f"u{n:03d}" for n in range(USERS)])
    items = pa.array([f"i{n:02d}" for n in range(20)])
    return Events(ids, items, ("view",), user, item, np.zeros(len(user), np.int64), time)


@pytest.fixture(scope="module")
def taste() -> Taste:
    """As of day 40."""
    found = Taste.fit(events(), events(), 40, seed=3)
    assert found is not None
    return found


def test_users_of_one_kind_lie_together(taste: Taste) -> None:
    found = taste.of(events(), np.arange(USERS), np.full(USERS, 40))
    assert found.shape == (USERS, WIDTH)
    kind = np.arange(USERS) % 2
    centre = np.stack([found[kind == k].mean(0) for k in (0, 1)])
    nearest = np.linalg.norm(found[:, None] - centre, axis=2).argmin(1)
    assert (nearest == kind).mean() > 0.95


def test_nothing_from_the_moment_on_is_read(taste: Taste) -> None:
    """Neither for the network nor for a user's vector at the moment."""
    past, later = events(), events(seed=9)
    whole = replace(past, item=np.where(past.day < 40, past.item, later.item))
    other = Taste.fit(whole, whole, 40, seed=3)
    assert other is not None
    user, day = np.arange(USERS), np.full(USERS, 40)
    assert np.array_equal(other.of(whole, user, day), taste.of(past, user, day))
    # and what lies before the moment is read
    earlier = replace(past, item=np.where(past.day < 40, later.item, past.item))
    assert not np.array_equal(taste.of(earlier, user, day), taste.of(past, user, day))


def test_one_moment_at_a_time_gives_what_many_give(taste: Taste) -> None:
    user, day = np.repeat(np.arange(10), 3), np.tile([20, 40, 55], 10)
    many = taste.of(events(), user, day)
    for place in range(len(user)):
        one = taste.of(events(), user[place : place + 1], day[place : place + 1])
        assert one[0] == pytest.approx(many[place], abs=1e-5)


def test_who_has_met_nothing_yet_has_no_vector(taste: Taste) -> None:
    assert np.isnan(taste.of(events(), np.array([0]), np.array([0]))).all()


def test_items_and_event_types_that_came_later_do_no_harm(taste: Taste) -> None:
    known = events()
    more = replace(
        known,
        items=pa.array(["a new one", *known.items.to_pylist()]),
        item=known.item + 1,
        kinds=("search", "view"),
        kind=known.kind + 1,
    )
    user, day = np.arange(USERS), np.full(USERS, 40)
    assert np.array_equal(taste.of(more, user, day), taste.of(known, user, day))


def test_it_is_kept_whole(taste: Taste, tmp_path: Path) -> None:
    taste.save(tmp_path)
    again = Taste.load(tmp_path)
    assert again is not None
    user, day = np.arange(USERS), np.full(USERS, 40)
    assert np.array_equal(again.of(events(), user, day), taste.of(events(), user, day))
    (tmp_path / "taste" / "taste.json").write_text("{")
    with pytest.raises(ModelError, match="roll back"):
        Taste.load(tmp_path)
    assert Taste.load(tmp_path / "elsewhere") is None


def test_too_few_events_teach_nothing() -> None:
    few = events().between(None, 0)
    assert Taste.fit(few, few, 40, seed=3) is None
