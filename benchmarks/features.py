"""How long does a point-in-time join take, and is it right?

Our offline store and Feast's own DuckDB store, both through Feast's public API, over the same
parquet and the same entity rows; the floor is the ASOF JOIN that a person would write by hand. The
answers are compared row by row before anything is timed, and the three take turns, so that a busy
machine slows all of them. Then: how long one read from the online store takes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib.page import publish, quiet, table
from core.duck import connect

if TYPE_CHECKING:
    from feast import FeatureStore

SEED = 7
START = datetime(2024, 1, 1)
FEATURES = [f"f{number}" for number in range(12)]
REFS = [f"snapshots:{name}" for name in FEATURES]
OURS = {"type": "feature_repo.asof_offline_store.AsofDuckDBOfflineStore"}
STOCK = {"type": "duckdb"}
FLOOR_NAME, OURS_NAME, STOCK_NAME = "ASOF JOIN by hand (floor)", "our store", "Feast's DuckDB store"


@dataclass(frozen=True)
class History:
    """One row of features a user and week; `ttl` zero means that a row holds until the next."""

    users: int
    weeks: int
    ttl: timedelta

    def __str__(self) -> str:
        ttl = f"time to live {self.ttl.days} days" if self.ttl else "no time to live"
        return f"{self.users:,} users x {self.weeks} weeks, {ttl}"


def write_features(path: Path, history: History) -> None:
    """The history as parquet, laid out as `feature_repo.store.export` does it."""
    rng = np.random.default_rng(SEED)
    rows = history.users * history.weeks
    week = np.tile(np.arange(history.weeks), history.users)
    rows_by_user = {
        "number": np.repeat(np.arange(history.users), history.weeks),
        "event_timestamp": np.datetime64(START, "us") + week * np.timedelta64(7, "D"),
        **{name: rng.normal(size=rows) for name in FEATURES},
    }
    with connect() as duck:
        duck.register("history", pa.table(rows_by_user))
        duck.execute(
            "COPY (SELECT 'user-' || number AS user_id, * EXCLUDE (number) FROM history "
            f"ORDER BY user_id, event_timestamp) TO '{path}' (FORMAT parquet, COMPRESSION zstd)"
        )


def entity_rows(history: History, count: int) -> pd.DataFrame:
    """Users at random moments, from a week before the first features to a month after the last.

    One row in a hundred asks for a user without features, and one in a hundred repeats another
    row's user and moment, as two lines of one order would. `row` numbers them.
    """
    rng = np.random.default_rng(SEED + 1)
    span = timedelta(weeks=history.weeks + 5) // timedelta(microseconds=1)
    moment = np.datetime64(START, "us") - np.timedelta64(7, "D") + rng.integers(0, span, count)
    user = rng.integers(0, history.users, count)
    user[rng.random(count) < 0.01] = history.users
    repeated = np.flatnonzero(rng.random(count - 1) < 0.01)
    user[repeated + 1], moment[repeated + 1] = user[repeated], moment[repeated]
    frame = pd.DataFrame({"row": np.arange(count), "event_timestamp": moment})
    frame["user_id"] = [f"user-{number}" for number in user]
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_localize("UTC")
    return frame


def feast_store(folder: Path, offline: dict[str, str], path: Path, ttl: timedelta) -> FeatureStore:
    """A Feast project of one feature view over the file at `path`."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64, String

    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name="snapshots",
        entities=[user],
        ttl=ttl,
        schema=[
            Field(name="user_id", dtype=String),
            *(Field(name=name, dtype=Float64) for name in FEATURES),
        ],
        source=FileSource(name="snapshots", path=str(path), timestamp_field="event_timestamp"),
    )
    folder.mkdir()
    store = FeatureStore(
        config=RepoConfig(
            project="benchmark",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store=offline,
            entity_key_serialization_version=3,
        )
    )
    with contextlib.redirect_stdout(io.StringIO()):
        store.apply([user, view])
    return store


def through_feast(store: FeatureStore, entities: pd.DataFrame) -> pa.Table:
    """What a user of Feast writes."""
    return store.get_historical_features(entities.copy(), REFS).to_arrow()


def by_hand(path: Path, entities: pd.DataFrame, ttl: timedelta) -> pa.Table:
    """What a user of DuckDB writes: no store, no registry, rows in any order."""
    seconds = int(ttl.total_seconds())
    fresh = f"asked.moment - f.event_timestamp <= INTERVAL {seconds} SECOND" if ttl else "true"
    columns = ", ".join(f"CASE WHEN {fresh} THEN f.{name} END AS {name}" for name in FEATURES)
    with connect() as duck:
        duck.register("entities", entities)
        return duck.sql(
            f"""SELECT asked.*, {columns}
            FROM (SELECT *, CAST(event_timestamp AS TIMESTAMP) AS moment FROM entities) AS asked
            ASOF LEFT JOIN read_parquet('{path}') AS f
              ON f.user_id = asked.user_id AND asked.moment >= f.event_timestamp"""
        ).to_arrow_table()


def verdict(expected: pa.Table, found: pa.Table) -> str:
    """Whether two answers hold the same rows, and if not by how many they differ."""
    columns = ["row", *FEATURES]
    with connect() as duck:
        duck.register("expected", expected.select(columns))
        duck.register("found", found.select(columns))
        lost, extra = duck.sql(
            """SELECT (SELECT count(*) FROM (FROM expected EXCEPT ALL FROM found)),
                      (SELECT count(*) FROM (FROM found EXCEPT ALL FROM expected))"""
        ).fetchall()[0]
    if lost or extra:
        return f"{lost:,} rows lost or different, {extra:,} in their place"
    return f"all {expected.num_rows:,} equal"


def take_turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` times round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def joins(folder: Path, history: History, count: int, repeats: int) -> str:
    """The table of one history: who took how long, and who was right."""
    folder.mkdir()
    path, entities = folder / "snapshots.parquet", entity_rows(history, count)
    write_features(path, history)
    ours = feast_store(folder / "ours", OURS, path, history.ttl)
    stock = feast_store(folder / "stock", STOCK, path, history.ttl)
    calls: dict[str, Callable[[], pa.Table]] = {
        FLOOR_NAME: lambda: by_hand(path, entities, history.ttl),
        OURS_NAME: lambda: through_feast(ours, entities),
        STOCK_NAME: lambda: through_feast(stock, entities),
    }
    answers = {name: call() for name, call in calls.items()}
    seconds = take_turns(dict(calls), repeats)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    known = 1 - answers[FLOOR_NAME]["f0"].null_count / count
    head = ["", "median s", "range", "x floor", "x Feast's", "rows against the floor"]
    return f"**{history}** ({known:.0%} of the entity rows find features)\n\n" + table(
        head,
        [
            [
                name,
                f"{middle[name]:.2f}",
                f"{min(each):.2f}-{max(each):.2f}",
                f"{middle[name] / middle[FLOOR_NAME]:.1f}",
                f"{middle[name] / middle[STOCK_NAME]:.2f}",
                "-" if name == FLOOR_NAME else verdict(answers[FLOOR_NAME], answers[name]),
            ]
            for name, each in seconds.items()
        ],
    )


def online(folder: Path, users: int) -> str:
    """The table of reads from the SQLite online store."""
    folder.mkdir()
    path = folder / "snapshots.parquet"
    write_features(path, History(users, 1, timedelta()))
    store = feast_store(folder / "store", OURS, path, timedelta())
    with contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter()
        store.materialize(START.replace(tzinfo=UTC), START.replace(tzinfo=UTC) + timedelta(days=1))
        wrote = time.perf_counter() - began
    rows = []
    for at_once, reads in ((1, 1000), (100, 200)):
        ms = read_times(store, users, at_once, reads)
        rows.append(
            [f"{at_once}", f"{reads:,}", *(f"{np.percentile(ms, p):.2f}" for p in (50, 99))]
        )
    return (
        f"**Online store** (SQLite, {users:,} users, {len(FEATURES)} features, through Feast; "
        f"bringing them online took {wrote:.1f} s)\n\n"
        + table(["users in one read", "reads", "p50 ms", "p99 ms"], rows)
    )


def read_times(store: FeatureStore, users: int, at_once: int, reads: int) -> list[float]:
    """Milliseconds of each read of `at_once` random users; every user must be found."""
    rng = np.random.default_rng(SEED)
    ms = []
    for number in range(reads + 10):
        chosen = [{"user_id": f"user-{user}"} for user in rng.integers(0, users, at_once)]
        began = time.perf_counter()
        answer: Any = store.get_online_features(REFS, chosen)
        took = 1000 * (time.perf_counter() - began)
        if None in answer.to_dict()["f0"]:
            raise RuntimeError("the online store does not know a user that was brought online")
        if number >= 10:  # the first reads open the file and fill the caches
            ms.append(took)
    return ms


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=1_000_000, help="feature rows")
    parser.add_argument("--entities", type=int, default=100_000, help="entity rows")
    parser.add_argument("--online-users", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    wide = History(asked.features // 10, 10, timedelta(days=14))
    deep = History(asked.features // 100, 100, timedelta())
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as temporary:
        folder = Path(temporary)
        parts = [
            f"Feature rows: {asked.features:,} of {len(FEATURES)} numbers; entity rows: "
            f"{asked.entities:,}. Each took {asked.repeats} turns after one that was not timed and "
            "whose answer was compared with the floor's, row by row.",
            joins(folder / "wide", wide, asked.entities, asked.repeats),
            joins(folder / "deep", deep, asked.entities, asked.repeats),
            online(folder / "online", asked.online_users),
        ]
    publish("Point-in-time join", parts, ["duckdb", "feast", "ibis-framework"], asked.write)


if __name__ == "__main__":
    main()
