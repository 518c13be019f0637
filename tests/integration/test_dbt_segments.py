"""Where customers stand on any night: `segment_history` against its definition, day by day.

dbt compiles the models once; DuckDB then runs them on orders that hypothesis makes up, and plain
Python says for every customer and every past night what the definition says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import duckdb
import pytest
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.cli.main import dbtRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from core.shop import ROOT

PROJECT = ROOT / "dbt_project"
MODELS = ("churn_horizon", "segment_history", "user_rfm")
START, NIGHT = date(2025, 11, 12), date(2026, 3, 20)
ONE_DAY = timedelta(days=1)
MONTH_ENDS = [date(2025, 11, 30), date(2025, 12, 31), date(2026, 1, 31), date(2026, 2, 28), NIGHT]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The SQL of the models as of NIGHT."""
    home = tmp_path_factory.mktemp("dbt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_SHOP_HOME", str(home))
        patch.setenv("PERENNIAL_NIGHT", NIGHT.isoformat())
        variables = f"{{start: '{START}', churn_gap_quantile: 0.9}}"
        folders = {"project-dir": PROJECT, "profiles-dir": PROJECT}
        folders |= {"target-path": home, "log-path": home}
        options = [part for name, at in folders.items() for part in (f"--{name}", str(at))]
        done = dbtRunner().invoke(
            ["--quiet", "compile", "--select", *MODELS, *options, "--vars", variables]
        )
        DuckDBConnectionManager.close_all_connections()
    assert done.success, done.exception
    folder = home / "compiled" / "perennial" / "models" / "marts"
    return {name: (folder / f"{name}.sql").read_text() for name in MODELS}


@pytest.fixture(scope="module")
def warehouse() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("ATTACH ':memory:' AS warehouse; CREATE SCHEMA warehouse.marts")
        connection.execute("SET threads = 1")
        yield connection


@dataclass(frozen=True)
class Order:
    """One order of a user; what was refunded of it came back on the day `refunded_on`."""

    user_id: str
    order_date: date
    revenue: int
    refunded: int
    refunded_on: date

    @property
    def is_valid(self) -> bool:
        return self.revenue > self.refunded


DAYS = st.integers(0, (NIGHT - START).days).map(lambda days: START + timedelta(days=days))


@st.composite
def orders(draw: st.DrawFn) -> list[Order]:
    made = []
    for _ in range(draw(st.integers(0, 40))):
        day, revenue = draw(DAYS), draw(st.integers(1, 9))
        refunded = draw(st.sampled_from([0, 0, 0, 1, revenue]))
        made.append(
            Order(
                draw(st.sampled_from("abcdefg")),
                day,
                revenue,
                min(refunded, revenue),
                min(NIGHT, day + timedelta(days=draw(st.integers(0, 60)))),
            )
        )
    return made


LINES = """
CREATE OR REPLACE TABLE warehouse.marts.fct_order_lines AS
SELECT user_id, order_date AS line_date, revenue FROM given
UNION ALL SELECT user_id, refunded_on, -refunded FROM given WHERE refunded > 0
"""
ORDERS = """
CREATE OR REPLACE TABLE warehouse.marts.fct_orders AS
SELECT *, CASE WHEN is_valid THEN row_number() OVER in_order END AS order_number,
       CASE WHEN is_valid THEN order_date - lag(order_date) OVER in_order END AS days_since_previous
FROM given WINDOW in_order AS (PARTITION BY user_id, is_valid ORDER BY order_date, order_id)
"""
USERS = """
CREATE OR REPLACE TABLE warehouse.marts.dim_users AS
SELECT user_id, max(order_date) FILTER (is_valid)::TIMESTAMP AS last_order_at,
       count(*) FILTER (is_valid) AS orders, sum(revenue - refunded) AS net_revenue,
       orders > 0 AS is_customer
FROM given GROUP BY user_id
"""


def build(
    warehouse: duckdb.DuckDBPyConnection, compiled: dict[str, str], made: list[Order]
) -> None:
    """The three models on these orders."""
    warehouse.execute(
        "CREATE OR REPLACE TEMP TABLE given (order_id INTEGER, user_id VARCHAR, order_date DATE,"
        " revenue DECIMAL(38, 4), refunded DECIMAL(38, 4), refunded_on DATE, is_valid BOOLEAN)"
    )
    for number, order in enumerate(made):
        values: list[Any] = [number, *vars(order).values(), order.is_valid]
        warehouse.execute("INSERT INTO given VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    for statement in (LINES, ORDERS, USERS):
        warehouse.execute(statement)
    for name in MODELS:
        warehouse.execute(f"CREATE OR REPLACE TABLE warehouse.marts.{name} AS {compiled[name]}")


Stay = tuple[str, date, date | None]


def stays(warehouse: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], list[Stay]]:
    """(user, kind) -> stays in order; asserts that they are unbroken and the last goes on."""
    found: dict[tuple[str, str], list[Stay]] = {}
    for user, kind, *stay in warehouse.execute(
        "FROM warehouse.marts.segment_history ORDER BY user_id, kind, from_night"
    ).fetchall():
        found.setdefault((user, kind), []).append((stay[0], stay[1], stay[2]))
    for each in found.values():
        for (before, _, to), (after, start, _) in pairwise(each):
            assert to is not None and to + ONE_DAY == start
            assert before != after
        assert all(to is None or start <= to for _, start, to in each)
        assert each[-1][2] is None
    return found


def on(of: list[Stay], night: date) -> str | None:
    """The segment on a night, by the stays."""
    [*found] = [name for name, start, to in of if start <= night and (to is None or night <= to)]
    assert len(found) <= 1
    return found[0] if found else None


def life_cycle(days: list[date], night: date, limits: tuple[int, int, int]) -> str | None:
    """The definition, as a person would apply it to one customer's order days on one night."""
    new_days, active_days, horizon = limits
    known = [day for day in days if day <= night]
    if not known:
        return None
    quiet = (night - known[-1]).days
    if len(known) == 1 and quiet <= new_days:
        return "new"
    if quiet > horizon:
        return "lapsed"
    if quiet > active_days:
        return "at_risk"
    was_away = len(known) > 1 and (known[-1] - known[-2]).days > horizon
    return "won_back" if was_away else "active"


def scores(values: dict[str, Any]) -> dict[str, int]:
    """User -> the fifth, by how many have less."""
    return {
        user: 1 + 5 * sum(other < value for other in values.values()) // len(values)
        for user, value in values.items()
    }


def rfm_and_tier(made: list[Order], night: date) -> dict[str, tuple[str, str]]:
    """What was known of each customer by the end of a night; validity is what it is in the end."""
    last: dict[str, Any] = {}
    count: dict[str, Any] = {}
    money: dict[str, Any] = {}
    for order in made:
        if order.is_valid and order.order_date <= night:
            last[order.user_id] = max(order.order_date, last.get(order.user_id, START))
            count[order.user_id] = count.get(order.user_id, 0) + 1
    for order in made:
        if order.user_id in last:
            net = order.revenue * (order.order_date <= night)
            net -= order.refunded * (order.refunded_on <= night)
            money[order.user_id] = money.get(order.user_id, 0) + net
    recent, often, much = scores(last), scores(count), scores(money)
    return {
        user: (rfm(recent[user], often[user]), ["low", "low", "middle", "high", "top"][m - 1])
        for user, m in much.items()
    }


def rfm(r: int, f: int) -> str:
    if r >= 3 and f >= 3:
        return "champion" if r >= 4 and f >= 4 else "loyal"
    if r >= 3:
        return "recent" if r >= 4 else "cooling"
    return "at_risk" if f >= 3 else "lost"


@given(made=orders())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_every_past_night_is_what_the_definition_says(
    warehouse: duckdb.DuckDBPyConnection, compiled: dict[str, str], made: list[Order]
) -> None:
    build(warehouse, compiled, made)
    [limits] = warehouse.execute(
        "SELECT new_days, active_days, horizon_days FROM warehouse.marts.churn_horizon"
    ).fetchall()
    never = (NIGHT - START).days + 1  # nobody has ordered twice: no threshold is ever passed
    thresholds = (never, never, never) if limits[0] is None else limits
    found = stays(warehouse)
    customers = {order.user_id for order in made if order.is_valid}
    assert {user for user, _ in found} == customers
    for user in customers:
        days = sorted({o.order_date for o in made if o.user_id == user and o.is_valid})
        night = START
        while night <= NIGHT:
            said = on(found[user, "life_cycle"], night)
            assert said == life_cycle(days, night, thresholds), (user, night)
            night += ONE_DAY
    for night in MONTH_ENDS:
        expected = rfm_and_tier(made, night)
        for user in customers:
            said = tuple(on(found[user, kind], night) for kind in ("rfm", "value_tier"))
            assert said == expected.get(user, (None, None)), (user, night)


@given(made=orders())
@settings(max_examples=20, deadline=None, derandomize=True)
def test_tonight_is_what_user_rfm_says(
    warehouse: duckdb.DuckDBPyConnection, compiled: dict[str, str], made: list[Order]
) -> None:
    build(warehouse, compiled, made)
    now = warehouse.execute(
        "SELECT user_id, segment FROM warehouse.marts.segment_history"
        " WHERE kind = 'rfm' AND to_night IS NULL ORDER BY ALL"
    ).fetchall()
    rfm_now = "SELECT user_id, segment FROM warehouse.marts.user_rfm ORDER BY ALL"
    assert now == warehouse.execute(rfm_now).fetchall()
