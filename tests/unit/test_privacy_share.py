"""What leaves the house by `make share`: how much of it one user can be, and what that costs."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.duck import connect
from core.paths import Paths
from core.shop import Shop, ShopError, load_shop
from privacy import PrivacyError
from privacy.aggregates import Cells, catalogue, exact
from privacy.budget import BudgetSpent, carry_over, opened
from privacy.forget import forget
from privacy.share import laplace, laplace_above, share
from tests.conftest import ROOT
from tests.unit.test_ingest_landing import NIGHT as LANDED
from tests.unit.test_ingest_landing import land, line, make_shop, put

START, NIGHT = date(2026, 1, 1), date(2026, 6, 29)
NOW = datetime(2026, 6, 30, 2, tzinfo=UTC)
DAYS = (NIGHT - START).days + 1

Lives = dict[str | None, tuple[str | None, list[int], list[tuple[int, int]]]]
"""User (None is a guest) to country, days of activity, and orders (day, cents)."""


def shop(**share_settings: float) -> Shop:
    demo = load_shop("demo")
    return demo.model_copy(update={"share": demo.share.model_copy(update=share_settings)})


def fill(connection: duckdb.DuckDBPyConnection, lives: Lives) -> None:
    """The columns of the marts that the catalogue reads."""

    def day(number: int) -> date:
        return START + timedelta(days=number % DAYS)

    orders = []
    for user, (_, _, bought) in lives.items():
        previous = None
        for number, (when, cents) in enumerate(sorted(bought), start=1):
            since = when - previous if previous is not None else None
            orders.append((user, day(when), cents, number if user else None, since))
            previous = when
    active = [(u, day(n)) for u, (_, days, _) in lives.items() if u for n in {*days}]
    users, countries = zip(*((u, c) for u, (c, *_) in lives.items() if u), strict=True)
    tables = {
        "orders": pa.table(
            dict(
                zip(
                    ("user_id", "day", "cents", "number", "since"),
                    zip(*orders, strict=True) if orders else [[]] * 5,
                    strict=True,
                )
            )
        ),
        "active": pa.table({"user_id": [u for u, _ in active], "day": [d for _, d in active]}),
        "users": pa.table({"user_id": users, "country": countries}),
    }
    for name, table in tables.items():
        connection.register(f"_{name}", table)
    connection.execute(f"""
        CREATE OR REPLACE TABLE fct_orders AS SELECT user_id::VARCHAR AS user_id,
            day::DATE AS order_date, (cents / 100)::DECIMAL(38, 4) AS net_revenue,
            true AS is_valid, number::BIGINT AS order_number, since::BIGINT AS days_since_previous
        FROM _orders;
        CREATE OR REPLACE TABLE user_daily_activity AS SELECT user_id::VARCHAR AS user_id,
            day::DATE AS activity_date, 1 AS events FROM _active;
        CREATE OR REPLACE TABLE dim_users AS
            SELECT user_id, country::VARCHAR AS country FROM _users;
        CREATE OR REPLACE TABLE run_manifest AS SELECT DATE '{NIGHT}' AS night;
        """)


def sums(lives: Lives, **share_settings: float) -> dict[str, Cells]:
    with connect() as connection:
        fill(connection, lives)
        aggregates = catalogue(shop(**share_settings))
        return {each.name: exact(connection, each, START, NIGHT) for each in aggregates}


def people(n: int, country: str = "DE", prefix: str = "u") -> Lives:
    """Active on every day, with an order of 10.00 in each of the first five months."""
    days, bought = [*range(DAYS)], [(30 * month + 5, 1000) for month in range(5)]
    return {f"{prefix}{i}": (country, days, bought) for i in range(n)}


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path / "var"))
    paths = Paths("demo")
    paths.home.mkdir(parents=True)
    return paths


def publish(paths: Paths, lives: Lives) -> None:
    paths.marts.unlink(missing_ok=True)
    with connect(paths.marts) as connection:
        fill(connection, lives)


def ledger(paths: Paths) -> list[dict[str, object]]:
    file = paths.share / "ledger.jsonl"
    return [json.loads(row) for row in file.read_text().splitlines()] if file.exists() else []


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


# ---- how much of it one user can be

a_life = st.tuples(
    st.sampled_from([None, "DE", "AT", "somewhere of their own"]),
    st.lists(st.integers(0, DAYS - 1), max_size=30),
    st.lists(st.tuples(st.integers(0, DAYS - 1), st.integers(-10_000_000, 10_000_000)), max_size=8),
)


@settings(max_examples=15)
@given(st.lists(a_life, min_size=2, max_size=5), a_life)
def test_one_user_more_moves_the_sums_by_no_more_than_the_noise_hides(others, life):
    without: Lives = {f"u{i}": other for i, other in enumerate(others)}
    before, after = sums(without), sums({**without, "one": life})
    for aggregate in catalogue(shop()):
        old, new = before[aggregate.name], after[aggregate.name]
        nothing = [0] * len(aggregate.measures)
        changed = [
            np.subtract(new.get(key, nothing), old.get(key, nothing)) for key in {*old, *new}
        ]
        moved = np.abs([change for change in changed if change.any()] or [nothing])
        assert len(moved) <= aggregate.cells
        bounds = [measure.smallest_units for measure in aggregate.measures]
        assert (moved <= bounds).all()
        if aggregate.every_cell:  # which cells there are tells nothing of anybody
            assert old.keys() == new.keys()


def test_a_user_with_thousands_of_orders_counts_within_the_bounds():
    giant = {"giant": ("DE", [*range(DAYS)], [(n % DAYS, 1_000_000) for n in range(4000)])}
    found = sums(giant, max_cells=3, max_orders=2, max_spend=50)
    by_month = np.array([*found["orders_by_month"].values()])
    assert by_month.sum(0).tolist() == [3, 3 * 2, 3 * 5000]
    assert sum(users for (users,) in found["weekly_active_users"].values()) == 3
    for name in ("repurchase_by_month", "retention_by_week"):
        assert np.array([*found[name].values()]).sum(0).max() <= 1


def test_sums_by_hand():
    lives: Lives = {
        # first order on 2 January and again 40 days later; on 20 February paid back 5.00
        "ann": ("DE", [0, 7, 28], [(1, 2000), (41, 1000), (50, -500)]),
        "bob": ("AT", [0, 1, 179], [(3, 1050)]),
        None: (None, [], [(4, 9900)]),
    }
    found = sums(lives)
    assert found["orders_by_month"]["2026-01-01",] == [2, 2, 3050]
    assert found["orders_by_month"]["2026-02-01",] == [1, 2, 500]
    assert [*found["orders_by_month"]][-1] == ("2026-05-01",)  # June is not over
    assert found["repurchase_by_month"]["2026-01-01",] == [2, 1]
    assert [*found["repurchase_by_month"]][-1] == ("2026-03-01",)
    assert found["weekly_active_users"] == {}  # bob's last day is in a week that is not over
    early = sums({"ann": ("DE", [95, 102, 123], [])})["retention_by_week"]
    assert early["2026-04-06",] == [1, 1, 1]


# ---- the noise


def test_the_noise_is_as_large_as_the_bound_over_epsilon_and_no_larger():
    n = 10_000
    measurement, scale = laplace(sensitivity=4, epsilon=0.25)
    assert scale == pytest.approx(16)
    noise = np.array(measurement([0] * n))
    # mean |noise| of a discrete Laplace, six standard errors to either side
    expected = 1 / math.sinh(1 / scale)
    assert np.abs(noise).mean() == pytest.approx(expected, abs=6 * scale / n**0.5)
    assert noise.mean() == pytest.approx(0, abs=6 * 2**0.5 * scale / n**0.5)


def test_what_one_user_changes_is_hidden_as_epsilon_says():
    n = 40_000
    measurement, _ = laplace(sensitivity=1, epsilon=1.0)
    without, with_one = (np.array(measurement([value] * n)) for value in (100, 101))
    ratios = []
    for value in range(95, 107):
        old, new = (without == value).sum(), (with_one == value).sum()
        if min(old, new) > 200:
            ratios += [old / new, new / old]
    assert len(ratios) > 10
    # at most e, but for six standard errors of counts above 200; and the noise is not wasted
    assert max(ratios) < math.e * (1 + 6 * (2 / 200) ** 0.5)
    assert max(ratios) > math.e * 0.8


def test_a_country_of_one_user_is_not_told():
    mechanism, least = laplace_above(cells=4, scale=8.0, epsilon=0.5, delta=1e-6, least=20)
    assert least == pytest.approx(1 + 8 * math.log(4 / 2e-6), abs=4)
    counts = {f"of user {i}": 1 for i in range(2000)} | {"DE": 10_000}
    assert set(mechanism(counts)) == {"DE"}


# ---- a release


def test_a_release_says_what_it_is_and_leaves_out_small_cells_and_guests(paths):
    guests: Lives = {None: ("DE", [], [(5, 1000)] * 500)}
    publish(paths, people(300) | people(19, "LU", "l") | guests)
    # so much epsilon that noise is none, to see what is counted
    released, left = share(shop(budget=4000), paths, NOW, 4000)
    assert left == 0
    by_name = {each.name: rows(each.csv) for each in released}
    assert {row["country"] for row in by_name["weekly_active_users"]} == {"DE"}
    assert [row["users"] for row in by_name["weekly_active_users"]] == ["300"] * 4
    assert all(0 < int(row["users"]) <= 319 for row in by_name["orders_by_month"])
    assert by_name["repurchase_by_month"][0] == {
        "first_order_month": "2026-01-01",
        "users": "319",
        "ordered_again": "319",
    }
    assert len(by_name["repurchase_by_month"]) == 1  # in February nobody ordered first
    about = json.loads(released[1].csv.with_suffix(".json").read_text())
    assert about["epsilon"] == 1000 and about["simulated"] and about["night"] == "2026-06-29"
    assert [m["measure"] for m in about["measures"]] == ["users", "orders", "net_revenue"]
    spend = about["measures"][2]
    assert spend["bound_of_a_user_in_a_cell"] == 300 and spend["sensitivity"] == 1200
    assert spend["scale"] == pytest.approx(1200 / (1000 / 3))
    assert spend["error_95"] == pytest.approx(spend["scale"] * math.log(20), rel=0.02)
    assert "in 19 of 20 cases it is off by no more than error_95" in about["meaning"]
    assert {path.parent.name for path in paths.share.rglob("*.csv")} == {"2026-06-29"}


def test_cells_that_nobody_is_in_are_not_taken_for_small_ones(paths):
    publish(paths, {"one": ("DE", [0], [])})
    told = 0
    for n in range(5):
        released, _ = share(shop(budget=100, min_cell=1), paths, NOW, 1 + n / 100)
        told += sum(each.about["cells"] for each in released)
    assert told <= 15  # of 5 x 20 empty ones; noise alone lifts one of 40


def test_the_same_again_is_the_same_files_and_free(paths):
    publish(paths, people(100))
    first, left = share(shop(), paths, NOW)
    before = {path: path.read_bytes() for path in paths.share.rglob("*") if path.is_file()}
    assert left == 9 and not any(each.before for each in first)
    again, left = share(shop(), paths, NOW)
    assert left == 9 and all(each.before for each in again)
    assert before == {path: path.read_bytes() for path in paths.share.rglob("*") if path.is_file()}
    other, left = share(shop(), paths, NOW, 2)
    assert left == 7 and not any(each.before for each in other)
    assert len(ledger(paths)) == 8
    assert {row["query"] for row in ledger(paths)} == {each.name for each in first}
    assert {row["night"] for row in ledger(paths)} == {"2026-06-29"}
    assert sum(Decimal(str(row["epsilon"])) for row in ledger(paths)) == 3


def test_a_spent_budget_refuses_says_what_is_left_and_releases_nothing(paths):
    publish(paths, people(50))
    share(shop(budget=1.5), paths, NOW)
    before = sorted(paths.share.rglob("*"))
    with pytest.raises(BudgetSpent, match=r"0\.5 left: this needs 0\.8.*EPSILON=0\.5") as refused:
        share(shop(budget=1.5), paths, NOW, 0.8)
    assert "share.budget in shops/demo/shop.yml" in str(refused.value)
    assert sorted(paths.share.rglob("*")) == before and len(ledger(paths)) == 4
    _, left = share(shop(budget=1.5), paths, NOW)  # what was released is still to be had
    assert left == Decimal("0.5")
    _, left = share(shop(budget=1.5), paths, NOW, 0.5)
    assert left == 0


def test_what_cannot_be_released_is_said(paths):
    with pytest.raises(ShopError, match="make run SHOP=demo"):
        share(shop(), paths, NOW)
    publish(paths, people(2))
    for epsilon in (0, -1, math.nan, math.inf, 1e-9):
        with pytest.raises(ShopError, match="EPSILON must be"):
            share(shop(), paths, NOW, epsilon)
    assert not ledger(paths)


# ---- the ledger

KILLED = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from core.paths import Paths
from core.shop import load_shop
from privacy import share
def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "charged":
    share.Mechanism.draw = killed
else:
    replace = Path.replace
    Path.replace = lambda self, to: killed() if to.suffix == ".json" else replace(self, to)
share.share(load_shop("demo"), Paths("demo"), datetime(2026, 6, 30, 2))
"""


@pytest.mark.parametrize("moment", ["charged", "half written"])
def test_a_kill_wastes_budget_and_what_comes_after_is_charged_again(paths, moment):
    publish(paths, people(50))
    ran = subprocess.run([sys.executable, "-c", KILLED, moment], cwd=ROOT, check=False)
    assert ran.returncode == -signal.SIGKILL
    assert len(ledger(paths)) == 1
    assert not [*paths.share.rglob("*.json")]
    released, left = share(shop(), paths, NOW)
    assert left == Decimal("8.75") and not any(each.before for each in released)
    assert [row["query"] for row in ledger(paths)].count("weekly_active_users") == 2


def test_a_line_that_a_kill_cut_short_was_never_granted_and_a_damaged_one_stops_all(paths):
    publish(paths, people(50))
    share(shop(), paths, NOW)
    file = paths.share / "ledger.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"id": "8b1", "epsilon": "0.2')
    with opened(paths) as again:
        assert again.spent == 1
    assert file.read_bytes() == whole
    file.write_bytes(whole[1:])
    with pytest.raises(PrivacyError, match="damaged in line 1"):
        share(shop(), paths, NOW, 2)
    file.unlink()
    with pytest.raises(PrivacyError, match="does not know of it"):
        share(shop(), paths, NOW)


def test_two_at_once_cannot_overspend(paths):
    publish(paths, people(50))
    command = [sys.executable, "-m", "privacy", "share", "--shop", "demo", "--epsilon"]
    both = [
        subprocess.Popen([*command, epsilon], cwd=ROOT, env=os.environ, stderr=subprocess.PIPE)
        for epsilon in ("6", "5.5")
    ]
    said = [process.communicate()[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    assert "privacy budget of 10" in "".join(said)
    assert len(ledger(paths)) == 4


def test_going_back_to_a_backup_gives_no_budget_back(paths, tmp_path):
    publish(paths, people(50))
    share(shop(), paths, NOW)
    backup = tmp_path / "coming"
    carry_over(paths.share, backup)  # a backup without any ledger
    assert (backup / "ledger.jsonl").read_bytes() == (paths.share / "ledger.jsonl").read_bytes()
    share(shop(), paths, NOW, 2)
    carry_over(paths.share, backup)
    carry_over(paths.share, backup)
    (paths.share / "ledger.jsonl").write_bytes((backup / "ledger.jsonl").read_bytes())
    _, left = share(shop(), paths, NOW, 2)
    assert left == 7 and len(ledger(paths)) == 8


def test_forgetting_somebody_leaves_the_ledger_and_looks_through_what_was_released(
    tmp_path, monkeypatch
):
    tiny, paths = make_shop(tmp_path, monkeypatch)
    put(paths, "1.csv", *(line(n, f"2026-01-02 1{n}:00:00", f"shopper{n}") for n in range(3)))
    land(tiny, paths, LANDED)
    publish(paths, people(50))
    share(tiny, paths, NOW)
    before = {path: path.read_bytes() for path in paths.share.rglob("*") if path.is_file()}
    assert len(before) == 10
    result = forget(tiny, paths, "shopper1", say=lambda _: None)
    assert result.searched["share"] == 9  # all but the lock
    assert before == {path: path.read_bytes() for path in paths.share.rglob("*") if path.is_file()}
