"""The marts of stickiness as they were published, against a second count that knows no model.

Each recount starts from order lines and events, and asks one customer at a time where it can. The
worked queries of docs/analyst.md run on the same file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.conftest import Place, Ran
from tests.unit.test_reports_page import analyst_blocks

NIGHT = "(SELECT max(night) FROM marts.run_manifest)"

# What the recounts start from: valid orders by users with an id, numbered, from the lines alone.
ORDERS = """
CREATE TEMP TABLE counted AS
    WITH summed AS (
        SELECT order_id, min(user_id) FILTER (line_type = 'purchase') AS user_id,
               min(line_ts) FILTER (line_type = 'purchase') AS placed, sum(revenue) AS net
        FROM marts.fct_order_lines WHERE order_id IS NOT NULL GROUP BY order_id
        HAVING net > 0 AND placed IS NOT NULL
    )
    SELECT *, placed::DATE AS day, (SELECT count(*) FROM summed AS earlier
        WHERE earlier.user_id = summed.user_id
          AND (earlier.placed, earlier.order_id) <= (summed.placed, summed.order_id)) AS nth
    FROM summed WHERE user_id IS NOT NULL;
"""

RECOUNTS = {
    "returning_revenue": (
        "SELECT month, orders, returning_orders, customers, returning_customers, net_revenue, "
        "returning_net_revenue FROM marts.returning_revenue",
        """
        SELECT date_trunc('month', day)::DATE, count(*), count(*) FILTER (nth > 1),
               count(DISTINCT user_id), count(DISTINCT user_id) FILTER (nth > 1), sum(net),
               coalesce(sum(net) FILTER (nth > 1), 0)
        FROM counted GROUP BY ALL
        """,
    ),
    "cohort_value": (
        "SELECT cohort, months, customers, net_revenue FROM marts.cohort_value",
        f"""
        WITH firsts AS (SELECT user_id, day FROM counted WHERE nth = 1),
        paid AS (
            SELECT user_id, months, (SELECT coalesce(sum(revenue), 0) FROM marts.fct_order_lines
                AS lines WHERE lines.user_id = firsts.user_id
                AND line_date < day + 30 * months::INTEGER) AS paid, day
            FROM firsts, range(1, 25) m(months)
        )
        SELECT date_trunc('month', day)::DATE, months, count(*), sum(paid)
        FROM paid GROUP BY ALL HAVING max(day) + 30 * months::INTEGER <= {NIGHT} + 1
        """,
    ),
    "session_stats": (
        "SELECT stat_date, visitor_kind, sessions, sessions_purchase, pages, squared_pages, "
        "with_dwell FROM marts.session_stats",
        """
        WITH bought AS (
            SELECT user_id, min(event_date) AS day FROM marts.fct_events
            WHERE event_type = 'purchase' GROUP BY user_id
        ), came AS (
            SELECT user_id, min(event_date) AS day FROM marts.fct_events
            WHERE event_type NOT IN ('refund', 'exposure') GROUP BY user_id
        ), visits AS (
            SELECT session_key, min(user_id) AS user_id, min(event_date) AS day,
                   count(*) FILTER (event_type IN ('view', 'search')) AS pages,
                   bool_or(event_type = 'purchase') AS bought, count(dwell_ms) > 0 AS dwelt
            FROM marts.fct_events WHERE event_type NOT IN ('refund', 'exposure')
            GROUP BY session_key
        )
        SELECT visits.day, CASE WHEN visits.user_id IS NULL THEN 'guest'
                   WHEN bought.day < visits.day THEN 'customer'
                   WHEN came.day < visits.day THEN 'returning' ELSE 'new' END,
               count(*), count(*) FILTER (visits.bought), sum(pages), sum(pages * pages),
               count(*) FILTER (dwelt)
        FROM visits LEFT JOIN bought ON bought.user_id = visits.user_id
        LEFT JOIN came ON came.user_id = visits.user_id GROUP BY ALL
        """,
    ),
}


@pytest.fixture(scope="module")
def marts(demo_night: tuple[Place, Ran]) -> Path:
    """The published file; nobody may change it."""
    return demo_night[0].home() / "marts.duckdb"


def differing(marts: Path, name: str) -> tuple[int, int]:
    """Rows of a mart, and rows that only the mart or only its recount has."""
    published, recounted = RECOUNTS[name]
    with duckdb.connect(str(marts), read_only=True) as connection:
        connection.execute(ORDERS)
        found = connection.execute(
            f"SELECT (SELECT count(*) FROM ({published})), (SELECT count(*) FROM "
            f"((({published}) EXCEPT ALL ({recounted})) UNION ALL "
            f"(({recounted}) EXCEPT ALL ({published}))))"
        ).fetchall()
    rows, differ = found[0]
    return rows, differ


@pytest.mark.parametrize("name", RECOUNTS)
def test_a_mart_equals_its_recount(marts: Path, name: str) -> None:
    rows, differ = differing(marts, name)
    assert rows > 5 and differ == 0


def first_orders(marts: Path) -> tuple[date, dict[str, list[tuple[date, str]]]]:
    """The night, and of each customer the valid orders in turn: day and id."""
    orders: dict[str, list[tuple[date, str]]] = defaultdict(list)
    with duckdb.connect(str(marts), read_only=True) as connection:
        connection.execute(ORDERS)
        [[night]] = connection.execute(f"SELECT {NIGHT}").fetchall()
        for user, day, order in connection.execute(
            "SELECT user_id, day, order_id FROM counted ORDER BY user_id, nth"
        ).fetchall():
            orders[user].append((day, order))
    return night, orders


def published(marts: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(marts), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_survival_equals_a_walk_over_the_customers(marts: Path) -> None:
    night, orders = first_orders(marts)
    waits = [
        ((days[1][0] - days[0][0]).days, True)
        if len(days) > 1
        else ((night - days[0][0]).days, False)
        for days in orders.values()
    ]
    expected = [
        (
            day,
            sum(wait >= day for wait, _ in waits),
            sum(wait == day and again for wait, again in waits),
            sum(wait == day and not again for wait, again in waits),
        )
        for day in sorted({wait for wait, _ in waits})
    ]
    sql = "SELECT days, at_risk, ordered_again, censored FROM marts.repurchase_survival ORDER BY 1"
    assert published(marts, sql) == expected
    assert len(expected) > 20


def test_first_items_equal_a_walk_over_the_customers(marts: Path) -> None:
    night, orders = first_orders(marts)
    basket: dict[str, set[str]] = defaultdict(set)
    for order, item in published(
        marts,
        "SELECT order_id, item_id FROM marts.fct_order_lines "
        "WHERE line_type = 'purchase' AND item_id IS NOT NULL",
    ):
        basket[order].add(item)
    judged = [
        (days[0], len(days) > 1 and (days[1][0] - days[0][0]).days <= 90)
        for days in orders.values()
        if days[0][0] + timedelta(90) <= night
    ]
    months: dict[date, list[bool]] = defaultdict(list)
    items: dict[str, list[tuple[date, bool]]] = defaultdict(list)
    for (day, order), again in judged:
        months[day.replace(day=1)].append(again)
        for item in basket[order]:
            items[item].append((day.replace(day=1), again))
    rows = published(
        marts,
        "SELECT item_id, first_buyers, ordered_again, shop_rate, lift "
        "FROM marts.item_second_orders",
    )
    assert {row[0] for row in rows} == set(items) and len(items) > 50
    for item, buyers, again, shop_rate, lift in rows:
        assert buyers == len(items[item])
        assert again == sum(came for _, came in items[item])
        usual = sum(sum(months[m]) / len(months[m]) for m, _ in items[item]) / buyers
        assert shop_rate == pytest.approx(usual, abs=1e-6)
        assert lift == pytest.approx(again / buyers / usual, rel=1e-5) if usual else lift is None


def test_the_shop_rate_of_90_days_is_that_of_the_repurchase_rates(marts: Path) -> None:
    """The same definition in two marts: sums over the cohorts must agree."""
    [(eligible, again)] = published(
        marts,
        "SELECT sum(eligible), sum(repurchased) FROM marts.repurchase_rates WHERE window_days = 90",
    )
    night, orders = first_orders(marts)
    old = [days for days in orders.values() if days[0][0] + timedelta(90) <= night]
    assert (eligible, again) == (
        len(old),
        sum(len(days) > 1 and (days[1][0] - days[0][0]).days <= 90 for days in old),
    )


@pytest.mark.parametrize("sql", analyst_blocks("sql"))
def test_worked_queries_of_the_analyst_page_answer_on_a_published_file(
    marts: Path, sql: str
) -> None:
    there = {name for (name,) in published(marts, "SELECT table_name FROM duckdb_tables()")}
    missing = set(re.findall(r"marts\.(\w+)", sql)) - there
    if missing:
        pytest.skip(f"not published by this night: {', '.join(sorted(missing))}")
    assert published(marts, sql)
