"""The point-in-time join against an oracle in plain Python that looks at every pair of rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.types import Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.asof_offline_store import AsofDuckDBOfflineStore

START = datetime(2026, 3, 1)
USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
ITEM = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)


def moment(minutes: int) -> datetime:
    return START + timedelta(minutes=minutes)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    root = tmp_path_factory.mktemp("features")
    return FeatureStore(
        config=RepoConfig(
            project="test",
            registry=str(root / "registry.db"),
            provider="local",
            online_store={"type": "sqlite", "path": str(root / "online.db")},
            offline_store={
                "type": "feature_repo.asof_offline_store.AsofDuckDBOfflineStore",
                "root": str(root),
            },
        )
    )


def view(name: str, entity: Entity, feature: str, ttl: int, created: bool = False) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(minutes=ttl),
        schema=[Field(name=entity.join_key, dtype=String), Field(name=feature, dtype=Int64)],
        source=FileSource(
            name=name,
            path=f"{name}.parquet",
            timestamp_field="event_timestamp",
            created_timestamp_column="created" if created else "",
        ),
    )


def write(store: FeatureStore, name: str, key: str, feature: str, rows: list[tuple]) -> None:
    """Rows (key, minute, value[, minute of creation]) as the source of a view."""
    columns = {
        key: pa.array([row[0] for row in rows], pa.string()),
        "event_timestamp": pa.array([moment(row[1]) for row in rows], pa.timestamp("us")),
        feature: pa.array([row[2] for row in rows], pa.int64()),
        "created": pa.array([moment((row[3:] or row[1:])[0]) for row in rows], pa.timestamp("us")),
    }
    pq.write_table(pa.table(columns), Path(store.config.offline_store.root) / f"{name}.parquet")


def join(store: FeatureStore, views: list[FeatureView], rows: object, **more: bool) -> RetrievalJob:
    refs = [f"{view.name}:{field.name}" for view in views for field in view.features]
    return AsofDuckDBOfflineStore.get_historical_features(
        store.config, views, refs, rows, store.registry, store.project, **more
    )


def expected(rows: list[tuple], key: str | None, minute: int, ttl: int) -> int | None:
    """What a careful person would find by reading all feature rows."""
    known = [row for row in rows if row[0] == key and row[1] <= minute]
    last = max(known, key=lambda row: (row[1], row[-1]), default=None)
    return last[2] if last and (ttl == 0 or minute - last[1] <= ttl) else None


keys = st.sampled_from(["a", "b", "c"])
minutes = st.integers(0, 30)
values = st.one_of(st.none(), st.integers(-5, 5))
user_rows = st.lists(st.tuples(keys, minutes, values), max_size=25, unique_by=lambda r: r[:2])
item_rows = st.lists(
    st.tuples(keys, minutes, values, minutes), max_size=25, unique_by=lambda r: (r[0], r[1], r[3])
)
asked_rows = st.lists(
    st.tuples(st.one_of(keys, st.just("never seen"), st.none()), keys, minutes), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(user_rows, item_rows, asked_rows, st.integers(0, 12))
def test_every_row_once_in_order_and_right(
    store: FeatureStore, users: list, items: list, asked: list, ttl: int
) -> None:
    write(store, "users", "user_id", "visits", users)
    write(store, "items", "item_id", "sales", items)
    views = [
        view("users", USER, "visits", ttl),
        view("items", ITEM, "sales", 0, created=True),
    ]
    entities = pa.table(
        {
            "user_id": pa.array([row[0] for row in asked], pa.string()),
            "item_id": pa.array([row[1] for row in asked], pa.string()),
            "event_timestamp": pa.array([moment(row[2]) for row in asked], pa.timestamp("us")),
            "label": pa.array(range(len(asked)), pa.int64()),
        }
    )

    result = join(store, views, entities).to_arrow()

    assert result.select(entities.column_names).equals(entities)
    assert result["visits"].to_pylist() == [expected(users, u, t, ttl) for u, _, t in asked]
    assert result["sales"].to_pylist() == [expected(items, i, t, 0) for _, i, t in asked]


@settings(max_examples=40, deadline=None)
@given(user_rows, asked_rows)
def test_no_feature_is_later_than_its_label(store: FeatureStore, users: list, asked: list) -> None:
    """Each feature row holds its own minute, so what comes back says when it was known."""
    write(store, "users", "user_id", "minute", [(key, at, at) for key, at, _ in users])
    entities = pa.table(
        {
            "user_id": pa.array([row[0] for row in asked], pa.string()),
            "event_timestamp": pa.array([moment(row[2]) for row in asked], pa.timestamp("us")),
        }
    )

    known = join(store, [view("users", USER, "minute", 7)], entities).to_arrow()["minute"]

    for (_, _, at), minute in zip(asked, known.to_pylist(), strict=True):
        assert minute is None or at - 7 <= minute <= at


def test_time_to_live_includes_its_last_microsecond(store: FeatureStore) -> None:
    write(store, "users", "user_id", "visits", [("a", 0, 5)])
    last = moment(10)
    entities = pa.table(
        {"user_id": ["a"] * 3, "event_timestamp": [last, last + timedelta(microseconds=1), START]}
    )

    result = join(store, [view("users", USER, "visits", 10)], entities).to_arrow()

    assert result["visits"].to_pylist() == [5, None, 5]


@pytest.mark.parametrize(
    "stamps",
    [
        pd.Series([moment(1), moment(-1)]).astype("datetime64[ns]"),
        pd.Series([moment(1), moment(-1)]).dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
    ],
    ids=["nanoseconds", "another zone"],
)
def test_pandas_frames_of_any_timestamp(store: FeatureStore, stamps: pd.Series) -> None:
    write(store, "users", "user_id", "visits", [("a", 0, 5)])
    frame = pd.DataFrame({"user_id": ["a", "a"], "event_timestamp": stamps})

    result = join(store, [view("users", USER, "visits", 0)], frame).to_df()

    assert result["visits"].isna().tolist() == [False, True]
    assert result["event_timestamp"].tolist() == stamps.tolist()


def test_sql_as_entity_rows_and_full_names(store: FeatureStore) -> None:
    write(store, "users", "user_id", "visits", [("a", 0, 5)])
    rows = "SELECT 'a' AS user_id, TIMESTAMP '2026-03-02' AS event_timestamp"

    result = join(store, [view("users", USER, "visits", 0)], rows, full_feature_names=True)

    assert result.to_arrow()["users__visits"].to_pylist() == [5]


def test_a_view_joined_twice_under_other_keys(store: FeatureStore) -> None:
    write(store, "items", "item_id", "sales", [("a", 0, 1), ("b", 0, 2)])
    bought = view("items", ITEM, "sales", 0)
    seen = bought.with_name("seen").with_join_key_map({"item_id": "seen_id"})
    entities = pa.table({"item_id": ["a"], "seen_id": ["b"], "event_timestamp": [moment(1)]})

    job = AsofDuckDBOfflineStore.get_historical_features(
        store.config,
        [bought, seen],
        ["items:sales", "seen:sales"],
        entities,
        store.registry,
        "test",
        full_feature_names=True,
    )

    result = job.to_arrow().select(["items__sales", "seen__sales"]).to_pylist()
    assert result == [{"items__sales": 1, "seen__sales": 2}]


def test_missing_entity_column_is_named(store: FeatureStore) -> None:
    entities = pa.table({"id": ["a"], "event_timestamp": [START]})
    with pytest.raises(ValueError, match="lack user_id; they have id, event_timestamp"):
        join(store, [view("users", USER, "visits", 0)], entities)


def test_a_text_is_no_moment(store: FeatureStore) -> None:
    entities = pa.table({"user_id": ["a"], "event_timestamp": ["2026-03-01"]})
    with pytest.raises(ValueError, match="event_timestamp of the entity rows is string"):
        join(store, [view("users", USER, "visits", 0)], entities)


def test_latest_and_all_rows_between_two_moments(store: FeatureStore) -> None:
    rows = [("a", 0, 1, 0), ("a", 5, 2, 5), ("a", 5, 3, 6), ("a", 9, 4, 9), ("b", 1, 5, 1)]
    write(store, "items", "item_id", "sales", rows)
    arguments = {
        "config": store.config,
        "data_source": view("items", ITEM, "sales", 0, created=True).batch_source,
        "join_key_columns": ["item_id"],
        "feature_name_columns": ["sales"],
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": "created",
        "start_date": moment(1).replace(tzinfo=UTC),
        "end_date": moment(5).replace(tzinfo=UTC),
    }

    latest = AsofDuckDBOfflineStore.pull_latest_from_table_or_query(**arguments).to_arrow()
    every = AsofDuckDBOfflineStore.pull_all_from_table_or_query(**arguments).to_arrow()

    assert latest.select(["item_id", "sales"]).to_pydict() == {
        "item_id": ["a", "b"],
        "sales": [3, 5],
    }
    assert every["sales"].to_pylist() == [2, 3, 5]


def test_a_saved_result_is_not_overwritten_unasked(store: FeatureStore, tmp_path: Path) -> None:
    write(store, "users", "user_id", "visits", [("a", 0, 5)])
    entities = pa.table({"user_id": ["a"], "event_timestamp": [moment(1)]})
    job = join(store, [view("users", USER, "visits", 0)], entities)
    storage = SavedDatasetFileStorage(path=str(tmp_path / "saved.parquet"))

    job.persist(storage)

    assert pq.read_table(tmp_path / "saved.parquet")["visits"].to_pylist() == [5]
    with pytest.raises(Exception, match="already exists"):
        job.persist(storage)
