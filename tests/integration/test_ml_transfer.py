"""A shop that starts from another shop's model: what is carried, and what is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from benchmarks.transfer import learn, warm_start, zero_shot
from ml import ModelError, TooLittleHistory
from ml.nightly import NightInputs, validation
from ml.recommender.train import Config, build
from ml.transfer import begin, carry
from tests.integration.test_ml_nightly import run, shop, value  # noqa: F401

pytestmark = pytest.mark.faults
CONFIG = Config(seed=1, max_steps=80, max_length=24)


@pytest.fixture(scope="module")
def other(shop: NightInputs) -> NightInputs:  # noqa: F811
    """The same tastes in another shop: other people, other ids, and clicks where it had views."""

    def renamed(table: pa.Table, column: str, prefix: str) -> pa.Table:
        at = table.column_names.index(column)
        return table.set_column(at, column, pc.binary_join_element_wise(prefix, table[column], ""))

    events = renamed(renamed(shop.events, "item_id", "x"), "user_id", "y")
    kind = pc.replace_substring(events["event_type"], "view", "click")
    return replace(
        shop,
        events=events.set_column(events.column_names.index("event_type"), "event_type", kind),
        users=renamed(shop.users, "user_id", "y"),
        items=renamed(shop.items, "item_id", "x"),
        item_features_at_cutoff=renamed(shop.item_features_at_cutoff, "item_id", "x"),
        item_features_at_night=renamed(shop.item_features_at_night, "item_id", "x"),
        input_events=("click", "purchase"),
    )


def test_by_text_alone_it_ranks_a_catalogue_it_never_saw(shop, other):  # noqa: F811
    learned, own = learn(shop, CONFIG)
    untrained = validation(other, learned)
    blind = carry(learned, untrained.data.events.kinds, other.input_events)
    torch.manual_seed(0)
    fresh = build(untrained.data, untrained.facts, replace(CONFIG, towers=("text",)))
    foreign = zero_shot(learned, other)
    assert foreign > 1.25 * untrained.ndcg(fresh)
    assert foreign > 0.6 * own
    assert not any(name.endswith((".item.weight", ".met", ".guess")) for name in blind.weights)
    assert blind.items.to_pylist() == [] and set(blind.shape.towers) == {"text"}


def test_a_warm_start_is_ahead_of_a_cold_one_after_few_steps(shop, other):  # noqa: F811
    learned, _ = learn(shop, CONFIG)
    few = replace(CONFIG, max_steps=3, warmup=0.0, learning_rate=1e-4)
    assert warm_start(learned, other, few) > learn(other, few)[1]


def test_event_types_are_carried_by_name_and_unknown_ones_are_the_mean(shop, other):  # noqa: F811
    learned, _ = learn(shop, replace(CONFIG, max_steps=5))
    carried = carry(learned, ("click", "purchase"), ("click",))
    text = learned.shape.towers.index("both")
    before = learned.weights[f"towers.{text}.kind.weight"]
    after = carried.weights["towers.0.kind.weight"]
    assert torch.equal(after[1], before[learned.kinds.index("purchase")])
    assert torch.allclose(after[0], before.mean(0))
    case = validation(other, learned)
    model = build(case.data, case.facts, CONFIG)
    begin(model, carried)
    assert torch.equal(model.towers[text].kind.weight, after)
    assert np.allclose(model.whiten, learned.weights["whiten"])


def test_a_model_of_ids_alone_cannot_be_carried(shop):  # noqa: F811
    learned, _ = learn(shop, replace(CONFIG, max_steps=2, towers=("ids",)))
    with pytest.raises(ModelError, match="by their ids alone"):
        carry(learned, ("click",), ("click",))


def test_a_night_starts_from_another_shops_model(shop, other, tmp_path):  # noqa: F811
    learned, _ = learn(shop, CONFIG)
    first = replace(other, max_steps=3)
    cold = run(first, tmp_path / "cold")
    warm = run(first, tmp_path / "warm", start=learned)
    assert value(warm, "challenger", "ndcg") > value(cold, "challenger", "ndcg")
    assert warm.model_version != cold.model_version
    again = run(first, tmp_path / "warm", start=learned)
    assert again.reused and again.model_version == warm.model_version


def test_a_first_night_is_served_by_the_other_shops_model(shop, other, tmp_path):  # noqa: F811
    learned, _ = learn(shop, CONFIG)
    cutoff = (other.night - timedelta(days=other.holdout_days - 1)).isoformat()
    recent = pc.greater_equal(other.events["event_ts"], pa.scalar(cutoff).cast(pa.timestamp("us")))
    opening = replace(other, events=other.events.filter(recent))
    with pytest.raises(TooLittleHistory):
        run(opening, tmp_path / "cold")
    # nobody has a past before the held-out days, so there is nobody to judge it on
    assert not run(opening, tmp_path / "warm", start=learned).promoted


def test_models_that_read_other_texts_are_refused(shop, other, tmp_path):  # noqa: F811
    learned, _ = learn(shop, replace(CONFIG, max_steps=2))
    half = {
        name: table.set_column(
            table.column_names.index("embedding"),
            "embedding",
            pa.array([row[:8] for row in table["embedding"].to_pylist()]),
        )
        for name in ("item_features_at_cutoff", "item_features_at_night")
        for table in [getattr(other, name)]
    }
    with pytest.raises(ModelError, match="same text_encoder"):
        run(replace(other, **half), tmp_path, start=learned)
