"""The benchmarks may only time answers that are right, so they must tell right from wrong."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import value
from benchmarks.features import FEATURES, History, joins, verdict
from benchmarks.lib.night import Took
from benchmarks.night import compare

ANSWER = pa.table({"row": [0, 1, 2], **{name: [0.5, None, 1.5] for name in FEATURES}})


def test_an_answer_may_come_in_any_order() -> None:
    assert verdict(ANSWER, ANSWER.take([2, 0, 1])) == "all 3 equal"


def test_a_lost_a_repeated_and_a_changed_row_are_told() -> None:
    changed = ANSWER.set_column(1, FEATURES[0], pa.array([0.5, 0.0, 1.5]))
    assert verdict(ANSWER, ANSWER.slice(1)).startswith("1 rows lost or different, 0")
    assert verdict(ANSWER, ANSWER.take([0, 1, 2, 2])).startswith("0 rows lost or different, 1")
    assert verdict(ANSWER, changed).startswith("1 rows lost or different, 1")


@pytest.mark.parametrize("ttl", [timedelta(), timedelta(days=14)], ids=["no ttl", "ttl"])
def test_our_store_feasts_store_and_sql_by_hand_agree(tmp_path: Path, ttl: timedelta) -> None:
    page = joins(tmp_path / "joins", History(40, 10, ttl), 500, 1)
    assert page.count("all 500 equal") == 2


def test_a_night_with_nothing_to_do_has_no_steps() -> None:
    page = compare(
        {
            "first": (Took(20.0, 2**30, {"landing": 5.0, "report": 3.0}), 1_000),
            "again": (Took(1.5, 2**27, {}), 0),
        }
    ).splitlines()
    assert page[2:4] == ["| landing | 5.0 | - |", "| report | 3.0 | - |"]
    assert "| starting, between the steps, ending | 12.0 | 1.5 |" in page
    assert "| peak memory, MB | 1,024 | 128 |" in page
    assert "| new raw rows a second | 50 | 0 |" in page


@pytest.mark.parametrize("law", [value.BG, value.PARETO, value.GAMMA])
def test_the_simulated_customers_are_those_of_the_law_that_is_fitted(law: str) -> None:
    found = value.one(law, value.SECONDS, 6_000, 0)
    spread = np.log(found["high"]) - np.log(found["low"])  # of 3.92 standard errors
    away = np.log(found["found"]) - np.log(value.TRUE[law])
    assert (np.abs(away) < spread).all(), found
    assert found["fit"] > 0 and 0 < found["pass"] < found["fit"]


def test_customers_of_whole_days_are_fewer_rows() -> None:
    assert value.one(value.BG, value.WHOLE_DAYS, 6_000, 0)["rows"] < 5_700
    assert value.one(value.BG, value.SECONDS, 6_000, 0)["rows"] == 6_000
