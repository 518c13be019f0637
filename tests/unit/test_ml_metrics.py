"""Metrics against values computed by hand, and the gate that decides by them."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml.evaluate import evaluate, held_out
from ml.gate import decide
from ml.metrics import coverage_at, hits, mean_with_interval, ndcg_at, recall_at, top_k
from ml.sequences import DAY, Events


def events(rows, n_users=3, n_items=6):
    """Events (user, item, day) as arrays."""
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    user, item, day = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    ids = pa.array([f"i{i}" for i in range(n_items)])
    users = pa.array([f"u{u}" for u in range(n_users)])
    return Events(users, ids, ("purchase",), user, item, np.zeros(len(user), np.int64), day * DAY)


def test_recall_and_ndcg_by_hand():
    ranking = np.array([[3, 1, 0], [2, 5, -1]])
    truth = np.zeros((2, 6), bool)
    truth[0, [1, 4]] = True  # found at the second place; one of two missed
    truth[1, [2]] = True  # found at the first place
    hit = hits(ranking, truth)
    n_true = truth.sum(1)
    assert recall_at(hit, n_true, 3).tolist() == [0.5, 1.0]
    # user 0: gain 1/log2(3) of a best of 1/log2(2) + 1/log2(3)
    assert ndcg_at(hit, n_true, 3) == pytest.approx([0.6309298 / 1.6309298, 1.0])
    assert recall_at(hit, n_true, 1).tolist() == [0.0, 1.0]
    # The perfect ranking of two wanted items has only one place at k = 1.
    assert ndcg_at(hit, n_true, 1).tolist() == [0.0, 1.0]
    assert coverage_at(ranking, 3, 6) == pytest.approx(5 / 6)


def test_interval_by_hand():
    estimate = mean_with_interval(np.array([0.0, 1.0, 1.0, 0.0]))
    half = 1.96 * np.std([0, 1, 1, 0], ddof=1) / 2
    assert (estimate.value, estimate.n) == (0.5, 4)
    assert (estimate.low, estimate.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert np.isnan(mean_with_interval(np.zeros(0)).value)


@given(
    st.lists(
        st.lists(
            st.sampled_from([-np.inf, -2.5, -0.0, 0.0, 1e-30, 1.0, 3e8]), min_size=5, max_size=5
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 7),
)
def test_top_k_is_a_sort_with_ties_by_the_lower_column(rows, k):
    got = top_k(torch.tensor(rows, dtype=torch.float32), k).tolist()
    for row, ranked in zip(rows, got, strict=True):
        order = sorted(range(5), key=lambda i: (-row[i], i))[:k]
        assert ranked == [i if row[i] > -np.inf else -1 for i in order]


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(577, 900), st.floats(0, 1))
def test_top_k_of_many_columns_is_the_same_sort(seed, k, columns, hidden):
    draw = np.random.default_rng(seed)
    # few different values, so that ties are many, within neighbours and between
    scores = draw.integers(-2, 3, (3, columns)).astype(np.float32)
    scores[draw.random(scores.shape) < hidden] = -np.inf
    for row, ranked in zip(scores, top_k(torch.from_numpy(scores), k).tolist(), strict=True):
        order = np.lexsort((np.arange(columns), -row))[:k]
        assert ranked == [i if row[i] > -np.inf else -1 for i in order]


def test_evaluation_of_a_fixed_ranking_by_hand():
    history = events([(0, 0, 1), (0, 1, 2), (1, 1, 3), (1, 2, 3)])
    # user 0 comes back to item 0 and finds new item 4; user 1 takes 5, which the shop did not have
    # yet; user 2 has no history.
    target = events([(0, 0, 10), (0, 4, 11), (1, 5, 12), (1, 3, 12), (2, 0, 12)])
    candidates = np.array([1, 1, 1, 1, 1, 0], bool)
    data = held_out(history, target, candidates)
    assert data.users.tolist() == [0, 1]
    assert data.unreachable == pytest.approx(1 / 4)
    assert data.is_new.tolist() == [False, False, False, True, True, False]

    # Everybody is shown 5 (not in the catalogue), 0, 4, 1, 2, 3.
    scores = torch.tensor([5.0, 3.0, 2.0, 1.0, 4.0, 9.0])
    result = evaluate("fixed", lambda users: scores.expand(len(users), -1).clone(), data)
    value = {(r["metric"], r["k"]): r["value"] for r in result.table.to_pylist()}
    # user 0: 0 and 4 at places 1 and 2: perfect. user 1: 3 at place 5.
    assert value["ndcg", 10] == pytest.approx((1 + 1 / np.log2(6)) / 2)
    assert value["recall", 10] == 1.0
    # New to user 0: 4, then 2, 3. New to user 1: 0, 4, then 3 at the third place.
    assert value["ndcg_unseen", 10] == pytest.approx((1 + 1 / np.log2(4)) / 2)
    assert value["new_item_recall", 10] == 1.0
    assert value["coverage", 10] == 1.0
    assert result.ndcg == pytest.approx([1, 1 / np.log2(6)])


def test_gate_wants_every_rival_beaten_and_says_by_how_much():
    better, worse = np.array([0.4, 0.6, 0.5]), np.array([0.3, 0.5, 0.2])
    yes = decide(better, {"popularity": worse})
    assert yes.promote
    assert "beats popularity on NDCG@10 (0.500 against 0.333, difference +0.167" in yes.text
    by_chance = decide(np.array([0.9, 0.2, 0.3]), {"popularity": np.array([0.1, 0.4, 0.2])})
    assert by_chance.promote and "beat" not in by_chance.text
    assert "is ahead of popularity, within chance, on NDCG@10" in by_chance.text
    no = decide(better, {"popularity": worse, "champion": better})
    assert not no.promote and "does not beat champion" in no.text
    # whatever rival comes last, one that is not beaten is enough
    assert not decide(better, {"champion": better, "popularity": worse}).promote
    assert not decide(better, {"broken": np.full(3, np.nan), "popularity": worse}).promote
    assert not decide(np.zeros(0), {"popularity": np.zeros(0)}).promote
    with pytest.raises(ValueError, match="other users"):
        decide(better, {"popularity": worse[:2]})
