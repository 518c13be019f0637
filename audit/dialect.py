"""How Great Expectations reaches DuckDB: a SQLAlchemy dialect that reads in autocommit.

Great Expectations hands a connection back before it fetches, and the rollback that follows throws
DuckDB's pending result away. The audit only reads, so there is nothing to roll back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from duckdb_engine import Dialect
from sqlalchemy.dialects import registry

URL = "duckdb+audit:///:memory:"


class AuditDialect(Dialect):
    """DuckDB without transactions; every connection first runs the statements in `setup`."""

    supports_statement_cache = False

    def connect(self, *args: Any, setup: Sequence[str] = (), **kwargs: Any) -> Any:
        """A new connection in which `setup` (ATTACH, CREATE VIEW, SET) has been run."""
        connection = super().connect(*args, **kwargs)
        for statement in setup:
            connection.execute(statement)
        return connection

    def do_begin(self, connection: Any) -> None:
        """Nothing: the audit reads in autocommit."""

    def do_commit(self, connection: Any) -> None:
        """Nothing: the audit reads in autocommit."""

    def do_rollback(self, connection: Any) -> None:
        """Nothing: a rollback would drop the result that is about to be fetched."""


registry.register("duckdb.audit", __name__, AuditDialect.__name__)
