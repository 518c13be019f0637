"""One shop's SELECT against the contract: every mapped row, typed, pseudonymised and judged.

`map_table` leaves a temporary table `mapped` with the contract's columns, `_file`, `_row` and

- `_day`    the UTC day of the table's time column; NULL when that is missing or unreadable, or
            when the row cannot land because of it (a clock that says 1970 does so in every file,
            and would make all of them neighbours)
- `_ahead`  the day of a row in the future, to be read again when that is no longer so
- `_state`  'ok', 'broken' (breaks the contract, or is in the future), 'excluded' (the SELECT's own
            `_exclude` says why), 'later' (after the night, whatever else is true of it: left for
            its own night) or 'late' (its day was closed when its file came)
- `_reason` why it is broken, excluded or late
- `_payload` those rows as the SELECT returned them, as JSON, with the pseudonym for the shopper

Personal data in free text is masked on the way (`ingest.personal_data`), and a row of somebody who
is forgotten is excluded without a payload.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from core.shop import Shop, ShopError
from ingest.contract import PROVENANCE, TABLES, Column, Table
from ingest.personal_data import FREE_TEXT, mask_columns, told
from ingest.pseudonym import ERASED, NOBODY, Forgotten, pseudonyms
from ingest.raw import (
    Unreadable,
    column_that_does_not_mix,
    damaged_files,
    open_view,
    parquet_shapes,
    show_rows,
)

FUTURE = "timestamp_in_the_future"
TOO_LATE = "too late: its day was closed when the file came; REBUILD=1 takes it in"
_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_VALUE_ERRORS = (duckdb.DataError, duckdb.InvalidInputException)
_MOST_BAD_ROWS = 50  # of one file that are told apart; one with more is put aside whole

# Operators of DuckDB's plan that make each of their rows from one row
_ROW_BY_ROW = {
    "PROJECTION",
    "FILTER",
    "UNION",
    "UNNEST",
    "READ_PARQUET",
    "SEQ_SCAN",
    "EMPTY_RESULT",
    "DUMMY_SCAN",
    "CTE",
    "CTE_SCAN",
}


@dataclass(frozen=True)
class Mapping:
    """A shop's SELECT for one contract table and the `raw.<key>` views it reads."""

    shop: Shop
    table: Table
    select: str

    @property
    def keys(self) -> list[str]:
        """Keys of shop.yml's `raw` that the SELECT reads; ShopError on one that is not there."""
        code = re.sub(r"--[^\n]*|/\*.*?\*/", " ", self.select, flags=re.DOTALL)
        keys = sorted(set(re.findall(r'\braw\s*\.\s*"?(\w+)', code, flags=re.IGNORECASE)))
        for key in keys:
            if key not in self.shop.raw:
                known = ", ".join(sorted(self.shop.raw))
                raise ShopError(f"{self.name} reads raw.{key}; shop.yml has only: {known}")
        return keys

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"shops/{self.shop.name}/{self.table.name}.sql"


def mappings(shop: Shop) -> list[Mapping]:
    """The shop's SELECTs, in the contract's order."""
    selects = [(table, shop.select(table.name)) for table in TABLES.values()]
    return [Mapping(shop, table, select) for table, select in selects if select is not None]


def open_views(
    connection: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    folder: Path,
    files: dict[str, list[str]],
    chosen: set[str],
) -> list[Unreadable]:
    """Make the views the SELECT reads, over the `chosen` ones of `files` (by key)."""
    unreadable = []
    for key in mapping.keys:
        here = [file for file in files[key] if file in chosen]
        unreadable += open_view(connection, key, mapping.shop.raw[key], folder, here, files[key])
    return unreadable


def fitting_files(
    connection: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    folder: Path,
    files: dict[str, list[str]],
) -> tuple[dict[str, list[str]], list[Unreadable]]:
    """`files` without those whose column types alone keep the SELECT from running, and those.

    Only parquet has types of its own. Most files decide which types are meant.
    """
    shapes = {
        key: parquet_shapes(mapping.shop.raw[key], folder, files[key])[0]
        for key in mapping.keys
        if mapping.shop.raw[key].format == "parquet"
    }
    if all(len(some) < 2 for some in shapes.values()):
        return files, []
    samples = {key: [named[0] for named in some.values()] for key, some in shapes.items()}

    def clash(those: dict[str, list[str]]) -> str | None:
        return _clash(connection, mapping, folder, those, samples)

    if clash(files) is None:
        return files, []
    fitting = {**files, **{key: list[str]() for key in shapes}}
    misfits = []
    for key, some in shapes.items():
        meant: dict[str, str] = {}
        for shape, named in sorted(some.items(), key=lambda each: (-len(each[1]), each[1])):
            wider = {**fitting, key: sorted(fitting[key] + named)}
            other = clash(wider)
            if other is None:
                fitting, meant = wider, dict(shape) | meant
            else:
                differ = [column for column, kind in shape if meant.get(column, kind) != kind]
                other = other or next(iter(differ), shape[0][0])
                why = (
                    f"type of {other} is {dict(shape)[other]}, not {meant.get(other)} as elsewhere"
                )
                misfits += [Unreadable(file, None, why) for file in named]
        if not meant:
            return files, []  # the SELECT is at fault
    return fitting, misfits


def _clash(
    connection: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    folder: Path,
    files: dict[str, list[str]],
    samples: dict[str, list[str]],
) -> str | None:
    """The column whose types keep the SELECT from running over `files`; '' when it is not known.

    `samples` has a file of each shape.
    """
    try:
        open_views(connection, mapping, folder, files, set())
        connection.execute(f"EXPLAIN {_body(mapping)}")
    except duckdb.Error:
        return ""
    for key, some in samples.items():
        here = [file for file in some if file in files[key]]
        if column := column_that_does_not_mix(connection, key, folder, here):
            return column
    return None


def looks_across(
    connection: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    folder: Path,
    files: dict[str, list[str]],
) -> bool:
    """Does the SELECT compare rows with each other (join, group, window ...)?

    If not, every row follows from one raw row, and any set of files may be mapped without the rest.
    DuckDB's plan tells, over views without rows and before the optimiser simplifies it.
    """
    open_views(connection, mapping, folder, files, set())
    connection.execute("PRAGMA disable_optimizer")
    try:
        plan = connection.execute(f"EXPLAIN (FORMAT json) {_body(mapping)}").fetchall()[0][1]
    except duckdb.Error as error:
        raise ShopError(f"{mapping.name}: {error}") from error
    finally:
        connection.execute("PRAGMA enable_optimizer")
    return not _operators(json.loads(plan)) <= _ROW_BY_ROW


def _operators(nodes: list[dict[str, Any]]) -> set[str]:
    return {node["name"].strip() for node in nodes}.union(
        *(_operators(node["children"]) for node in nodes)
    )


def select_rows(
    connection: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    folder: Path,
    files: dict[str, list[str]],
    chosen: set[str],
    aside: list[Unreadable] | None = None,
    where: str = "true",
) -> list[Unreadable]:
    """Run the SELECT over the `chosen` files into the temporary table `selected`.

    Damaged files, and rows with values that do not convert as the SELECT asks, are left out and
    returned; so are the rows `aside`. Raises ShopError with DuckDB's message when the SELECT itself
    is at fault.
    """
    unreadable = open_views(connection, mapping, folder, files, chosen)
    if aside:
        rows = ", ".join(f"({_text(bad.file)}, {bad.row})" for bad in aside)
        for key in mapping.keys:
            show_rows(connection, key, f"(_file, _row) NOT IN (VALUES {rows})")
    chosen_rows = f"SELECT * FROM (\n{_body(mapping)}\n) WHERE {where}"
    query = f"CREATE OR REPLACE TEMP TABLE selected AS {chosen_rows}"
    try:
        connection.execute(query)
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        known = {bad.file for bad in unreadable}
        damaged = [
            bad
            for key in mapping.keys
            for bad in damaged_files(
                connection,
                mapping.shop.raw[key],
                folder,
                [file for file in files[key] if file in chosen - known],
            )
        ]
        if not damaged and isinstance(error, _VALUE_ERRORS):
            damaged = _rows_that_fail(connection, mapping, folder, files, chosen - known)
        if not damaged:
            raise ShopError(f"{mapping.name}: {error}") from error
        rest = chosen - {bad.file for bad in damaged if bad.row is None}
        aside = (aside or []) + [bad for bad in damaged if bad.row is not None]
        return damaged + select_rows(connection, mapping, folder, files, rest, aside, where)
    return unreadable


def _rows_that_fail(
    connection: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    folder: Path,
    files: dict[str, list[str]],
    chosen: set[str],
) -> list[Unreadable]:
    """Rows (of a file with many of them: the file) that the SELECT cannot convert, by halving."""
    if looks_across(connection, mapping, folder, files):
        return []  # it takes more than one row to fail

    def file_fails(some: Sequence[str]) -> bool:
        open_views(connection, mapping, folder, files, set(some))
        return _complaint(connection, mapping) is not None

    bad = []
    for key in mapping.keys:
        for file in _culprits([file for file in files[key] if file in chosen], file_fails):
            open_views(connection, mapping, folder, files, {file})
            bad += _rows_of_file_that_fail(connection, mapping, key, file)
    return bad


def _rows_of_file_that_fail(
    connection: duckdb.DuckDBPyConnection, mapping: Mapping, key: str, file: str
) -> list[Unreadable]:
    try:
        connection.execute(f'CREATE OR REPLACE TEMP TABLE suspects AS FROM raw."{key}"')
    except _VALUE_ERRORS as error:  # not as the types of the other files ask
        return [Unreadable(file, None, f"file unreadable: {_without_values(error)}")]
    (last,) = connection.execute("SELECT max(_row) FROM suspects").fetchall()[0]

    def complaint(rows: Sequence[int]) -> str | None:
        show_rows(connection, key, f"_row BETWEEN {rows[0]} AND {rows[-1]}", "suspects")
        return _complaint(connection, mapping)

    def rows_fail(rows: Sequence[int]) -> bool:
        return complaint(rows) is not None

    rows = _culprits(range(1, last + 1), rows_fail, _MOST_BAD_ROWS + 1)
    if len(rows) > _MOST_BAD_ROWS:
        why = f"file unreadable: more than {_MOST_BAD_ROWS} of its rows, such as {rows[0]}, have"
        return [Unreadable(file, None, f"{why} {complaint(rows[:1])}")]
    return [Unreadable(file, row, f"line unreadable: {complaint([row])}") for row in rows]


def _culprits(
    those: Sequence[_T], fail: Callable[[Sequence[_T]], bool], most: int | None = None
) -> list[_T]:
    """Those that fail by themselves, found by halving; at `most` so many of them."""
    if not those or most == 0 or not fail(those):
        return []
    if len(those) == 1:
        return list(those)
    middle = len(those) // 2
    found = _culprits(those[:middle], fail, most)
    return found + _culprits(those[middle:], fail, most and most - len(found))


def _complaint(connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> str | None:
    """What a value in the views does that the SELECT cannot convert, without the value; or None."""
    try:
        query = f"SELECT max(hash(every_column)) FROM (\n{_body(mapping)}\n) AS every_column"
        connection.execute(query)
    except _VALUE_ERRORS as error:
        return f"a value that does not convert ({_without_values(error)})"
    return None


def _without_values(error: duckdb.Error) -> str:
    return re.sub(r"'[^']*'?|\"[^\"]*\"?|\d{4,}", "...", str(error).splitlines()[0])


def map_table(
    connection: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    key: bytes,
    night: date,
    horizon: date | None = None,
    closed: dict[str, str] | None = None,
    forgotten: Forgotten = NOBODY,
) -> None:
    """Turn `selected` into `mapped` (see the module); ShopError when columns are not as agreed.

    `horizon` is the last day that is not in the future, `closed` says of files which day was the
    first that was still open when they came.
    """
    table = mapping.table
    types = selected_types(connection)
    problems = column_problems(table, types)
    if problems:
        raise ShopError(f"{mapping.name}: " + "; ".join(problems))
    _number_shoppers(connection, table, types, key, forgotten)
    free_text = [name for name in FREE_TEXT.get(table.name, ()) if name in types]
    masked = mask_columns(connection, "selected", free_text, mapping.shop.time_zone)
    types = selected_types(connection)
    connection.register("closed", _closed_table(closed or {}))
    # a price of the catalogue may be meant for next month
    future = "NULL" if table.snapshot or horizon is None else f"DATE '{horizon}'"
    given = {column: types[column.name] for column in table.columns if column.name in types}
    inputs = [_input(column, table) for column in given]
    typed = [
        f"{_cast(column, given[column])} AS {column.name}"
        if column in given
        else f"NULL::{column.type} AS {column.name}"
        for column in table.columns
    ]
    reason = "_exclude" if "_exclude" in types else "NULL"
    erased = " OR ".join(f"by_{name}.forgotten" for name in table.personal if name in types)
    payload = ", ".join(f"'{column.name}', given_{column.name}::VARCHAR" for column in given)
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE mapped AS
        WITH given AS (
            SELECT {", ".join(inputs)}, _file::VARCHAR AS _file, _row::BIGINT AS _row,
                {reason}::VARCHAR AS _excluded, coalesce({erased or "false"}, false) AS _erased
            FROM selected {_shopper_join(table, types)}
        ),
        typed AS (SELECT *, {", ".join(typed)} FROM given),
        judged AS (
            SELECT typed.*, {_fault(table, given)} AS _fault, CAST({table.time} AS DATE) AS _date,
                _date > {future} AS _future, _date < closed.open_from AS _late,
                coalesce(_future, false) OR coalesce(_late, false)
                    OR coalesce(starts_with(_fault, 'before_'), false) AS _out_of_time
            FROM typed LEFT JOIN closed ON closed.file = _file
        )
        SELECT {", ".join(column.name for column in table.columns)}, _file, _row,
            CASE WHEN NOT _out_of_time THEN _date END AS _day,
            CASE WHEN _future THEN _date END AS _ahead,
            CASE WHEN _future AND NOT _erased THEN 'broken'
                WHEN _date > DATE '{night}' THEN 'later'
                WHEN _erased OR _excluded IS NOT NULL THEN 'excluded'
                WHEN _fault IS NOT NULL THEN 'broken'
                WHEN _late THEN 'late'
                ELSE 'ok' END AS _state,
            CASE WHEN _erased AND _state <> 'later' THEN '{ERASED}'
                WHEN _future THEN '{FUTURE}'
                WHEN _state <> 'later' THEN
                coalesce(_excluded, _fault, CASE WHEN _late THEN '{TOO_LATE}' END)
                END AS _reason,
            CASE WHEN _reason <> '{ERASED}' THEN json_object({payload})::VARCHAR END AS _payload
        FROM judged
    """)
    connection.execute("DROP TABLE selected")
    masked += mask_columns(connection, "mapped", ["_payload"], mapping.shop.time_zone)
    if masked:
        _log.info(f"{table.name}: {told(masked)} masked in its texts")
    _refuse_rows_from_nowhere(connection, mapping)


def selected_types(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Column names and DuckDB types of `selected`."""
    described = connection.execute("DESCRIBE selected").fetchall()
    return {name: kind for name, kind, *_ in described}


def column_problems(table: Table, types: dict[str, str]) -> list[str]:
    """What is wrong with the columns a SELECT returns, in words; empty when nothing is."""
    known = {column.name for column in (*table.columns, *PROVENANCE)} | {"_exclude"}
    needed = [column.name for column in (*table.columns, *PROVENANCE) if column.required]
    return [f"column {name} is not returned" for name in needed if name not in types] + [
        f"column {name} is not in the contract" for name in types if name not in known
    ]


def _number_shoppers(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    types: dict[str, str],
    key: bytes,
    forgotten: Forgotten,
) -> None:
    """Make `shoppers` (identity, pseudonym, forgotten) from the distinct ids in `selected`."""
    identities: set[str] = set()
    for name in table.personal:
        if name in types:
            found = connection.execute(f"SELECT DISTINCT {name}::VARCHAR FROM selected").fetchall()
            identities |= {identity for (identity,) in found if identity}
    connection.register("shoppers", pseudonyms(key, sorted(identities), forgotten))


def _closed_table(closed: dict[str, str]) -> pa.Table:
    days = [date.fromisoformat(day) for day in closed.values()]
    return pa.table(
        {
            "file": pa.array(list(closed), pa.string()),
            "open_from": pa.array(days, pa.date32()),
        }
    )


def _shopper_join(table: Table, types: dict[str, str]) -> str:
    return " ".join(
        f"LEFT JOIN shoppers AS by_{name} ON selected.{name}::VARCHAR = by_{name}.identity"
        for name in table.personal
        if name in types
    )


def _input(column: Column, table: Table) -> str:
    """The value as the SELECT gave it; of a shopper only the pseudonym goes further."""
    if column.name in table.personal:
        return f"by_{column.name}.pseudonym AS given_{column.name}"
    return f"selected.{column.name} AS given_{column.name}"


def _cast(column: Column, source: str) -> str:
    """SQL of the typed value: NULL where it cannot be one. Empty text is a missing value."""
    value = f"given_{column.name}"
    if column.type == "VARCHAR":
        return f"nullif({value}::VARCHAR, '')"
    if column.type == "TIMESTAMP":
        # Through TIMESTAMPTZ, for a cast from text to TIMESTAMP drops an offset such as +02:00.
        moment = f"TRY_CAST({value} AS TIMESTAMPTZ)" if source == "VARCHAR" else value
        moment = f"TRY_CAST({moment} AS TIMESTAMP)"
        return f"CASE WHEN isfinite({moment}) THEN {moment} END"
    typed = f"TRY_CAST({value} AS {column.type})"
    if column.type == "BIGINT" and not source.endswith(("INT", "INTEGER")):
        return f"CASE WHEN TRY_CAST({value} AS DOUBLE) = {typed} THEN {typed} END"  # not rounded
    return typed


def _fault(table: Table, given: dict[Column, str]) -> str:
    """SQL of the first reason for which a row breaks the contract, else NULL."""
    cases = [
        f"WHEN nullif(given_{column.name}::VARCHAR, '') IS NOT NULL AND {column.name} IS NULL"
        f" THEN '{column.name}_not_{column.type.split('(')[0].lower()}'"
        for column in given
        if column.type != "VARCHAR"
    ]
    cases += [
        f"WHEN {column.name} IS NULL THEN '{column.name}_missing'"
        for column in table.columns
        if column.required
    ]
    cases += [f"WHEN {rule.broken} THEN '{rule.name}'" for rule in table.rules]
    return f"CASE {' '.join(cases)} END"


def _refuse_rows_from_nowhere(connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> None:
    nowhere = connection.execute(
        "SELECT count(*) FROM mapped WHERE _file IS NULL OR _row IS NULL"
    ).fetchall()[0][0]
    if nowhere:
        raise ShopError(
            f"{mapping.name}: {nowhere} rows without _file or _row;"
            " return those of the raw row each one comes from"
        )


def _body(mapping: Mapping) -> str:
    """The SELECT without a closing semicolon, to stand in brackets."""
    try:
        statements = duckdb.extract_statements(mapping.select)
    except duckdb.Error as error:
        raise ShopError(f"{mapping.name}: {error}") from error
    if len(statements) != 1:
        raise ShopError(f"{mapping.name}: must be one SELECT, not {len(statements)} statements")
    return statements[0].query.strip().rstrip(";")


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
