"""Running the SELECT of a campaign where it can neither read nor write anything but the marts.

Two walls, because the file is written by whoever plans campaigns: the text may be one SELECT whose
tables are those of `marts` and whose functions always give the same answer; and the DuckDB it runs
in is in memory, sees the warehouse read-only, opens no file, and lets nobody change that.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from campaigns import CampaignError
from core.duck import connect
from core.paths import Paths

_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_TABLE_FUNCTIONS = {"range", "generate_series", "unnest"}
_CLOCKS = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}

# Tables that are there only once there is something to predict; until then they are empty.
_LATER = {
    "user_predictions": "night DATE, user_id VARCHAR, target VARCHAR, horizon_days INTEGER, "
    "value DOUBLE, low DOUBLE, high DOUBLE, top_reasons VARCHAR[], model_version VARCHAR",
}


def check_select(sql: str) -> set[str]:
    """The marts that a campaign's SELECT reads; raises CampaignError when it may not be run."""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise CampaignError(f"is no SQL: {_first_line(error)}") from error
    kinds = [statement.type for statement in statements]
    if kinds != [duckdb.StatementType.SELECT]:
        said = ", ".join(kind.name for kind in kinds) or "nothing"
        raise CampaignError(f"must be one SELECT, but is {said}: who only asks, it changes nothing")
    tree = json.loads(_serialised(sql))
    nodes = list(_nodes(tree))
    made_here = {entry["key"].lower() for node in nodes for entry in _ctes(node)}
    tables: set[str] = set()
    for node in nodes:
        _refuse(node)
        if node.get("type") == "BASE_TABLE":
            schema, table = node["schema_name"].lower(), node["table_name"].lower()
            if not schema and table in made_here:
                continue
            if schema != "marts" or node["catalog_name"]:
                full = ".".join(part for part in (node["catalog_name"], schema, table) if part)
                raise CampaignError(f"reads {full}: it may read the tables of `marts` only")
            tables.add(table)
    return tables


def _serialised(sql: str) -> str:
    with duckdb.connect() as connection:
        [[text]] = connection.execute("SELECT json_serialize_sql($sql)", {"sql": sql}).fetchall()
    if json.loads(text)["error"]:
        raise CampaignError("must be one plain SELECT")
    return text


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of the parsed statement."""
    if isinstance(tree, dict):
        yield tree
    for each in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(each)


def _ctes(node: dict[str, Any]) -> list[dict[str, Any]]:
    named = node.get("cte_map")
    return named["map"] if isinstance(named, dict) else []


def _refuse(node: dict[str, Any]) -> None:
    """Raises CampaignError for what changes something, reads a file, or is another each time."""
    kind = str(node.get("type", ""))
    if kind.endswith("_NODE") and kind not in _NODES:
        raise CampaignError(f"must only SELECT, but holds {kind.split('_')[0]}")
    if kind == "TABLE_FUNCTION" and (name := _name(node["function"])) not in _TABLE_FUNCTIONS:
        raise CampaignError(f"calls {name}(): it may read the tables of `marts` only, and no file")
    if node.get("sample") is not None:
        raise CampaignError("draws a sample, another one each time: leave the lot to `holdout`")
    if node.get("class") == "FUNCTION":
        name = _name(node)
    elif node.get("class") == "COLUMN_REF" and node["column_names"][-1].lower() in _CLOCKS:
        name = node["column_names"][-1].lower()
    else:
        return
    if name in _unsteady():
        raise CampaignError(
            f"calls {name}, which gives another answer each time: a night that is run again must "
            "choose the same users; `night()` is the day the night is about"
        )


def _name(function: dict[str, Any]) -> str:
    return str(function["function_name"]).lower()


@functools.cache
def _unsteady() -> set[str]:
    """Functions whose answer does not follow from the data alone."""
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE function_type = 'scalar' AND stability <> 'CONSISTENT'"
        ).fetchall()
    return {name for (name,) in found} | _CLOCKS


@contextmanager
def tonights_marts(
    paths: Paths, night: date, tables: set[str], ours: Sequence[str] = ()
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A locked connection that sees the marts of `night`, published or not.

    Of what lies in files beside the warehouse (`recommendations`, ...) only `tables` are read.
    `ours` are statements that run before it is locked.
    """
    with connect() as connection:
        connection.execute(f"SET temp_directory = {_literal(paths.home / 'spill')}")
        connection.execute(f"ATTACH {_literal(paths.warehouse)} AS warehouse (READ_ONLY)")
        connection.execute("CREATE SCHEMA marts")
        for (name,) in connection.execute(
            "SELECT table_name FROM information_schema.tables "
            "WHERE table_catalog = 'warehouse' AND table_schema = 'marts' ORDER BY 1"
        ).fetchall():
            connection.execute(f'CREATE VIEW marts."{name}" AS FROM warehouse.marts."{name}"')
        files = {
            "recommendations": paths.recommendations / f"{night}.parquet",
            "next_quarter": paths.recommendations / f"{night}.next_quarter.parquet",
            **{path.name.split(".")[1]: path for path in paths.predicted(night)},
        }
        for name in sorted(tables & files.keys()):
            if files[name].exists():  # copied: a view could not open the file once it is locked
                connection.execute(
                    f'CREATE TABLE marts."{name}" AS FROM read_parquet({_literal(files[name])})'
                )
        for name in sorted(tables & _LATER.keys()):
            connection.execute(f'CREATE TABLE IF NOT EXISTS marts."{name}" ({_LATER[name]})')
        for statement in ours:
            connection.execute(statement)
        lock(connection, night)
        yield connection


def lock(connection: duckdb.DuckDBPyConnection, night: date) -> None:
    """From now on no file is opened, and no setting can be changed; `night()` is the night."""
    connection.execute(f"CREATE TEMP MACRO night() AS DATE {_literal(night)}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def choose_users(connection: duckdb.DuckDBPyConnection, sql: str, into: str) -> None:
    """Insert the users a campaign wants into the table `into`: known ones, so never a guest.

    Raises CampaignError when the SELECT does not fit these marts.
    """
    try:
        connection.execute(f"CREATE OR REPLACE TEMP VIEW asked AS {sql}")
        given = {row[0] for row in connection.execute("DESCRIBE asked").fetchall()}
        if "user_id" not in given:
            raise CampaignError(
                f"gives no column user_id but {', '.join(sorted(given))}: SELECT user_id FROM ..."
            )
        connection.execute(
            f"INSERT INTO {into} SELECT DISTINCT user_id::VARCHAR FROM asked "
            "WHERE user_id::VARCHAR IN (SELECT user_id FROM marts.dim_users)"
        )
    except duckdb.Error as error:
        raise CampaignError(f"does not fit the marts: {_first_line(error)}") from error


def _first_line(error: duckdb.Error) -> str:
    said = [line for line in str(error).split("\n") if line.strip()]
    return " ".join(said[:2]) if len(said) > 1 and said[1].startswith(("Cand", "Did")) else said[0]


def _literal(value: date | Path) -> str:
    return "'" + str(value).replace("'", "''") + "'"
