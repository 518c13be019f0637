"""How Great Expectations reaches DuckDB: a dialect that reads in autocommit, and one expectation.

Great Expectations hands a connection back before it fetches, and the rollback that follows throws
DuckDB's pending result away. The audit only reads, so there is nothing to roll back.
Slow to import (Great Expectations takes seconds): import it inside a function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from duckdb_engine import Dialect
from great_expectations.expectations import UnexpectedRowsExpectation
from sqlalchemy.dialects import registry

URL = "duckdb+audit:///:memory:"
_opened: list[Any] = []


@contextmanager
def closing() -> Iterator[None]:
    """Close every connection that was opened meanwhile.

    Great Expectations holds on to its engines, and an open connection keeps the next step of the
    same process from writing to the files that it attached.
    """
    try:
        yield
    finally:
        while _opened:
            _opened.pop().close()


class AuditDialect(Dialect):
    """DuckDB without transactions; every connection first runs the statements in `setup`."""

    supports_statement_cache = False

    def connect(self, *args: Any, setup: Sequence[str] = (), **kwargs: Any) -> Any:
        """A new connection in which `setup` (ATTACH, CREATE VIEW, SET) has been run."""
        connection = super().connect(*args, **kwargs)
        _opened.append(connection)
        for statement in setup:
            connection.execute(statement)
        return connection

    def do_begin(self, connection: Any) -> None:
        """Nothing: the audit reads in autocommit."""

    def do_commit(self, connection: Any) -> None:
        """Nothing: the audit reads in autocommit."""

    def do_rollback(self, connection: Any) -> None:
        """Nothing: a rollback would drop the result that is about to be fetched."""


class ExpectNoRows(UnexpectedRowsExpectation):
    """The query returns no row; it is run once, to count, where its parent also fetches rows."""

    metric_dependencies = ("unexpected_rows_query.row_count",)

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        rows = metrics["unexpected_rows_query.row_count"]
        return {"success": rows == 0, "result": {"observed_value": rows}}


registry.register("duckdb.audit", __name__, AuditDialect.__name__)
