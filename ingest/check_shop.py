"""Is a shop's mapping right? `python -m ingest.check_shop <name> [--data folder]`

Reads shop.yml, a few raw files of each kind and the SELECTs, and says table by table and column by
column what is wrong. Writes nothing; ends with 1 when something must be put right.
"""

from __future__ import annotations

import argparse
import difflib
import secrets
import sys
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import duckdb

from core.duck import connect
from core.paths import Paths
from core.shop import Shop, ShopError, load_shop
from ingest.contract import EVENT_TYPES, TABLES, Column, Table
from ingest.mapping import (
    Mapping,
    column_problems,
    fitting_files,
    looks_across,
    map_table,
    mappings,
    select_rows,
    selected_types,
)
from ingest.raw import Unreadable, column_names, find_files

_FILES = 6  # read per key: the first, the last and some between
_NO_NIGHT = date(9999, 12, 30)


@dataclass
class Report:
    """What was found, as lines to print; `errors` must be put right, `warnings` looked at."""

    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(shop: Shop, folder: Path) -> Report:
    """Check the mapping of `shop` against the raw files in `folder`."""
    report = Report()
    _check_event_types(report, shop)
    files = find_files(shop, folder) if folder.is_dir() else {}
    if not any(files.values()):
        report.errors.append(
            f"no raw files in {folder}: put them there, or name their folder with --data"
        )
        return report
    sample = {key: _spread(names) for key, names in files.items()}
    for key, names in files.items():
        report.lines.append(f"raw.{key}: {len(names)} files, {len(sample[key])} of them read here")
        if not names:
            report.warnings.append(f"raw.{key}: no file matches {shop.raw[key].files}")
    found = mappings(shop)
    if not any(mapping.table.name == "events" for mapping in found):
        report.errors.append(f"{shop.folder / 'events.sql'} is missing: every shop has events")
    for mapping in found:
        with connect() as connection:
            try:
                _check_table(connection, report, mapping, folder, sample)
            except ShopError as error:
                report.errors.append(str(error))
    return report


def _check_event_types(report: Report, shop: Shop) -> None:
    """The recommender's event types must be the contract's."""
    for key, kinds in _asked_types(shop).items():
        for kind in kinds:
            if kind not in EVENT_TYPES:
                near = difflib.get_close_matches(kind, EVENT_TYPES, n=1)
                hint = f" (is it {near[0]}?)" if near else ""
                report.errors.append(
                    f"shop.yml: recommender.{key}: there is no event type {kind}{hint}; "
                    f"the types are {', '.join(EVENT_TYPES)}"
                )


def _asked_types(shop: Shop) -> dict[str, list[str]]:
    return {
        "input_events": shop.recommender.input_events,
        "target_events": shop.recommender.target_events,
    }


def _spread(names: list[str]) -> list[str]:
    if len(names) <= _FILES:
        return names
    step = (len(names) - 1) / (_FILES - 1)
    return [names[round(step * place)] for place in range(_FILES)]


def _check_table(
    connection: duckdb.DuckDBPyConnection,
    report: Report,
    mapping: Mapping,
    folder: Path,
    files: dict[str, list[str]],
) -> None:
    table = mapping.table
    chosen = {file for key in mapping.keys for file in files[key]}
    fitting, misfits = fitting_files(connection, mapping, folder, files)
    across = looks_across(connection, mapping, folder, fitting)
    unreadable = select_rows(connection, mapping, folder, fitting, chosen) + misfits
    types = selected_types(connection)
    problems = column_problems(table, types)
    _report_unreadable(report, mapping, folder, files, unreadable)
    if problems:
        report.errors += [f"{mapping.name}: {p}{_nearest(p, table)}" for p in problems]
        return
    map_table(connection, mapping, secrets.token_bytes(32), _NO_NIGHT)
    total, first, last = connection.execute(
        f"SELECT count(*), min({table.time}), max({table.time}) FROM mapped"
    ).fetchall()[0]
    report.lines += ["", f"{table.name}: {total} rows, {first} to {last}"]
    if across:
        report.lines.append(
            "  compares rows with each other: whenever one file changes, all are mapped again"
        )
    if total:
        _report_columns(connection, report, mapping, types, total)
        _report_reasons(connection, report, mapping, total)
        _report_duplicates(connection, report, mapping)
        _warn_of_types_not_there(connection, report, mapping)
    else:
        report.warnings.append(f"{mapping.name}: returns no row")


def _report_unreadable(
    report: Report,
    mapping: Mapping,
    folder: Path,
    files: dict[str, list[str]],
    unreadable: list[Unreadable],
) -> None:
    for bad in unreadable:
        place = bad.file if bad.row is None else f"{bad.file}, row {bad.row}"
        text = f"{mapping.name}: {place}: {bad.reason}"
        if bad.reason.startswith("column "):
            entry = next(mapping.shop.raw[key] for key in mapping.keys if bad.file in files[key])
            there = ", ".join(column_names(folder / bad.file, entry))
            text += f" (the file has: {there}; name it under `optional` if a file may lack it)"
        (report.errors if bad.row is None else report.warnings).append(text)


def _nearest(problem: str, table: Table) -> str:
    """A hint for a misspelt column."""
    word = problem.split()[1]
    near = difflib.get_close_matches(word, [column.name for column in table.columns], n=1)
    return f" (is it {near[0]}?)" if near and near[0] != word else ""


def _report_columns(
    connection: duckdb.DuckDBPyConnection,
    report: Report,
    mapping: Mapping,
    types: dict[str, str],
    total: int,
) -> None:
    columns = mapping.table.columns
    report.lines.append(
        f"  {'column':<16}{'contract':<15}{'SELECT':<15}{'empty':>6}  lowest .. highest"
    )
    facts = ", ".join(
        f"count_if({c.name} IS NULL),"
        f" left(min({c.name})::VARCHAR, 24), left(max({c.name})::VARCHAR, 24)"
        for c in columns
    )
    values = connection.execute(f"SELECT {facts} FROM mapped").fetchall()[0]
    for place, column in enumerate(columns):
        empty, lowest, highest = values[3 * place : 3 * place + 3]
        personal = column.name in mapping.table.personal
        shown = "(pseudonyms)" if personal else f"{lowest} .. {highest}"
        report.lines.append(
            f"  {column.name:<16}{column.type:<15}{types.get(column.name, 'not returned'):<15.14}"
            f"{empty / total:>6.1%}  {shown if empty < total else ''}".rstrip()
        )
        _warn_of_type(report, mapping, column, types)


def _warn_of_type(report: Report, mapping: Mapping, column: Column, types: dict[str, str]) -> None:
    if column.name.endswith("_id") and types.get(column.name) in ("DOUBLE", "FLOAT"):
        report.warnings.append(
            f"{mapping.name}: {column.name} is a floating-point number, so 17850 becomes '17850.0':"
            " cast it to BIGINT first"
        )


def _report_reasons(
    connection: duckdb.DuckDBPyConnection, report: Report, mapping: Mapping, total: int
) -> None:
    meaning = {rule.name: rule.description for rule in mapping.table.rules}
    names = [column.name for column in mapping.table.columns]
    broken = 0
    for state, reason, number, file, row, payload in connection.execute(
        "SELECT _state, _reason, count(*), arg_min(_file, (_file, _row)),"
        " arg_min(_row, (_file, _row)), arg_min(_payload, (_file, _row))"
        " FROM mapped WHERE _state IN ('broken', 'excluded') GROUP BY ALL ORDER BY 1, 3 DESC, 2"
    ).fetchall():
        broken += number if state == "broken" else 0
        text = f"  {state:<8} {number:>8}  {reason}"
        if reason in meaning:
            text += f": {meaning[reason]}"
        column = next((name for name in names if str(reason).startswith(f"{name}_not_")), None)
        if column:
            value = connection.execute(
                "SELECT json_extract_string(?, ?)", [payload, f"$.{column}"]
            ).fetchall()[0][0]
            text += f": {value!r}"
        report.lines.append(f"{text}  (first in {file}, row {row})")
    limit = mapping.shop.thresholds.max_quarantine_share
    if broken / total > limit and (broken >= 10 or broken == total):
        report.errors.append(
            f"{mapping.name}: {broken} of {total} rows ({broken / total:.1%}) break the contract;"
            f" the night is stopped above {limit:.1%} (thresholds.max_quarantine_share)"
        )


def _report_duplicates(
    connection: duckdb.DuckDBPyConnection, report: Report, mapping: Mapping
) -> None:
    key = mapping.table.key
    ok, kept = connection.execute(
        f"SELECT count(*), count(DISTINCT ({key})) FROM mapped WHERE _state = 'ok'"
    ).fetchall()[0]
    report.lines.append(f"  ok       {ok:>8}  of which {ok - kept} are duplicates ({key})")
    if kept * 2 < ok:
        report.errors.append(
            f"{mapping.name}: {ok} rows have only {kept} different keys ({key}): is it unique?"
        )


def _warn_of_types_not_there(
    connection: duckdb.DuckDBPyConnection, report: Report, mapping: Mapping
) -> None:
    """An event type that the recommender is to learn from, and that no row here has."""
    if mapping.table.name != "events":
        return
    there = {
        kind for (kind,) in connection.execute("SELECT DISTINCT event_type FROM mapped").fetchall()
    }
    for key, kinds in _asked_types(mapping.shop).items():
        for kind in kinds:
            if kind in EVENT_TYPES and kind not in there:
                report.warnings.append(
                    f"shop.yml: recommender.{key}: no row that was read here is a {kind}"
                )


def main(arguments: list[str] | None = None) -> int:
    """Print the report; 1 when something must be put right."""
    parser = argparse.ArgumentParser(prog="check-shop", description=__doc__)
    parser.add_argument("shop", help="a folder of shops/")
    parser.add_argument("--data", type=Path, help="folder of the raw files")
    options = parser.parse_args(arguments)
    try:
        shop = load_shop(options.shop)
        report = check(shop, (options.data or Paths(shop.name).raw).resolve())
    except ShopError as error:
        print(error)
        return 1
    print("\n".join(report.lines))
    for title, texts in (("look at", report.warnings), ("put right", report.errors)):
        if texts:
            print(f"\n{title}:")
            print("\n".join(f"  - {text}" for text in texts))
    absent = [name for name in TABLES if shop.select(name) is None]
    print(f"\n{'not ' if report.errors else ''}ready to run; tables left out: {absent or 'none'}")
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
