"""A recommender's night on a small shop with tastes: train, kill, resume, judge, score, refuse."""

import dataclasses
import re
import shutil
from datetime import date, datetime, timedelta
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml import ModelError, registry
from ml.nightly import NightInputs, champion_service, score, train
from ml.recommender.files import ABOUT, WEIGHTS
from ml.recommender.train import Config
from ml.rule_costs import foreseen, rule_costs
from ml.rules import Rules

NIGHT = date(2026, 3, 31)
START = datetime(2026, 1, 1)
USERS, ITEMS, TASTES, HOLDOUT = 120, 60, 6, 10
CARD = {"feature_service": "recommender_v1", "git_revision": "test"}
NEW = "i59"  # in the catalogue since the middle of March, not yet met by anybody


@pytest.fixture(scope="module")
def shop() -> NightInputs:
    """Users visit items of their own taste, which the items' texts show, some again and again.

    `nobody` did nothing.
    """
    rng = np.random.default_rng(1)
    taste = np.arange(ITEMS) % TASTES
    n = 9000
    user = rng.integers(0, USERS, n)
    own = rng.random(n) < 0.9
    item = np.where(
        own, rng.integers(0, ITEMS // TASTES, n) * TASTES + user % TASTES, rng.integers(0, ITEMS, n)
    )
    staple = (
        rng.integers(0, ITEMS // TASTES, (USERS, 2)) * TASTES + np.arange(USERS)[:, None] % TASTES
    )
    item = np.where(rng.random(n) < 0.4, staple[user, rng.integers(0, 2, n)], item)
    keep = item != ITEMS - 1
    seconds = rng.integers(0, 90 * 86_400, n)
    kind = np.where(rng.random(n) < 0.3, "purchase", "view")
    text = rng.normal(0, 0.15, (ITEMS, 16)) + np.eye(16)[taste]
    text = (text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float32)
    ids = [f"i{i:02d}" for i in range(ITEMS)]

    def features(age: int) -> pa.Table:
        since = [age] * (ITEMS - 1) + [max(age - 70, 1)]
        columns = {"item_id": ids, "embedding": list(text), "days_since_first_seen": since}
        return pa.table(columns)

    events = pa.table(
        {
            "user_id": pa.array([f"u{u:03d}" for u in user]),
            "item_id": pa.array([ids[i] for i in item]),
            "event_type": pa.array(kind),
            "event_ts": pa.array(
                [START + timedelta(seconds=int(s)) for s in seconds], pa.timestamp("us")
            ),
        }
    ).filter(pa.array(keep))
    gone = [i != 7 for i in range(ITEMS)]  # i07 has left the catalogue
    return NightInputs(
        events=events,
        users=pa.table({"user_id": [f"u{u:03d}" for u in range(USERS)] + ["nobody"]}),
        items=pa.table(
            {"item_id": ids, "title": [f"Thing {i}" for i in ids], "is_catalogued": gone}
        ),
        item_features_at_cutoff=features(80),
        item_features_at_night=features(90),
        night=NIGHT,
        input_events=("purchase", "view"),
        target_events=("purchase",),
        holdout_days=HOLDOUT,
        max_length=24,
        max_steps=60,
    )


def run(shop, folder, log=lambda text: None, seed=3, **more):
    return train(
        shop,
        models=folder / "models",
        mlflow=folder / "mlflow",
        card=CARD,
        seed=seed,
        log=log,
        **more,
    )


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("night")
    return folder, run(shop, folder)


@pytest.fixture
def frequent(monkeypatch):
    """A checkpoint every 20 steps: these trainings are short."""
    monkeypatch.setattr("ml.nightly.Config", partial(Config, checkpoint_every=20))


def weights(folder, result) -> bytes:
    return (folder / "models" / "recommender" / result.model_version / WEIGHTS).read_bytes()


def value(result, model, metric, k=10):
    rows = {(r["model"], r["metric"], r["k"]): r["value"] for r in result.metrics.to_pylist()}
    return rows[model, metric, k]


def test_it_beats_the_baselines_and_becomes_champion(trained):
    folder, result = trained
    assert result.promoted and result.decision.startswith("promoted: beats popularity")
    assert registry.champion(folder / "models", "recommender", NIGHT) == result.model_version
    for rival in ("popularity", "text similarity", "item-kNN"):
        assert value(result, "challenger", "ndcg") > value(result, rival, "ndcg")
    assert result.curves["loss"][-1] < result.curves["loss"][0]
    assert (
        all(png.startswith(b"\x89PNG") for png in result.plots.values()) and len(result.plots) == 2
    )
    card = registry.card(folder / "models", "recommender", result.model_version)
    assert card["feature_service"] == "recommender_v1" and card["data_until"] == "2026-03-21"


def test_the_run_is_in_mlflow_with_its_curve(trained):
    from mlflow.tracking import MlflowClient

    folder, result = trained
    client = MlflowClient(f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    (runs,) = [
        client.search_runs([e.experiment_id])
        for e in client.search_experiments(filter_string="name = 'recommender'")
    ]
    assert [run.info.run_name for run in runs] == [result.model_version]
    history = client.get_metric_history(runs[0].info.run_id, "loss")
    assert [point.value for point in history] == result.curves["loss"]
    names = {file.path for file in client.list_artifacts(runs[0].info.run_id)}
    assert names >= {"loss.png", "metrics.png"}


def test_the_same_inputs_give_the_same_version_without_training(shop, trained):
    folder, result = trained
    shuffled = shop.events.take(np.random.default_rng(0).permutation(shop.events.num_rows))
    said: list[str] = []
    again = run(dataclasses.replace(shop, events=shuffled), folder, said.append)
    assert again.reused and again.model_version == result.model_version
    assert again.metrics.equals(result.metrics) and again.decision == result.decision
    assert "not trained again" in said[0]


def test_a_killed_training_resumes_to_the_same_bytes(shop, tmp_path, frequent):
    whole = run(shop, tmp_path / "whole")

    def kill(text: str) -> None:
        if text.startswith("step 25"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(shop, tmp_path / "killed", kill)
    assert registry.versions(tmp_path / "killed" / "models", "recommender") == []
    said: list[str] = []
    resumed = run(shop, tmp_path / "killed", said.append)
    assert any("from step 20" in text for text in said)
    assert resumed.curves == whole.curves
    assert weights(tmp_path / "killed", resumed) == weights(tmp_path / "whole", whole)


def test_held_out_days_are_never_learned_from(shop, trained, tmp_path):
    folder, result = trained
    cutoff = datetime(2026, 3, 22)
    before = pc.less(shop.events["event_ts"], pa.scalar(cutoff, pa.timestamp("us")))
    after = shop.events.filter(pc.invert(before))
    scrambled = after.set_column(
        1, "item_id", after["item_id"].take(np.random.default_rng(0).permutation(after.num_rows))
    )
    other = dataclasses.replace(
        shop, events=pa.concat_tables([shop.events.filter(before), scrambled])
    )
    blind = run(other, tmp_path)
    assert blind.model_version != result.model_version  # it was judged on other days
    assert weights(tmp_path, blind) == weights(folder, result)


def test_everybody_gets_a_list_of_what_is_in_the_catalogue(shop, trained):
    folder, _ = trained
    lists = score(shop, models=folder / "models", feature_service="recommender_v1", k=20).tonight
    counted = lists.group_by("user_id").aggregate([("rank", "count"), ("rank", "max")])
    assert counted.num_rows == USERS + 1 and set(counted["rank_count"].to_pylist()) == {20}
    assert "i07" not in set(lists["item_id"].to_pylist())
    rows = lists.to_pylist()
    for one, two in pairwise(rows):
        if one["user_id"] == two["user_id"]:
            assert two["rank"] == one["rank"] + 1 and one["score"] >= two["score"]
    nobody = [r for r in rows if r["user_id"] == "nobody"]
    assert {(r["reason"], r["model_version"]) for r in nobody} == {("popular now", "popularity")}
    again = score(shop, models=folder / "models", feature_service="recommender_v1", k=20).tonight
    assert again.equals(lists)


def test_the_next_quarter_has_what_is_bought_again_and_what_is_new(shop, trained):
    folder, _ = trained
    made = score(shop, models=folder / "models", feature_service="recommender_v1", k=20)
    met = {(e["user_id"], e["item_id"]) for e in shop.events.to_pylist()}
    bought = {
        (e["user_id"], e["item_id"])
        for e in shop.events.to_pylist()
        if e["event_type"] == "purchase"
    }
    rows = made.next_quarter.to_pylist()
    pairs = {part: {(r["user_id"], r["item_id"]) for r in rows if r["part"] == part}
             for part in ("repeat", "explore")}  # fmt: skip
    assert pairs["repeat"] and pairs["repeat"] <= bought
    assert pairs["explore"] and pairs["explore"].isdisjoint(met)
    assert {item for _, item in pairs["repeat"] | pairs["explore"]}.isdisjoint({"i07"})
    assert {r["user_id"] for r in rows if r["part"] == "explore"} >= {"nobody"}
    for one, two in pairwise(rows):
        if (one["user_id"], one["part"]) == (two["user_id"], two["part"]):
            assert two["rank"] == one["rank"] + 1 and one["score"] >= two["score"]


def test_each_rule_is_held_against_the_held_out_days(shop, trained):
    folder, _ = trained
    rules = Rules.model_validate({"diversity": 5, "exploration": {"share": 0.2, "days": 40}})
    call = {"models": folder / "models", "feature_service": "recommender_v1", "rules": rules}
    rows = {row["rules"]: row for row in rule_costs(shop, **call).to_pylist()}
    assert list(rows) == ["no rules", "diversity", "exploration", "all rules"]
    none = rows["no rules"]
    assert none["difference"] == 0
    # the model's own order is what training judged
    assert none["ndcg_at_10"] == pytest.approx(value(trained[1], "challenger", "ndcg"), abs=1e-6)
    assert rows["diversity"]["intra_list_diversity"] > none["intra_list_diversity"]
    assert rows["exploration"]["novelty"] > none["novelty"]
    assert rows["diversity"]["low"] <= rows["diversity"]["difference"] <= rows["diversity"]["high"]
    assert "not compared" in foreseen(shop)  # 90 days of purchases


def test_lists_keep_to_the_rules_of_the_shop(shop, trained, caplog):
    folder, _ = trained
    sold_out = [i == 3 for i in range(ITEMS)]
    stocked = dataclasses.replace(
        shop, items=shop.items.append_column("is_sold_out", pa.array(sold_out))
    )
    rules = Rules.model_validate(
        {
            "diversity": 0.5,
            "exploration": {"share": 0.2, "days": 20},
            "block": [{"name": "recall", "items": ["i10", "i11", "i-10"]}],
        }
    )
    call = {"models": folder / "models", "feature_service": "recommender_v1", "k": 20}
    plain = score(stocked, **call).tonight.to_pylist()
    assert {"i10", "i11"} < {r["item_id"] for r in plain} and all(
        r["propensity"] == 1 for r in plain
    )
    lists = score(stocked, **call, rules=rules).tonight
    assert "block 'recall' names items that the shop has not and never had: i-10;" in caplog.text
    assert lists.num_rows == 20 * (USERS + 1)
    rows = lists.to_pylist()
    assert {"i03", "i07", "i10", "i11"}.isdisjoint(r["item_id"] for r in rows)
    drawn = [r for r in rows if r["reason"] == "new in the shop"]
    assert {r["item_id"] for r in drawn} == {NEW} and all(0 < r["propensity"] <= 1 for r in drawn)
    # nobody who has a list without it by the model's own order misses it
    assert len([r for r in rows if r["item_id"] == NEW]) == USERS + 1
    assert score(stocked, **call, rules=rules).tonight.equals(lists)


def test_reasons_are_true(shop, trained):
    folder, _ = trained
    lists = score(
        shop, models=folder / "models", feature_service="recommender_v1", k=20
    ).tonight.to_pylist()
    events = shop.events.to_pylist()
    did = {(e["user_id"], e["event_type"], e["item_id"]) for e in events}
    days: dict[tuple[str, str], set[date]] = {}
    for e in events:
        if e["event_type"] == "purchase":
            days.setdefault((e["user_id"], e["item_id"]), set()).add(e["event_ts"].date())
    for row in (r for r in lists if r["user_id"] != "nobody"):
        user, item, reason = row["user_id"], row["item_id"], row["reason"]
        bought = len(days.get((user, item), ()))
        if bought >= 2:
            assert reason == f"often bought again, so far on {bought} days"
        elif bought == 1:
            assert reason == "bought before"
        elif item == NEW:
            assert reason.startswith("new, similar in text to Thing i")
        else:
            kind = {"you viewed": "view", "you bought": "purchase"}[reason[8:18]]
            about = item if reason.endswith(" it") else reason.rsplit(" ", 1)[1]
            assert (user, kind, about) in did, reason


def test_a_new_item_is_ranked_by_its_text(shop, trained):
    folder, _ = trained
    lists = score(
        shop, models=folder / "models", feature_service="recommender_v1", k=60
    ).tonight.to_pylist()
    rank = {
        r["user_id"]: r["rank"] for r in lists if r["item_id"] == NEW and r["user_id"] != "nobody"
    }
    fans = [rank[f"u{u:03d}"] for u in range(USERS) if u % TASTES == (ITEMS - 1) % TASTES]
    others = [rank[f"u{u:03d}"] for u in range(USERS) if u % TASTES != (ITEMS - 1) % TASTES]
    assert np.median(fans) <= ITEMS // TASTES < np.median(others)


def test_a_later_night_is_judged_against_the_champion(shop, trained, tmp_path):
    folder, _ = trained
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    known = registry.promotions(tmp_path / "models", "recommender")
    later = dataclasses.replace(shop, night=date(2026, 4, 1))
    second = run(later, tmp_path)
    # ahead of it, or within chance of it: the gate has its own words for each
    assert re.search("champion(, within chance,)? on NDCG@10", second.decision)
    assert value(second, "champion", "ndcg") > value(second, "popularity", "ndcg")
    # The earlier night keeps its own champion, whatever came later.
    assert registry.champion(tmp_path / "models", "recommender", NIGHT) == known[-1].version


def test_a_worse_challenger_is_kept_but_not_promoted(shop, trained, tmp_path):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    models = tmp_path / "models"
    later = dataclasses.replace(shop, night=NIGHT + timedelta(days=1))
    lists = score(later, models=models, feature_service="recommender_v1", k=10).tonight
    for _ in range(2):  # a night that is run again finds what it found
        worse = run(dataclasses.replace(later, max_steps=1), tmp_path)
        assert not worse.promoted
        assert worse.model_version in registry.versions(models, "recommender")
        assert registry.champion(models, "recommender", later.night) == trained[1].model_version
        again = score(later, models=models, feature_service="recommender_v1", k=10).tonight
        assert again.equals(lists)


def test_events_after_the_night_are_not_known(shop, trained):
    folder, _ = trained
    late = pa.table(
        {
            "user_id": ["nobody"],
            "item_id": ["i00"],
            "event_type": ["purchase"],
            "event_ts": pa.array([datetime(2026, 4, 1)], pa.timestamp("us")),
        }
    )
    later = dataclasses.replace(shop, events=pa.concat_tables([shop.events, late]))
    call = {"models": folder / "models", "feature_service": "recommender_v1", "k": 5}
    assert score(later, **call).tonight.equals(score(shop, **call).tonight)


def test_another_feature_service_is_refused(shop, trained):
    folder, _ = trained
    with pytest.raises(ModelError, match="recommender_v1, not recommender_v2: it is scored with"):
        score(shop, models=folder / "models", feature_service="recommender_v2")


def test_a_champion_of_another_version_of_the_code_is_replaced(shop, trained, tmp_path):
    folder, first = trained
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    about = tmp_path / "models" / "recommender" / first.model_version / ABOUT
    about.write_text(about.read_text().replace('"layout": ', '"layout": 9'))
    assert champion_service(tmp_path / "models", NIGHT) is None
    lists = score(shop, models=tmp_path / "models", feature_service="recommender_v1", k=5).tonight
    assert set(lists["model_version"].to_pylist()) == {"popularity"}
    second = run(dataclasses.replace(shop, max_steps=61), tmp_path)
    assert second.promoted and "champion" not in second.decision


def test_without_a_champion_everybody_gets_what_is_popular(shop, tmp_path):
    lists = score(shop, models=tmp_path, feature_service="recommender_v1", k=3).tonight
    assert lists.num_rows == 3 * (USERS + 1)
    assert set(lists["reason"].to_pylist()) == {"popular now"}
    assert len(set(lists["item_id"].to_pylist())) == 3


def test_a_training_that_diverges_stops_and_the_champion_stays(
    shop, trained, tmp_path, monkeypatch
):
    folder, first = trained
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("ml.nightly.Config", partial(Config, learning_rate=1e6, clip=1e9))
    with pytest.raises(
        ModelError, match=r"diverged before step .*; lower .*\.settings\.learning_rate"
    ):
        run(shop, tmp_path, seed=4)
    assert registry.champion(tmp_path / "models", "recommender", NIGHT) == first.model_version
    assert registry.versions(tmp_path / "models", "recommender") == [first.model_version]


def test_broken_features_and_empty_shops_are_clear_errors(shop, tmp_path):
    broken = shop.item_features_at_cutoff.to_pylist()
    broken[3]["embedding"] = [float("nan")] * 16
    features = pa.Table.from_pylist(broken)
    with pytest.raises(ModelError, match="the text vectors of 1 items hold NaN"):
        run(dataclasses.replace(shop, item_features_at_cutoff=features), tmp_path)
    with pytest.raises(ModelError, match="nothing to learn from"):
        run(dataclasses.replace(shop, events=shop.events.slice(0, 0)), tmp_path)
    with pytest.raises(ModelError, match="max_length must be at least 2"):
        run(dataclasses.replace(shop, max_length=1), tmp_path)
    with pytest.raises(ModelError, match="must name the feature_service"):
        train(shop, models=tmp_path, mlflow=tmp_path, card={}, seed=0)
    assert registry.versions(tmp_path, "recommender") == []
