"""Rows after their day was closed, and rows from the future: kept, and taken in on time."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.paths import Paths
from core.shop import Shop
from ingest.landing import Counts, land, start_anew
from tests.unit.test_ingest_landing import (
    FILES,
    NIGHT,
    PROPERTY,
    contents,
    line,
    make_shop,
    put,
    query,
    write_file,
)

LATER_NIGHT = date(2026, 3, 1)  # with a lookback of 30 days January is closed
OPEN = "2026-01-30"  # the first day that is not


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Shop, Paths]:
    return make_shop(tmp_path, monkeypatch)


def reasons(paths: Paths) -> list[tuple]:
    return query(paths, "SELECT file, row, kind, reason[:8] FROM $quarantine ORDER BY ALL")


def test_a_row_on_a_closed_day_is_kept_aside_until_everything_is_landed_anew(
    tiny: tuple[Shop, Paths],
) -> None:
    shop, paths = tiny
    put(paths, "a.csv", line(1, "2026-01-01"), line(2, "2026-03-01"))
    land(shop, paths, LATER_NIGHT)
    before = contents(paths)
    put(paths, "b.csv", line(3, "2026-01-29"), line(4, OPEN), line(5, "2026-01-01"))
    late = land(shop, paths, LATER_NIGHT)
    assert late.tables["events"] == Counts(mapped=5, landed=3, quarantined=2, late=2)
    assert late.touched_days == [date.fromisoformat(OPEN)]
    assert reasons(paths) == [
        ("log/b.csv", 1, "late", "too late"),
        ("log/b.csv", 3, "late", "too late"),
    ]
    after = contents(paths)
    assert {name: after[name] for name in before if "quarantine" not in name} | after == after
    # it stays so when its neighbours are built again, and as the nights go on
    put(paths, "a.csv", line(1, "2026-01-01", sku="cup"), line(2, "2026-03-01"))
    corrected = land(shop, paths, LATER_NIGHT + timedelta(days=1))
    assert corrected.touched_days == [date(2026, 1, 1)] and corrected.tables == late.tables
    start_anew(paths)
    assert land(shop, paths, LATER_NIGHT).tables["events"] == Counts(mapped=5, landed=5)


def test_a_corrected_file_is_taken_in_however_old_and_so_is_one_that_comes_back(
    tiny: tuple[Shop, Paths],
) -> None:
    shop, paths = tiny
    put(paths, "a.csv", line(1, "2026-01-01"))
    put(paths, "b.csv", line(2, "2026-03-01"))
    first = land(shop, paths, LATER_NIGHT)
    put(paths, "a.csv", line(1, "2026-01-01"), line(3, "2026-01-02"))
    assert land(shop, paths, LATER_NIGHT).tables["events"] == Counts(mapped=3, landed=3)
    put(paths, "a.csv", line(1, "2026-01-01"))
    text = (paths.raw / "log" / "a.csv").read_bytes()
    (paths.raw / "log" / "a.csv").unlink()
    assert land(shop, paths, LATER_NIGHT).tables["events"].landed == 1
    (paths.raw / "log" / "a.csv").write_bytes(text)
    assert land(shop, paths, LATER_NIGHT).tables == first.tables


def test_a_delivery_that_replaces_every_file_is_a_first_one(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    put(paths, "a.csv", line(1, "2026-03-01"))
    land(shop, paths, LATER_NIGHT)
    (paths.raw / "log" / "a.csv").unlink()
    put(paths, "other.csv", line(2, "2026-01-01"), line(1, "2026-03-01"))
    assert land(shop, paths, LATER_NIGHT).tables["events"] == Counts(mapped=2, landed=2)


def test_the_future_is_put_aside_and_read_again_when_its_night_comes(
    tiny: tuple[Shop, Paths],
) -> None:
    shop, paths = tiny
    put(
        paths,
        "a.csv",
        line(1, "2026-01-05 23:00:00"),
        line(2, "2026-01-06 23:59:59"),  # a clock that is ahead by less than a day
        line(3, "2026-01-07 00:00:00"),
        line(4, "2099-01-01"),
    )
    first = land(shop, paths, NIGHT)
    assert first.tables["events"] == Counts(mapped=4, landed=1, later=1, quarantined=2)
    assert first.worst_reason == "timestamp_in_the_future"
    # seen from a later day it is no future, only later than the night
    seen = land(shop, paths, NIGHT, today=date(2026, 2, 1))
    assert seen.tables["events"] == Counts(mapped=4, landed=1, later=2, quarantined=1)
    assert land(shop, paths, NIGHT).tables == first.tables
    after = land(shop, paths, date(2026, 1, 7)).tables["events"]
    assert after == Counts(mapped=4, landed=3, quarantined=1)


@PROPERTY
@given(before=FILES, late=FILES, lookback=st.integers(1, 3))
def test_whatever_comes_late_nothing_is_lost_and_closed_days_stay_as_they_were(
    before: list, late: list, lookback: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shop, paths = make_shop(tmp_path_factory.mktemp("late"), patch)
        shop = shop.model_copy(update={"lookback_days": lookback})
        put(paths, "first.csv", line(99, "2026-01-05"))
        for number, rows in enumerate(before):
            write_file(paths, number, rows)
        land(shop, paths, NIGHT)
        closed = [f"day={NIGHT - timedelta(days=back)}" for back in range(lookback + 1, 6)]
        published = {n: b for n, b in contents(paths).items() if n.split("/")[2] in closed}
        for number, rows in enumerate(late, start=len(before)):
            write_file(paths, number, rows)
        counts = land(shop, paths, NIGHT).tables["events"]
        assert counts.mapped == 1 + sum(map(len, [*before, *late]))
        others = counts.deduplicated + counts.quarantined + counts.excluded + counts.later
        assert counts.landed + others == counts.mapped
        aside = dict(query(paths, "SELECT kind, count(*) FROM $quarantine GROUP BY kind"))
        assert aside.get("late", 0) == counts.late
        assert aside.get("broken", 0) == counts.quarantined - counts.late
        now = {n: b for n, b in contents(paths).items() if n.split("/")[2] in closed}
        assert now == published

        start_anew(paths)
        land(shop, paths, NIGHT)
        anew = contents(paths)
        once = make_shop(tmp_path_factory.mktemp("once"), patch)[1]
        put(once, "first.csv", line(99, "2026-01-05"))
        for number, rows in enumerate([*before, *late]):
            write_file(once, number, rows)
        land(shop, once, NIGHT)
        assert contents(once) == anew
