"""Figures of lists, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ml.list_quality import exposure, gini, intra_list_diversity, novelty, quality

LISTS = np.array([[0, 1], [0, 2], [0, -1]])
VECTORS = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0]], np.float32)


def test_gini_of_exposure() -> None:
    assert exposure(LISTS, 4).tolist() == [3, 1, 1, 0]
    # sorted 0 1 1 3: (-3*0 - 1*1 + 1*1 + 3*3) / (4 * 5)
    assert gini(np.array([3, 1, 1, 0])) == pytest.approx(9 / 20)
    assert gini(np.array([2, 2, 2])) == 0
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    assert np.isnan(gini(np.zeros(3)))


def test_intra_list_diversity_is_the_mean_over_pairs_and_lists() -> None:
    # 1 - cos: list 1 has 1, list 2 has 0.4, list 3 has no pair
    assert intra_list_diversity(LISTS, VECTORS) == pytest.approx((1 + 0.4) / 2)
    three = np.array([[0, 1, 2]])
    assert intra_list_diversity(three, VECTORS) == pytest.approx((1 + 0.4 + 0.2) / 3)
    assert np.isnan(intra_list_diversity(LISTS[:, :1], VECTORS))


def test_novelty_is_the_mean_self_information() -> None:
    # of 7 users (and one more) 7, 3 and 0 have met the items: 0, 1 and 3 bits
    met_by = np.array([7, 3, 0, 0])
    assert novelty(LISTS, met_by, 7) == pytest.approx((0 + 1 + 0 + 3 + 0) / 5)
    assert np.isnan(novelty(np.full((2, 2), -1), met_by, 7))


def test_only_the_first_ten_places_and_what_could_be_shown_count() -> None:
    ranking = np.arange(24).reshape(2, 12)
    there = np.ones(40, bool)
    there[30:] = False
    figures = quality(ranking, there, np.eye(40, dtype=np.float32), np.zeros(40, int), 1)
    assert figures["coverage"] == pytest.approx(20 / 30)
    assert figures["gini_of_exposure"] == pytest.approx(1 / 3)
    assert figures["intra_list_diversity"] == pytest.approx(1) and figures["novelty"] == 1
