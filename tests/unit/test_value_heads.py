"""The heads of the value models: what is learned, from what, and how it is judged and told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from ml import ModelError, TooLittleHistory, registry
from ml.value import nightly
from ml.value.baselines import Recency, Rfm
from ml.value.buying import Buying, Known
from ml.value.heads import Bands, Config, Head, Rows, fit
from ml.value.history import History
from ml.value.inputs import BY_TIME, BY_USERS, Prepared, ValueInputs, cut
from ml.value.judge import RESAMPLES, Prediction, judge
from ml.value.matrix import folds
from ml.value.nightly import train
from ml.value.outcomes import Orders, outcome
from ml.value.reasons import family, reasons, words
from ml.value.targets import CHURN, PURCHASE, REPURCHASE, SPEND, Target, targets
from ml.value.tell import followed_up, tell

NIGHT = date(2026, 6, 28)
EPOCH = date(1970, 1, 1)
CARD = {"feature_service": "user_value_v1"}


def shop(users: int = 700, weeks: int = 14, seed: int = 1) -> ValueInputs:
    """Shoppers with a rate of their own, which one of the features tells with noise."""
    random = np.random.default_rng(seed)
    end = (NIGHT - EPOCH).days + 1
    begin = end - 7 * (weeks + 1)
    rate = random.gamma(0.7, 0.05, users)
    count = random.poisson(rate * 7 * (weeks + 1))
    user = np.repeat(np.arange(users), count)
    day = begin + random.integers(0, end - begin, len(user))
    ids = np.array([f"u{n:04d}" for n in range(users)], object)
    amount = random.lognormal(3, 0.5, len(user)).round(2)
    hint = np.log(rate) + random.normal(0, 0.3, users)
    tables = []
    for moment in [*range(begin + 14, end, 7), end]:
        before = day < moment
        n = np.bincount(user[before], minlength=users)
        last = np.full(users, -1)
        np.maximum.at(last, user[before], day[before])
        first = np.full(users, end)
        np.minimum.at(first, user[before], day[before])
        paid = np.bincount(user[before], amount[before], users)
        some = n > 0
        stamp = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(moment))
        tables.append(
            pa.table(
                {
                    "user_id": ids,
                    "event_timestamp": pa.array([stamp] * users, pa.timestamp("us", tz="UTC")),
                    "tenure_days": np.full(users, moment - begin),
                    "days_since_last_event": np.where(some, moment - last, 99).astype(float),
                    "orders": n,
                    "days_since_first_order": pa.array(moment - first, mask=~some),
                    "days_since_last_order": pa.array(moment - last, mask=~some),
                    "amount_per_day": pa.array(paid / 30, mask=~some),
                    "order_value": pa.array(paid / np.maximum(n, 1), mask=~some),
                    "views_7d": hint,
                }
            )
        )
    dates = pa.array(day.astype(np.int32), pa.date32())
    orders = pa.table({"user_id": ids[user], "order_date": dates, "net_revenue": amount})
    days = np.unique(user * 100_000 + day)
    bought = {
        "user_id": ids[days // 100_000],
        "trade_date": pa.array((days % 100_000).astype(np.int32), pa.date32()),
    }
    # everybody stays within ten items of forty
    item = user % 4 * 10 + random.integers(0, 10, len(user))
    seen = np.repeat(np.datetime64("1970-01-01", "us") + day.astype("timedelta64[D]"), 2)
    events = {
        "user_id": ids[np.repeat(user, 2)],
        "item_id": np.array([f"i{n:02d}" for n in range(40)], object)[np.repeat(item, 2)],
        "event_type": np.tile(np.array(["view", "purchase"], object), len(user)),
        "event_ts": pa.array(seen + np.tile([0, 3_600_000_000], len(user)).astype("m8[us]")),
    }
    country = pa.array(np.where(np.arange(users) % 3 > 0, "DE", "FR").astype(object))
    return ValueInputs(
        past=pa.concat_tables(tables[:-1]),
        tonight=tables[-1],
        orders=orders,
        bought=pa.table(bought),
        users=pa.table({"user_id": ids, "country": country}),
        events=pa.table(events),
        met=("view", "purchase"),
        wanted=("purchase",),
        night=NIGHT,
        churn_days=21,
    )


@pytest.fixture(scope="module")
def inputs() -> ValueInputs:
    """A shop of 15 weeks."""
    return shop()


@pytest.fixture(scope="module")
def trained(
    inputs: ValueInputs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[nightly.Outcome]]:
    """Its first night."""
    models = tmp_path_factory.mktemp("models")
    return models, train(inputs, models=models, card=CARD, seed=1, threads=1)


# -- outcomes --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(100, 130), st.integers(0, 50)), max_size=40),
    st.integers(100, 131),
    st.integers(1, 20),
)
def test_outcomes_are_those_of_a_count_by_hand(
    orders: list[tuple[int, int, int]], moment: int, days: int
) -> None:
    user, day, amount = (np.array([each[i] for each in orders], np.int64) for i in range(3))
    known = Orders.of(user, day, amount.astype(float), 4)
    everybody = np.arange(4)
    moments = np.full(4, moment)
    for name in (PURCHASE, CHURN, REPURCHASE, SPEND):
        found = outcome(Target(name, days), known, everybody, moments)
        for who in everybody:
            own = (user == who) & (day >= moment) & (day < moment + days)
            wanted = {CHURN: not own.any(), SPEND: amount[own].sum()}.get(name, own.any())
            assert found[who] == wanted
    history, those = known.history(everybody, moments)
    before = {w: sorted(set(day[(user == w) & (day < moment)])) for w in range(4)}
    assert those.tolist() == [w for w in range(4) if before[w]]
    for place, who in enumerate(those):
        own_days = before[who]
        assert history.repeats[place] == len(own_days) - 1
        assert history.recency[place] == own_days[-1] - own_days[0]
        assert history.age[place] == moment - own_days[0]


def test_an_outcome_knows_nothing_of_its_own_past() -> None:
    bought = Orders.of(np.array([0]), np.array([99]), np.array([5.0]), 1)
    one, at = np.array([0]), np.array([100])
    assert outcome(Target(SPEND, 10), bought, one, at)[0] == 0
    assert outcome(Target(CHURN, 10), bought, one, at)[0] == 1


# -- what may be learned ---------------------------------------------------------------------------


def test_nothing_learned_lies_in_the_days_that_are_judged(inputs: ValueInputs) -> None:
    data = Prepared.of(inputs)
    for days in (7, 30, 35):
        chosen = cut(Target(PURCHASE, days), data)
        assert chosen and chosen.split == BY_TIME
        assert chosen.day + days <= data.end
        for part in (chosen.learn, chosen.spared):
            assert (part.day + days <= chosen.day).all()
        assert not set(chosen.learn.user) & set(chosen.spared.user)


def test_a_young_shop_is_judged_on_users_it_has_not_learned_from(inputs: ValueInputs) -> None:
    chosen = cut(Target(REPURCHASE, 60), Prepared.of(inputs))
    assert chosen and chosen.split == BY_USERS
    learned = set(chosen.learn.user) | set(chosen.spared.user)
    assert not learned & set(chosen.judged.user)
    assert (chosen.learn.day + 60 <= Prepared.of(inputs).end).all()


def test_no_user_whose_days_are_not_over_is_learned_from(inputs: ValueInputs) -> None:
    assert cut(Target(SPEND, 180), Prepared.of(inputs)) is None


def test_a_planted_future_feature_is_no_use(inputs: ValueInputs, tmp_path: Path) -> None:
    # what tonight alone knows (who has ordered in the last week) is put into tonight's features:
    # were tonight learned from, the model would lean on it
    recent = np.isin(
        inputs.tonight["user_id"].to_numpy(),
        inputs.orders.filter(pc.greater(inputs.orders["order_date"], NIGHT - timedelta(days=7)))[
            "user_id"
        ].to_numpy(),
    ).astype(float)
    past = inputs.past.append_column("leak", pa.array(np.zeros(inputs.past.num_rows)))
    leaking = replace(
        inputs, past=past, tonight=inputs.tonight.append_column("leak", pa.array(recent))
    )
    train(leaking, models=tmp_path, card=CARD, seed=1, threads=1)
    told = tell(leaking, models=tmp_path, feature_service=CARD["feature_service"], seed=1)
    assert (
        "leak"
        not in told.drivers.filter(pc.greater(told.drivers["share"], 0))["feature"].to_pylist()
    )


def test_a_user_stays_in_its_fold_as_others_come() -> None:
    few, more = pa.array(["b", "d"]), pa.array(["a", "b", "c", "d"])
    assert folds(few).tolist() == folds(more)[[1, 3]].tolist()
    many = folds(pa.array([f"user {n}" for n in range(5000)]))
    assert (np.abs(np.bincount(many) - 1000) < 120).all()


# -- judging ---------------------------------------------------------------------------------------


def test_measures_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(3)
    told = random.random(400).round(2)  # with ties
    came = (random.random(400) < told).astype(float)
    found = Prediction(told, came, False).measures(np.ones(400))
    assert found["auc"] == pytest.approx(roc_auc_score(came, told))
    assert found["pr_auc"] == pytest.approx(average_precision_score(came, told))
    assert found["brier"] == pytest.approx(brier_score_loss(came, told))
    assert found["log_loss"] == pytest.approx(log_loss(came, np.clip(told, 1e-6, 1 - 1e-6)))
    assert found["gini"] == pytest.approx(2 * found["auc"] - 1)


def test_a_user_counted_twice_is_two_users() -> None:
    random = np.random.default_rng(4)
    told, came = random.random(60), random.gamma(1, 10, 60)
    twice = np.where(np.arange(60) < 20, 2.0, 1.0)
    again = np.repeat(np.arange(60), twice.astype(int))
    for is_amount, truth in ((True, came), (False, (came > 10).astype(float))):
        weighted = Prediction(told, truth, is_amount).measures(twice)
        repeated = Prediction(told[again], truth[again], is_amount).measures(np.ones(80))
        for name, value in repeated.items():
            # bins of equal counts are cut inside a user who is counted twice
            close = 0.02 if name == "ece" else 1e-9
            assert weighted[name] == pytest.approx(value, abs=close), name


def test_gini_is_1_for_the_right_order_and_0_for_none() -> None:
    came = np.array([0.0, 0, 5, 1, 20, 3])
    best = Prediction(came * 2, came, True).measures(np.ones(6))
    assert best["gini"] == pytest.approx(1)
    assert best["decile_gini"] == pytest.approx(1)
    assert Prediction(np.ones(6), came, True).measures(np.ones(6))["gini"] == pytest.approx(0)
    assert Prediction(-came, came, True).measures(np.ones(6))["gini"] < -0.5


def test_a_lead_is_held_against_chance() -> None:
    random = np.random.default_rng(5)
    truth = random.random(3000)
    came = (random.random(3000) < truth).astype(float)
    told = {"good": truth, "same": truth + 0, "noise": random.random(3000)}
    judged = judge("good", told, came, False, seed=1)
    assert judged.leads["noise"].low > 0.2
    assert judged.leads["same"].low == judged.leads["same"].high == 0
    assert judged.quality.num_rows == 3 * 7
    assert RESAMPLES >= 100


# -- one head --------------------------------------------------------------------------------------


def rows(seed: int, n: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 4)).astype(np.float32)
    p = 1 / (1 + np.exp(-(x[:, 0] * 1.5 - 1)))
    buys = random.random(n) < p
    amount = np.where(buys, np.exp(3 + 0.5 * x[:, 1] + random.normal(0, 0.5, n)), 0)
    return x, buys.astype(float), amount


def made(is_amount: bool) -> tuple[Head, np.ndarray, np.ndarray]:
    parts = []
    for seed in (1, 2):
        x, buys, amount = rows(seed)
        y = amount if is_amount else buys
        parts.append(Rows(x, y, np.arange(len(y)), np.ones(len(y))))
    head = fit(("a", "b", "c", "d"), *parts, is_amount, Config(seed=1), 1)
    x, buys, amount = rows(3)
    return head, x, amount if is_amount else buys


@pytest.mark.parametrize("is_amount", [False, True])
def test_a_head_is_calibrated_on_users_it_has_not_seen(is_amount: bool, tmp_path: Path) -> None:
    head, x, came = made(is_amount)
    told = head.tell(x)
    assert told.mean() == pytest.approx(came.mean(), rel=0.1)
    top = np.argsort(-told)[:300]
    assert came[top].mean() > 2 * came.mean()
    assert told[top].mean() == pytest.approx(came[top].mean(), rel=0.2)
    low, high = head.interval(told)
    assert ((low <= told) & (told <= high) & (low >= 0)).all()
    if not is_amount:
        assert (high <= 1).all()
    again, _, _ = made(is_amount)
    assert again == head  # same inputs, same bytes
    head.save(tmp_path)
    assert (Head.load(tmp_path).tell(x) == told).all()
    moved = head.contributions(x)
    assert moved.shape == x.shape
    assert np.abs(moved).mean(0).argmax() == 0


def test_intervals_hold_the_mean_of_users_told_alike() -> None:
    random = np.random.default_rng(6)
    inside = []
    for _ in range(200):
        p = random.random(2000)
        bands = Bands.fit(p, (random.random(2000) < p).astype(float), np.arange(2000))
        inside.append(np.array(bands.half).mean())
    # ten bins of 200 users of mean spread: 1.28 * .4 / 14 = .037 and what the bin is off by
    assert 0.03 < np.mean(inside) < 0.08


def test_too_little_is_said(tmp_path: Path) -> None:
    x, buys, _ = rows(1, 100)
    few = Rows(x, buys, np.arange(100), np.ones(100))
    with pytest.raises(TooLittleHistory, match="100 rows"):
        fit(("a", "b", "c", "d"), few, few, False, Config(seed=1), 1)
    with pytest.raises(ModelError, match="roll back"):
        Head.load(tmp_path)


def test_baselines_follow_their_rules() -> None:
    day = np.array([1.0, 5, 30, np.nan])
    falls = Recency.fit(np.repeat(day, 50), np.repeat([0.9, 0.5, 0.2, 0.0], 50), rises=False)
    assert np.diff(falls.tell(day)).max() <= 0
    random = np.random.default_rng(7)
    rfm = np.column_stack([random.integers(1, 90, 2000), *random.gamma(1, 5, (2, 2000))])
    came = (rfm[:, 0] < 20).astype(float)
    told = Rfm.fit(rfm, came).tell(rfm)
    assert roc_auc_score(came, told) > 0.9


def test_buying_tells_what_its_models_tell() -> None:
    random = np.random.default_rng(8)
    n = 600
    age = random.integers(20, 100, n).astype(float)
    repeats = random.poisson(age * random.gamma(0.8, 0.05, n)).astype(float)
    recency = np.where(repeats > 0, np.maximum(1, (age * random.random(n)).round()), 0)
    known = Known(History.of(repeats, recency, age), repeats + 1, random.lognormal(3, 0.3, n))
    buying = Buying.fit(known, seed=1)
    buys = buying.tell(Target(PURCHASE, 30), known)
    assert buying.tell(Target(CHURN, 30), known) == pytest.approx(1 - buys)
    # a purchase at least is no likelier than there are purchases to expect
    assert (buys <= buying.purchases.expected(known.history, 30) + 1e-9).all()
    low, high = buying.interval(Target(SPEND, 90), known, 0.8)
    told = buying.tell(Target(SPEND, 90), known)
    assert ((low <= told) & (told <= high)).mean() > 0.9
    assert Buying.of(buying.as_dict()).tell(Target(SPEND, 90), known) == pytest.approx(told)


# -- reasons ---------------------------------------------------------------------------------------


def test_reasons_are_words_with_the_users_own_numbers() -> None:
    names = ("days_since_last_order", "orders_90d", "orders_30d", "views_7d")
    x = np.array([[12, 3, 1, 0], [np.nan, 0, 0, 40]], np.float32)
    moved = np.array([[-1.0, 0.5, 0.4, 0.01], [0.1, -2, -0.5, 3]])
    assert reasons(names, x, moved).to_pylist() == [
        ["- days since the last order: 12", "+ orders, last 90 days: 3"],
        ["+ views, last 7 days: 40", "- orders, last 90 days: 0"],
    ]
    assert family("orders_30d") == family("orders_90d") == family("faded_orders")
    assert "{" not in reasons(names, x, moved).flatten().to_pylist()[0]
    assert words("orders_year_ago_90d") == "orders a year ago in the season ahead, 90 days: {}"


# -- a night ---------------------------------------------------------------------------------------


def test_a_night_judges_promotes_and_tells_everybody(
    inputs: ValueInputs, trained: tuple[Path, list[nightly.Outcome]]
) -> None:
    models, found = trained
    by = {(each.target.name, each.target.days): each for each in found}
    assert by[PURCHASE, 30].promoted, by[PURCHASE, 30].decision
    assert "judged on later days" in by[PURCHASE, 30].decision
    assert "told by BG/NBD" in by[SPEND, 365].decision
    auc = {
        row["model"]: row["value"]
        for row in by[PURCHASE, 30].quality.to_pylist()
        if row["metric"] == "auc"
    }
    assert set(auc) == {"challenger", "recency", "rfm", "bg_nbd"}
    assert auc["challenger"] > auc["recency"]
    kinds = by[PURCHASE, 30].fairness["kind"].unique().to_pylist()
    assert "country" in kinds
    told = tell(inputs, models=models, feature_service=CARD["feature_service"], seed=1)
    table = told.predictions
    key = ["user_id", "target", "horizon_days"]
    assert table.group_by(key).aggregate([]).num_rows == table.num_rows
    purchase = table.filter(pc.equal(table["target"], PURCHASE))
    assert purchase.num_rows == 2 * inputs.tonight.num_rows
    low, value, high = (table[name].to_numpy() for name in ("low", "value", "high"))
    assert ((low >= 0) & (low <= value) & (value <= high) & np.isfinite(high)).all()
    spend = table.filter(pc.equal(table["horizon_days"], 365))
    assert set(spend["model_version"].to_pylist()) == {"bg_nbd-20260628"}
    assert told.versions["purchase_30"] == by[PURCHASE, 30].version
    assert max(map(len, table["top_reasons"].to_pylist())) <= 3
    assert told.drift.num_rows and told.drivers.num_rows
    model = nightly.champion(models, Target(PURCHASE, 30), NIGHT, CARD["feature_service"])
    assert model and model.taste and "taste_1" in model.head.features


def test_many_users_are_told_as_few_are(
    inputs: ValueInputs,
    trained: tuple[Path, list[nightly.Outcome]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some at a time, so that memory does not grow with the users."""
    models, _ = trained
    service = CARD["feature_service"]
    whole = tell(inputs, models=models, feature_service=service, seed=1)
    monkeypatch.setattr("ml.value.tell._AT_ONCE", 400)
    parts = tell(inputs, models=models, feature_service=service, seed=1)
    numbers = ["value", "low", "high"]
    assert parts.predictions.drop_columns(numbers).equals(whole.predictions.drop_columns(numbers))
    for name in numbers:
        found, wanted = (each.predictions[name].to_numpy() for each in (parts, whole))
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_the_same_night_again_finds_the_same(
    inputs: ValueInputs, trained: tuple[Path, list[nightly.Outcome]]
) -> None:
    models, found = trained
    again = train(inputs, models=models, card=CARD, seed=1, threads=1)
    assert [each.decision for each in again] == [each.decision for each in found]
    assert [each.version for each in again] == [each.version for each in found]
    assert all(a.quality.equals(b.quality) for a, b in zip(again, found, strict=True))
    assert len(registry.promotions(models, "value_purchase_30")) == 1


def test_between_trainings_the_champion_is_judged(
    inputs: ValueInputs, trained: tuple[Path, list[nightly.Outcome]]
) -> None:
    models, _ = trained
    tomorrow = replace(inputs, night=NIGHT + timedelta(days=1))
    found = train(tomorrow, models=models, card=CARD, seed=1, threads=1, every_days=7)
    purchase = next(each for each in found if each.target == Target(PURCHASE, 30))
    assert purchase.version == ""
    assert "champion" in purchase.quality["model"].to_pylist()


def test_a_model_of_other_features_or_of_somebody_erased_is_not_used(
    inputs: ValueInputs, trained: tuple[Path, list[nightly.Outcome]]
) -> None:
    models, _ = trained
    target = Target(PURCHASE, 30)
    assert nightly.champion(models, target, NIGHT, "user_value_v1")
    assert nightly.champion(models, target, NIGHT, "user_value_v2") is None
    told = tell(inputs, models=models, feature_service="user_value_v2", seed=1)
    assert told.versions["purchase_30"].startswith("bg_nbd")


def test_what_was_told_is_held_against_what_came(inputs: ValueInputs) -> None:
    told = pa.table(
        {
            "user_id": [f"u{n:04d}" for n in range(100)] * 2,
            "target": ["purchase"] * 200,
            "horizon_days": pa.array([7] * 100 + [30] * 100, pa.int32()),
            "value": np.linspace(0, 1, 200),
        }
    )
    then = NIGHT - timedelta(days=10)
    found = followed_up(told, inputs.orders, then, NIGHT)
    assert found["horizon_days"].unique().to_pylist() == [7]  # the 30 days are not over
    assert found["n"].to_pylist() == [10] * 10
    window = pc.and_(
        pc.greater(inputs.orders["order_date"], then),
        pc.less_equal(inputs.orders["order_date"], then + timedelta(days=7)),
    )
    buyers = set(inputs.orders.filter(window)["user_id"].to_pylist())
    came = np.mean([user in buyers for user in told["user_id"].to_pylist()[:100]])
    assert np.mean(found["actual"].to_numpy()) == pytest.approx(came)


def test_every_target_is_told_over_its_days() -> None:
    assert [(t.name, t.days) for t in targets(77)] == [
        *((PURCHASE, 7), (PURCHASE, 30), (CHURN, 77), (REPURCHASE, 90)),
        *((SPEND, 90), (SPEND, 180), (SPEND, 365)),
    ]
    assert CHURN not in [t.name for t in targets(None)]
    assert targets(77)[2].model == "value_churn"
