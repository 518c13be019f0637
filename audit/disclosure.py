"""What of the warehouse an analyst may see: no raw id of a person or a visit, no free text.

Order, event and item ids are published as they are: they are the shop's names of things, and an
order that cannot be looked up in the shop is of no use. The texts of items are the catalogue's own.
"""

from __future__ import annotations

from datetime import date

import duckdb

from audit.catalogue import DAY_OF
from core.paths import Paths
from ingest.pseudonym import load_key, pseudonym

# What people typed may name anybody (a search, a review, a message), and `properties` holds
# whatever else the shop sent. A column of one of these names leaves no mart.
FREE_TEXT = ("query", "properties", "text")

# A guest has no pseudonym: these keys are made of the shop's own session or order id, plainly or by
# a hash that anybody can repeat who guesses the id.
_GUEST_KEYS = ("visitor_key", "session_key")

_PSEUDONYM = "[0-9a-f]{32}"


def prepare(connection: duckdb.DuckDBPyConnection, paths: Paths) -> None:
    """Give the connection what hides a guest's keys: a value made of the shop's secret key."""
    salt = pseudonym(load_key(paths), "keys of guests in the published marts")
    connection.execute("SET VARIABLE guest_salt = $1", [salt])


def shown(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    """The columns of `source` that are published, by name, each with its SQL expression."""
    there = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    names = [name for name, *_ in there if name not in FREE_TEXT]
    return {
        name: _hidden(name) if name in _GUEST_KEYS and "user_id" in names else f'"{name}"'
        for name in names
    }


def _hidden(name: str) -> str:
    """A shopper's key as it is; a guest's as a hash that only the shop's key can repeat."""
    return (
        f'CASE WHEN user_id IS NOT NULL THEN "{name}" '
        f"ELSE left(sha256(getvariable('guest_salt') || \"{name}\"), 32) END"
    )


def raw_ids(connection: duckdb.DuckDBPyConnection, database: str, since: date) -> list[str]:
    """The tables of `database` with a user id that is no pseudonym, in what was written tonight.

    Of tables that grow by the day those are the rows from `since` on.
    """
    tables = connection.execute(
        "SELECT table_name FROM duckdb_columns() "
        "WHERE database_name = $1 AND column_name = 'user_id' ORDER BY 1",
        [database],
    ).fetchall()
    return [
        name
        for (name,) in tables
        if connection.execute(
            f'SELECT 1 FROM {database}."{name}" '
            f"WHERE NOT regexp_full_match(user_id, '{_PSEUDONYM}')"
            + (f" AND {DAY_OF[name]} >= DATE '{since}'" if name in DAY_OF else "")
            + " LIMIT 1"
        ).fetchall()
    ]
