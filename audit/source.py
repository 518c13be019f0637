"""What the checks read: one in-memory DuckDB with a view per table, and the night as variables.

Nothing is copied: the views read the landing parquet, the warehouse (attached read-only), the
feature parquet and the published marts where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

import duckdb

from audit import scope
from audit.catalogue import DAY_OF, PREDICTIONS
from core.duck import connect
from core.paths import Paths
from core.shop import Shop
from ingest.contract import TABLES

EMBEDDING_VIEW = "item_text_embedding_minilm_v1"
_COUNTS = ("mapped", "landed", "deduplicated", "quarantined", "excluded", "later")


class AuditError(RuntimeError):
    """The audit cannot be run; the message says what has to run before it."""


def setup(
    stage: str,
    shop: Shop,
    paths: Paths,
    night: date,
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> list[str]:
    """The statements that make a new connection ready for the checks of `stage`.

    `counts` is, per contract table, the row accounting of ingestion (mapped, landed, ...). Raises
    AuditError when the data of the stage are not there at all.
    """
    spill = f"SET temp_directory = {literal(paths.home / 'spill')}"
    since = scope.since(shop, paths, night)
    statements = [spill, *_variables(shop, night, since), *_landing(paths)]
    statements.append(_recent("landing_events", since))
    if stage == "landing":
        return [*statements, *_accounting(paths, counts or {})]
    if not paths.warehouse.exists():
        raise AuditError(f"{paths.warehouse} is missing: build the warehouse before its audit")
    statements += [f"ATTACH {literal(paths.warehouse)} AS warehouse (READ_ONLY)"]
    statements += _views(paths.warehouse, "warehouse", ("marts", "features"), since)
    statements += _published(paths)
    if stage == "marts":
        statements += _accounting(paths, counts or {})
    if stage == "features":
        statements.append(_parquet(EMBEDDING_VIEW, paths.features / EMBEDDING_VIEW, "*.parquet"))
    if stage == "recommendations":
        for view, file in (("recommendations", ""), ("next_quarter", ".next_quarter")):
            pattern = f"{night.isoformat()}{file}.parquet"
            statements.append(_parquet(view, paths.recommendations, pattern))
    if stage == "campaigns":
        for view in ("campaign_audience", "campaign_results"):
            statements.append(_parquet(view, paths.campaigns, f"{view}.parquet"))
    if stage == "predictions":
        folder = paths.predictions(night).parent
        for view in PREDICTIONS:
            statements.append(_parquet(view, folder, paths.predictions(night, view).name))
    return statements


def literal(value: object) -> str:
    """A SQL string literal."""
    return "'" + str(value).replace("'", "''") + "'"


def _variables(shop: Shop, night: date, since: date) -> list[str]:
    values = {
        "since": f"DATE {literal(since)}",
        "night": f"DATE {literal(night)}",
        "night_end": f"TIMESTAMP {literal(night + timedelta(days=1))}",
        "start": f"TIMESTAMP {literal(shop.start)}",
        "currency": literal(shop.currency),
        "has_rules": (shop.folder / "rules.yml").exists(),
        "max_quarantine_share": shop.thresholds.max_quarantine_share,
        "max_revenue_drop": shop.thresholds.max_revenue_drop,
        "max_user_drop": shop.thresholds.max_user_drop,
    }
    return ["SET TimeZone = 'UTC'"] + [f"SET VARIABLE {k} = {v}" for k, v in values.items()]


def _parquet(view: str, folder: Path, pattern: str, options: str = "") -> str:
    if not any(folder.glob(pattern)):
        raise AuditError(
            f"{folder / pattern} is missing: the step that writes it has to run before its audit"
        )
    return f"CREATE VIEW {view} AS FROM read_parquet({literal(folder / pattern)}{options})"


def _landing(paths: Paths) -> list[str]:
    by_day = ", hive_partitioning = true, hive_types = {'day': DATE}"
    return [
        _parquet(f"landing_{name}", paths.landing / name, "*/*.parquet", by_day) for name in TABLES
    ]


def _accounting(paths: Paths, counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Views `quarantine`, `accounting` (empty without counts) and `rows_read` per table."""
    rows = [
        f"({', '.join([literal(name), *(str(int(table[key])) for key in _COUNTS)])})"
        for name, table in counts.items()
    ]
    columns = f"table_name, {', '.join(_COUNTS)}"
    empty = f"(SELECT '', {', '.join(['0'] * len(_COUNTS))} WHERE false)"
    values = f"(VALUES {', '.join(rows)})" if rows else empty
    landed = " UNION ALL ".join(
        f"SELECT {literal(name)} AS table_name, count(*) AS landed FROM landing_{name}"
        for name in TABLES
    )
    return [
        _parquet("quarantine", paths.quarantine, "*/*.parquet", ", union_by_name = true"),
        f"CREATE VIEW accounting AS FROM {values} AS given({columns})",
        f"""CREATE VIEW rows_read AS
            SELECT table_name, coalesce(broken, 0) AS broken,
                   coalesce(mapped, landed_now + coalesce(broken, 0)) AS rows_read
            FROM (SELECT table_name, landed AS landed_now FROM ({landed}))
            LEFT JOIN accounting USING (table_name)
            LEFT JOIN (SELECT table_name, count(*) AS broken FROM quarantine
                       WHERE kind = 'broken' GROUP BY table_name) USING (table_name)""",
    ]


def _recent(table: str, since: date) -> str:
    """The view of the days of a table that tonight's audit reads."""
    # a literal, not a variable: only so does DuckDB leave the files of other days unopened
    return (
        f'CREATE VIEW "{table}_recent" AS FROM "{table}" '
        f"WHERE {DAY_OF[table]} >= DATE {literal(since)}"
    )


def _views(file: Path, name: str, schemas: tuple[str, ...], since: date) -> list[str]:
    """A view for every table of the file under its plain name, and for the recent days of some."""
    with duckdb.connect(str(file), read_only=True) as connection:
        tables = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables "
            "WHERE list_contains($schemas, table_schema) ORDER BY ALL",
            {"schemas": list(schemas)},
        ).fetchall()
    plain = [
        f'CREATE VIEW "{table}" AS FROM {name}."{schema}"."{table}"' for schema, table in tables
    ]
    return plain + [_recent(table, since) for _, table in tables if table in DAY_OF]


def _published(paths: Paths) -> list[str]:
    """The view `published` (night, users): one row, or none on the first night."""
    if not paths.marts.exists():
        return ["CREATE VIEW published AS SELECT NULL::DATE AS night, 0 AS users WHERE false"]
    # read here: the file may be encrypted, and its key belongs into no SQL
    with connect(paths.marts, read_only=True) as connection:
        night, users = connection.execute(
            "SELECT max(night), (SELECT count(*) FROM dim_users) FROM run_manifest"
        ).fetchall()[0]
    return [f"CREATE VIEW published AS SELECT DATE {literal(night)} AS night, {users} AS users"]
