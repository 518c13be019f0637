"""Whose raw rows are these? The shop's own SELECTs say it, row by row."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from core.duck import connect
from core.paths import Paths, var_folder
from core.shop import Shop
from ingest.mapping import Mapping, mappings, select_rows, selected_types
from ingest.raw import find_files
from privacy.formats import erase_parquet, erase_records
from privacy.person import Person


@dataclass
class RawRows:
    """By file (below the raw folder) the rows, from 1; `columns` that hold the id as it is."""

    rows: dict[str, set[int]] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)


def is_ours(paths: Paths) -> bool:
    """Whether the raw files lie under `var/`, and are not the shop's own folder elsewhere."""
    return paths.raw.resolve().is_relative_to(var_folder())


def raw_rows(shop: Shop, paths: Paths, identity: str) -> RawRows:
    """The raw rows that the shop's SELECTs map to this person."""
    found = RawRows()
    files = find_files(shop, paths.raw)
    for mapping in mappings(shop):
        if mapping.table.personal:
            with connect() as connection:
                connection.execute(f"SET temp_directory = '{paths.home / 'spill'}'")
                _add(found, connection, mapping, paths.raw, files, identity)
    return found


def _add(
    found: RawRows,
    connection: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    folder: Path,
    files: dict[str, list[str]],
    identity: str,
) -> None:
    select_rows(connection, mapping, folder, files, set())
    there = [name for name in mapping.table.personal if name in selected_types(connection)]
    if not there:
        return
    every = {file for key in mapping.keys for file in files[key]}
    same = " OR ".join(f"{name}::VARCHAR = {_text(identity)}" for name in there)
    select_rows(connection, mapping, folder, files, every, where=same)
    for file, rows in connection.execute(
        "SELECT _file, list(DISTINCT _row) FROM selected GROUP BY _file"
    ).fetchall():
        found.rows.setdefault(file, set()).update(rows)
    for key in mapping.keys:
        for (column,) in connection.execute(
            f"SELECT column_name FROM (DESCRIBE raw.{_quote(key)}) WHERE column_name NOT IN"
            " ('_file', '_row')"
        ).fetchall():
            values = connection.execute(
                f"SELECT bool_and(coalesce({_quote(column)}::VARCHAR = ?, false))"
                f" FROM raw.{_quote(key)} SEMI JOIN selected USING (_file, _row)",
                [identity],
            ).fetchall()
            if values[0][0]:
                found.columns.add(column)


def erase_raw(shop: Shop, paths: Paths, person: Person, rows: dict[str, set[int]]) -> None:
    """Take those rows out of the raw files, each file by one rename."""
    formats = {
        f: shop.raw[key].format for key, fs in find_files(shop, paths.raw).items() for f in fs
    }
    for file, numbers in sorted(rows.items()):
        if formats[file] == "parquet":
            erase_parquet(paths.raw / file, person, frozenset(number - 1 for number in numbers))
        else:
            erase_records(paths.raw / file, person, frozenset(numbers))


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
