"""The files of landing and quarantine: their names, their schemas and how they are written.

Everything is written in a fixed order with one writer, so that equal rows are equal bytes. DuckDB's
COPY ... PARTITION_BY is not used: with it the bytes differ from run to run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.paths import Paths
from ingest.contract import PROVENANCE, QUARANTINE, TABLES, Column, Table

_ARROW = {
    "VARCHAR": pa.string(),
    "TIMESTAMP": pa.timestamp("us"),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "DECIMAL(18,4)": pa.decimal128(18, 4),
    "UBIGINT": pa.uint64(),
    "DATE": pa.date32(),
}
KEYS = (
    Column("hash", "UBIGINT", "64 bits of the MD5 of a landed row's key", True),
    Column("day", "DATE", "The day it landed on", True),
)
_BATCH = 100_000  # rows held in Python at a time, beside those of the day being written


def landing_part(paths: Paths, table: Table, day: str) -> Path:
    """The landing file of one day."""
    return paths.landing / table.name / f"day={day}" / "part.parquet"


def quarantine_part(paths: Paths, table: Table, day: str | None) -> Path:
    """The quarantine file of one day, or of the rows and files that have none."""
    return paths.quarantine / table.name / f"{day or 'undated'}.parquet"


def losers_part(paths: Paths, table: Table) -> Path:
    """Rows that keep the contract but lost to a row with the same key on another day."""
    return paths.landing / "_other_days" / f"{table.name}.parquet"


def keys_part(paths: Paths, table: Table, month: str) -> Path:
    """Hashes of the keys that landed in a month (YYYY-MM): where to look for a key that recurs."""
    return paths.landing / "_keys" / table.name / f"{month}.parquet"


def months_on_disk(paths: Paths, table: Table) -> set[str]:
    """Months that have a file of keys."""
    return {file.stem for file in (paths.landing / "_keys" / table.name).glob("*.parquet")}


def key_hash(table: Table) -> str:
    """SQL of a row's key as 64 bits; MD5 because it is the same in every version of DuckDB."""
    return f"md5_number_lower(concat_ws(chr(31), {table.key}))"


def days_on_disk(paths: Paths, table: Table) -> set[str]:
    """Days that have a landing or a quarantine file."""
    landed = (paths.landing / table.name).glob("day=*/part.parquet")
    put_aside = (paths.quarantine / table.name).glob("*-*-*.parquet")
    return {file.parent.name.removeprefix("day=") for file in landed} | {f.stem for f in put_aside}


def schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema of contract columns."""
    return pa.schema([(column.name, _ARROW[column.type]) for column in columns])


def write_empty_files(paths: Paths) -> None:
    """One file without rows for every table, so that readers find columns even where no row is."""
    for table in TABLES.values():
        for file, columns in (
            (
                paths.landing / table.name / "day=1970-01-01" / "empty.parquet",
                (*table.columns, *PROVENANCE),
            ),
            (paths.quarantine / table.name / "empty.parquet", QUARANTINE.columns),
        ):
            if not file.exists():
                write(file, schema(columns).empty_table())


def write(file: Path, table: pa.Table) -> None:
    """Write one parquet file, through a temporary name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(file.name + ".new")
    pq.write_table(table, new, compression="zstd")
    new.replace(file)


def write_days(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    columns: tuple[Column, ...],
    target: Callable[[str], Path],
) -> dict[str, Path]:
    """Write the rows of `query` (sorted by day; `columns` and `_day`), one file a day.

    Returns the files by day. Holds one day and one batch of rows in memory.
    """
    files: dict[str, Path] = {}

    def flush(day: date | None, parts: list[pa.RecordBatch]) -> None:
        if day is not None:
            files[day.isoformat()] = target(day.isoformat())
            write(files[day.isoformat()], pa.Table.from_batches(parts).cast(schema(columns)))

    current: date | None = None
    parts: list[pa.RecordBatch] = []
    for batch in connection.sql(query).to_arrow_reader(_BATCH):
        runs = pc.value_counts(batch.column("_day"))
        rows, start = batch.drop_columns(["_day"]), 0
        for run in runs.to_pylist():
            if run["values"] != current:
                flush(current, parts)
                current, parts = run["values"], []
            parts.append(rows.slice(start, run["counts"]))
            start += run["counts"]
    flush(current, parts)
    return files


def sha256(file: Path) -> str:
    """The file's SHA-256 in hex."""
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
