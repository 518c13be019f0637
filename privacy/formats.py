"""A person in a file of any format: is it there, and the file again without it.

`find` counts rows or places, in the bytes as they lie and decoded (parquet, DuckDB, SQLite,
compressed files, data inside a page). `erase` writes the file anew beside itself and renames it: a
reader sees the old file or the new one. Rows that are the person's go; a text that only names the
person keeps the rest.
"""

from __future__ import annotations

import base64
import csv
import functools
import glob
import gzip
import io
import json
import mmap
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.duck import connect, settings
from privacy import PrivacyError
from privacy.person import ERASED, Person

DRAFT = ".erasing"
"""Ending of a file that is being written; one that is left over is of a run that was killed."""

Find = Callable[[Path, Person], int]
Erase = Callable[[Path, Person], int]


def find(path: Path, person: Person) -> int:
    """How often the person is in the file; 0 when not at all."""
    if path.stat().st_size == 0:
        return 0
    return _formats(path)[0](path, person) or _find_bytes(path, person)


def erase(path: Path, person: Person) -> int:
    """Take the person out of the file; the rows or places that went."""
    return _formats(path)[1](path, person)


def is_encrypted(path: Path) -> bool:
    """Whether nobody can look into it: an archive encrypted with age."""
    with path.open("rb") as file:
        return file.read(14) == b"age-encryption"


def _formats(path: Path) -> tuple[Find, Erase]:
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:4] == b"PAR1":
        return _find_parquet, erase_parquet
    if head[8:12] == b"DUCK":
        return _find_duckdb, _erase_duckdb
    if head[:16] == b"SQLite format 3\0":
        return _find_sqlite, _erase_sqlite
    if head[:2] == b"\x1f\x8b":
        return _find_gzip, _erase_gzip
    if b"\0" in head or path.suffix in (".wal", ".db-wal", ".safetensors", ".png"):
        return _find_bytes, _cannot_erase
    return _find_text, _erase_text


def _find_bytes(path: Path, person: Person) -> int:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return sum(1 for _ in person.bytes_pattern.finditer(content))


def _cannot_erase(path: Path, person: Person) -> int:
    raise PrivacyError(f"{path} names the person and is in no format that can be written anew")


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    draft = path.with_name(path.name + DRAFT)
    draft.unlink(missing_ok=True)
    write(draft)
    draft.chmod(path.stat().st_mode)
    draft.replace(path)


# ---- parquet


@functools.cache
def _memory() -> duckdb.DuckDBPyConnection:
    """One connection for all parquet files: there may be thousands, and each is small."""
    return duckdb.connect(config=settings())


def _parquet_rows(path: Path, person: Person) -> tuple[list[int], int]:
    """Rows (from 0) that are the person's, and how many others name the person."""
    source = f"read_parquet({_text(glob.escape(str(path)))}, hive_partitioning = false"
    columns = [row[:2] for row in _memory().execute(f"DESCRIBE FROM {source})").fetchall()]
    whole = person.sql_whole(columns)
    found = (
        _memory()
        .execute(
            f"SELECT file_row_number, {whole} FROM {source}, file_row_number = true)"
            f" WHERE ({whole}) OR ({person.sql_in_text(columns)})"
        )
        .fetchall()
    )
    return [row for row, its_own in found if its_own], sum(not its_own for _, its_own in found)


def _find_parquet(path: Path, person: Person) -> int:
    rows, named = _parquet_rows(path, person)
    return len(rows) + named


def erase_parquet(path: Path, person: Person, more: frozenset[int] = frozenset()) -> int:
    """Also the rows `more`, counted from 0."""
    rows, named = _parquet_rows(path, person)
    gone = pa.array(sorted({*rows, *more}), pa.int64())
    if not len(gone) and not named:
        return 0
    _replace(path, lambda draft: _copy_parquet(path, draft, gone, person))
    return len(gone) + named


def _copy_parquet(path: Path, draft: Path, gone: pa.Array, person: Person) -> None:
    with pq.ParquetFile(path) as source:
        compression = source.metadata.row_group(0).column(0).compression.lower()
        with pq.ParquetWriter(
            draft, source.schema_arrow, compression=compression.replace("uncompressed", "none")
        ) as out:
            start = 0
            for number in range(source.metadata.num_row_groups):
                rows = source.read_row_group(number)
                places = pa.array(range(start, start + rows.num_rows), pa.int64())
                start += rows.num_rows
                rows = rows.filter(pc.invert(pc.is_in(places, gone)))
                out.write_table(_without_mentions(rows, person))


def _without_mentions(rows: pa.Table, person: Person) -> pa.Table:
    for number, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):  # the dictionary has values that no row has any more
            values = rows.column(number).cast(field.type.value_type)
            rows = rows.set_column(number, field, values.dictionary_encode().cast(field.type))
        elif pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            texts = rows.column(number)
            named = pc.match_substring_regex(texts, person.sql_pattern)
            if pc.any(named).as_py():
                new = [person.erased_from(text) if text else text for text in texts.to_pylist()]
                rows = rows.set_column(number, field, pa.array(new, field.type))
    return rows


# ---- DuckDB: deleted bytes stay in a file, so it is copied without them


def _duckdb_tables(
    connection: duckdb.DuckDBPyConnection, database: str
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for schema, table in connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = $1 ORDER BY ALL",
        [database],
    ).fetchall():
        name = f'"{schema}"."{table}"'
        columns = connection.execute(f"DESCRIBE {database}.{name}").fetchall()
        yield name, [column[:2] for column in columns]


def _find_duckdb(path: Path, person: Person) -> int:
    found = 0
    with connect() as connection:
        connection.execute(f"ATTACH {_text(str(path))} AS old (READ_ONLY)")
        for name, columns in _duckdb_tables(connection, "old"):
            found += connection.execute(
                f"SELECT count(*) FROM old.{name}"
                f" WHERE ({person.sql_whole(columns)}) OR ({person.sql_in_text(columns)})"
            ).fetchall()[0][0]
    return found


def _erase_duckdb(path: Path, person: Person) -> int:
    found = _find_duckdb(path, person)

    def copy(draft: Path) -> None:
        with connect() as connection:
            connection.execute(f"SET temp_directory = {_text(str(path.parent / 'spill'))}")
            connection.execute(f"ATTACH {_text(str(path))} AS old (READ_ONLY)")
            connection.execute(f"ATTACH {_text(str(draft))} AS new")
            connection.execute("COPY FROM DATABASE old TO new (SCHEMA)")
            for name, columns in _duckdb_tables(connection, "old"):
                texts = [
                    f'{person.sql_erased(column)} AS "{column}"'
                    for column, kind in columns
                    if kind == "VARCHAR"
                ]
                values = f"* REPLACE ({', '.join(texts)})" if texts else "*"
                connection.execute(
                    f"INSERT INTO new.{name} SELECT {values} FROM old.{name}"
                    f" WHERE NOT ({person.sql_whole(columns)})"
                )
            connection.execute("DETACH new")

    _replace(path, copy)
    draft_log = path.with_name(path.name + DRAFT + ".wal")
    draft_log.unlink(missing_ok=True)
    return found


# ---- SQLite: DELETE, then VACUUM, which writes the file anew


def _find_sqlite(path: Path, person: Person) -> int:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        return sum(
            connection.execute(f"SELECT count(*) FROM {table} WHERE {whole} OR {named}").fetchone()[
                0
            ]
            for table, _, whole, named in _sqlite_tables(connection, person)
        )


def _erase_sqlite(path: Path, person: Person) -> int:
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        gone = 0
        for table, columns, whole, named in _sqlite_tables(connection, person):
            gone += connection.execute(f"DELETE FROM {table} WHERE {whole}").rowcount
            new = ", ".join(f"{column} = erased({column})" for column in columns)
            gone += connection.execute(f"UPDATE {table} SET {new} WHERE {named}").rowcount
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return gone


def _sqlite_tables(
    connection: sqlite3.Connection, person: Person
) -> Iterator[tuple[str, list[str], str, str]]:
    """(table, columns, predicate of the person's rows, predicate of rows that name the person)."""
    compressed = b"\x78"

    def whole(column: str, value: object) -> bool:
        if isinstance(value, bytes):
            if value[:1] == compressed:
                value = _inflated(value)
            return person.pseudonym.encode() in value or bool(person.bytes_pattern.search(value))
        return person.is_whole(column, value)

    def named(value: object) -> bool:
        return isinstance(value, str) and person.in_text(value)

    def erased(value: Any) -> Any:
        return person.erased_from(value) if isinstance(value, str) else value

    connection.create_function("whole", 2, whole, deterministic=True)
    connection.create_function("named", 1, named, deterministic=True)
    connection.create_function("erased", 1, erased, deterministic=True)
    needles = [person.pseudonym, person.identity]
    for (name,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall():
        table = f'"{name}"'
        columns = [f'"{row[1]}"' for row in connection.execute(f"PRAGMA table_info({table})")]
        # SQLite's own search first: Python sees only what could be the person
        maybe = {
            column: " OR ".join(
                [f"instr(CAST({column} AS BLOB), CAST({_text(n)} AS BLOB)) > 0" for n in needles]
                + [f"typeof({column}) = 'blob' AND substr({column}, 1, 1) = x'78'"]
            )
            for column in columns
        }
        yield (
            table,
            columns,
            "(" + " OR ".join(f"(({maybe[c]}) AND whole({_text(c[1:-1])}, {c}))" for c in columns)
            + ")",
            "(" + " OR ".join(f"(({maybe[c]}) AND named({c}))" for c in columns) + ")",
        )  # fmt: skip


def _inflated(value: bytes) -> bytes:
    try:
        return zlib.decompress(value)
    except zlib.error:
        return value


# ---- text: records of CSV, lines of JSON, documents of JSON, pages, everything else


def _find_gzip(path: Path, person: Person) -> int:
    with gzip.open(path, "rt", errors="replace", newline="") as file:
        return _without(path.with_suffix(""), file.read(), person)[1]


def _erase_gzip(path: Path, person: Person) -> int:
    with gzip.open(path, "rt", errors="surrogateescape", newline="") as file:
        new, gone = _without(path.with_suffix(""), file.read(), person)
    data = gzip.compress(new.encode(errors="surrogateescape"), mtime=0)
    _replace(path, lambda draft: _write(draft, data))
    return gone


def _find_text(path: Path, person: Person) -> int:
    text = path.read_bytes().decode(errors="replace")
    return _without(path, text, person)[1]


def _erase_text(path: Path, person: Person) -> int:
    return erase_records(path, person, frozenset())


def erase_records(path: Path, person: Person, more: frozenset[int]) -> int:
    """Also those of the records or lines `more` that hold the id.

    They are counted from 1 after a header, blank ones left out; after a quote that is never closed
    the count of DuckDB may be another.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        text = file.read().decode(errors="surrogateescape")
    name = path.with_suffix("") if path.suffix == ".gz" else path
    new, gone = _without(name, text, person, more)
    if gone:
        data = new.encode(errors="surrogateescape")
        data = gzip.compress(data, mtime=0) if path.suffix == ".gz" else data
        _replace(path, lambda draft: _write(draft, data))
    return gone


def _write(draft: Path, data: bytes) -> None:
    draft.write_bytes(data)


def _without(
    path: Path, text: str, person: Person, more: frozenset[int] = frozenset()
) -> tuple[str, int]:
    """The text of a file without the person, and how many records or places went."""
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv", ".txt"):
        return without_records(text, person, more)
    if kind in (".jsonl", ".ndjson"):
        return _without_lines(text, person, more)
    if kind == ".json":
        return _without_json(text, person, more)
    new, gone = _without_data_links(text, person) if kind in (".html", ".htm") else (text, 0)
    if person.in_text(new):
        rows = re.split(r"(<tr\b.*?</tr>)", new, flags=re.DOTALL)
        kept = [row for row in rows if not (row.startswith("<tr") and person.in_text(row))]
        gone += len(rows) - len(kept)
        new = "".join(kept)
        gone += len(person.pattern.findall(new))
    return person.erased_from(new), gone


def without_records(text: str, person: Person, more: frozenset[int]) -> tuple[str, int]:
    """CSV without the person's records; one that only names the person keeps the rest."""
    kept, gone, number = [], 0, -1
    header: list[str] = []
    delimiter = ","
    for record in _records(text):
        if not record.strip():
            kept.append(record)
            continue
        number += 1
        if number == 0:
            delimiter = max(",;\t|", key=record.count)
            header = _fields(record.lstrip("\ufeff"), delimiter)
        may_be = person.identity in record or person.pseudonym in record
        if may_be and number:
            names = [*header, *[""] * len(record)]
            fields = _fields(record, delimiter)
            whole = any(person.is_whole(n, v) for n, v in zip(names, fields, strict=False))
            if whole or number in more:
                gone += 1
                continue
        if person.in_text(record):
            record, gone = person.erased_from(record), gone + 1
        kept.append(record)
    return "".join(kept), gone


def _records(text: str) -> Iterator[str]:
    """Lines, joined as long as a quote is open."""
    parts: list[str] = []
    open_quote = False
    for line in io.StringIO(text, newline="\n"):
        parts.append(line)
        open_quote ^= line.count('"') % 2 == 1
        if not open_quote:
            yield "".join(parts)
            parts = []
    if parts:
        yield "".join(parts)


def _fields(record: str, delimiter: str) -> list[str]:
    return next(csv.reader(io.StringIO(record, newline=""), delimiter=delimiter), [])


def _without_lines(text: str, person: Person, more: frozenset[int]) -> tuple[str, int]:
    kept, gone, number = [], 0, 0
    for line in io.StringIO(text, newline="\n"):
        number += bool(line.strip())
        if person.identity in line or person.pseudonym in line:
            try:
                value = json.loads(line)
                value, went = (
                    (_GONE, 1)
                    if number in more or _is_row(value, person)
                    else _without_values(value, person)
                )
            except ValueError:
                value, went = None, 0
            if value is _GONE:
                gone += 1
            elif went:
                kept.append(json.dumps(value, ensure_ascii=False) + "\n")
                gone += went
            elif person.in_text(line):
                kept.append(person.erased_from(line))
                gone += 1
            else:
                kept.append(line)
        else:
            kept.append(line)
    return "".join(kept), gone


def _without_json(text: str, person: Person, more: frozenset[int]) -> tuple[str, int]:
    """A whole document; the files that have one object a line may be called .json too."""
    if person.identity not in text and person.pseudonym not in text and not more:
        return text, 0
    try:
        document = json.loads(text)
    except ValueError:
        return _without_lines(text, person, more)
    if more:
        return _without_lines(text, person, more)
    value, gone = _without_values(document, person)
    if not gone:
        return text, 0
    return json.dumps({} if value is _GONE else value, indent=1, ensure_ascii=False), gone


def _is_row(value: Any, person: Person) -> bool:
    fields = value.items() if isinstance(value, dict) else ()
    return any(person.is_whole(name, each) for name, each in fields)


_GONE = object()


def _without_values(value: Any, person: Person, key: str = "") -> tuple[Any, int]:
    """A JSON value without the objects that are the person's; `_GONE` when it is one itself."""
    if isinstance(value, dict):
        about = [each for name, each in value.items() if person.names_a_person(name)]
        if any(person.is_whole("user", each) for each in about):
            return _GONE, 1
        kept, gone = {}, 0
        for name, each in value.items():
            new, went = _without_values(each, person, name)
            gone += went
            if new is not _GONE:
                kept[person.erased_from(name)] = new
                gone += person.in_text(name)
        return kept, gone
    if isinstance(value, list):
        new = [_without_values(each, person, key) for each in value]
        return [each for each, _ in new if each is not _GONE], sum(went for _, went in new)
    if person.is_whole(key, value):
        return ERASED, 1
    if isinstance(value, str) and person.in_text(value):
        return person.erased_from(value), 1
    return value, 0


def _without_data_links(text: str, person: Person) -> tuple[str, int]:
    """A page with the files inside it (base64) decoded, cleaned and packed again."""
    gone = 0

    def clean(found: re.Match[str]) -> str:
        nonlocal gone
        inside = base64.b64decode(found[2]).decode(errors="surrogateescape")
        new, went = without_records(inside, person, frozenset())
        gone += went
        packed = base64.b64encode(new.encode(errors="surrogateescape")).decode()
        return found[1] + (packed if went else found[2])

    return re.sub(r"(data:text/[^,\"']*;base64,)([A-Za-z0-9+/=]+)", clean, text), gone


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


__all__ = ["DRAFT", "ERASED", "erase", "erase_parquet", "erase_records", "find", "is_encrypted"]
