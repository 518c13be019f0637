"""All that a night leaves behind, as digests: what two equal nights have in common."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

import duckdb
import pytest
from dagster import DagsterInstance

from tests.faults.tiny import Nights

# told by their content below, or no state of a night: dbt's own logs, the lock, the keys
_APART = ("raw/", "feast/", "mlflow/", "dbt/", "secrets/", ".lock")
# what a run did, or when, beside what there is now
_OF_THE_RUN = {"landing.json": ("touched_days", "changed_files"), "audited.json": ("published",)}


def state(nights: Nights) -> dict[str, str]:
    """A digest of every file by its name, and of the content of every database's tables.

    A leftover such as `marts.duckdb.next` is a file like any other, and so a difference.
    """
    found = {}
    for file in sorted(nights.home.rglob("*")):
        name = file.relative_to(nights.home).as_posix()
        if file.is_dir() or name.startswith(_APART):
            continue
        found |= _tables(file, name) if file.suffix == ".duckdb" else {name: _digest(file)}
    return found | _online(nights.home / "feast") | _trainings(nights.home / "mlflow" / "mlflow.db")


def _digest(file: Path) -> str:
    content = file.read_bytes()
    if file.name in _OF_THE_RUN and "audit/" not in file.as_posix():
        record = json.loads(content)
        for key in _OF_THE_RUN[file.name]:
            record.pop(key, None)
        content = json.dumps(record).encode()
    return hashlib.sha256(content).hexdigest()


def _tables(file: Path, name: str) -> dict[str, str]:
    with duckdb.connect(str(file), read_only=True) as connection:
        tables = connection.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() ORDER BY ALL"
        ).fetchall()
        return {
            f"{name}: {table}": str(
                connection.execute(
                    f'SELECT count(*), sum(hash(t)::HUGEINT) FROM {schema}."{table}" AS t'
                ).fetchall()
            )
            for schema, table in tables
        }


def _online(feast: Path) -> dict[str, str]:
    """What is served online, but for the clock time at which it was written."""
    (file,) = feast.glob("online*.db")
    with sqlite3.connect(file) as connection:
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            f"online.{table}": hashlib.sha256(
                repr(
                    connection.execute(
                        f'SELECT entity_key, feature_name, value, event_ts FROM "{table}" '
                        "ORDER BY 1, 2"
                    ).fetchall()
                ).encode()
            ).hexdigest()
            for table in sorted(tables)
        }


def _trainings(file: Path) -> dict[str, str]:
    """Finished trainings on record: one for each model, however often a night was run."""
    with sqlite3.connect(file) as connection:
        return {
            f"mlflow.{name}": str(count)
            for name, count in connection.execute(
                "SELECT name, count(*) FROM runs WHERE status = 'FINISHED' GROUP BY name"
            )
        }


def runs(nights: Nights) -> dict[str, str]:
    """Dagster's runs by id and status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(nights.var / "dagster"))
        with DagsterInstance.get() as instance:
            return {run.run_id: run.status.value for run in instance.get_runs()}
