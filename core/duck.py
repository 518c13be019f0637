"""One way to open DuckDB: bounded memory, UTC, no downloads, closed whatever happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb


def settings() -> dict[str, Any]:
    """DuckDB settings from the environment.

    `PERENNIAL_MEMORY` (default 2GB) bounds DuckDB's buffers, beyond which it spills to disk;
    `PERENNIAL_THREADS` (default: all cores).
    """
    return {
        "memory_limit": os.environ.get("PERENNIAL_MEMORY", "2GB"),
        "threads": int(os.environ.get("PERENNIAL_THREADS", os.cpu_count() or 1)),
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }


@contextmanager
def connect(
    path: Path | None = None, *, read_only: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a file (or memory), with the session in UTC."""
    connection = duckdb.connect(str(path or ":memory:"), read_only=read_only, config=settings())
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()
