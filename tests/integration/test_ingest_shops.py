"""The shops that come with the project, landed from their own raw files."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from core.paths import Paths
from core.shop import ROOT, load_shop
from ingest.fetch import fetch
from ingest.landing import land

ONLINE_RETAIL = ROOT.parent / "shared" / "data" / "online_retail"


def contents(paths: Paths) -> dict[str, bytes]:
    return {
        file.relative_to(paths.home).as_posix(): file.read_bytes()
        for folder in (paths.landing, paths.quarantine)
        for file in folder.rglob("*.parquet")
    }


def test_demo_shop_night_by_night_is_the_same_as_at_once_and_names_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = load_shop("demo")
    monkeypatch.setenv("PERENNIAL_PSEUDONYM_KEY", "a key that is only for tests")
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path / "steps"))
    paths, first = Paths("demo"), shop.start
    last = first + timedelta(days=9)
    for night in (first, first + timedelta(days=3), first + timedelta(days=4), last):
        fetch(shop, paths, night, "small")
        landed = land(shop, paths, night)
    stepwise = contents(paths)
    assert landed.touched_days and landed.touched_days[0] > first  # a night costs its own days
    assert landed.tables["events"].landed > 1000 and landed.tables["events"].deduplicated > 0

    with duckdb.connect() as connection:
        shoppers = connection.execute(
            f"SELECT DISTINCT customer FROM '{paths.raw}/events/*.parquet'"
            " WHERE customer IS NOT NULL"
        ).fetchall()
        landed_ids = connection.execute(
            f"SELECT DISTINCT user_id FROM '{paths.landing}/events/*/*.parquet'"
        ).fetchall()
    assert len(shoppers) > 50 and not set(shoppers) & set(landed_ids)

    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path / "once"))
    once = Paths("demo")
    once.home.mkdir(parents=True)
    once.raw.symlink_to(tmp_path / "steps" / "demo" / "raw")
    assert land(shop, once, last).tables == landed.tables
    assert contents(once) == stepwise


@pytest.mark.skipif(not ONLINE_RETAIL.is_dir(), reason="needs ../shared/data/online_retail")
def test_online_retail_accounts_for_every_raw_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    shop, paths = load_shop("online_retail"), Paths("online_retail")
    paths.home.mkdir(parents=True)
    paths.raw.symlink_to(ONLINE_RETAIL)
    events = land(shop, paths, date(2011, 12, 9)).tables["events"]
    with duckdb.connect() as connection:
        (raw,) = connection.execute(
            f"SELECT sum(num_rows) FROM parquet_file_metadata('{ONLINE_RETAIL}/*.parquet')"
        ).fetchall()[0]
        (landed,) = connection.execute(
            f"SELECT count(*) FROM '{paths.landing}/events/*/*.parquet'"
        ).fetchall()[0]
        (aside,) = connection.execute(
            f"SELECT count(*) FROM '{paths.quarantine}/events/*.parquet'"
        ).fetchall()[0]
    assert events.mapped == raw == 525_461 + 541_909
    assert (events.landed, events.deduplicated + events.later) == (landed, 0)
    assert events.quarantined + events.excluded == aside == raw - landed
    assert not land(shop, paths, date(2011, 12, 9)).changed
