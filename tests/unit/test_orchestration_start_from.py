"""A new shop's first models begin with another shop's, where that has learned from more."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from core.paths import Paths
from core.shop import load_shop
from ml import ModelError, registry
from ml.nightly import MODEL
from ml.recommender.data import examples
from ml.recommender.files import Learned, Scale
from ml.recommender.train import build
from ml.words import NO_WORDS
from orchestration.lib.inputs import RECOMMENDER_SERVICE, other_shops_model
from orchestration.lib.night import Night
from tests.unit.test_recommender_model import DAYS, network, shop

NIGHT = date(2026, 6, 29)


def tonight(start_from: str | None) -> Night:
    demo = load_shop("demo")
    settings = demo.recommender.model_copy(update={"start_from": start_from})
    return Night(demo.model_copy(update={"recommender": settings}), Paths("demo"), NIGHT)


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make Online Retail's champion, with what its card says."""
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))

    def make(version: str = "rec-1", on: date = date(2011, 12, 9), **said: object) -> None:
        events, facts = shop()
        data = examples(events, events, DAYS, 1)
        model = build(data, facts, network(("both",)))
        learned = Learned.of(model, data, ("met",), Scale([0.0], [1.0]), NO_WORDS)
        learned = replace(learned, items=pa.array(events.items))
        encoder = load_shop("demo").text_encoder
        card = {"feature_service": RECOMMENDER_SERVICE, "text_encoder": encoder, "events": 5000}
        models = Paths("online_retail").models
        registry.add(models, MODEL, version, card | said, learned.save)
        registry.promote(models, MODEL, version, on)

    return make


def test_it_begins_with_the_champion_of_the_shop_that_is_named(keep: Any) -> None:
    assert other_shops_model(tonight("online_retail"), RECOMMENDER_SERVICE, 10) is None
    keep()
    assert other_shops_model(tonight(None), RECOMMENDER_SERVICE, 10) is None
    found = other_shops_model(tonight("online_retail"), RECOMMENDER_SERVICE, 10)
    assert found is not None
    assert found[0] == "online_retail rec-1"
    assert np.isfinite(found[1].weights["towers.0.project.weight"].numpy()).all()


def test_a_shop_with_as_much_of_its_own_starts_cold(keep: Any) -> None:
    keep()
    assert other_shops_model(tonight("online_retail"), RECOMMENDER_SERVICE, 4999)
    assert other_shops_model(tonight("online_retail"), RECOMMENDER_SERVICE, 5000) is None


def test_a_night_that_is_run_again_begins_with_the_model_of_its_own_time(keep: Any) -> None:
    keep()
    keep("rec-2", NIGHT)
    keep("rec-3", date(2026, 6, 30))

    def begun(night: date) -> str | None:
        found = other_shops_model(
            replace(tonight("online_retail"), night=night), RECOMMENDER_SERVICE, 10
        )
        return found[0] if found else None

    assert begun(date(2011, 12, 8)) is None
    assert begun(date(2026, 6, 28)) == "online_retail rec-1"
    assert begun(NIGHT) == "online_retail rec-2"
    assert begun(date(2026, 7, 1)) == "online_retail rec-3"


def test_nothing_begins_with_a_model_that_is_due_for_retraining(keep: Any) -> None:
    keep()
    keep("rec-2", NIGHT, **{registry.DUE: True})
    said: list[str] = []
    assert other_shops_model(tonight("online_retail"), RECOMMENDER_SERVICE, 10, said.append) is None
    assert said and "rec-2 of online_retail learned from somebody who has been erased" in said[0]
    keep("rec-3", NIGHT)
    found = other_shops_model(tonight("online_retail"), RECOMMENDER_SERVICE, 10, said.append)
    assert found is not None and found[0] == "online_retail rec-3"
    assert said[1:] == ["the training starts from rec-3 of online_retail"]


def test_what_cannot_be_started_from_says_why(keep: Any) -> None:
    with pytest.raises(ModelError, match=r"start_from.*no shop 'nowhere'"):
        other_shops_model(tonight("nowhere"), RECOMMENDER_SERVICE, 10)
    keep(text_encoder="another")
    with pytest.raises(ModelError, match="Give both the same text_encoder"):
        other_shops_model(tonight("online_retail"), RECOMMENDER_SERVICE, 10)
