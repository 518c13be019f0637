"""`kill -9` at twenty moments of a night; the next run ends as if nothing had happened."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.state import runs, state
from tests.faults.tiny import TONIGHT, Calm, Nights, kill

pytestmark = pytest.mark.faults

KILLS = 20


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_night_is_made_good_by_the_next_run(
    number: int, nights: Nights, undisturbed: Calm
) -> None:
    seconds = undisturbed.seconds
    # one moment in each twentieth of the night, the same ones every time
    moment = (number + random.Random(number).random()) / KILLS * seconds
    before = nights.marts.read_bytes()
    process = nights.start("run", "--shop", "tiny", "--night", str(TONIGHT))
    time.sleep(moment)
    said = kill(process)
    assert "published__marts ..." in said or nights.marts.read_bytes() == before
    ran = nights.run(TONIGHT)
    assert ran.code == 0, f"killed after {moment:.1f} s, having said\n{said}\nand then\n{ran.out}"
    assert state(nights) == undisturbed.state, f"killed after {moment:.1f} s, having said\n{said}"
    # a run that Dagster takes for running would keep the shop's place in the queue for ever
    assert set(runs(nights).values()) <= {"SUCCESS", "FAILURE"}


def test_the_comparison_sees_every_part_of_a_night(
    undisturbed: Calm,
) -> None:
    # and a night in which nothing was promoted would not tell whether the champion is the same
    names = set(undisturbed.state)
    for part in (
        "marts.duckdb: fct_orders",
        "warehouse.duckdb: ",
        "online.",
        "mlflow.",
        "landing/",
        "features/",
        "champion.json",
    ):
        assert any(part in name for name in names), part
    assert not [name for name in names if name.endswith((".next", ".tmp", ".new", ".part"))]
