"""Retention periods: what is past its period leaves with the night and does not come back."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest
from pydantic import ValidationError

from core.paths import Paths
from core.shop import Retention, Shop
from ingest.landing import changed_files, land
from privacy.retention import expire
from tests.unit.test_ingest_landing import contents, line, make_shop, put

FIRST, LAST = date(2026, 1, 1), date(2026, 2, 20)


def keeping(shop: Shop, **days: int) -> Shop:
    return Shop.model_validate(shop.model_dump() | {"retention": days})


def fill(paths: Paths) -> None:
    """A file a week, each with a row and a broken one for each of its days."""
    for week in range(8):
        days = [FIRST + timedelta(days=7 * week + n) for n in range(7)]
        days = [day for day in days if day <= LAST]
        rows = [line(100 * week + n, f"{day} 10:00:00") for n, day in enumerate(days)]
        rows += [line(900 + 7 * week + n, f"{d} 10:00:00", what="no") for n, d in enumerate(days)]
        put(paths, f"{week}.csv", *rows)


def days(paths: Paths, part: Path) -> set[str]:
    return {
        file.parent.name.removeprefix("day=") if part == paths.landing else file.stem
        for file in (part / "events").rglob("*.parquet")
        if file.stem != "empty"
    }


def test_rows_past_their_period_leave_and_stay_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, paths = make_shop(tmp_path, monkeypatch)
    fill(paths)
    shop = keeping(shop, events=28, quarantine=3)
    counts = land(shop, paths, LAST).tables["events"]
    first = date(2026, 1, 26)  # the Monday after the 28 days have begun
    assert min(days(paths, paths.landing)) == first.isoformat()
    assert days(paths, paths.quarantine) == {"2026-02-18", "2026-02-19", "2026-02-20"}
    assert (counts.landed, counts.quarantined) == ((LAST - first).days + 1, 3)
    assert counts.mapped == counts.landed + counts.quarantined + counts.later
    # a changed old file brings nothing back, and the days go on leaving with the nights
    old = paths.raw / "log" / "0.csv"
    old.write_text(old.read_text() + line(7777, "2026-01-02 11:00:00") + "\n")
    assert changed_files(shop, paths)
    land(shop, paths, LAST + timedelta(days=3))
    assert min(days(paths, paths.landing)) == "2026-02-02"
    there = contents(paths)
    rows = duckdb.execute(
        "SELECT min(event_ts)::DATE FROM read_parquet(?)", [f"{paths.landing}/events/*/*.parquet"]
    ).fetchall()
    assert rows == [(date(2026, 2, 2),)]
    # night by night or all at once, the same bytes
    (paths.landing / "_ledger.json").unlink()
    land(shop, paths, LAST + timedelta(days=3))
    assert contents(paths) == there


def test_a_longer_period_brings_back_what_the_raw_files_still_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, paths = make_shop(tmp_path, monkeypatch)
    fill(paths)
    land(keeping(shop, events=14), paths, LAST)
    assert min(days(paths, paths.landing)) > "2026-02-01"
    land(shop, paths, LAST)
    assert min(days(paths, paths.landing)) == FIRST.isoformat()


def test_folders_of_nights_past_their_period_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, paths = make_shop(tmp_path, monkeypatch)
    for kind in ("nights", "audit", "reports", "campaigns"):
        for day in ("2026-02-17", "2026-02-18", "2026-02-20", "notes"):
            (paths.home / kind / day).mkdir(parents=True)
            (paths.home / kind / day / "a.json").write_text("{}")
    paths.recommendations.mkdir()
    for day in ("2026-02-18", "2026-02-20"):
        (paths.recommendations / f"{day}.parquet").write_text("")
        (paths.recommendations / f"{day}.next_quarter.parquet").write_text("")
    gone = expire(keeping(shop, nights=3, reports=1, recommendations=1, campaigns=3), paths, LAST)
    assert gone == [
        "nights/2026-02-17",
        "reports/2026-02-17",
        "reports/2026-02-18",
        "recommendations/2026-02-18.next_quarter.parquet",
        "recommendations/2026-02-18.parquet",
        "campaigns/2026-02-17",
    ]
    assert len(list((paths.home / "audit").iterdir())) == 4
    assert expire(shop, paths, LAST) == []


def test_a_period_too_short_for_whole_weeks_is_refused() -> None:
    with pytest.raises(ValidationError):
        Retention(events=7)
