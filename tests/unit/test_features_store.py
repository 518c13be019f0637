"""Export, registry, training sets and online reads of a small shop, end to end but for dbt.

Whatever touches registry or online store runs on both profiles: SQLite, and real servers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from feast.types import from_feast_to_pyarrow_type

from core.paths import Paths
from core.shop import ROOT
from feature_repo import FeatureError, definitions, store

NIGHT = date(2026, 3, 4)
SNAPSHOTS = [date(2026, 2, 8), date(2026, 3, 1), NIGHT]
USERS, ITEMS = 60, 25
MODELS = ROOT / "dbt_project" / "models" / "features"
VIEWS = {
    "user_behaviour_v1": ("u", USERS),
    "user_purchases_v1": ("u", USERS),
    "item_stats_v1": ("i", ITEMS),
}


def columns(view: str) -> list[dict[str, str]]:
    model = yaml.safe_load((MODELS / f"{view}.yml").read_text())["models"][0]
    return list(model["columns"])


def build_warehouse(path: Path, snapshots: list[date], seed: int = 7) -> None:
    """Feature tables in the columns of the dbt contract, every value random, one in five NULL."""
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(path)) as duck:
        duck.execute("CREATE SCHEMA IF NOT EXISTS features")
        for view, (letter, entities) in VIEWS.items():
            rows = entities * len(snapshots)
            table = {}
            for column in columns(view):
                if column["name"].endswith("_id"):
                    table[column["name"]] = [f"{letter}{n}" for n in range(entities)] * len(
                        snapshots
                    )
                elif column["name"] == "event_timestamp":
                    table[column["name"]] = pa.array(
                        [
                            store.night_end(day).replace(tzinfo=None)
                            for day in snapshots
                            for _ in range(entities)
                        ],
                        pa.timestamp("us"),
                    )
                elif column["name"] == "tenure_days":
                    table[column["name"]] = random.integers(1, definitions.ONLINE_DAYS, rows)
                elif column["data_type"] == "bigint":
                    table[column["name"]] = random.integers(-(2**40), 2**40, rows)
                else:
                    values = random.normal(size=rows)
                    table[column["name"]] = pa.array(values, mask=random.random(rows) < 0.2)
            duck.register("made", pa.table(table))
            duck.execute(f"CREATE OR REPLACE TABLE features.{view} AS FROM made")


def write_embeddings(paths: Paths, changed: datetime) -> None:
    """Two versions of every item's text; the second holds since `changed`."""
    random = np.random.default_rng(8)
    vectors = random.normal(size=(2 * ITEMS, 384)).astype(np.float32)
    path = paths.features / "item_text_embedding_minilm_v1" / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "item_id": [f"i{n}" for n in range(ITEMS)] * 2,
        "event_timestamp": pa.array(
            [datetime(2025, 1, 1)] * ITEMS + [changed] * ITEMS, pa.timestamp("us")
        ),
        "text_hash": ["old"] * ITEMS + ["new"] * ITEMS,
        "embedding": pa.array(list(vectors), pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(table), path)


def settings(profile: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a profile in which nothing was applied yet."""
    if profile == "embedded":
        return {"PERENNIAL_PROFILE": "embedded"}
    return request.getfixturevalue("team_servers").fresh()


@pytest.fixture(params=["embedded", "team"])
def new(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A shop without a night, on either profile."""
    for name, value in settings(request.param, request).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    return Paths("tiny")


@pytest.fixture(scope="module", params=["embedded", "team"])
def paths(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Paths]:
    """A shop whose night was exported, applied and brought online."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings(request.param, request).items():
            patch.setenv(name, value)
        patch.setenv("PERENNIAL_VAR", str(tmp_path_factory.mktemp("var")))
        shop = Paths("tiny")
        build_warehouse(shop.warehouse, SNAPSHOTS)
        write_embeddings(shop, changed=datetime(2026, 3, 1, 12))
        store.export(shop, NIGHT)
        store.apply("tiny", shop)
        store.materialize(shop, NIGHT)
        yield shop


def entities(key: str, ids: list[str], at: datetime) -> pa.Table:
    stamps = pa.array([at] * len(ids), pa.timestamp("us", "UTC"))
    return pa.table({key: ids, "event_timestamp": stamps})


@pytest.mark.parametrize(
    ("service", "key", "ids"),
    [
        ("user_state_v1", "user_id", [f"u{n}" for n in range(USERS)]),
        ("recommender_v1", "item_id", [f"i{n}" for n in range(ITEMS)]),
    ],
)
def test_offline_equals_online_value_by_value(
    paths: Paths, service: str, key: str, ids: list[str]
) -> None:
    asked = [*reversed(ids), "never seen", ids[3], ids[3]]

    offline = store.training_set(paths, service, entities(key, asked, store.night_end(NIGHT)))
    online = store.online(paths, service, {key: asked})

    assert online.equals(offline.drop_columns(["event_timestamp"]).combine_chunks())
    unknown = online.slice(len(ids), 1).drop_columns([key])
    assert unknown.to_pylist() == [dict.fromkeys(unknown.column_names)]
    for name in online.column_names:
        assert online.slice(0, len(ids))[name].null_count < len(ids), f"nothing known of {name}"


def test_time_to_live_online(paths: Paths) -> None:
    """A night's features are served for the two weeks of their TTL, and no moment before."""
    known = store.night_end(NIGHT)
    served = [
        (known - timedelta(seconds=1), False),
        (known, True),
        (known + definitions.SNAPSHOT_TTL, True),
        (known + definitions.SNAPSHOT_TTL + timedelta(seconds=1), False),
    ]
    for at, expected in served:
        row = store.online(paths, "user_state_v1", {"user_id": ["u1"]}, at)
        assert (row["tenure_days"][0].as_py() is not None) is expected, at
    year_later = store.online(
        paths, "recommender_v1", {"item_id": ["i1"]}, known + timedelta(days=365)
    )
    assert len(year_later["embedding"][0]) == 384, "a text holds until it changes"
    assert year_later["price"].null_count == year_later["views_7d"].null_count == 1


def test_a_text_version_holds_from_its_own_moment(paths: Paths) -> None:
    rows = [datetime(2024, 12, 31), datetime(2026, 3, 1, 11, 59), datetime(2026, 3, 1, 12)]
    asked = pa.table({"item_id": ["i0"] * 3, "event_timestamp": rows})
    stored = pq.read_table(paths.features / "item_text_embedding_minilm_v1" / "part.parquet")

    found = store.training_set(paths, "recommender_v1", asked)["embedding"].to_pylist()

    assert found == [None, stored["embedding"][0].as_py(), stored["embedding"][ITEMS].as_py()]


def test_who_was_not_seen_for_a_year_is_not_brought_online(new: Paths) -> None:
    days = definitions.ONLINE_DAYS
    build_warehouse(new.warehouse, SNAPSHOTS)
    write_embeddings(new, changed=datetime(2026, 3, 1, 12))
    with duckdb.connect(str(new.warehouse)) as duck:
        duck.execute(
            f"""
            UPDATE features.user_behaviour_v1 SET tenure_days = 2 * {days}, days_since_last_event =
                CASE user_id WHEN 'u0' THEN {days} WHEN 'u1' THEN {days} + 1 WHEN 'u3' THEN 1 END
            WHERE user_id IN ('u0', 'u1', 'u2', 'u3')
            """
        )
        # u3 was away for long and came back
        duck.execute(
            f"""
            UPDATE features.user_behaviour_v1 SET days_since_last_event = {days} + 1
            WHERE user_id = 'u3' AND event_timestamp < ?
            """,
            [store.night_end(NIGHT).replace(tzinfo=None)],
        )
    store.export(new, NIGHT)
    store.apply("tiny", new)
    assert store.materialize(new, NIGHT)["user_behaviour_v1"] == USERS - 2
    asked = {"user_id": ["u0", "u1", "u2", "u3"]}
    read = store.online(new, "user_state_v1", asked)["tenure_days"].to_pylist()
    assert read == [2 * days, None, None, 2 * days]
    night = entities("user_id", asked["user_id"], store.night_end(NIGHT))
    known = store.training_set(new, "user_state_v1", night)
    assert known["tenure_days"].to_pylist() == [2 * days] * 4


def test_unknown_service_lists_those_that_are_there(paths: Paths) -> None:
    with pytest.raises(FeatureError, match=r"'nope'.*there are: recommender_v1, user_state_v1"):
        store.training_set(paths, "nope", entities("item_id", ["i0"], store.night_end(NIGHT)))
    with pytest.raises(FeatureError, match="there are: recommender_v1, user_state_v1"):
        store.online(paths, "nope", {"item_id": ["i0"]})


def test_online_wants_the_keys_of_the_service(paths: Paths) -> None:
    with pytest.raises(FeatureError, match="user_state_v1 wants as many values each of: user_id"):
        store.online(paths, "user_state_v1", {"item_id": ["i0"]})
    assert store.online(paths, "user_state_v1", {"user_id": []}).num_rows == 0


def test_before_the_first_night_it_says_what_to_do(new: Paths) -> None:
    store_of_new = entities("user_id", ["u0"], store.night_end(NIGHT))
    with pytest.raises(FeatureError, match="call apply first"):
        store.training_set(new, "user_state_v1", store_of_new)
    store.apply("tiny", new)
    with pytest.raises(FeatureError, match="call materialize first"):
        store.online(new, "user_state_v1", {"user_id": ["u0"]})


def test_a_night_again_changes_no_byte_and_an_older_one_is_served(new: Paths) -> None:
    build_warehouse(new.warehouse, SNAPSHOTS)
    write_embeddings(new, changed=datetime(2026, 3, 1, 12))
    file = new.features / "user_behaviour_v1" / f"{NIGHT}.parquet"
    assert store.export(new, NIGHT) == {view: 3 * n for view, (_, n) in VIEWS.items()}
    first = file.read_bytes()
    store.export(new, NIGHT)
    assert file.read_bytes() == first

    store.apply("tiny", new)
    store.materialize(new, NIGHT)
    store.apply("tiny", new)
    newer = store.online(new, "user_state_v1", {"user_id": ["u0"]})
    written = store.materialize(new, SNAPSHOTS[1])
    older = store.online(new, "user_state_v1", {"user_id": ["u0"]})

    assert written == {
        "item_stats_v1": ITEMS,
        "item_text_embedding_minilm_v1": ITEMS,
        "user_behaviour_v1": USERS,
        "user_purchases_v1": USERS,
    }
    asked = entities("user_id", ["u0"], store.night_end(SNAPSHOTS[1]))
    at_the_time = store.training_set(new, "user_state_v1", asked)
    assert older.equals(at_the_time.drop_columns(["event_timestamp"]).combine_chunks())
    assert not older.equals(newer)


def test_a_night_run_again_after_late_rows_is_served_as_it_is_now(new: Paths) -> None:
    """The moment of every row is the same as before, its values are not."""
    ids = [f"u{n}" for n in range(USERS)]
    served = []
    for seed in (1, 2):
        build_warehouse(new.warehouse, SNAPSHOTS, seed)
        write_embeddings(new, changed=datetime(2026, 3, 1, 12))
        store.export(new, NIGHT)
        store.apply("tiny", new)
        store.materialize(new, NIGHT)
        served.append(store.online(new, "user_state_v1", {"user_id": ids}))

    offline = store.training_set(
        new, "user_state_v1", entities("user_id", ids, store.night_end(NIGHT))
    )
    assert not served[0].equals(served[1])
    assert served[1].equals(offline.drop_columns(["event_timestamp"]).combine_chunks())


def test_nobody_reads_nothing_while_a_night_is_written(new: Paths) -> None:
    """One view is online for tonight, the registry still names the night before."""
    build_warehouse(new.warehouse, SNAPSHOTS)
    write_embeddings(new, changed=datetime(2026, 3, 1, 12))
    store.export(new, NIGHT)
    store.apply("tiny", new)
    store.materialize(new, SNAPSHOTS[1])
    feast = store.open_store(new)
    end = store.night_end(NIGHT)
    view = feast.get_feature_view("user_behaviour_v1")
    rows = new.features / "user_behaviour_v1" / f"{NIGHT}.parquet"
    tonight = pq.read_table(rows, filters=[("event_timestamp", "=", end.replace(tzinfo=None))])
    feast.write_to_online_store(view.name, tonight.slice(0, 30).to_pandas())

    read = store.online(new, "user_state_v1", {"user_id": [f"u{n}" for n in range(USERS)]})

    assert read["tenure_days"].null_count == 0


def test_a_failed_export_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second table is missing: not even the first file may be the new one."""
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    shop = Paths("tiny")
    build_warehouse(shop.warehouse, SNAPSHOTS[:2])
    store.export(shop, SNAPSHOTS[1])
    files = [shop.features / view / f"{SNAPSHOTS[1]}.parquet" for view in VIEWS]
    before = [file.read_bytes() for file in files]
    build_warehouse(shop.warehouse, SNAPSHOTS)
    with duckdb.connect(str(shop.warehouse)) as duck:
        duck.execute("DROP TABLE features.item_stats_v1")

    with pytest.raises(duckdb.CatalogException):
        store.export(shop, NIGHT)

    assert [file.read_bytes() for file in files] == before
    assert not list(shop.features.glob(f"*/{NIGHT}.parquet"))


def landed(shop: Paths, **digests: str) -> None:
    """What the warehouse was built from, as the step that builds it says."""
    days = {day.replace("_", "-")[1:]: digest for day, digest in digests.items()}
    (shop.home / "warehouse.json").write_text(json.dumps({"project": "p", "days": days}))


def test_only_snapshots_that_can_have_changed_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    shop = Paths("tiny")
    folder = shop.features / "user_behaviour_v1"

    def export(night: date, snapshots: list[date], **digests: str) -> set[str]:
        """The files that are new after it."""
        before = {file: file.stat().st_ino for file in folder.glob("*.parquet")}
        build_warehouse(shop.warehouse, snapshots)
        landed(shop, **digests)
        rows = store.export(shop, night)
        assert rows["user_behaviour_v1"] == USERS * len(snapshots)
        assert {file.stem for file in folder.glob("*.parquet")} == {str(d) for d in snapshots}
        return {f.stem for f in folder.glob("*.parquet") if before.get(f) != f.stat().st_ino}

    first, second, third = SNAPSHOTS
    earlier = date(2026, 3, 3)
    days = {"d2026_02_05": "a", "d2026_02_28": "b"}
    assert export(earlier, [first, second, earlier], **days) == {
        str(first), str(second), str(earlier)
    }  # fmt: skip
    # the night goes on: its own snapshot, and the one of yesterday goes
    assert export(third, SNAPSHOTS, **days) == {str(third)}
    # a late row on a day that the last Sunday knew
    assert export(third, SNAPSHOTS, **days | {"d2026_02_28": "late"}) == {str(second), str(third)}
    # other SQL, or a file that somebody else has written
    (folder / f"{first}.parquet").write_bytes((folder / f"{third}.parquet").read_bytes())
    assert str(first) in export(third, SNAPSHOTS, **days | {"d2026_02_28": "late"})
    (folder / f"{first}.parquet").unlink()
    assert str(first) in export(third, SNAPSHOTS, **days | {"d2026_02_28": "late"})


def test_export_refuses_a_warehouse_of_another_night(paths: Paths) -> None:
    with pytest.raises(FeatureError, match="ends at 2026-03-05 00:00:00, not with 2026-03-05"):
        store.export(paths, date(2026, 3, 5))


@pytest.mark.parametrize("view", VIEWS)
def test_columns_of_contract_parquet_and_registry_agree(paths: Paths, view: str) -> None:
    contract = {
        column["name"]: {"bigint": "int64", "double": "double", "varchar": "string"}.get(
            column["data_type"], "timestamp[us]"
        )
        for column in columns(view)
    }
    parquet = pq.read_schema(paths.features / view / f"{NIGHT}.parquet")
    registered = store.open_store(paths).get_feature_view(view)
    fields = [*registered.entity_columns, *registered.features]

    assert dict(zip(parquet.names, map(str, parquet.types), strict=True)) == contract
    assert {f.name: str(from_feast_to_pyarrow_type(f.dtype)) for f in fields} == {
        name: type_ for name, type_ in contract.items() if name != "event_timestamp"
    }
    assert all(field.description for field in registered.features)


def test_a_view_that_is_no_longer_defined_leaves_the_registry(
    new: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply("tiny", new)
    monkeypatch.setattr(definitions, "SERVICES", [definitions.recommender_v1])
    monkeypatch.setattr(
        definitions, "VIEWS", [definitions.item_stats_v1, definitions.item_text_embedding_minilm_v1]
    )
    store.apply("tiny", new)

    registered = store.open_store(new)
    assert [service.name for service in registered.list_feature_services()] == ["recommender_v1"]
    assert {view.name for view in registered.list_feature_views()} == {
        "item_stats_v1",
        "item_text_embedding_minilm_v1",
    }
