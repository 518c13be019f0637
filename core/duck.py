"""One way to open DuckDB: bounded memory, UTC, no downloads, closed whatever happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

ENCRYPTION_KEY = "PERENNIAL_ENCRYPTION_KEY"


class EncryptionError(RuntimeError):
    """Encryption is asked for and cannot be had here; nothing was written in its place."""


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
    connection = _open(path, read_only)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


def _open(path: Path | None, read_only: bool) -> duckdb.DuckDBPyConnection:
    try:
        return duckdb.connect(str(path or ":memory:"), read_only=read_only, config=settings())
    except duckdb.CatalogException:  # the file is encrypted
        key = os.environ.get(ENCRYPTION_KEY)
        if path is None or not key:
            raise
    connection = duckdb.connect(config=settings())
    try:
        # the name that DuckDB gives a file it opens by itself
        name = f'"{path.stem}"'
        connection.execute(
            f"ATTACH '{path}' AS {name} (READ_ONLY, ENCRYPTION_KEY $key)", {"key": key}
        )
        connection.execute(f"USE {name}")
    except duckdb.Error:
        connection.close()
        raise
    return connection


def attach_to_write(connection: duckdb.DuckDBPyConnection, file: Path, name: str) -> None:
    """Open a database file to write in, encrypted when `PERENNIAL_ENCRYPTION_KEY` is set.

    Raises EncryptionError where this DuckDB cannot write encrypted files; no plain one is written.
    """
    key = os.environ.get(ENCRYPTION_KEY)
    if not key:
        connection.execute(f"ATTACH '{file}' AS {name}")
        return
    with suppress(duckdb.Error):  # its OpenSSL is what DuckDB encrypts with
        connection.execute("LOAD httpfs")
    try:
        connection.execute(f"ATTACH '{file}' AS {name} (ENCRYPTION_KEY $key)", {"key": key})
    except duckdb.Error as error:
        raise EncryptionError(
            f"{ENCRYPTION_KEY} is set, but DuckDB {duckdb.__version__} writes encrypted files only "
            "with its httpfs extension, which is not installed here: run INSTALL httpfs in DuckDB "
            "where its extensions can be downloaded, or unset the variable and keep var/ on an "
            "encrypted volume (docs/backup.md)"
        ) from error


def check_encryption() -> None:
    """Raises EncryptionError before a night has begun rather than when it is to be published."""
    if os.environ.get(ENCRYPTION_KEY):
        with TemporaryDirectory() as folder, connect() as connection:
            attach_to_write(connection, Path(folder) / "probe.duckdb", "probe")


def is_encrypted(file: Path) -> bool:
    """Whether a database file cannot be opened without a key."""
    try:
        duckdb.connect(str(file), read_only=True, config=settings()).close()
    except duckdb.CatalogException:
        return True
    return False
