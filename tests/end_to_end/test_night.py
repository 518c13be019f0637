"""A whole night of the small demo shop, as the person who typed `make run` meets it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from datetime import date
from pathlib import Path

import duckdb
import pytest

from tests.conftest import ROOT, Place, Ran

NIGHT = "2026-06-29"


def _query(file: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(file), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def _sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def copied(demo_night: tuple[Place, Ran], tmp_path: Path) -> Place:
    """A copy of the published night that a test may change."""
    shutil.copytree(demo_night[0].var, tmp_path / "var", symlinks=True)
    return Place(tmp_path / "var")


def test_the_summary_says_what_a_person_wants_to_know(demo_night: tuple[Place, Ran]) -> None:
    place, ran = demo_night
    for words in ("rows", "quarantined", "checks", "NDCG@10", "popularity", "report", "data docs"):
        assert words in ran.out
    assert f"Night {NIGHT} is published." in ran.out
    assert str(place.home() / "marts.duckdb") in ran.out
    assert (place.home() / "reports" / NIGHT / "index.html").stat().st_size > 50_000
    assert (place.home() / "audit" / NIGHT / "data_docs" / "index.html").exists()


def test_every_mart_is_published_with_rows(demo_night: tuple[Place, Ran]) -> None:
    marts = demo_night[0].home() / "marts.duckdb"
    tables = [
        *("dim_users", "dim_items", "fct_events", "fct_sessions", "fct_orders", "fct_order_lines"),
        *("user_daily_activity", "item_daily_stats", "retention_cohorts", "repurchase_rates"),
        *(
            "dwell_stats",
            "funnel_daily",
            "user_rfm",
            "repurchase_survival",
            "session_stats",
            "returning_revenue",
            "cohort_value",
            "item_second_orders",
            "metric_definitions",
            "segment_history",
            "recommendations",
            "next_quarter",
            "run_manifest",
        ),
    ]
    for table in tables:
        assert _query(marts, f"SELECT count(*) FROM marts.{table}")[0][0], table


def test_nothing_is_lost_between_raw_rows_and_marts(demo_night: tuple[Place, Ran]) -> None:
    home = demo_night[0].home()
    rows = dict(
        _query(
            home / "marts.duckdb",
            "SELECT name, CAST(value AS BIGINT) FROM marts.run_manifest WHERE section = 'rows'",
        )
    )
    raw = duckdb.execute(f"SELECT count(*) FROM '{home}/raw/events/*.parquet'").fetchall()[0][0]
    kinds = ("landed", "deduplicated", "quarantined", "excluded", "later")
    assert rows["events/mapped"] == raw == sum(rows[f"events/{kind}"] for kind in kinds)
    assert rows["events/quarantined"] > 0 and rows["events/deduplicated"] > 0
    events = _query(home / "marts.duckdb", "SELECT count(*) FROM marts.fct_events")[0][0]
    assert events == rows["events/landed"]


def test_no_raw_user_id_is_in_any_file_but_the_raw_ones(demo_night: tuple[Place, Ran]) -> None:
    home = demo_night[0].home()
    users = _query(home / "marts.duckdb", "SELECT user_id FROM marts.dim_users LIMIT 1000")
    assert all(len(str(user)) == 32 for (user,) in users)


def test_everyone_gets_fifty_known_items(demo_night: tuple[Place, Ran]) -> None:
    marts = demo_night[0].home() / "marts.duckdb"
    short = _query(
        marts,
        """
        SELECT count(*) FROM (
            SELECT users.user_id, count(DISTINCT lists.item_id) AS items
            FROM marts.dim_users AS users LEFT JOIN marts.recommendations AS lists USING (user_id)
            GROUP BY users.user_id HAVING items <> 50
        )
        """,
    )
    assert short[0][0] == 0


def test_the_promoted_model_beats_the_plain_baselines(demo_night: tuple[Place, Ran]) -> None:
    marts = demo_night[0].home() / "marts.duckdb"
    found = _query(
        marts,
        "SELECT detail->>'model', CAST(value AS DOUBLE) FROM marts.run_manifest "
        "WHERE section = 'model' AND detail->>'metric' = 'ndcg' AND detail->>'k' = '10'",
    )
    values = dict(found)
    challenger = values.pop("challenger")
    assert values
    assert challenger > max(values.values()), found


def test_a_second_run_does_almost_nothing_and_says_so(demo_night: tuple[Place, Ran]) -> None:
    place, _ = demo_night
    before = _sha(place.home() / "marts.duckdb")
    ran = place("run", "--shop", "demo", "--scale", "small")
    assert ran.code == 0
    assert "Nothing has changed" in ran.out
    assert _sha(place.home() / "marts.duckdb") == before


def test_the_same_night_again_changes_no_byte(copied: Place) -> None:
    before = _sha(copied.home() / "marts.duckdb")
    report = _sha(copied.home() / "reports" / NIGHT / "index.html")
    ran = copied("run", "--force")
    assert ran.code == 0, ran.out
    assert _sha(copied.home() / "marts.duckdb") == before
    assert _sha(copied.home() / "reports" / NIGHT / "index.html") == report


def test_a_bad_night_is_not_published_and_says_why(copied: Place) -> None:
    before = _sha(copied.home() / "marts.duckdb")
    events = copied.home() / "raw" / "events"
    flood = events / f"{NIGHT}-flood.parquet"
    columns = duckdb.execute(f"DESCRIBE SELECT * FROM '{events}/{NIGHT}.parquet'").fetchall()
    kind = next(name for name, *_ in columns if name in {"type", "event", "action", "event_type"})
    duckdb.execute(
        f"COPY (SELECT * REPLACE ('no such thing' AS {kind}) FROM '{events}/*.parquet') "
        f"TO '{flood}' (FORMAT parquet)"
    )
    ran = copied("run")
    assert ran.code == 1
    assert "was not published" in ran.out
    assert "landing.quarantine" in ran.out and "unknown_event_type" in ran.out
    assert _sha(copied.home() / "marts.duckdb") == before
    flood.unlink()
    assert copied("run").code == 0


def test_a_damaged_file_is_not_published_away(copied: Place) -> None:
    before = _sha(copied.home() / "marts.duckdb")
    # a folder of the user's own, which the simulator leaves alone
    (copied.home() / "raw").rename(copied.var / "files")
    damaged = copied.var / "files" / "events" / "2026-06-10.parquet"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    ran = copied("run", "--data", str(copied.var / "files"))
    assert ran.code == 1
    assert "landing.quarantine.files_readable" in ran.out
    assert "2026-06-10.parquet" in ran.out and "data_docs/index.html" in ran.out
    assert _sha(copied.home() / "marts.duckdb") == before


def test_a_second_night_at_once_is_refused(copied: Place) -> None:
    first = subprocess.Popen(
        [sys.executable, "-m", "orchestration", "run", "--force"],
        cwd=ROOT,
        env={**os.environ, "PERENNIAL_VAR": str(copied.var)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert first.stdout is not None
    for line in first.stdout:
        if "landing ..." in line:
            break
    second = copied("run", "--force")
    first.kill()
    first.communicate()
    assert second.code == 1
    assert "is running already" in second.out


def test_readers_see_only_whole_nights(copied: Place) -> None:
    marts = copied.home() / "marts.duckdb"
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                f"""
                import duckdb, pathlib, time
                seen = 0
                while not pathlib.Path({str(marts)!r} + ".stop").exists():
                    with duckdb.connect({str(marts)!r}, read_only=True) as marts:
                        nights = marts.execute(
                            "SELECT (SELECT max(night) FROM marts.run_manifest), "
                            "(SELECT max(night) FROM marts.recommendations), "
                            "(SELECT count(*) FROM marts.fct_orders)"
                        ).fetchall()[0]
                        assert nights[0] == nights[1] and nights[2] > 0, nights
                        seen += 1
                    time.sleep(0.05)
                print(seen)
                """
            ),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        ran = copied("run", "--night", "2026-06-30")
    finally:
        Path(f"{marts}.stop").touch()
    said = reader.communicate()[0]
    assert ran.code == 0, ran.out
    assert reader.returncode == 0, said
    assert int(said) > 5
    newest = _query(marts, "SELECT max(night) FROM marts.run_manifest")[0][0]
    assert newest == date(2026, 6, 30)


def test_a_search_for_settings_is_a_job_that_goes_on_where_it_stopped(copied: Place) -> None:
    before = _sha(copied.home() / "marts.duckdb")
    first = copied("search", "--trials", "1")
    assert first.code == 0, first.out
    assert "trial 0" in first.out and "1 trials finished, 0 pruned" in first.out
    again = copied("search", "--trials", "1")
    assert again.code == 0 and "1 of 1 trials are done" in again.out
    assert "trial 0" not in again.out and "1 trials finished" in again.out
    assert _sha(copied.home() / "marts.duckdb") == before
    nothing = copied("search", "--shop", "online_retail", "--trials", "1")
    assert nothing.code == 1 and "online_retail has no night yet" in nothing.out


def test_asking_wrongly_is_answered_plainly(tmp_path: Path) -> None:
    place = Place(tmp_path)
    no_shop = place("run", "--shop", "nowhere")
    assert no_shop.code == 2
    assert "no shop 'nowhere'" in no_shop.out
    too_late = place("run", "--shop", "online_retail", "--night", "2020-01-01")
    assert too_late.code == 2
    assert "has nights from 2009-12-01 to 2011-12-09" in too_late.out
    tomorrow = place("run", "--shop", "demo", "--night", "2100-01-01")
    assert tomorrow.code == 2
    assert "is not over yet" in tomorrow.out
    no_folder = place("run", "--shop", "demo", "--data", str(tmp_path / "missing"))
    assert no_folder.code == 2
    assert "is not a folder" in no_folder.out


def test_dagster_has_the_rows_of_every_table(
    demo_night: tuple[Place, Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster import AssetKey, DagsterInstance

    place, _ = demo_night
    monkeypatch.setenv("DAGSTER_HOME", str(place.var / "dagster"))
    with DagsterInstance.get() as instance:
        for layer, table in (
            ("marts", "fct_orders"),
            ("landing", "events"),
            ("features", "item_stats_v1"),
        ):
            event = instance.get_latest_materialization_event(AssetKey(["demo", layer, table]))
            assert event is not None and event.asset_materialization is not None
            rows = event.asset_materialization.metadata["dagster/row_count"].value
            assert isinstance(rows, int) and rows > 100
