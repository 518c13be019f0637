"""What a shop and its models grow: new columns, new event types, new versions of features."""

from __future__ import annotations

import shutil
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService, FeatureView, Field
from feast.types import Array, Float32, String

from audit.catalogue import CATALOGUE
from core import shop as core_shop
from core.paths import Paths
from core.shop import ROOT, Shop
from feature_repo import definitions, store
from ingest.contract import TABLES
from ingest.landing import land
from ml import ModelError, registry
from ml.nightly import MODEL, NightInputs, TrainResult, champion_service, score, train
from orchestration.defs.features.assets import _EXPORTED
from orchestration.lib import dbt
from orchestration.lib import inputs as night_inputs
from orchestration.lib.keys import FEATURE_VIEWS
from orchestration.lib.night import Night
from tests.integration.test_dbt_nights import Warehouse

# ---- a new version of features beside the old one

FIRST, SECOND = date(2026, 3, 30), date(2026, 3, 31)
USERS, ITEMS, TASTES = 60, 24, 4
V1, V2 = "recommender_v1", "recommender_v2"


def shop_of_tastes() -> Shop:
    return Shop.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "time_zone": "UTC",
            "currency": "EUR",
            "language": "en",
            "start": date(2026, 1, 1),
            "raw": {},
            "recommender": {
                "input_events": ["view", "purchase"],
                "target_events": ["purchase"],
                "holdout_days": 10,
                "max_length": 16,
                "max_steps": 25,
            },
        }
    )


def write_marts(paths: Paths) -> None:
    """The marts that the recommender reads: shoppers who buy what they like."""
    rng = np.random.default_rng(1)
    n = 4000
    user = rng.integers(0, USERS, n)
    liked = rng.integers(0, ITEMS // TASTES, n) * TASTES + user % TASTES
    item = np.where(rng.random(n) < 0.85, liked, rng.integers(0, ITEMS, n))
    began = np.datetime64("2026-01-01", "us")
    moment = began + rng.integers(0, 90 * 86_400, n).astype("timedelta64[s]")
    events = pa.table(
        {
            "event_id": [f"e{i:05d}" for i in range(n)],
            "user_id": [f"u{i:03d}" for i in user],
            "item_id": [f"i{i:02d}" for i in item],
            "event_type": np.where(rng.random(n) < 0.4, "purchase", "view"),
            "event_ts": moment,
        }
    )
    paths.home.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(paths.warehouse)) as duck:
        duck.register("events", events)
        duck.execute("""
            CREATE SCHEMA marts;
            CREATE TABLE marts.fct_events AS SELECT *, true AS is_known_item FROM events;
            CREATE TABLE marts.dim_users AS SELECT DISTINCT user_id FROM events;
            CREATE TABLE marts.dim_items AS
                SELECT item_id, 'Thing ' || item_id AS title, 'things' AS category_path,
                    '' AS brand, true AS is_catalogued, false AS is_sold_out
                FROM events GROUP BY item_id;
        """)


def write_view(paths: Paths, view: FeatureView, moments: list[datetime], **values: Any) -> None:
    """Features of every item at each moment: `values` by column, zeros elsewhere."""
    rows = ITEMS * len(moments)
    columns = {field.name: np.zeros(rows) for field in view.features} | values
    table = {
        "item_id": [f"i{i:02d}" for i in range(ITEMS)] * len(moments),
        "event_timestamp": np.repeat(np.array(moments, "datetime64[us]"), ITEMS),
        **columns,
    }
    path = paths.features / view.name / "part.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(table), path)


def directions(size: int, noise: float) -> pa.Array:
    """A text vector an item, in which its taste can be seen."""
    rng = np.random.default_rng(size)
    text = rng.normal(0, noise, (ITEMS, size)) + np.eye(size)[np.arange(ITEMS) % TASTES]
    text = (text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float32)
    return pa.array(list(text), pa.list_(pa.float32()))


embedding_v2 = FeatureView(
    name="item_text_embedding_small_v2",
    entities=[definitions.item],
    ttl=timedelta(0),
    schema=[
        Field(name="item_id", dtype=String),
        Field(name="embedding", dtype=Array(Float32)),
    ],
    source=definitions._source("item_text_embedding_small_v2"),
    tags={"built_by": "ml/text.py"},
)
recommender_v2 = FeatureService(name=V2, features=[embedding_v2, definitions.item_stats_v1])


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A shop with features of two versions: vectors of 16 numbers, and new ones of 6."""
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths = Paths("tiny")
    write_marts(paths)
    snapshots = [datetime(2026, 3, day) for day in (15, 22)] + [datetime(2026, 4, 1)]
    since = np.repeat([73, 80, 90], ITEMS)
    write_view(paths, definitions.item_stats_v1, snapshots, days_since_first_seen=since)
    old, new = definitions.item_text_embedding_minilm_v1, embedding_v2
    write_view(paths, old, [datetime(2025, 12, 1)], embedding=directions(16, 0.1))
    write_view(paths, new, [datetime(2025, 12, 1)], embedding=directions(6, 0.3))
    return paths


def add_v2(patch: pytest.MonkeyPatch) -> None:
    """What a person does: a view and a service more, and the challenger's service named."""
    patch.setattr(definitions, "VIEWS", [*definitions.VIEWS, embedding_v2])
    patch.setattr(definitions, "SERVICES", [*definitions.SERVICES, recommender_v2])
    patch.setattr(night_inputs, "RECOMMENDER_SERVICE", V2)


def train_on(night: Night, service: str, models: Path | None = None) -> TrainResult:
    """The recommender's step of a night."""
    store.apply("tiny", night.paths)
    tonight = night_inputs.night_inputs(night, service)
    return train(
        tonight,
        champion_inputs=night_inputs.champion_inputs(night, tonight),
        models=models or night.paths.models,
        mlflow=night.paths.mlflow,
        card={"feature_service": service},
        seed=1,
        log=lambda text: None,
    )


def lists_of(night: Night) -> pa.Table:
    """The lists' step of a night."""
    service = champion_service(night.paths.models, night.night)
    assert service is not None
    known: NightInputs = night_inputs.night_inputs(night, service)
    return score(known, models=night.paths.models, feature_service=service, k=5)


def of_champion(result: TrainResult) -> list[dict[str, Any]]:
    return [row for row in result.metrics.to_pylist() if row["model"] == "champion"]


@pytest.mark.faults
def test_models_of_two_feature_versions_are_judged_served_and_rolled_back(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = shop_of_tastes()
    first, second = Night(shop, paths, FIRST), Night(shop, paths, SECOND)
    old = train_on(first, V1)
    assert old.promoted, old.decision
    other_models = paths.home / "other"
    shutil.copytree(paths.models, other_models)
    served_by_old = lists_of(second)

    add_v2(monkeypatch)
    new = train_on(second, V2)

    # the registry serves both, and the old champion is judged with its own features
    services = {service.name for service in store.open_store(paths).list_feature_services()}
    assert services == {V1, V2, "user_state_v1"}
    with monkeypatch.context() as before:
        before.setattr(night_inputs, "RECOMMENDER_SERVICE", V1)
        rival = train_on(second, V1, other_models)
    assert of_champion(new) and of_champion(new) == of_champion(rival)
    cards = [registry.card(paths.models, MODEL, each.model_version) for each in (old, new)]
    assert [card["feature_service"] for card in cards] == [V1, V2]
    assert cards[1]["judged_against"] == old.model_version

    # whichever of them is champion scores with what it was trained with
    if not new.promoted:
        assert lists_of(second).equals(served_by_old)
        registry.promote(paths.models, MODEL, new.model_version, SECOND)
    assert set(lists_of(second)["model_version"].to_pylist()) == {new.model_version}
    registry.rollback(paths.models, MODEL)
    assert champion_service(paths.models, SECOND) == V1
    assert lists_of(second).equals(served_by_old)


@pytest.mark.faults
def test_features_of_another_version_are_refused(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never scored or judged with features it was not trained with; never without them."""
    night = Night(shop_of_tastes(), paths, SECOND)
    old = train_on(Night(night.shop, paths, FIRST), V1)
    add_v2(monkeypatch)
    store.apply("tiny", paths)
    wrong = night_inputs.night_inputs(night, V2)
    with pytest.raises(ModelError, match=f"{old.model_version} was trained .* {V1}, not {V2}"):
        score(wrong, models=paths.models, feature_service=V2)
    with pytest.raises(ModelError, match=f"judged with {V1}: give its champion_inputs"):
        train(wrong, models=paths.models, mlflow=paths.mlflow, card={"feature_service": V2}, seed=1)

    # the old version is taken away while its model still serves
    monkeypatch.setattr(definitions, "SERVICES", [recommender_v2])
    with pytest.raises(ModelError, match=f"(?s)'{V1}'.*Bring {V1} back .* or roll back"):
        train_on(night, V2)
    with pytest.raises(ModelError, match=f"Bring {V1} back"):
        lists_of(night)
    assert registry.champion(paths.models, MODEL) == old.model_version


def test_every_feature_view_is_exported_audited_and_shown() -> None:
    """One that is added to `definitions` alone would be built and checked by nobody."""
    names = [view.name for view in definitions.VIEWS]
    assert sorted(FEATURE_VIEWS) == sorted(names)
    by_dbt = {view.name for view in definitions.VIEWS if view.tags["built_by"] == "dbt"}
    assert set(_EXPORTED) == by_dbt
    assert set(names) <= {check.table for check in CATALOGUE["features"]}
    files = (ROOT / "dbt_project" / "models" / "features").glob("*.sql")
    assert {file.stem for file in files} == by_dbt


# ---- a shop that grows a column, and a type of event

START = date(2026, 1, 1)
EVENTS = """
SELECT 'e' || no AS event_id, moment AS event_ts, who AS user_id, what AS event_type,
    sku AS item_id, {more} _file, _row
FROM raw.log
"""
COLUMNS = ["no", "moment", "who", "what", "sku"]


class Growing:
    """A tiny shop whose logs and mapping a test writes, landed and built as a night does it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(core_shop, "SHOPS", folder / "shops")
        patch.setenv("PERENNIAL_VAR", str(folder / "var"))
        patch.setenv("PERENNIAL_PSEUDONYM_KEY", "a key that is only for tests")
        self.paths = Paths("growing")
        patch.setenv("PERENNIAL_SHOP_HOME", str(self.paths.home))
        (self.paths.raw / "log").mkdir(parents=True)
        (folder / "shops" / "growing").mkdir(parents=True)
        self.select = folder / "shops" / "growing" / "events.sql"
        self.warehouse = Warehouse(self.paths.home)
        self.read([])

    def read(self, optional: list[str], more: str = "") -> None:
        """Declare optional columns, and let the SELECT map them."""
        self.select.write_text(EVENTS.format(more=more))
        log = {"files": "log/*.csv", "format": "csv", "columns": COLUMNS, "optional": optional}
        self.shop = shop_of_tastes().model_copy(
            update={"name": "growing", "raw": {"log": core_shop.RawFiles.model_validate(log)}}
        )

    def write(self, day: date, *rows: str, header: str = ",".join(COLUMNS)) -> None:
        (self.paths.raw / "log" / f"{day}.csv").write_text("\n".join([header, *rows]) + "\n")

    def run(self, night: date) -> date:
        """Land and build a night; returns the first day that the warehouse built again."""
        land(self.shop, self.paths, night)
        tonight, landed = Night(self.shop, self.paths, night), dbt.landing_digests(self.paths)
        first = dbt.reprocess_from(tonight, landed) or START
        self.warehouse.build(night, first)
        dbt.remember_build(tonight, landed)
        return first

    def query(self, select: str) -> list[tuple]:
        with duckdb.connect(str(self.warehouse.file), read_only=True) as duck:
            quarantine = f"read_parquet('{self.paths.quarantine}/*/*.parquet')"
            return duck.execute(select.replace("$quarantine", quarantine)).fetchall()

    def landed(self) -> dict[str, bytes]:
        files = sorted((self.paths.landing / "events").glob("day=2026*/*.parquet"))
        return {file.parent.name: file.read_bytes() for file in files}


@pytest.fixture
def growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Growing:
    return Growing(tmp_path, monkeypatch)


def day(number: int) -> date:
    return START + timedelta(days=number)


@pytest.mark.faults
def test_a_new_column_of_a_shop_is_null_before_it_was_there(growing: Growing) -> None:
    """It comes in the files first, then the mapping names it: once for a contract column, once
    for the properties."""
    for number in (0, 1):
        at = f"{day(number)} 10:00:00"
        growing.write(day(number), f"{number}a,{at},ann,view,mug", f"{number}b,{at},bob,view,cup")
    growing.run(day(1))
    before = growing.landed()

    grown = ",".join([*COLUMNS, "device", "campaign"])
    at = f"{day(2)} 10:00:00"
    growing.write(day(2), f"2a,{at},ann,view,mug,phone,spring", header=grown)
    growing.run(day(2))
    assert growing.query("SELECT count(*), count(channel), count(properties) FROM marts.fct_events")
    growing.read(
        ["device", "campaign"],
        "campaign AS channel, CASE WHEN device IS NOT NULL"
        " THEN json_object('device', device) END::VARCHAR AS properties,",
    )
    built_from = growing.run(day(2))

    assert growing.query(
        "SELECT event_id, channel, properties FROM marts.fct_events ORDER BY event_id"
    ) == [
        ("e0a", None, None),
        ("e0b", None, None),
        ("e1a", None, None),
        ("e1b", None, None),
        ("e2a", "spring", '{"device":"phone"}'),
    ]
    after = growing.landed()
    assert {name: after[name] for name in before} == before, "old days are the same bytes"
    assert built_from == day(2), "and are not built again"


@pytest.mark.faults
def test_a_new_event_type_is_put_aside_by_name_until_the_contract_knows_it(
    growing: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        at = f"{day(number)} 10:0"
        rows = [f"{number}a,{at}0:00,ann,view,mug", f"{number}b,{at}1:00,ann,wishlist_add,mug"]
        growing.write(day(number), *rows[: 1 + (number > 0)])
    by_type = "SELECT event_type, count(*) FROM marts.fct_events GROUP BY ALL ORDER BY ALL"
    in_sum = "SELECT sum(events) FROM marts.user_daily_activity"
    growing.run(day(2))
    assert growing.query(by_type) == [("view", 3)]
    assert growing.query(
        "SELECT kind, reason, count(*), min(payload->>'event_type') FROM $quarantine GROUP BY ALL"
    ) == [("broken", "unknown_event_type", 2, "wishlist_add")]

    # the one line that a person adds to ingest/contract.py
    source = (ROOT / "ingest" / "contract.py").read_text()
    grown = source.replace('    "exposure",\n)', '    "exposure",\n    "wishlist_add",\n)', 1)
    assert grown != source
    module = ModuleType("grown_contract")
    monkeypatch.setitem(sys.modules, "grown_contract", module)
    exec(compile(grown, "grown_contract", "exec"), module.__dict__)
    assert "wishlist_add" in module.page() and "wishlist_add" in module.dbt_sources()
    monkeypatch.setitem(TABLES, "events", module.EVENTS)
    built_from = growing.run(day(2))

    assert growing.query(by_type) == [("view", 3), ("wishlist_add", 2)]
    assert growing.query(in_sum) == [(5,)], "something a shopper did counts as activity"
    assert growing.query("SELECT count(*) FROM $quarantine") == [(0,)]
    assert built_from == day(1), "the first day with such an event"
