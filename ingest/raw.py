"""Raw files as views: which files are there, and `raw.<key>` over a chosen set of them.

CSV columns are VARCHAR, JSON values too (nested ones as JSON text), parquet columns keep their
types. Every view has the declared columns, `_file` (relative to the raw folder) and `_row` (from 1;
lines that cannot be parsed are counted too, blank ones are not). A file or a line that cannot be
read is returned as `Unreadable` and stops no other.
"""

from __future__ import annotations

import csv
import difflib
import glob
import json
import re
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from core.shop import RawFiles, Shop
from ingest.torn_csv import TELLING_WIDTH, mend, opener

_DELIMITERS = ",;\t|"
_table_number = count()

# types that DuckDB converts into each other, each with each
_FAMILIES = [
    re.compile(names).fullmatch
    for names in (
        r"BOOLEAN|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*",
        r"DATE|TIMESTAMP.*",
        r"VARCHAR|BLOB",
    )
]

Shape = tuple[tuple[str, str], ...]  # (column, type) of the declared columns a parquet file has

# (SQL list of files, name of the table for rejected lines) -> SQL that reads the files
_Reader = Callable[[str, str], str]


@dataclass(frozen=True)
class Unreadable:
    """A line (`row`) or, with `row` None, a whole file that could not be read, and why.

    `kind` is as in the quarantine: a file without a byte is 'empty', for nothing is lost with it.
    """

    file: str
    row: int | None
    reason: str
    kind: str = "broken"


def find_files(shop: Shop, folder: Path) -> dict[str, list[str]]:
    """The raw files by key of shop.yml, relative to `folder`, sorted, without hidden ones."""
    return {
        key: sorted(
            path.relative_to(folder).as_posix()
            for path in folder.glob(entry.files)
            if path.is_file() and not path.name.startswith(".")
        )
        for key, entry in shop.raw.items()
    }


def open_view(
    connection: duckdb.DuckDBPyConnection,
    key: str,
    entry: RawFiles,
    folder: Path,
    chosen: list[str],
    every: list[str],
) -> list[Unreadable]:
    """Make the view `raw.<key>` over the `chosen` files; returns what could not be read.

    `every` is all files of the key: a view over few files has the column types of all of them, so
    that a SELECT means the same whichever files are chosen.
    """
    unreadable = [
        Unreadable(file, None, "file is empty", "empty")
        for file in chosen
        if (folder / file).stat().st_size == 0
    ]
    empty = {bad.file for bad in unreadable}
    chosen = [file for file in chosen if file not in empty]
    if entry.format == "parquet":
        parts, more = _parquet(entry, folder, chosen, every)
    elif entry.format == "csv":
        parts, more = _csv(connection, entry, folder, chosen)
    else:
        parts, more = _json(connection, entry, folder, chosen)
    none = "NULL" if entry.format == "parquet" else "NULL::VARCHAR"
    names = ", ".join(f"{none} AS {_quote(name)}" for name in _declared(entry))
    parts.append(f"SELECT {names}, NULL::VARCHAR AS _file, NULL::BIGINT AS _row WHERE false")
    connection.execute("CREATE SCHEMA IF NOT EXISTS raw; CREATE SCHEMA IF NOT EXISTS every_raw")
    connection.execute(
        f"CREATE OR REPLACE VIEW every_raw.{_quote(key)} AS " + " UNION ALL BY NAME ".join(parts)
    )
    show_rows(connection, key)
    return unreadable + more


def show_rows(
    connection: duckdb.DuckDBPyConnection, key: str, where: str = "", of: str | None = None
) -> None:
    """Let `raw.<key>` show the rows for which `where` holds, of the view as opened or of `of`."""
    connection.execute(
        f"CREATE OR REPLACE VIEW raw.{_quote(key)} AS FROM {of or f'every_raw.{_quote(key)}'}"
        + (f" WHERE {where}" if where else "")
    )


def column_names(path: Path, entry: RawFiles) -> list[str]:
    """The columns one file has; of JSON those of its first line."""
    if entry.format == "parquet":
        return list(pq.read_schema(path).names)
    if entry.format == "csv":
        return _header(path, entry)[1]
    with opener(path)(path, "rb") as file:
        return list(json.loads(file.readline()))


def damaged_files(
    connection: duckdb.DuckDBPyConnection, entry: RawFiles, folder: Path, files: list[str]
) -> list[Unreadable]:
    """Parquet files whose pages cannot be decoded, found by reading each from end to end."""
    if entry.format != "parquet":
        return []  # text files were read when their view was made
    bad = []
    for file in files:
        try:
            source = f"read_parquet({_paths(folder, [file])})"
            connection.execute(f"SELECT max(hash(every_column)) FROM {source} AS every_column")
        except duckdb.Error as error:
            bad.append(_unreadable(file, error, folder))
    return bad


def parquet_shapes(
    entry: RawFiles, folder: Path, files: list[str]
) -> tuple[dict[Shape, list[str]], list[Unreadable]]:
    """Files by their declared columns and types, and those that cannot be read."""
    unreadable: list[Unreadable] = []
    shapes: dict[Shape, list[str]] = {}
    for file in files:
        problem = None
        try:
            schema = pq.read_schema(folder / file)
            problem = _missing(entry, schema.names, file)
        except (pa.ArrowException, OSError) as error:
            problem = _unreadable(file, error, folder)
        if problem is None:
            shape = tuple((n, str(schema.field(n).type)) for n in _declared(entry, schema.names))
            shapes.setdefault(shape, []).append(file)
        else:
            unreadable.append(problem)
    return shapes, unreadable


def column_that_does_not_mix(
    connection: duckdb.DuckDBPyConnection, key: str, folder: Path, files: list[str]
) -> str | None:
    """A column of one of these parquet files that `raw.<key>` cannot show with the type it has.

    DuckDB makes a view of types that have no cast from one to the other, and fails when rows come.
    """

    def types(source: str) -> dict[str, str]:
        described = connection.execute(f"DESCRIBE FROM {source}").fetchall()
        return {name: kind for name, kind, *_ in described}

    shown = types(f"every_raw.{_quote(key)}")
    for file in files:
        for name, kind in types(f"read_parquet({_paths(folder, [file])})").items():
            into = shown.get(name, kind)
            if not _mix(kind, into) and connection.execute(
                f"SELECT NOT can_cast_implicitly(NULL::{kind}, NULL::{into})"
            ).fetchone() == (True,):
                return name
    return None


def _mix(kind: str, into: str) -> bool:
    return kind == into or into == "VARCHAR" or any(f(kind) and f(into) for f in _FAMILIES)


def _parquet(
    entry: RawFiles, folder: Path, chosen: list[str], every: list[str]
) -> tuple[list[str], list[Unreadable]]:
    """One SELECT per set of column types among all files; files of other sets add types only."""
    shapes, unreadable = parquet_shapes(entry, folder, every)
    wanted = set(chosen)
    parts = []
    for shape, files in sorted(shapes.items()):
        here = [file for file in files if file in wanted]
        columns = _columns(entry, [name for name, _ in shape])
        parts.append(
            f"SELECT {columns}, {_relative(folder)} AS _file, file_row_number + 1 AS _row"
            f" FROM read_parquet({_paths(folder, here or files[:1])}, filename = true,"
            f" file_row_number = true, hive_partitioning = false)"
            + ("" if here else " WHERE false")
        )
    return parts, [bad for bad in unreadable if bad.file in wanted]


def _csv(
    connection: duckdb.DuckDBPyConnection, entry: RawFiles, folder: Path, chosen: list[str]
) -> tuple[list[str], list[Unreadable]]:
    """One table per header line; lines that do not parse are told apart by DuckDB's rejects."""
    unreadable: list[Unreadable] = []
    shapes: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for file in chosen:
        try:
            delimiter, names = _header(folder / file, entry)
        except (OSError, UnicodeDecodeError, csv.Error, EOFError) as error:
            unreadable.append(_unreadable(file, error, folder))
            continue
        problem = _missing(entry, names, file)
        if problem is None and len(set(names)) < len(names):
            problem = Unreadable(file, None, "file unreadable: a column name comes twice")
        if problem:
            unreadable.append(problem)
        else:
            shapes.setdefault((delimiter, tuple(names)), []).append(file)
    parts = []
    for (delimiter, header), files in sorted(shapes.items()):
        columns = _columns(entry, list(header))
        reader = _csv_reader(delimiter, header)
        made, more = _numbered_tables(connection, reader, columns, folder, files)
        torn = _torn(connection, made if len(header) >= TELLING_WIDTH else [], entry, more)
        if torn:
            whole = [file for file in files if file not in torn]
            made, more = [], []
            if whole:
                made, more = _numbered_tables(connection, reader, columns, folder, whole)
            for file in sorted(torn):
                part, bad = _mended_table(connection, reader, columns, folder, file, delimiter)
                made += part
                more += bad
        parts += made
        unreadable += more
    return parts, sorted(unreadable, key=lambda bad: (bad.file, bad.row or 0))


def _torn(
    connection: duckdb.DuckDBPyConnection,
    made: list[str],
    entry: RawFiles,
    unreadable: list[Unreadable],
) -> set[str]:
    """Files in which a quote may have swallowed lines: one is unclosed, or a value has lines."""
    broken = ("line unreadable: unquoted value", "line unreadable: line size over maximum")
    torn = {bad.file for bad in unreadable if bad.reason in broken}
    torn |= {bad.file for bad in unreadable if bad.row is None}
    lines = " OR ".join(f"contains({_quote(name)}::VARCHAR, chr(10))" for name in _declared(entry))
    for part in made:
        found = connection.execute(f"SELECT DISTINCT _file FROM ({part}) WHERE {lines}").fetchall()
        torn |= {file for (file,) in found}
    return torn


def _mended_table(
    connection: duckdb.DuckDBPyConnection,
    reader: _Reader,
    columns: str,
    folder: Path,
    file: str,
    delimiter: str,
) -> tuple[list[str], list[Unreadable]]:
    """Read what can be read of a file with broken quoting, by way of a copy without the rest."""
    (spill,) = connection.execute("SELECT current_setting('temp_directory')").fetchall()[0]
    with tempfile.TemporaryDirectory(dir=spill if Path(spill).is_dir() else None) as scratch:
        width = len(next(csv.reader([_first_line(folder / file)], delimiter=delimiter)))
        try:
            left_out = mend(folder / file, Path(scratch) / file, delimiter, width)
        except (OSError, EOFError, zlib.error) as error:
            return [], [_unreadable(file, error, folder)]
        parts, more = _numbered_tables(connection, reader, columns, Path(scratch), [file])
    unreadable = [Unreadable(file, row, why) for row, why in left_out]
    if unreadable:
        gaps = _gaps(unreadable)
        parts = [_with_gaps(connection, part, gaps) for part in parts]
        places = [place for _, place, _ in gaps]
        for bad in more:  # of the copy: give them their place in the file
            before = bisect_right(places, bad.row) if bad.row else 0
            row = bad.row + gaps[before - 1][2] if bad.row and before else bad.row
            unreadable.append(Unreadable(file, row, bad.reason))
        return parts, unreadable
    return parts, more


def _csv_reader(delimiter: str, header: tuple[str, ...]) -> _Reader:
    types = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in header)
    return lambda files, rejects: (
        f"read_csv({files}, auto_detect = false, header = true, delim = {_text(delimiter)},"
        f" quote = '\"', escape = '\"', columns = {{{types}}}, filename = true,"
        f" store_rejects = true, rejects_table = '{rejects}', rejects_scan = '{rejects}_scans')"
    )


def _json_reader(files: str, rejects: str) -> str:
    return (
        "(SELECT filename, json, json IS NULL OR json_type(json) <> 'OBJECT' AS no_object"
        f" FROM read_json_objects({files}, format = 'newline_delimited', ignore_errors = true,"
        " filename = true))"
    )


def _json(
    connection: duckdb.DuckDBPyConnection, entry: RawFiles, folder: Path, chosen: list[str]
) -> tuple[list[str], list[Unreadable]]:
    """One object a line; a line that is no JSON object is told apart."""
    if not chosen:
        return [], []
    fields = json.dumps(dict.fromkeys(_declared(entry), "VARCHAR"))
    made, unreadable = _numbered_tables(connection, _json_reader, "json, no_object", folder, chosen)
    parts = []
    for table in made:
        lines = connection.execute(f"SELECT _file, _row FROM ({table}) WHERE no_object").fetchall()
        unreadable += [Unreadable(f, r, "line unreadable: not a JSON object") for f, r in lines]
        lacking = _lacking_fields(connection, entry, table)
        unreadable += [
            Unreadable(f, None, f"column {name} missing{hint}") for f, name, hint in lacking
        ]
        good = "NOT no_object"
        if lacking:
            good += f" AND _file NOT IN ({', '.join(_text(file) for file, *_ in lacking)})"
        parts.append(
            f"SELECT unnest(json_transform(json, {_text(fields)})), _file, _row"
            f" FROM ({table}) WHERE {good}"
        )
    return parts, unreadable


def _lacking_fields(
    connection: duckdb.DuckDBPyConnection, entry: RawFiles, table: str
) -> list[tuple[str, str, str]]:
    """(file, first declared column that none of its lines has, what it may be called now)."""
    names = ", ".join(
        f"bool_or(json_exists(json, {_text('$.' + json.dumps(name))}))" for name in entry.columns
    )
    found = connection.execute(
        f"SELECT _file, arg_min(json_keys(json), _row), {names} FROM ({table})"
        " WHERE NOT no_object GROUP BY _file ORDER BY _file"
    ).fetchall()
    lacking = []
    for file, keys, *has in found:
        names_lacking = [n for n, there in zip(entry.columns, has, strict=True) if not there]
        if names_lacking:
            lacking.append((file, names_lacking[0], _renamed(entry, names_lacking, keys)))
    return lacking


def _numbered_tables(
    connection: duckdb.DuckDBPyConnection,
    reader: _Reader,
    columns: str,
    folder: Path,
    files: list[str],
) -> tuple[list[str], list[Unreadable]]:
    """Read text files into temporary tables with `_file` and `_row`; SELECTs over them.

    All files in one scan; when that fails, one by one, so that only the damaged ones are left out.
    """
    try:
        part, bad = _numbered_table(connection, reader, columns, folder, files)
        return [part], bad
    except duckdb.Error as error:
        if len(files) == 1:
            return [], [_unreadable(files[0], error, folder)]
    parts, unreadable = [], []
    for file in files:
        made, bad = _numbered_tables(connection, reader, columns, folder, [file])
        parts += made
        unreadable += bad
    return parts, unreadable


def _numbered_table(
    connection: duckdb.DuckDBPyConnection,
    reader: _Reader,
    columns: str,
    folder: Path,
    files: list[str],
) -> tuple[str, list[Unreadable]]:
    table = f"text_{next(_table_number)}"
    rejects = f"{table}_rejects"
    # DuckDB reads files and lines in order, so a running number over all of them tells the place.
    connection.execute(
        f"CREATE TEMP TABLE {table} AS SELECT {columns}, {_relative(folder)} AS _file,"
        f" row_number() OVER () AS _line FROM {reader(_paths(folder, files), rejects)}"
    )
    connection.execute(
        f"CREATE TEMP TABLE {table}_first AS"
        f" SELECT _file, min(_line) - 1 AS _before FROM {table} GROUP BY _file"
    )
    part = (
        f"SELECT * EXCLUDE (_line, _before), _line - _before AS _row"
        f" FROM {table} JOIN {table}_first USING (_file)"
    )
    unreadable = _rejected(connection, rejects, folder)
    if unreadable:
        part = _with_gaps(connection, part, _gaps(unreadable))
    return part, unreadable


def _with_gaps(
    connection: duckdb.DuckDBPyConnection, part: str, gaps: list[tuple[str, int, int]]
) -> str:
    """A line left out moves those after it: give them their place back."""
    table = f"gaps_{next(_table_number)}"
    connection.execute(f"CREATE TEMP TABLE {table} (file VARCHAR, place BIGINT, gap BIGINT)")
    connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", gaps)
    return (
        f"SELECT part.* REPLACE (_row + coalesce(gap, 0) AS _row) FROM ({part}) AS part"
        f" ASOF LEFT JOIN {table} ON _file = file AND _row >= place"
    )


def _rejected(
    connection: duckdb.DuckDBPyConnection, rejects: str, folder: Path
) -> list[Unreadable]:
    """DuckDB's rejected lines, one each. Never with the line itself: it may name a shopper."""
    tables = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    if (rejects,) not in tables:
        return []
    rows = connection.execute(
        f"SELECT {_relative(folder, 'file_path')} AS file, line - 1 AS row,"
        " min(lower(error_type::VARCHAR))"
        f" FROM {rejects} JOIN {rejects}_scans USING (scan_id, file_id)"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()
    return [Unreadable(file, row, f"line unreadable: {why}") for file, row, why in rows]


def _gaps(unreadable: list[Unreadable]) -> list[tuple[str, int, int]]:
    """(file, place among the readable lines, unreadable lines before it), the last per place."""
    gaps: dict[tuple[str, int], int] = {}
    before: dict[str, int] = {}
    for bad in unreadable:
        assert bad.row is not None
        before[bad.file] = before.get(bad.file, 0) + 1
        gaps[bad.file, bad.row - before[bad.file] + 1] = before[bad.file]
    return [(file, place, gap) for (file, place), gap in gaps.items()]


def _header(path: Path, entry: RawFiles) -> tuple[str, list[str]]:
    """(delimiter, column names): the delimiter is the one that gives most declared columns."""
    line = _first_line(path)
    headers = [(mark, next(csv.reader([line], delimiter=mark), [])) for mark in _DELIMITERS]
    return max(headers, key=lambda each: len(_declared(entry, each[1])))


def _first_line(path: Path) -> str:
    with opener(path)(path, "rb") as file:
        line: bytes = file.readline()
    return line.decode("utf-8-sig")


def _missing(entry: RawFiles, names: list[str], file: str) -> Unreadable | None:
    lacking = [name for name in entry.columns if name not in names]
    if not lacking:
        return None
    return Unreadable(file, None, f"column {lacking[0]} missing{_renamed(entry, lacking, names)}")


def _renamed(entry: RawFiles, lacking: list[str], names: Iterable[str]) -> str:
    """A hint at the undeclared column that may be the one that is lacking."""
    others = {name.lower(): name for name in names if name not in _declared(entry)}
    near = difflib.get_close_matches(lacking[0].lower(), others, n=1)
    if not near and len(others) == len(lacking) == 1:
        near = list(others)
    return f" (is it now {others[near[0]]}?)" if near else ""


def _declared(entry: RawFiles, among: list[str] | None = None) -> list[str]:
    names = [*entry.columns, *entry.optional]
    return names if among is None else [name for name in names if name in among]


def _columns(entry: RawFiles, there: list[str]) -> str:
    return ", ".join(
        _quote(name) if name in there else f"NULL AS {_quote(name)}" for name in _declared(entry)
    )


def _unreadable(file: str, error: Exception, folder: Path) -> Unreadable:
    """The first line of the error only: those after it may quote the data."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return Unreadable(file, None, f"file unreadable: {line.replace(f'{folder}/', '')}")


def _relative(folder: Path, column: str = "filename") -> str:
    return f"substr({column}, {len(str(folder)) + 2})"


def _paths(folder: Path, files: list[str]) -> str:
    return "[" + ", ".join(_text(glob.escape(str(folder / file))) for file in files) + "]"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
