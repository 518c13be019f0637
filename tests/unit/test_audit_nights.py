"""Kept nights: what the policy keeps, and going back to one of them."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import nights
from core.paths import Paths
from core.shop import KeepNights, ShopError

FIRST = date(2026, 1, 1)
DAYS = st.sets(st.dates(FIRST, FIRST + timedelta(days=500)), min_size=1, max_size=60)
POLICIES = st.builds(
    KeepNights,
    daily=st.integers(0, 10),
    weekly=st.integers(0, 6),
    monthly=st.integers(0, 6),
)


@given(there=DAYS, policy=POLICIES)
def test_the_policy_keeps_the_last_nights_of_the_newest_days_weeks_and_months(there, policy):
    kept = nights.to_keep(there, policy)
    assert kept <= there
    assert sorted(there)[-policy.daily :] == sorted(kept)[-policy.daily :] or not policy.daily
    months = sorted({(night.year, night.month) for night in there})[-policy.monthly :]
    for month in months if policy.monthly else []:
        assert max(n for n in there if (n.year, n.month) == month) in kept
    assert len(kept) <= policy.daily + policy.weekly + policy.monthly


@given(there=DAYS, policy=POLICIES)
def test_throwing_away_night_after_night_or_all_at_once_keeps_the_same(there, policy):
    left: set[date] = set()
    for night in sorted(there):
        left = nights.to_keep(left | {night}, policy)
    assert left == nights.to_keep(there, policy)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    place = Paths("small")
    place.home.mkdir()
    return place


def _publish(paths: Paths, night: date, policy: KeepNights) -> list[date]:
    following = paths.marts.with_name("marts.duckdb.next")
    with duckdb.connect(str(following)) as connection:
        connection.execute(f"CREATE TABLE run_manifest AS SELECT DATE '{night}' AS night")
    following.replace(paths.marts)
    return nights.keep(paths, night, {"night": night.isoformat()}, policy)


def _published(paths: Paths) -> tuple[str, str]:
    with duckdb.connect(str(paths.marts), read_only=True) as connection:
        inside = connection.execute("SELECT max(night)::VARCHAR FROM run_manifest").fetchall()
    return inside[0][0], json.loads(paths.published_record.read_text())["night"]


def test_nights_are_kept_by_policy_and_take_no_second_copy(paths):
    policy = KeepNights(daily=3, weekly=2, monthly=0)
    gone = [_publish(paths, FIRST + timedelta(days=n), policy) for n in range(14)]
    # 1 January 2026 is a Thursday: the 4th and the 11th are Sundays
    assert [night.day for night in nights.kept(paths)] == [11, 12, 13, 14]
    assert sorted(night.day for each in gone for night in each) == [*range(1, 11)]
    assert paths.kept(date(2026, 1, 14)).joinpath("marts.duckdb").samefile(paths.marts)


def test_the_published_night_is_never_thrown_away(paths):
    policy = KeepNights(daily=1, weekly=0, monthly=0)
    _publish(paths, date(2026, 3, 2), policy)
    # an older night is run again: it is what analysts see now
    assert _publish(paths, date(2026, 3, 1), policy) == []
    assert nights.kept(paths) == [date(2026, 3, 1), date(2026, 3, 2)]


def test_a_restored_night_is_byte_for_byte_what_it_was_and_an_open_reader_keeps_its_own(paths):
    policy = KeepNights()
    _publish(paths, date(2026, 3, 1), policy)
    first = paths.marts.read_bytes()
    _publish(paths, date(2026, 3, 2), policy)
    second = paths.marts.read_bytes()
    with duckdb.connect() as reader:
        reader.execute(f"ATTACH '{paths.marts}' AS marts (READ_ONLY)")
        nights.restore(paths, date(2026, 3, 1))
        assert reader.execute("SELECT max(night) FROM marts.run_manifest").fetchall() == [
            (date(2026, 3, 2),)
        ]
    assert paths.marts.read_bytes() == first
    assert _published(paths) == ("2026-03-01", "2026-03-01")
    nights.restore(paths, date(2026, 3, 2))
    assert paths.marts.read_bytes() == second
    assert sorted(path.name for path in paths.home.iterdir()) == [
        "marts.duckdb",
        "published",
        "published.json",
    ]


def test_a_night_that_is_not_kept_or_damaged_is_refused_and_nothing_changes(paths):
    policy = KeepNights()
    _publish(paths, date(2026, 3, 1), policy)
    _publish(paths, date(2026, 3, 2), policy)
    before = paths.marts.read_bytes()
    with pytest.raises(ShopError, match="not kept; these are: 2026-03-01, 2026-03-02"):
        nights.restore(paths, date(2026, 2, 1))
    damaged = paths.kept(date(2026, 3, 1)) / "marts.duckdb"
    damaged.write_bytes(b"not a database" * 1000)
    with pytest.raises(ShopError, match="left alone"):
        nights.restore(paths, date(2026, 3, 1))
    assert paths.marts.read_bytes() == before
    assert _published(paths) == ("2026-03-02", "2026-03-02")
