"""Publishing: only an audited night replaces the file that analysts read, in one rename.

The new file is built beside the old one from the warehouse, the night's recommendations and the
run's manifest. Whatever happens before the rename leaves the published file as it was; a reader
that has the old file open keeps reading it. A night that changes nothing does not touch the file at
all: DuckDB writes a random id and uninitialised padding into every file, so two files of equal
content never have equal bytes, and only keeping the file keeps its bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa

from audit import disclosure, results, scope
from audit.catalogue import DAY_OF, GRAIN, STAGES
from audit.source import literal
from core.access import allow
from core.duck import ENCRYPTION_KEY, attach_to_write, connect, is_encrypted
from core.paths import Paths
from core.shop import Shop

MANIFEST_SCHEMA = pa.schema(
    [
        ("night", pa.date32()),
        ("section", pa.string()),
        ("name", pa.string()),
        ("value", pa.string()),
        ("passed", pa.bool_()),
        ("detail", pa.string()),
    ]
)

# Tables that are read by time are laid out by time; every other one is in the order of its grain.
_ORDER = {
    "fct_events": ("event_ts", "event_id"),
    "fct_sessions": ("started_at", "session_key"),
    "fct_orders": ("ordered_at", "order_id"),
    "fct_order_lines": ("line_ts", "line_id"),
}


class PublishError(RuntimeError):
    """The night is not published; the message says which check failed and why."""


@dataclass(frozen=True)
class Published:
    """The published file, its tables with their row counts, and whether it is a new file."""

    path: Path
    tables: dict[str, int]
    changed: bool


def publish(shop: Shop, paths: Paths, night: date, manifest_rows: pa.Table) -> Published:
    """Replace `marts.duckdb` by the audited tables of `night`.

    `manifest_rows` has the columns of MANIFEST_SCHEMA, one row per (section, name); the results of
    all checks are added under section 'check'. Raises PublishError, leaving the published file as
    it is, when a stage was not audited for this night or a blocking check failed.
    """
    checks = results.load(paths, night)
    _refuse_unaudited(shop, paths, night, checks)
    _refuse_another_night(paths, night)
    manifest = pa.concat_tables([manifest_rows.cast(MANIFEST_SCHEMA), _check_rows(night, checks)])
    following = paths.marts.with_name(paths.marts.name + ".next")
    _remove(following)
    there = paths.marts.exists()
    # a key was set, or taken away, since: the file is written anew even if nothing else changed
    recoded = there and is_encrypted(paths.marts) != bool(os.environ.get(ENCRYPTION_KEY))
    since = scope.EVERYTHING if recoded else scope.to_write(shop, paths, night)
    tables = _build(following, paths, night, manifest, since)
    changed = (
        not there or recoded or content_hash(following, since) != content_hash(paths.marts, since)
    )
    if changed:
        allow(following, 0o640)
        _sync(following)
        following.replace(paths.marts)
        _sync(paths.marts.parent)
    else:
        _remove(following)
    scope.remember(shop, paths, night)
    return Published(paths.marts, tables, changed)


def content_hash(path: Path, since: date = scope.EVERYTHING) -> dict[str, str]:
    """A digest per published table: columns, types, comments and rows, in whatever order.

    Of tables that grow by the day only rows from `since` on are read, and of older events what may
    change for them: whether their item is known.
    """
    digests = {}
    with connect(path, read_only=True) as connection:
        for (table,) in connection.execute(
            "SELECT table_name FROM duckdb_tables() ORDER BY table_name"
        ).fetchall():
            columns = connection.execute(
                "SELECT column_name, data_type, comment FROM duckdb_columns() "
                "WHERE table_name = $1 ORDER BY column_index",
                [table],
            ).fetchall()
            comment = connection.execute(
                "SELECT comment FROM duckdb_tables() WHERE table_name = $1", [table]
            ).fetchall()
            day = DAY_OF.get(table)
            rows = connection.execute(
                "SELECT count(*), bit_xor(hash(t)), sum(hash('again', t)) "
                f'FROM "{table}" AS t' + (f" WHERE {day} >= {literal(since)}" if day else "")
            ).fetchall()
            if table == "fct_events" and since > scope.EVERYTHING:
                rows += connection.execute(
                    "SELECT count(*), bit_xor(hash(t)) FROM (SELECT DISTINCT item_id, "
                    f"is_known_item FROM fct_events WHERE event_date < {literal(since)}) AS t"
                ).fetchall()
            digests[table] = hashlib.sha256(repr((columns, comment, rows)).encode()).hexdigest()
    return digests


def _refuse_unaudited(
    shop: Shop, paths: Paths, night: date, checks: dict[str, list[results.Check]]
) -> None:
    kept = (
        f"{paths.marts} is left as it was"
        if paths.marts.exists()
        else "nothing has been published yet"
    )
    missing = [stage for stage in STAGES if stage not in checks]
    if missing:
        raise PublishError(
            f"{shop.name} {night} is not published: {', '.join(missing)} not audited; {kept}"
        )
    failed = [
        check for stage in checks.values() for check in stage if check.blocking and not check.passed
    ]
    if failed:
        reasons = "\n".join(f"- {check.message}" for check in failed)
        raise PublishError(
            f"{shop.name} {night} is not published: {len(failed)} blocking "
            f"{'check' if len(failed) == 1 else 'checks'} failed; {kept}\n{reasons}"
        )


def _refuse_another_night(paths: Paths, night: date) -> None:
    """The warehouse must hold this very night: the step that builds it says which one it holds."""
    built = paths.home / "warehouse.json"
    if built.exists() and (there := json.loads(built.read_text())["night"]) != night.isoformat():
        raise PublishError(
            f"{paths.shop} {night} is not published: {paths.warehouse} holds the night of {there}; "
            f"run the whole night of {night}"
        )


def _check_rows(night: date, checks: dict[str, list[results.Check]]) -> pa.Table:
    rows = [
        {
            "night": night,
            "section": "check",
            "name": check.name,
            "value": check.observed,
            "passed": check.passed,
            "detail": json.dumps(
                {
                    "stage": check.stage,
                    "blocking": check.blocking,
                    "expected": check.expected,
                    # the rows themselves are for the data engineer: they stay in audit/<night>
                    "message": check.message.partition("; first: ")[0],
                    "failed_rows": check.failed_rows,
                },
                ensure_ascii=False,
            ),
        }
        for stage in checks.values()
        for check in stage
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


def _build(
    file: Path, paths: Paths, night: date, manifest: pa.Table, since: date
) -> dict[str, int]:
    """Write every table of the published file; the row count of each.

    The file begins as a copy of the one that is published now where its days before `since` are
    those of tonight: then only later days of the tables that grow by the day are written.
    """
    if since > scope.EVERYTHING:
        shutil.copyfile(paths.marts, file)
    recommendations = paths.recommendations / f"{night.isoformat()}.parquet"
    later = paths.recommendations / f"{night.isoformat()}.next_quarter.parquet"
    with connect() as connection:
        connection.execute(f"SET temp_directory = {literal(paths.home / 'spill')}")
        connection.execute(f"ATTACH {literal(paths.warehouse)} AS warehouse (READ_ONLY)")
        # no schema of its own: the file's name is the database's, so an analyst who opens it writes
        # marts.dim_users, which a schema called marts as well would make ambiguous
        attach_to_write(connection, file, "published")
        disclosure.prepare(connection, paths)
        connection.register("manifest", manifest)
        told = {path.name.split(".")[1]: path for path in paths.predicted(night)}
        tables = {name: f"read_parquet({literal(path)})" for name, path in told.items()} | {
            "recommendations": f"read_parquet({literal(recommendations)})",
            "next_quarter": f"read_parquet({literal(later)})",
            **{
                name: f"read_parquet({literal(paths.campaigns / f'{name}.parquet')})"
                for name in ("campaign_audience", "campaign_results")
            },
            "run_manifest": "manifest",
        }
        # fct_events may be a view in the warehouse; what is published is always a table
        for (name,) in connection.execute(
            "SELECT table_name FROM information_schema.tables "
            "WHERE table_catalog = 'warehouse' AND table_schema = 'marts' ORDER BY 1"
        ).fetchall():
            tables[name] = f'warehouse.marts."{name}"'
        _drop_others(connection, tables)
        counts = {name: _copy(connection, name, tables[name], since) for name in sorted(tables)}
        raw = disclosure.raw_ids(connection, "published", since)
        connection.execute("CHECKPOINT published")
        connection.execute("DETACH published")
    if raw:
        _remove(file)
        raise PublishError(
            f"{paths.shop} {night} is not published: user_id of {', '.join(raw)} holds values that "
            "are no pseudonyms; ingestion makes them, so see where else those rows come from"
        )
    return counts


def _drop_others(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, str]) -> None:
    """Drop tables that are no longer made from a file that begins as a copy."""
    for (name,) in connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'published'"
    ).fetchall():
        if name not in tables:
            connection.execute(f'DROP TABLE published."{name}"')


def _copy(connection: duckdb.DuckDBPyConnection, name: str, source: str, since: date) -> int:
    """Write one published table from `source`, in its order and with its comments."""
    order = ", ".join(_ORDER.get(name) or GRAIN.get(name) or ["ALL"])
    shown = disclosure.shown(connection, source)
    columns = ", ".join(f'{value} AS "{column}"' for column, value in shown.items())
    day = DAY_OF.get(name)
    if day and since > scope.EVERYTHING:
        connection.execute(f'DELETE FROM published."{name}" WHERE {day} >= {literal(since)}')
        connection.execute(
            f'INSERT INTO published."{name}" BY NAME SELECT {columns} FROM {source} '
            f"WHERE {day} >= {literal(since)} ORDER BY {order}"
        )
        if name == "fct_events":  # a new version of the catalogue knows items of older events
            connection.execute(
                'UPDATE published."fct_events" SET is_known_item = NOT is_known_item '
                f"WHERE event_date < {literal(since)} AND item_id IS NOT NULL "
                "AND is_known_item <> (item_id IN "
                "(SELECT item_id FROM warehouse.marts.dim_items WHERE is_catalogued))"
            )
    else:
        connection.execute(
            f'CREATE OR REPLACE TABLE published."{name}" AS '
            f"SELECT {columns} FROM {source} ORDER BY {order}"
        )
    comments = connection.execute(
        """
        SELECT 'TABLE', '', comment FROM (FROM duckdb_tables() SELECT database_name, schema_name,
          table_name, comment UNION ALL FROM duckdb_views() SELECT database_name, schema_name,
          view_name, comment)
        WHERE database_name = 'warehouse' AND schema_name = 'marts' AND table_name = $1
          AND comment IS NOT NULL
        UNION ALL
        SELECT 'COLUMN', '."' || column_name || '"', comment FROM duckdb_columns()
        WHERE database_name = 'warehouse' AND schema_name = 'marts' AND table_name = $1
          AND comment IS NOT NULL
        """,
        [name],
    ).fetchall()
    for kind, column, comment in comments:
        if column and column[2:-1] not in shown:
            continue
        connection.execute(f'COMMENT ON {kind} published."{name}"{column} IS {literal(comment)}')
    (count,) = connection.execute(f'SELECT count(*) FROM published."{name}"').fetchall()[0]
    return int(count)


def _remove(file: Path) -> None:
    """Delete a database file that a night left unfinished, with its write-ahead log."""
    file.unlink(missing_ok=True)
    file.with_name(file.name + ".wal").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
