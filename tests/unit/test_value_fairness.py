"""Groups of shoppers: measures by hand, what the gap's interval says, and who is taken together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ml import ModelError
from ml.value.fairness import METRICS, auc, calibration, ece, gaps


def users(n, seed=0):
    random = np.random.default_rng(seed)
    probability = random.beta(1, 4, n)
    return random, probability, (random.random(n) < probability).astype(int)


def measured(table):
    rows = table.to_pylist()
    return {(row["kind"], row["grp"], row["metric"]): row for row in rows}


def test_ece_and_calibration_by_hand():
    # ten bins of 20 users; in each the predicted share is right but for the first, .2 too low, and
    # the last, .1 too high
    probability = np.repeat(np.arange(10) / 10 + 0.05, 20)
    buyers = (np.arange(10) / 10 + 0.05) * 20 + np.array([4, *[0] * 8, -2])
    outcome = np.concatenate([(np.arange(20) < round(n)).astype(int) for n in buyers])
    assert ece(outcome, probability) == pytest.approx((0.2 + 0.1) / 10)
    assert calibration(outcome, probability) == pytest.approx((0.1 - 0.2) / 10)


@given(st.integers(100, 300), st.integers(1, 40), st.integers(0, 2**31))
def test_auc_is_that_of_scikit_learn_with_any_ties(n, values, seed):
    random = np.random.default_rng(seed)
    probability = random.integers(values + 1, size=n) / values
    outcome = np.concatenate([[0, 1], random.integers(2, size=n - 2)])
    assert auc(outcome, probability) == pytest.approx(roc_auc_score(outcome, probability))


def test_groups_that_are_alike_have_a_gap_that_begins_at_zero_and_others_do_not():
    random, probability, outcome = users(10_000)
    country = random.choice(["DE", "FR", "GB", "PL"], len(probability), p=[0.6, 0.2, 0.15, 0.05])
    alike = measured(gaps(probability, outcome, {"country": country}, 1))
    for metric in METRICS:
        gap = alike["country", "gap", metric]
        assert gap["low"] == 0 < gap["value"] <= gap["high"]
        assert gap["n"] == len(probability)
    # of one country nothing is known, and it buys as often as the others
    worse = np.where(country == "PL", random.permutation(probability) + 0.2, probability)
    found = measured(gaps(np.minimum(worse, 1), outcome, {"country": country}, 1))
    for metric in METRICS:
        assert found["country", "gap", metric]["low"] > 0
    assert found["country", "PL", "auc"]["low"] < 0.5 < found["country", "PL", "auc"]["high"]
    assert found["country", "PL", "calibration"]["low"] > 0.1
    assert found["country", "DE", "auc"] == alike["country", "DE", "auc"]


def test_intervals_hold_the_truth_nearly_always():
    # p ~ U(0, 1) that is right: AUC is twice the integral of p times the share below it, 5/6; no
    # error of calibration, no gap
    truth = {"auc": 5 / 6, "calibration": 0.0, "ece": 0.0}
    held = dict.fromkeys([(grp, m) for grp in ("a", "gap") for m in METRICS], 0)
    for seed in range(20):
        random = np.random.default_rng(seed)
        probability = random.random(800)
        outcome = (random.random(800) < probability).astype(int)
        table = measured(gaps(probability, outcome, {"k": np.repeat([*"abcd"], 200)}, seed))
        for grp, metric in held:
            row = table["k", grp, metric]
            held[grp, metric] += row["low"] <= (truth[metric] if grp == "a" else 0) <= row["high"]
    assert all(times >= 18 for times in held.values()), held
    # and they are not so wide as to say nothing
    assert min(held.values()) < 20


def test_small_groups_are_taken_together_and_nobody_without_a_group_is_lost():
    _, probability, outcome = users(1000)
    country = np.array(
        ["DE"] * 500 + ["FR"] * 90 + ["GB"] * 60 + [None] * 250 + [np.nan] * 100, object
    )
    outcome[:500] |= np.arange(500) % 50 == 0
    table = measured(gaps(probability, outcome, {"country": country}, 1))
    counts = {grp: row["n"] for (_, grp, _), row in table.items()}
    assert counts == {"DE": 500, "other": 150, "unknown": 350, "gap": 1000}


def test_a_group_with_one_outcome_alone_is_not_measured_by_itself():
    _, probability, outcome = users(400)
    country = np.repeat(["DE", "FR"], 200)
    outcome[:200] = 0
    table = measured(gaps(probability, outcome, {"country": country}, 1))
    assert {grp for _, grp, _ in table} == {"FR"}  # 'other' has no buyer either, one has no gap
    nobody = gaps(probability, np.zeros(400, int), {"country": country}, 1)
    assert nobody.num_rows == 0


def test_same_seed_same_table():
    random, probability, outcome = users(2000)
    groups = {"tenure": random.choice(["new", "old"], 2000)}
    table = gaps(probability, outcome, groups, 5)
    assert table.equals(gaps(probability, outcome, groups, 5))
    assert not table.equals(gaps(probability, outcome, groups, 6))


def test_numbers_that_cannot_be_are_refused():
    _, probability, outcome = users(200)
    group = np.full(200, "all")
    with pytest.raises(ModelError, match="outcomes of 0 or 1"):
        gaps(probability, outcome * 2, {"kind": group}, 0)
    with pytest.raises(ModelError, match="probabilities that are numbers"):
        gaps(np.where(outcome == 1, np.nan, probability), outcome, {"kind": group}, 0)
    with pytest.raises(ModelError, match="groups by kind"):
        gaps(probability, outcome, {"kind": group[1:]}, 0)
