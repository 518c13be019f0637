"""What a shop and its models grow: new columns, new event types, new versions of features."""

from __future__ import annotations

import shutil
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService, FeatureView, Field
from feast.types import Array, Float32, String

from audit.catalogue import CATALOGUE
from core.paths import Paths
from core.shop import ROOT, Shop
from feature_repo import definitions, store
from ml import ModelError, registry
from ml.nightly import MODEL, NightInputs, TrainResult, champion_service, score, train
from orchestration.defs.features.assets import _EXPORTED
from orchestration.lib import inputs as night_inputs
from orchestration.lib.keys import FEATURE_VIEWS
from orchestration.lib.night import Night

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
                SELECT item_id, 'Thing ' || item_id AS title, 'things' AS category, 1.0 AS price,
                    true AS is_catalogued, min(event_ts) AS first_event_at,
                    min(event_ts) AS first_sold_at
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
