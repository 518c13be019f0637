"""The population stability index: by hand, on shifts of known size, and of missing values."""

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml import ModelError
from ml.value.drift import DRIFTED, STEADY, psi, reading

floats = st.lists(st.none() | st.floats(width=32), min_size=1, max_size=60)


def index(then, now):
    tables = [pa.table({"x": pa.array(values, from_pandas=False)}) for values in (then, now)]
    return psi(*tables, ["x"])["psi"][0].as_py()


def normal(mean, n=100_000, seed=0):
    return np.random.default_rng(seed).normal(mean, 1, n)


def test_by_hand():
    # ten bins of ten; tonight the upper half has moved into the lowest bin
    then = list(range(100))
    now = [0] * 60 + list(range(10, 50))
    moved = (0.6 - 0.1) * math.log(0.6 / 0.1)
    left = 5 * (0.0001 - 0.1) * math.log(0.0001 / 0.1)
    # no value is missing in either, and an empty bin counts as a share of .0001 in both
    assert index(then, now) == pytest.approx(moved + left)


def test_missing_values_are_a_bin_of_their_own():
    then = [1.0, 2.0, None, float("nan")]
    assert index(then, [None, 2.0, float("nan"), 1.0]) == 0
    # half of the rows have lost their value: .5 -> .75, and .25 -> .125 in two bins
    now = [1.0, 2.0] + [None] * 6
    expected = 0.25 * math.log(0.75 / 0.5) - 2 * 0.125 * math.log(0.125 / 0.25)
    assert index(then, now) == pytest.approx(expected)
    table = psi(pa.table({"x": then}), pa.table({"x": now}), ["x"]).to_pylist()[0]
    assert (table["missing_reference"], table["missing_tonight"]) == (0.5, 0.75)
    assert (table["n_reference"], table["n_tonight"]) == (4, 8)


@given(floats)
def test_zero_for_the_same_data_in_any_order(values):
    assert index(values, values[::-1]) == 0


@given(floats, floats)
def test_never_negative_and_always_a_number(then, now):
    assert 0 <= index(then, now) < math.inf


def test_a_shift_of_the_mean_is_found_and_read_as_usual():
    # two normals a distance d apart have an index near d squared
    assert index(normal(0), normal(0, seed=1)) < 0.001
    assert reading(index(normal(0), normal(0.1, seed=1))) == "steady"
    assert reading(index(normal(0), normal(0.4, seed=1))) == "shifted"
    assert reading(index(normal(0), normal(1, seed=1))) == "drifted"
    assert index(normal(0), normal(0.4, seed=1)) == pytest.approx(0.16, rel=0.1)
    assert (reading(STEADY), reading(DRIFTED)) == ("shifted", "shifted")


def test_symmetric_where_there_are_many_rows():
    then, now = normal(0), normal(0.3, seed=1)
    assert index(then, now) == pytest.approx(index(now, then), rel=0.05)


def test_a_constant_column_drifts_when_it_changes_either_way():
    then = [3.0] * 100
    assert index(then, [3.0] * 40) == 0
    assert index(then, [2.0] * 40) > DRIFTED
    assert index(then, [4.0] * 40) > DRIFTED
    # as does one where most rows are zero
    assert index([0.0] * 90 + [1.0] * 10, [-1.0] * 90 + [1.0] * 10) > DRIFTED


def test_infinite_values_count_as_the_largest_and_smallest():
    then = [-math.inf, *range(1, 99), math.inf]
    assert index(then, [-1e9, *range(1, 99), 1e9]) == 0
    assert index([1.0, 2.0], [math.inf, math.inf]) > DRIFTED


def test_columns_of_every_numeric_type_and_none_at_all():
    table = pa.table(
        {
            "flag": [True, False, None],
            "count": pa.array([1, 2, 2**62], pa.int64()),
            "money": [Decimal("1.10"), Decimal("2.20"), None],
            "never": pa.nulls(3),
            "name": ["a", "b", "c"],
        }
    )
    found = psi(table, table, ["flag", "count", "money", "never"])
    assert found["psi"].to_pylist() == [0, 0, 0, 0]
    assert found["missing_tonight"].to_pylist() == pytest.approx([1 / 3, 0, 1 / 3, 1])
    assert psi(table, table, []).num_rows == 0
    assert psi(table, table.slice(0, 0), ["count"]).to_pylist()[0]["psi"] is None
    with pytest.raises(ModelError, match="name is string, not a number"):
        psi(table, table, ["name"])
    with pytest.raises(ModelError, match="no column size"):
        psi(table, table, ["size"])
