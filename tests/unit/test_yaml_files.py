"""What people write wrong in shop.yml, rules.yml and campaigns/*.yml is refused, and said where."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from campaigns import CampaignError
from campaigns.spec import load as load_campaigns
from core import shop as core_shop
from core.shop import ShopError, load_shop
from core.yaml_file import YamlError, read
from ingest import check_shop
from ml.rules import RuleError, Rules, unknown_items
from ml.rules import load as load_rules

NIGHT = date(2026, 3, 10)
SHOP = """
name: tiny
title: Tiny
time_zone: UTC
currency: EUR
language: en
start: 2026-01-01
raw:
  log: {files: "*.csv", format: csv, columns: [number, moment, who, what, sku]}
recommender: {input_events: [view], target_events: [view], holdout_days: 1}
"""
CAMPAIGN = """
name: spring
title: Spring
who: SELECT user_id FROM marts.dim_users
action: write
holdout: 0.2
cap_days: 7
outcome_days: 30
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(core_shop, "SHOPS", tmp_path)
    (tmp_path / "tiny" / "campaigns").mkdir(parents=True)
    return tmp_path / "tiny"


def refused(folder: Path, name: str, written: str | bytes) -> str:
    """What is said of a file of the shop."""
    path = folder / name
    path.write_bytes(written if isinstance(written, bytes) else written.encode())
    with pytest.raises((ShopError, RuleError, CampaignError)) as told:
        if name == "shop.yml":
            load_shop("tiny")
        elif name == "rules.yml":
            load_rules(path)
        else:
            load_campaigns(path.parent)
    assert str(told.value).startswith(str(path))
    return str(told.value)


@pytest.mark.parametrize(
    ("name", "good", "more"),
    [
        ("shop.yml", SHOP, "currency: GBP\n"),
        ("rules.yml", "diversity: 1\nboost: []\n", "boost: [{name: a, brand: b, factor: 2}]\n"),
        ("campaigns/spring.yml", CAMPAIGN, "holdout: 0\n"),
    ],
)
def test_whatever_the_file_its_mistakes_are_told_with_their_line(
    folder: Path, name: str, good: str, more: str
) -> None:
    key, last = more.split(":")[0], len(good.splitlines()) + 1
    before = good.splitlines().index(next(x for x in good.splitlines() if x.startswith(key))) + 1
    twice = refused(folder, name, good + more)
    assert f", line {last}: `{key}` is there already in line {before}: keep one" in twice
    assert f", line {last}: 2026-02-30 is no day" in refused(folder, name, good + "a: 2026-02-30\n")
    assert "is not in UTF-8 (byte" in refused(folder, name, good.encode() + b"# caf\xe9\n")
    assert "is not in UTF-8 (byte 1)" in refused(folder, name, good.encode("utf-16"))
    assert f"is no YAML, line {last + 1}: " in refused(folder, name, good + "a: [1, 2\n")
    assert "is no YAML" in refused(folder, name, good + "# \x07\n")


def test_a_key_below_another_may_not_be_there_twice_either(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text("a: &one {x: 1}\nb: {<<: *one, x: 2}\nc: [{x: 1}, {x: 1}]\n")
    assert read(path) == {"a": {"x": 1}, "b": {"x": 2}, "c": [{"x": 1}, {"x": 1}]}
    path.write_text("a:\n  x: 1\n  y: 2\n  x: 3\n")
    with pytest.raises(YamlError, match="line 4: `x` is there already in line 2"):
        read(path)
    with pytest.raises(YamlError, match=r"nowhere\.yml cannot be read: No such file"):
        read(tmp_path / "nowhere.yml")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{dim: 0.5}", "recommender.settings.dim: Input should be a valid integer"),
        ("{dim: 63}", "recommender.settings.dim: Input should be a multiple of 2"),
        ("{layers: 0}", "recommender.settings.layers: .* greater than or equal to 1"),
        ("{learning_rate: .inf}", "recommender.settings.learning_rate: .* finite number"),
        ("{learning_rate: .nan}", "recommender.settings.learning_rate: .* finite number"),
        ("{weight_decay: -.inf}", "recommender.settings.weight_decay: .* finite number"),
        ("{heads: 4}", "recommender.settings.heads: Extra inputs are not permitted"),
    ],
)
def test_a_setting_of_the_network_must_be_one(folder: Path, settings: str, said: str) -> None:
    written = SHOP.replace("holdout_days: 1}", f"holdout_days: 1, settings: {settings}}}")
    told = refused(folder, "shop.yml", written)
    assert re.search(said, told) and "correct these settings" in told
    right = written.replace(settings, "{dim: 32, layers: 1, learning_rate: 1.e-3}")
    (folder / "shop.yml").write_text(right)
    assert load_shop("tiny").recommender.settings == {
        "dim": 32, "layers": 1, "learning_rate": 0.001,
    }  # fmt: skip


def test_no_number_without_end_and_no_number_for_a_day(folder: Path) -> None:
    budget = refused(folder, "shop.yml", SHOP + "share: {budget: .inf}\n")
    assert "share.budget: Input should be a finite number (now inf)" in budget
    boost = "boost: [{name: a, brand: b, factor: .nan}]"
    assert "boost number 1 'a' factor: Input should be" in refused(folder, "rules.yml", boost)
    day = "20260101 is no date: write a day as 2026-01-31"
    assert day in refused(folder, "shop.yml", SHOP + "end: 20260101\n")
    block = "block: [{name: a, brand: b, until: 20260101}]"
    assert f"block number 1 'a' until: Value error, {day}" in refused(folder, "rules.yml", block)
    assert day in refused(folder, "campaigns/spring.yml", CAMPAIGN + "end: 20260101\n")
    assert "the file: Input should be a valid dict" in refused(folder, "rules.yml", "false")


@pytest.mark.parametrize(
    ("events", "code", "said"),
    [
        (
            "input_events: [view, purchas]",
            1,
            "recommender.input_events: there is no event type purchas (is it purchase?); the types",
        ),
        ("input_events: [view, click]", 0, "recommender.input_events: no row that was read here"),
        ("input_events: []", 1, "recommender.input_events: List should have at least 1 item"),
    ],
)
def test_check_shop_tells_of_event_types_that_are_not_there(
    folder: Path, capsys: pytest.CaptureFixture[str], events: str, code: int, said: str
) -> None:
    (folder / "shop.yml").write_text(SHOP.replace("input_events: [view]", events))
    (folder / "events.sql").write_text(
        "SELECT number AS event_id, moment AS event_ts, who AS user_id, what AS event_type, "
        "sku AS item_id, _file, _row FROM raw.log"
    )
    (folder / "raw").mkdir()
    (folder / "raw" / "a.csv").write_text("number,moment,who,what,sku\n1,2026-01-01,ann,view,mug\n")
    assert check_shop.main(["tiny", "--data", str(folder / "raw")]) == code
    assert said in capsys.readouterr().out


def test_items_that_a_rule_names_and_the_shop_never_had_are_told() -> None:
    wish: dict[str, Any] = {"name": "recall", "items": ["mug", "cop", "jog"]}
    boost = {"name": "push", "items": ["bowl", "boowl"], "factor": 2, "until": "2026-03-09"}
    rules = Rules.model_validate({"block": [wish], "boost": [boost]})
    shop_items = pa.array(["bowl", "cup", "jug", "mug"])
    (told,) = unknown_items(rules, shop_items, NIGHT)  # the boost is over
    assert told.startswith("rules.yml: block 'recall' names items that the shop has not and never")
    assert "cop, jog;" in told and "mug" not in told.split(":", 2)[2]
    assert len(unknown_items(rules, shop_items, date(2026, 3, 9))) == 2
    assert not unknown_items(Rules(), shop_items, NIGHT)
