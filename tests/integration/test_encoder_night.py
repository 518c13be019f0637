"""A night that fine-tunes the text encoder: another view, another service, and both go on."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from core.paths import Paths
from core.shop import Shop
from feature_repo import definitions, store
from ml import ModelError, registry
from ml.encoder import train as training
from ml.encoder.nightly import MODEL, Outcome, in_use
from ml.encoder.nightly import tonight as tune
from ml.encoder.train import Config
from ml.nightly import TrainResult, champion_service, score, train
from orchestration.lib import inputs as night_inputs
from orchestration.lib.embeddings import embed_for_champion, embed_items, embed_items_tuned
from orchestration.lib.night import Night
from tests import tiny_encoder
from tests.integration.test_schema_evolution import shop_of_tastes

FIRST, SECOND = date(2026, 3, 30), date(2026, 3, 31)
USERS, ITEMS, TASTES = 500, 48, 6
TITLES = [f"kind{i % TASTES}x{i // TASTES % 4} thing{i // TASTES}" for i in range(ITEMS)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = sorted({word for title in TITLES for word in title.split()})
    return tiny_encoder.make(tmp_path_factory.mktemp("encoder"), words)


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str) -> Night:
    """The first night of a shop of tastes whose texts show the tastes to who learns them."""
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths = Paths("tiny")
    rng = np.random.default_rng(1)
    n = 8000
    user = rng.integers(0, USERS, n)
    item = rng.integers(0, ITEMS // TASTES, n) * TASTES + user % TASTES
    began = np.datetime64("2026-01-01", "us")
    events = pa.table(
        {
            "event_id": [f"e{i:05d}" for i in range(n)],
            "user_id": [f"u{i:03d}" for i in user],
            "item_id": [f"i{i:02d}" for i in item],
            "event_type": np.where(rng.random(n) < 0.6, "purchase", "view"),
            "event_ts": began + rng.integers(0, 90 * 86_400, n).astype("timedelta64[s]"),
        }
    )
    ids = [f"i{i:02d}" for i in range(ITEMS)]
    catalogue = {
        "item_id": ids,
        "title": TITLES,
        "description": [""] * ITEMS,
        "category_path": [""] * ITEMS,
        "brand": [""] * ITEMS,
        "valid_from": np.full(ITEMS, np.datetime64("2025-12-01", "us")),
    }
    landed = paths.landing / "items" / "day=2025-12-01" / "part.parquet"
    landed.parent.mkdir(parents=True)
    pq.write_table(pa.table(catalogue), landed)
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
    view = definitions.item_stats_v1
    moments = [datetime(2026, 3, 21), datetime(2026, 4, 1)]
    stats = {field.name: np.zeros(2 * ITEMS) for field in view.features}
    stats |= {"item_id": ids * 2, "event_timestamp": np.repeat(moments, ITEMS)}
    folder = paths.features / view.name
    folder.mkdir(parents=True)
    pq.write_table(pa.table(stats), folder / "part.parquet", coerce_timestamps="us")
    shop = shop_of_tastes().model_dump() | {
        "text_encoder": encoder,
        "fine_tune": {"mode": "last_layers"},
    }
    return Night(Shop.model_validate(shop), paths, FIRST)


def look(night: Night, **more: object) -> Outcome:
    """The encoder's step of a night."""
    config = Config(
        encoder=night.shop.text_encoder,
        last_layers=1,
        max_steps=80,
        batch_size=64,
        learning_rate=1e-2,
        judge_every=20,
    )
    return tune(
        lambda: night_inputs.encoder_inputs(night),
        night=night.night,
        models=night.paths.models,
        mlflow=night.paths.mlflow,
        config=replace(config, **more),  # type: ignore[arg-type]
        every_days=28,
        card={"shop": "tiny"},
        log=lambda text: None,
    )


def recommender(night: Night) -> TrainResult:
    """The recommender's step of a night."""
    store.apply("tiny", night.paths)
    service = night_inputs.recommender_service(night)
    given = night_inputs.night_inputs(night, service)
    return train(
        given,
        champion_inputs=night_inputs.champion_inputs(night, given, service),
        models=night.paths.models,
        mlflow=night.paths.mlflow,
        card={"feature_service": service},
        seed=1,
        log=lambda text: None,
    )


@pytest.mark.faults
def test_a_fine_tuned_encoder_has_a_view_and_a_service_of_its_own(night: Night) -> None:
    paths = night.paths
    embed_items(night)
    found = look(night)
    assert found.version and found.decision.startswith("in use: recall@10"), found.decision
    assert found.plots["encoder"].startswith(b"\x89PNG")
    assert embed_items_tuned(night, found.version) == len(set(TITLES))
    result = recommender(night)
    service = definitions.service_of(found.version)
    assert night_inputs.recommender_service(night) == service
    assert definitions.version_of(service) == found.version
    assert registry.card(paths.models, "recommender", result.model_version)["feature_service"] == (
        service
    )
    # what Feast gives for the two services are two encoders' vectors
    names = {each.name for each in store.open_store(paths).list_feature_services()}
    assert names == {"recommender_v1", "user_state_v1", service}
    stamps = pa.array([datetime(2026, 3, 31)] * 2, pa.timestamp("us", tz="UTC"))
    asked = pa.table({"item_id": ["i01", "i02"], "event_timestamp": stamps})
    old, new = (store.training_set(paths, each, asked) for each in ("recommender_v1", service))
    assert old["embedding"].to_pylist() != new["embedding"].to_pylist()

    # the next night neither trains nor embeds again
    after = Night(night.shop, paths, SECOND)
    assert (
        look(after).version == found.version and "looked at on 2026-03-30" in look(after).decision
    )
    assert embed_items_tuned(after, found.version) == 0

    # switched off: the challenger is of the frozen encoder, the champion keeps its own vectors
    if not result.promoted:
        registry.promote(paths.models, "recommender", result.model_version, FIRST)
    frozen = Shop.model_validate(night.shop.model_dump() | {"fine_tune": {"mode": "frozen"}})
    off = Night(frozen, paths, SECOND)
    assert night_inputs.recommender_service(off) == "recommender_v1"
    catalogue = paths.landing / "items" / "day=2025-12-01" / "part.parquet"
    grown = pq.read_table(catalogue).slice(0, 1).to_pylist()[0] | {"title": "kind1x1 kind2x1"}
    late = {**grown, "valid_from": datetime(2026, 3, 31, 12)}
    pq.write_table(
        pa.concat_tables(
            [pq.read_table(catalogue), pa.Table.from_pylist([late], pq.read_schema(catalogue))]
        ),
        catalogue,
    )
    embed_for_champion(off)
    view = paths.features / definitions.view_of(found.version) / "part.parquet"
    assert pq.read_table(view).num_rows == ITEMS + 1
    theirs = champion_service(paths.models, SECOND)
    assert theirs == service
    given = night_inputs.night_inputs(off, theirs)
    lists = score(given, models=paths.models, feature_service=theirs, k=5)
    assert set(lists["model_version"].to_pylist()) == {result.model_version}


def test_without_a_gain_the_frozen_encoder_stays_and_the_card_says_so(night: Night) -> None:
    # a learning rate of almost nothing changes nothing
    found = look(night, learning_rate=1e-12, max_steps=20)
    assert found.version is None and "the encoder stays as it was" in found.decision
    assert night_inputs.recommender_service(night) == "recommender_v1"
    (version,) = registry.versions(night.paths.models, MODEL)
    assert registry.card(night.paths.models, MODEL, version)["promoted"] is False
    assert not (night.paths.models / MODEL / version / "modules.json").exists()


@pytest.mark.faults
def test_divergence_leaves_the_encoder_in_use(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = look(night)
    later = Night(night.shop, night.paths, FIRST + timedelta(days=28))
    whole = training.loss_of
    monkeypatch.setattr(training, "loss_of", lambda *given: whole(*given) * float("nan"))
    with pytest.raises(ModelError, match="diverged before step 20"):
        look(later)
    assert in_use(night.paths.models, later.night) == first.version
    assert registry.versions(night.paths.models, MODEL) == [first.version]


@pytest.mark.faults
def test_texts_and_events_of_the_held_out_days_are_not_learned_from(night: Night) -> None:
    given = night_inputs.encoder_inputs(night)
    assert given.texts.num_rows == ITEMS
    files = night.paths.landing / "items" / "day=2025-12-01" / "part.parquet"
    table = pq.read_table(files)
    planted = pc.if_else(pc.equal(table["item_id"], "i00"), "kind1x1 thing1", table["title"])
    late = table.set_column(1, "title", planted).set_column(
        5, "valid_from", pa.array([datetime(2026, 3, 25)] * ITEMS, pa.timestamp("us"))
    )
    pq.write_table(pa.concat_tables([table, late]), files)
    assert night_inputs.encoder_inputs(night).texts.equals(given.texts)
    before = look(night)
    with duckdb.connect(str(night.paths.warehouse)) as duck:
        duck.execute(
            "UPDATE marts.fct_events SET item_id = 'i00' WHERE event_ts >= DATE '2026-03-21'"
        )
    again = replace(night.paths, shop="other")
    again.home.mkdir()
    (again.landing / "items" / "day=2025-12-01").mkdir(parents=True)
    (again.landing / "items" / "day=2025-12-01" / "part.parquet").write_bytes(files.read_bytes())
    again.warehouse.write_bytes(night.paths.warehouse.read_bytes())
    assert look(Night(night.shop, again, FIRST)).version == before.version
