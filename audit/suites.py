"""Running the checks of one stage with Great Expectations, pushed down into DuckDB.

A suite per table, a validation per suite, one data source per stage; what the catalogue declares
becomes an expectation here, and what comes back becomes a `Check`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from itertools import groupby
from typing import Any

import duckdb

from audit import docs, results
from audit.catalogue import CATALOGUE, STAGES, Between, CheckSpec, EachColumn, OneOf, RowCount, Rows
from audit.results import Check
from audit.source import setup
from core.duck import connect, settings
from core.paths import Paths
from core.shop import Shop

_SAMPLE_ROWS = 5


def run(
    stage: str,
    shop: Shop,
    paths: Paths,
    night: date,
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> list[Check]:
    """Run every check of `stage` for `night`; write its JSON and the night's Data Docs.

    `counts` (landing and marts) is the row accounting of ingestion per contract table. The landing
    audit opens the night: it removes the results of an earlier run of the same night. Raises
    AuditError when the data of the stage are not there; a check that fails is in the result, never
    raised.
    """
    for stale in STAGES if stage == STAGES[0] else (stage,):
        results.path(paths, night, stale).unlink(missing_ok=True)
    statements = setup(stage, shop, paths, night, counts)
    with connect() as connection:
        for statement in statements:
            connection.execute(statement)
        validations = _validate(stage, statements, connection)
        checks = [_check(spec, validations[spec.batch], connection) for spec in CATALOGUE[stage]]
    results.write(paths, night, stage, checks)
    docs.write(shop, paths, night, stage, validations)
    return checks


def _validate(
    stage: str, statements: list[str], connection: duckdb.DuckDBPyConnection
) -> dict[str, Any]:
    """Per table of the stage: its validation result, or None where the table is missing."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    from audit import dialect

    context = _context()
    source = context.data_sources.add_sql(
        "night",
        connection_string=dialect.URL,
        kwargs={"connect_args": {"config": settings(), "setup": statements}},
    )
    views = connection.execute("SELECT view_name FROM duckdb_views()").fetchall()
    validations: dict[str, Any] = {}
    by_table = sorted(CATALOGUE[stage], key=lambda spec: spec.batch)
    with dialect.closing():
        for table, specs in groupby(by_table, key=lambda spec: spec.batch):
            if (table,) not in views:
                validations[table] = None
                continue
            expectations = [_expectation(spec, connection) for spec in specs]
            suite = gx.ExpectationSuite(name=f"{stage}.{table}", expectations=expectations)
            batch = source.add_table_asset(table).add_batch_definition_whole_table("all")
            validation = gx.ValidationDefinition(
                name=suite.name, data=batch, suite=context.suites.add(suite)
            )
            validations[table] = context.validation_definitions.add(validation).run(
                # no values: the page would show them unescaped, and our own sample is ordered
                result_format={"result_format": "BASIC", "partial_unexpected_count": 0}
            )
    return validations


def _context() -> Any:
    """A Great Expectations context that keeps nothing: no files, no progress bars, no docs site."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    return gx.get_context(
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        )
    )


def _expectation(spec: CheckSpec, connection: duckdb.DuckDBPyConnection) -> Any:
    import great_expectations.expectations as gxe

    from audit.dialect import ExpectNoRows

    common: dict[str, Any] = {
        "description": spec.description,
        "severity": "critical" if spec.blocking else "warning",
        "meta": {"check": spec.name},
    }
    match spec.rule:
        case OneOf(column, values):
            return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values), **common)
        case Between(column, low, high):
            return gxe.ExpectColumnValuesToBeBetween(
                column=column, min_value=low, max_value=high, **common
            )
        case RowCount(low, high):
            return gxe.ExpectTableRowCountToBeBetween(min_value=low, max_value=high, **common)
    return ExpectNoRows(
        unexpected_rows_query=_bad_rows(spec, connection, table="{batch}"), **common
    )


def _bad_rows(spec: CheckSpec, connection: duckdb.DuckDBPyConnection, table: str) -> str:
    """The SELECT of the rows that break the check, reading its own table as `table`."""
    match spec.rule:
        case Rows(sql):
            return sql.replace("{batch}", table)
        case OneOf(column, values):
            known = ", ".join(f"'{value}'" for value in values)
            return (
                f"SELECT {column}, count(*) AS rows FROM {table} "
                f"WHERE {column} NOT IN ({known}) GROUP BY ALL"
            )
        case Between(column, low, high):
            bounds = [f"{column} < {low}"] if low is not None else []
            bounds += [f"{column} > {high}"] if high is not None else []
            return f"SELECT * FROM {table} WHERE {' OR '.join(bounds)}"
        case RowCount(low, high):
            most = f" OR rows > {high}" if high is not None else ""
            return f"SELECT count(*) AS rows FROM {table} HAVING rows < {low}{most}"
        case EachColumn(keys, bad, type_, like):
            columns = connection.execute(
                "SELECT column_name FROM duckdb_columns() WHERE table_name = $table "
                # the view, not the table of the same name in the attached warehouse
                "AND database_name = current_database() AND data_type LIKE $type "
                "AND column_name LIKE $like ORDER BY column_index",
                {"table": spec.batch, "type": type_, "like": like},
            ).fetchall()
            rows = [
                f"SELECT {', '.join(keys)}, '{column}' AS feature, {column}::VARCHAR AS value "
                f"FROM {table} WHERE {bad.format(column=column)}"
                for (column,) in columns
            ]
            return " UNION ALL ".join(rows) or f"SELECT 1 FROM {table} WHERE false"


def _check(spec: CheckSpec, validation: Any, connection: duckdb.DuckDBPyConnection) -> Check:
    if validation is None:
        return _failed(spec, f"the table {spec.table} is missing", 0, [])
    outcome = next(
        result
        for result in validation.results
        if result.expectation_config.meta["check"] == spec.name
    )
    if not outcome.result:  # the SQL itself failed, for want of a table or a column
        return _failed(spec, f"it could not be evaluated: {_reason(outcome)}", 0, [])
    observed = _observed(spec, connection)
    if not outcome.success:
        return _failed(spec, observed, *_sample(spec, connection))
    message = f"{spec.description}: {observed}"
    return Check(spec.name, spec.stage, spec.blocking, True, message, observed, spec.description, 0)


def _failed(spec: CheckSpec, observed: str, rows: int, sample: list[dict[str, Any]]) -> Check:
    message = f"{spec.name}: expected that {spec.description}, but {observed}"
    if sample:
        # a row may be wide: of those one is enough here
        shown = [", ".join(f"{k} {v}" for k, v in row.items()) for row in sample]
        listed = "; ".join(shown[: 1 if spec.unit in ("row", "") else _SAMPLE_ROWS])
        says = (
            f"{rows:,} {spec.unit}{' says' if rows == 1 else 's say'}" if spec.unit else "it says"
        )
        told = f" ({observed})" if _observe(spec) or not spec.unit else ""
        message = (
            f"{spec.name}: expected that {spec.description}, but {says} otherwise{told}; "
            f"first: {listed}"
        )
    return Check(
        spec.name,
        spec.stage,
        spec.blocking,
        False,
        message,
        observed,
        spec.description,
        rows,
        sample,
        spec.unit or "row",
    )


def _observe(spec: CheckSpec) -> str | None:
    return spec.rule.observe if isinstance(spec.rule, Rows) else None


def _observed(spec: CheckSpec, connection: duckdb.DuckDBPyConnection) -> str:
    observe = _observe(spec) or "SELECT format('{:,} rows in all', count(*)) FROM {batch}"
    (text,) = connection.execute(observe.replace("{batch}", spec.table)).fetchall()[0]
    return str(text)


def _sample(
    spec: CheckSpec, connection: duckdb.DuckDBPyConnection
) -> tuple[int, list[dict[str, Any]]]:
    """How many rows break the check, and the first few of them in a fixed order."""
    bad = _bad_rows(spec, connection, spec.batch)
    (count,) = connection.execute(f"SELECT count(*) FROM ({bad})").fetchall()[0]
    found = connection.execute(f"SELECT * FROM ({bad}) ORDER BY ALL LIMIT {_SAMPLE_ROWS}")
    names = [column[0] for column in found.description]
    return count, [dict(zip(names, map(_plain, row), strict=True)) for row in found.fetchall()]


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _reason(outcome: Any) -> str:
    """The first line of the exception that Great Expectations caught."""
    caught = outcome.exception_info
    if "exception_message" not in caught:
        caught = next(iter(caught.values()))
    return str(caught["exception_message"]).strip().splitlines()[0]
