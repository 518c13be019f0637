"""Nights of the dbt project on a few hundred visits that do everything a shop's events do.

Sessions run over midnights, refunds come weeks after orders, rows arrive days late, the catalogue
arrives after the sales. However the nights are run, the tables must be those of a full refresh.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.cli.main import dbtRunner, dbtRunnerResult
from dbt.contracts.graph.manifest import Manifest

from core.shop import ROOT
from ingest.contract import PROVENANCE, TABLES

PROJECT = ROOT / "dbt_project"
START = date(2026, 1, 1)
NIGHTS = [START + timedelta(days=offset) for offset in range(6)]

# Everything that will ever arrive: the contract's columns and `arrival`, the night a row comes in.
# `h(x, n)` is a fixed number below n: the rows are the same in every run.
EVERYTHING = """
CREATE MACRO h(x, n) AS (hash(x::VARCHAR) % n)::INTEGER;

CREATE TABLE visit AS
SELECT
    v,
    -- visits begin at any minute, every fifth one shortly before a midnight
    TIMESTAMP '2026-01-01' + to_days(h('d' || v, 6)) + to_minutes(
        CASE WHEN v % 5 = 0 THEN 1410 + h('m' || v, 30) ELSE h('m' || v, 1440) END) AS began,
    CASE WHEN v % 6 > 0 THEN 'u' || h('u' || v, 40) END AS user_id,
    -- one visitor in thirty never stops: a session over two midnights and more
    CASE WHEN v % 30 = 0 THEN 140 ELSE 1 + h('n' || v, 9) END AS pages
FROM range(240) AS t(v);

CREATE TABLE arriving AS
WITH act AS (
    SELECT
        v, k, user_id, pages,
        -- a step of 1800 s and more now and then splits the visit
        began + to_seconds(
            k * (CASE WHEN v % 30 = 0 THEN 1500 ELSE 300 + h(v, 1501) END)) AS event_ts,
        CASE
            WHEN k = pages - 1 AND v % 3 = 0 THEN 'purchase'
            WHEN k = pages - 2 AND v % 3 = 0 THEN 'checkout'
            WHEN v % 30 = 0 THEN 'view'
            ELSE ['view', 'view', 'click', 'search', 'cart_add', 'cart_remove', 'exposure'][
                1 + h('t' || v || '-' || k, 7)]
        END AS event_type
    FROM visit, unnest(range(pages)) AS steps(k)
),

events AS (
    SELECT
        'e' || v || '-' || k AS event_id, event_ts, user_id,
        CASE WHEN v % 4 > 0 THEN 's' || v END AS session_id,
        event_type,
        CASE WHEN event_type NOT IN ('search', 'checkout')
            THEN 'i' || h('i' || v || k, 30) END AS item_id,
        CASE WHEN event_type IN ('purchase', 'checkout') THEN 'o' || v END AS order_id,
        CASE WHEN event_type = 'purchase' THEN 1 + v % 3 END AS quantity,
        CASE WHEN event_type = 'purchase' THEN 1.25 + v % 7 END AS unit_price,
        CASE WHEN event_type = 'view' AND k % 4 = 0 THEN 1000 * k END AS dwell_ms,
        CASE WHEN k = 1 THEN ['mail', 'direct', 'search'][1 + v % 3] END AS channel
    FROM act
    UNION ALL
    SELECT
        'r' || v, event_ts + to_days(1 + v % 4), user_id, NULL, 'refund',
        'i' || h('i' || v || k, 30),
        CASE WHEN v % 4 > 0 THEN 'o' || v END, 1 + v % 2, 1.25 + v % 7, NULL, NULL
    FROM act
    WHERE event_type = 'purchase' AND v % 2 = 0
)

SELECT
    *,
    -- one row in ten is one to three days late
    event_ts::DATE
        + CASE WHEN h('a' || event_id, 10) = 0 THEN 1 + h(event_id, 3) ELSE 0 END AS arrival
FROM events
WHERE event_ts < TIMESTAMP '2026-01-07';

CREATE TABLE arriving_items AS
SELECT
    'i' || i AS item_id, 'Thing ' || i || ' v' || version AS title,
    -- every fifth item holds only from the fourth day on, whatever was sold before
    CASE WHEN i % 5 = 0 THEN TIMESTAMP '2026-01-04' ELSE TIMESTAMP '2025-12-01' END
        + to_days(version::INT) AS valid_from,
    -- others are catalogued nights after they were first sold, and two never
    greatest(DATE '2026-01-01' + (i % 6)::INT, valid_from::DATE) AS arrival
FROM range(28) AS items(i), range(2) AS versions(version);
"""


def land(source: duckdb.DuckDBPyConnection, home: Path, night: date) -> date:
    """Write what has arrived by `night`; returns the first day that this night's rows belong to."""
    shutil.rmtree(home / "landing", ignore_errors=True)
    for table in TABLES.values():
        folder = home / "landing" / table.name
        (folder / "day=1970-01-01").mkdir(parents=True)
        arriving = {"events": "arriving", "items": "arriving_items"}.get(table.name)
        present = {row[0] for row in source.execute(f"DESCRIBE {arriving or 'visit'}").fetchall()}
        columns = ", ".join(
            f"{column.name if arriving and column.name in present else 'NULL'}::{column.type}"
            f" AS {column.name}"
            for column in (*table.columns, *PROVENANCE)
        )
        source.execute(
            f"COPY (SELECT {columns} FROM {arriving or 'visit'} WHERE false)"
            f" TO '{folder}/day=1970-01-01/empty.parquet'"
        )
        if arriving:
            source.execute(
                f"COPY (SELECT {columns}, {table.time}::DATE AS day FROM {arriving}"
                f" WHERE arrival <= DATE '{night}')"
                f" TO '{folder}' (FORMAT parquet, PARTITION_BY (day), OVERWRITE_OR_IGNORE)"
            )
    [[first]] = source.execute(
        "SELECT min(event_ts)::DATE FROM arriving WHERE arrival = ?", [night]
    ).fetchall()
    return min(first, night)


class Warehouse:
    """One shop's home, and dbt run on it in this process (the project is parsed once)."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.file = home / "warehouse.duckdb"
        self.log = str(home / "dbt")
        parsed = dbtRunner().invoke(["parse", *self._options(NIGHTS[0], START)])
        assert isinstance(parsed.result, Manifest), parsed.exception
        self.runner = dbtRunner(manifest=parsed.result)

    def _options(self, night: date, reprocess_from: date) -> list[str]:
        variables = {
            "night": night.isoformat(),
            "reprocess_from": reprocess_from.isoformat(),
            "start": START.isoformat(),
            "repurchase_windows": [1, 3],
        }
        folders = {"project": PROJECT, "profiles": PROJECT}
        options = [part for name, at in folders.items() for part in (f"--{name}-dir", str(at))]
        written = [part for name in ("target", "log") for part in (f"--{name}-path", self.log)]
        return ["--quiet", "--no-write-json", *options, *written, "--vars", json.dumps(variables)]

    def build(self, night: date, reprocess_from: date) -> None:
        done = self.runner.invoke(["run", *self._options(night, reprocess_from)])
        # dbt-duckdb keeps the file open for the life of the process
        DuckDBConnectionManager.close_all_connections()
        assert done.success, done.exception or [
            (one.node.name, one.message) for one in done.result if one.status != "success"
        ]

    def test(self, select: str, night: date) -> dbtRunnerResult:
        options = self._options(night, START)
        return self.runner.invoke(["test", "--select", select, *options])

    def snapshot(self, name: str) -> Path:
        return shutil.copy(self.file, self.home / f"{name}.duckdb")

    def refresh(self, night: date, name: str) -> Path:
        """The tables of a full refresh, in a file of their own; the warehouse stays as it is."""
        kept = shutil.move(self.file, self.home / "kept")
        self.build(night, START)
        built = shutil.move(self.file, self.home / f"{name}.duckdb")
        shutil.move(kept, self.file)
        return built


@contextmanager
def both(one: Path, other: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{one}' AS one (READ_ONLY)")
        connection.execute(f"ATTACH '{other}' AS other (READ_ONLY)")
        yield connection


def differing_tables(one: Path, other: Path) -> dict[str, int]:
    """Tables with the number of rows that only one of the files has."""
    with both(one, other) as connection:
        names = connection.execute(
            "SELECT DISTINCT schema_name || '.' || table_name FROM duckdb_tables()"
            " WHERE schema_name IN ('intermediate', 'marts', 'features')"
            # which may know of an item that came after the night, once that was built
            " AND table_name <> 'int_known_items'"
        ).fetchall()
        assert len(names) == 32
        found = {}
        for (name,) in names:
            rows = f"FROM one.{name} EXCEPT ALL FROM other.{name}"
            back = f"FROM other.{name} EXCEPT ALL FROM one.{name}"
            [[count]] = connection.execute(
                f"SELECT count(*) FROM (({rows}) UNION ALL ({back}))"
            ).fetchall()
            if count:
                found[name] = count
        return found


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    home = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_SHOP_HOME", str(home))
        yield Warehouse(home)


@pytest.fixture(scope="module")
def source() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(EVERYTHING)
        yield connection


def test_night_by_night_equals_a_full_refresh_also_there_and_back(
    warehouse: Warehouse, source: duckdb.DuckDBPyConnection
) -> None:
    for night in NIGHTS:
        warehouse.build(night, land(source, warehouse.home, night))
    by_night = warehouse.snapshot("by_night")

    with duckdb.connect(str(by_night), read_only=True) as built:
        rows = dict(
            built.execute(
                "SELECT 'midnights', count(*) FROM marts.fct_sessions"
                " WHERE ended_at::DATE > session_date + 1"
                " UNION ALL SELECT 'late catalogue', count(*) FROM marts.fct_events e"
                " JOIN marts.dim_items i USING (item_id) WHERE NOT i.is_catalogued"
                " UNION ALL SELECT 'undone orders', count(*) FROM marts.fct_orders"
                " WHERE NOT is_valid"
                " UNION ALL SELECT 'churn gaps', max(gaps) FROM marts.churn_horizon"
            ).fetchall()
        )
    assert all(rows.values()), f"the sample lacks a hard case: {rows}"

    full = warehouse.refresh(NIGHTS[-1], "full")
    assert differing_tables(by_night, full) == {}

    # back to an earlier night: what came after it is gone, whatever has landed since
    warehouse.build(NIGHTS[2], NIGHTS[2])
    back = warehouse.snapshot("back")
    assert differing_tables(back, warehouse.refresh(NIGHTS[2], "full_back")) == {}

    # and forward again in one step, then the same night once more
    warehouse.build(NIGHTS[-1], NIGHTS[2])
    assert differing_tables(warehouse.snapshot("forward"), full) == {}
    warehouse.build(NIGHTS[-1], NIGHTS[-1])
    assert differing_tables(warehouse.snapshot("again"), full) == {}


def test_definitions_worked_by_hand(
    warehouse: Warehouse, source: duckdb.DuckDBPyConnection
) -> None:
    if not warehouse.file.exists():  # unit tests take the types of their inputs from built tables
        land(source, warehouse.home, NIGHTS[-1])
        warehouse.build(NIGHTS[-1], START)
    done = warehouse.test("test_type:unit", NIGHTS[-1])
    assert done.success, [(one.node.name, one.message) for one in done.result if one.failures]
    assert len(done.result) >= 14
