"""Bringing features online and reading them, on SQLite and on Redis, through `feature_repo.store`.

The features are those of `user_state_v1`. `store.online` opens the store for each read and judges
freshness; Feast alone is what a process pays that keeps the store open and does neither.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.lib.page import table
from core.paths import Paths

NIGHT = date(2026, 3, 1)
SERVICE, VIEW = "user_state_v1", "user_behaviour_v1"
SEED = 7


def online_table(folder: Path, users: int, reads: int) -> str:
    """A row a profile and size of read: seconds to bring `users` online, p50 and p99 of a read."""
    rows = []
    for store_name, settings in _profiles().items():
        with _environment({**settings, "PERENNIAL_VAR": str(folder / store_name)}):
            paths = Paths("benchmark")
            _write_features(paths, users)
            wrote = _bring_online(paths)
            for at_once, count in ((1, reads), (100, max(reads // 5, 1))):
                for name, read in _readers(paths).items():
                    ms = _times(read, users, at_once, count)
                    figures = [f"{np.percentile(ms, p):.2f}" for p in (50, 99)]
                    rows.append([f"{store_name}, {name}", f"{wrote:.1f}", f"{at_once}", *figures])
    head = ["", f"{users:,} users online, s", "users in one read", "p50 ms", "p99 ms"]
    return table(head, rows)


def _profiles() -> dict[str, dict[str, str]]:
    """The environment of each; Redis and PostgreSQL are the ones that are set, or none."""
    profiles = {"SQLite": {"PERENNIAL_PROFILE": "embedded"}}
    if os.environ.get("PERENNIAL_REDIS") and os.environ.get("PERENNIAL_POSTGRES_URL"):
        profiles["Redis"] = {"PERENNIAL_PROFILE": "team"}
    return profiles


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _write_features(paths: Paths, users: int) -> None:
    """One snapshot of random numbers, one in ten unknown; every other view is empty."""
    from feast.types import from_feast_to_pyarrow_type

    from feature_repo import definitions, store

    rng = np.random.default_rng(SEED)
    for view in definitions.VIEWS:
        rows = users if view.name == VIEW else 0
        moment = store.night_end(NIGHT).replace(tzinfo=None)
        columns = {
            view.join_keys[0]: pa.array([f"user-{n}" for n in range(rows)], pa.string()),
            "event_timestamp": pa.array([moment] * rows, pa.timestamp("us")),
        }
        for field in view.features:
            type_ = from_feast_to_pyarrow_type(field.dtype)
            numbers = pa.array(rng.integers(0, 1000, rows), mask=rng.random(rows) < 0.1)
            columns[field.name] = numbers.cast(type_) if rows else pa.array([], type_)
        path = paths.features / view.name / f"{NIGHT}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), path)


def _bring_online(paths: Paths) -> float:
    from feature_repo import store

    store.apply(paths.shop, paths)
    began = time.perf_counter()
    store.materialize(paths, NIGHT)
    return time.perf_counter() - began


def _readers(paths: Paths) -> dict[str, Callable[[list[str]], object]]:
    from feature_repo import store

    feast = store.open_store(paths)
    service = feast.get_feature_service(SERVICE)
    return {
        "store.online": lambda ids: store.online(paths, SERVICE, {"user_id": ids}),
        "Feast alone": lambda ids: feast.get_online_features(service, {"user_id": ids}),
    }


def _times(
    read: Callable[[list[str]], object], users: int, at_once: int, reads: int
) -> list[float]:
    """Milliseconds of each read of `at_once` random users."""
    rng = np.random.default_rng(SEED)
    ms = []
    for number in range(reads + 5):
        ids = [f"user-{user}" for user in rng.integers(0, users, at_once)]
        began = time.perf_counter()
        read(ids)
        if number >= 5:  # the first reads open connections and fill the caches
            ms.append(1000 * (time.perf_counter() - began))
    return ms
