"""Survival, value, moves, predictions and campaigns of the report against plain recounts.

Textbook values for the survival curve; for the rest Python over the rows of the small shop.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.paths import Paths
from core.shop import ROOT
from orchestration.lib.keys import MARTS
from reports import predictions, queries, segments, survival, worth
from reports.build import Report, build
from tests.unit.test_reports_page import (
    LATER,
    NIGHT,
    analyst_blocks,
    make_marts,
    metric_definitions,
    opened,
    panel,
    shop,
    words,
)

# 150 customers who come one day after another and are in each segment for 30 nights.
MOVES = """
CREATE OR REPLACE TABLE marts.segment_history AS
    SELECT format('c{:03d}', i) AS user_id, 'life_cycle' AS kind,
           ['new', 'active', 'at_risk', 'lapsed'][1 + (k + i % 2) % 4] AS segment,
           DATE '2025-11-01' + (i + 30 * k)::INTEGER AS from_night,
           CASE WHEN k < 3 THEN DATE '2025-11-01' + (i + 30 * k + 29)::INTEGER END AS to_night
    FROM range(150) u(i), range(4) s(k)
    UNION ALL SELECT 'c001', 'rfm', 'lost', DATE '2025-11-01', NULL;
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paths]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_VAR", str(tmp_path_factory.mktemp("var")))
        paths = Paths("small")
        make_marts(paths.marts)
        with opened(paths.marts) as connection:
            connection.execute(LATER)
            connection.execute(MOVES)
        yield paths


@pytest.fixture
def connection(home: Paths) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(home.marts), read_only=True) as only_reading:
        yield only_reading


@pytest.fixture(scope="module")
def report(home: Paths) -> Report:
    return build(shop(), home, NIGHT)


@pytest.fixture(scope="module")
def page(report: Report) -> ElementTree.Element:
    return ElementTree.fromstring(report.path.read_text().removeprefix("<!DOCTYPE html>"))


def recount(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql).fetchall()


# --- how long until the second order -------------------------------------------------------------


def life_table(waits: list[tuple[int, bool]]) -> duckdb.DuckDBPyConnection:
    """A file with the life table of waits (days, whether they ended with an order)."""
    connection = duckdb.connect()
    connection.execute("CREATE SCHEMA marts")
    connection.execute(
        "CREATE TABLE marts.repurchase_survival "
        "(days INTEGER, at_risk BIGINT, ordered_again BIGINT, censored BIGINT)"
    )
    ends = Counter(waits)
    for days in {days for days, _ in waits}:
        row = [days, sum(other >= days for other, _ in waits), ends[days, True], ends[days, False]]
        connection.execute("INSERT INTO marts.repurchase_survival VALUES (?, ?, ?, ?)", row)
    return connection


def share_by(waits: list[tuple[int, bool]], day: int) -> float:
    """Kaplan and Meier's product, one customer at a time."""
    alive = 1.0
    for end in sorted({days for days, ended in waits if ended and days <= day}):
        at_risk = sum(days >= end for days, _ in waits)
        alive *= 1 - sum(days == end and ended for days, ended in waits) / at_risk
    return 1 - alive


def test_four_customers_worked_by_hand() -> None:
    # day 2: 1 of 4 orders again; day 3: one is no longer watched; day 5: 1 of the 2 left
    with life_table([(2, True), (3, False), (5, True), (9, False)]) as connection:
        rows = survival.curve(connection).to_pylist()
    assert [(row["days"], row["eligible"], row["rate"]) for row in rows] == [
        (2, 4, pytest.approx(1 / 4)),
        (3, 3, pytest.approx(1 / 4)),
        (5, 2, pytest.approx(1 - 3 / 4 * 1 / 2)),
        (9, 1, pytest.approx(1 - 3 / 4 * 1 / 2)),
    ]


def test_the_remissions_of_freireich_1963() -> None:
    """The 21 patients under 6-MP; estimates as in Kalbfleisch and Prentice and every textbook."""
    ended = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    watched = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    waits = [*((day, True) for day in ended), *((day, False) for day in watched)]
    with life_table(waits) as connection:
        curve = survival.curve(connection)
    found = {row["days"]: round(1 - row["rate"], 3) for row in curve.to_pylist()}
    published = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    assert {day: found[day] for day in published} == published
    median = survival.median(curve)
    assert (median.days, median.low, median.high) == (23, 13, None)
    assert str(median) == (
        "Half of all customers order again within 23 days (95%: 13 days to not reached)."
    )


def test_a_median_that_is_not_reached_is_said_so() -> None:
    with life_table([(4, True), *[(50, False)] * 9]) as connection:
        median = survival.median(survival.curve(connection))
    assert median.days is None
    assert str(median).startswith("That half of all customers order again is not reached yet")


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=30))
def test_the_curve_is_the_product_over_single_customers(waits: list[tuple[int, bool]]) -> None:
    with life_table(waits) as connection:
        rows = survival.curve(connection).to_pylist()
    for row in rows:
        assert row["rate"] == pytest.approx(share_by(waits, row["days"]), abs=1e-9)
        assert -1e-9 <= row["low"] <= row["rate"] + 1e-9
        assert row["rate"] - 1e-9 <= row["high"] <= 1 + 1e-9


def test_the_curve_of_the_shop_equals_brute_force_from_its_orders(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    orders: dict[str, list[date]] = defaultdict(list)
    for user, day in recount(
        connection,
        "SELECT user_id, order_date FROM marts.fct_orders "
        "WHERE is_valid AND user_id IS NOT NULL ORDER BY ordered_at",
    ):
        orders[user].append(day)
    waits = [
        ((days[1] - days[0]).days, True) if len(days) > 1 else ((NIGHT - days[0]).days, False)
        for days in orders.values()
    ]
    rows = survival.curve(connection).to_pylist()
    assert len({again for _, again in waits}) == 2 and len(rows) > 5
    for row in rows:
        assert row["rate"] == pytest.approx(share_by(waits, row["days"]))


# --- what customers are worth --------------------------------------------------------------------


def firsts_and_money(
    connection: duckdb.DuckDBPyConnection,
) -> tuple[dict[str, date], dict[str, list[tuple[date, float]]]]:
    firsts = dict(
        recount(
            connection, "SELECT user_id, order_date FROM marts.fct_orders WHERE order_number = 1"
        )
    )
    money: dict[str, list[tuple[date, float]]] = defaultdict(list)
    for user, day, revenue in recount(
        connection,
        "SELECT user_id, line_date, revenue FROM marts.fct_order_lines WHERE user_id IS NOT NULL",
    ):
        money[user].append((day, float(revenue)))
    return firsts, money


def test_returning_revenue_equals_a_recount(
    connection: duckdb.DuckDBPyConnection, page: ElementTree.Element
) -> None:
    [(back, whole, users)] = recount(
        connection,
        "SELECT sum(net_revenue) FILTER (order_number > 1), sum(net_revenue), "
        "count(DISTINCT user_id) FILTER (order_number > 1) FROM marts.fct_orders "
        "WHERE order_number IS NOT NULL AND month(order_date) = 3",
    )
    assert 0 < back < whole
    assert (
        f"March 2026: {back / whole * 100:.1f}% of net revenue came from {users} users"
    ) in words(panel(page, "returning_revenue"))


def test_a_forecast_is_what_came_and_what_is_expected_for_the_days_left(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    firsts, money = firsts_and_money(connection)
    spend: dict[str, dict[int, float]] = defaultdict(lambda: {0: 0.0})
    for user, horizon, value in recount(
        connection,
        "SELECT user_id, horizon_days, value FROM marts.user_predictions WHERE target = 'spend'",
    ):
        spend[user][horizon] = value

    def expected(user: str) -> float:
        left = (firsts[user] + timedelta(360) - timedelta(1) - NIGHT).days
        steps = sorted(spend[user].items())
        (start, low), (end, high) = next(
            pair for pair in pairwise(steps) if pair[0][0] < left <= pair[1][0]
        )
        so_far = sum(revenue for _, revenue in money[user])
        return so_far + low + (high - low) * (left - start) / (end - start)

    rows = worth.cohort_forecasts(connection, NIGHT, True).to_pylist()
    assert len(rows) == 3
    for row in rows:
        users = [user for user, day in firsts.items() if day.replace(day=1) == row["cohort"]]
        assert row["customers"] == len(users)
        assert row["forecast"] == pytest.approx(sum(map(expected, users)) / len(users))
    without = worth.cohort_forecasts(connection, NIGHT, False).to_pylist()
    assert [row["forecast"] for row in without] == [None] * 3
    assert [row["so_far"] for row in without] == [row["so_far"] for row in rows]


def test_curves_of_cohorts_end_in_their_forecast(connection: duckdb.DuckDBPyConnection) -> None:
    rows = worth.cohort_values(connection, NIGHT, True).to_pylist()
    known = {row["cohort"] for row in rows if not row["is_forecast"]}
    forecast = [row for row in rows if row["is_forecast"]]
    assert known == {row["cohort"] for row in forecast} and known
    assert {row["months"] for row in forecast} == {12}
    assert not [
        r for r in worth.cohort_values(connection, NIGHT, False).to_pylist() if r["is_forecast"]
    ]


# --- segments and visits -------------------------------------------------------------------------


def test_moves_equal_a_look_at_every_customer(
    connection: duckdb.DuckDBPyConnection, page: ElementTree.Element
) -> None:
    def where(day: date) -> dict[str, str]:
        return {
            user: segment
            for user, segment, first, last in recount(
                connection,
                "SELECT user_id, segment, from_night, to_night FROM marts.segment_history "
                "WHERE kind = 'life_cycle'",
            )
            if first <= day and (last is None or day <= last)
        }

    before, after = where(NIGHT - timedelta(90)), where(NIGHT)
    assert set(before) < set(after)
    expected = Counter((before.get(user, segments.OUTSIDE), now) for user, now in after.items())
    rows = segments.moves(connection, NIGHT).to_pylist()
    assert {(row["before"], row["after"]): row["customers"] for row in rows} == expected
    shares: Counter[str] = Counter()
    for row in rows:
        shares[row["before"]] += row["share_of_before"]
    assert all(math.isclose(share, 1) for share in shares.values())
    text = words(panel(page, "segment_flow"))
    for name, n in Counter(after.values()).items():
        assert f"{name.replace('_', ' ')} {n:,}" in text


def test_means_by_kind_of_visitor_and_their_intervals_equal_a_recount(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    with duckdb.connect() as other:
        other.execute(
            """
            CREATE SCHEMA marts;
            CREATE TABLE marts.session_stats AS
            SELECT DATE '2026-03-02' + day::INTEGER AS stat_date, 'customer' AS visitor_kind,
                   2 AS sessions, 2 * day + 5 AS pages, day ^ 2 + (day + 5) ^ 2 AS squared_pages,
                   1 AS with_dwell, 60 * day AS dwell_s, 3600 * day ^ 2 AS squared_dwell_s
            FROM range(9) d(day)
            """
        )
        rows = queries.visitor_weeks(other, date(2026, 3, 10)).to_pylist()
    assert len(rows) == 1  # the second week is not over
    pages = [p for day in range(7) for p in (day, day + 5)]
    mean = sum(pages) / 14
    half = 1.96 * math.sqrt(sum((p - mean) ** 2 for p in pages) / 13 / 14)
    [row] = rows
    assert row["depth"] == pytest.approx(mean)
    assert (row["depth_low"], row["depth_high"]) == pytest.approx((mean - half, mean + half))
    assert row["seconds"] == pytest.approx(180)


def test_visits_count_under_the_segment_of_their_day() -> None:
    with duckdb.connect() as connection:
        connection.execute(
            """
            CREATE SCHEMA marts;
            CREATE TABLE marts.segment_history AS SELECT * FROM (VALUES
                ('u', 'life_cycle', 'new', DATE '2026-03-01', DATE '2026-03-10'),
                ('u', 'life_cycle', 'active', DATE '2026-03-11', NULL),
                ('u', 'rfm', 'lost', DATE '2026-03-01', NULL)
            ) s(user_id, kind, segment, from_night, to_night);
            CREATE TABLE marts.fct_sessions AS SELECT 'u' AS user_id, day AS session_date,
                depth, dwell_ms, purchases FROM (VALUES
                (DATE '2026-02-28', 9, 9, 9), (DATE '2026-03-10', 2, 1000, 0),
                (DATE '2026-03-11', 4, NULL, 1), (DATE '2026-03-15', 6, 3000, 0)
            ) v(day, depth, dwell_ms, purchases);
            """
        )
        rows = segments.visits(connection, date(2026, 3, 20)).to_pylist()
    assert [
        (r["segment"], r["sessions"], r["depth"], r["median_dwell_ms"], r["order_share"])
        for r in rows
    ] == [
        ("new", 1, 2.0, 1000, 0.0),
        ("active", 2, 5.0, 3000, 0.5),
    ]


def test_first_items_are_ordered_by_what_is_sure_and_small_ones_left_out() -> None:
    with duckdb.connect() as connection:
        connection.execute(
            """
            CREATE SCHEMA marts;
            CREATE TABLE marts.dim_items AS SELECT 'a' AS item_id, 'A' AS title, 'c' AS category;
            CREATE TABLE marts.item_second_orders AS SELECT * FROM (VALUES
                ('small', 29, 29, 1.0, 0.9, 1.0, 0.5, 2.0, 1.8, 2.0),
                ('a', 1000, 600, 0.6, 0.57, 0.63, 0.5, 1.2, 1.14, 1.26),
                ('loud', 30, 21, 0.7, 0.52, 0.83, 0.5, 1.4, 1.04, 1.66),
                ('worse', 90, 9, 0.1, 0.05, 0.2, 0.5, 0.2, 0.1, 0.4)
            ) i(item_id, first_buyers, ordered_again, rate, low, high, shop_rate, lift, lift_low,
                lift_high);
            """
        )
        rows = queries.repurchase_items(connection).to_pylist()
    assert [row["title"] for row in rows] == ["A", "loud", "worse"]
    assert {(row["items_judged"], row["items_above"]) for row in rows} == {(3, 2)}


# --- predictions and campaigns -------------------------------------------------------------------


def test_deciles_are_of_the_latest_published_night_that_is_over(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    rows = predictions.deciles(connection).to_pylist()
    assert {(row["origin"], row["night"]) for row in rows} == {("published", date(2026, 2, 20))}
    assert len(rows) == 20
    for row in rows:
        assert row["actual"] == pytest.approx(0.3 / row["decile"])
        if row["target"] == "spend":
            assert row["low"] is None and row["high"] is None
        else:
            assert 0 <= row["low"] < row["actual"] < row["high"] <= 1


def test_quality_shows_the_latest_night_and_draws_how_users_are_ordered(
    connection: duckdb.DuckDBPyConnection, page: ElementTree.Element
) -> None:
    rows = predictions.quality(connection).to_pylist()
    assert {row["night"] for row in rows} == {date(2026, 2, 20)} and len(rows) == 8
    drawn = predictions.ranking(connection).to_pylist()
    assert {(row["target"], row["metric"]) for row in drawn} == {
        ("purchase", "auc"),
        ("spend", "gini"),
    }
    assert "purchase 7 d auc champion 0.8 0.5 to 0.7 400" in words(
        panel(page, "prediction_quality")
    )


def test_campaigns_show_both_groups_the_difference_and_the_verdict(
    page: ElementTree.Element,
) -> None:
    found = panel(page, "campaign_results")
    text = words(found)
    assert "Win back, 28 days It helped. 12.0% of 800 8.0% of 200 +4.0 +1.0 to +7.0 +0.5" in text
    assert "820 treated, 205 held out" in text
    rows = [row.get("class") for row in next(found.iter("tbody"))]
    assert rows == ["few", None]


# --- the page as a whole -------------------------------------------------------------------------


def test_sections_stand_in_the_order_of_their_questions(page: ElementTree.Element) -> None:
    found = [section.get("id") for section in page.iter("section")]
    order = ["yesterday", "retention", "repurchase", "worth", "customers", "campaigns"]
    order += ["predictions", "quality"]
    assert [key for key in found if key in order] == order


def test_without_later_tables_their_panels_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths = Paths("small")
    make_marts(paths.marts)
    with opened(paths.marts) as connection:
        connection.execute("DROP TABLE marts.segment_history")
        keys = [section.key for section in _sections(connection)]
        panels = {panel.key for section in _sections(connection) for panel in section.panels}
    assert not {"campaigns", "predictions"} & set(keys)
    assert not {"segment_flow", "segment_visits", "expected"} & panels
    assert {"cohort_value", "cohort_forecast", "repurchase_survival"} <= panels


def _sections(connection: duckdb.DuckDBPyConnection) -> list[Any]:
    from reports.panels import Source
    from reports.sections import sections

    return sections(Source(connection, shop(), NIGHT))


def test_heat_maps_show_the_interval_of_every_cell(page: ElementTree.Element) -> None:
    drawing = next(panel(page, "retention_week").iter("svg"))
    texts = ["".join(text.itertext()) for text in drawing.iter("text")]
    intervals = [text for text in texts if re.fullmatch(r"\d+-\d+", text)]
    rates = [
        int("".join(text.itertext()))
        for text in drawing.iter("text")
        if "font-size: 9px" in (text.get("style") or "")
    ]
    assert len(intervals) == len(rates) > 20
    for rate, interval in zip(rates, intervals, strict=True):
        low, high = map(int, interval.split("-"))
        assert low <= rate <= high


# --- definitions ---------------------------------------------------------------------------------


def defined() -> list[tuple[str, str, str, str, str]]:
    with duckdb.connect() as connection:
        return connection.execute(metric_definitions()).fetchall()


def test_the_page_and_the_docs_say_what_the_definitions_say(page: ElementTree.Element) -> None:
    docs = (ROOT / "docs" / "analyst.md").read_text()
    listed = words(panel(page, "definitions"))
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \| `(\w+)` \| (.+) \|$", docs, flags=re.MULTILINE)
    assert sorted(rows) == sorted(
        (title, text, mart, owner.removeprefix("team:"))
        for _, title, owner, mart, text in defined()
    )
    for _, title, _, _, text in defined():
        assert f"{title} {text}" in listed


CAPTIONS = {
    "n_day_retention": "retention_month",
    "unbounded_retention": "curve_day",
    "repurchase_rate": "repurchase_windows",
    "repurchase_curve": "repurchase_survival",
    "median_days_to_second": "repurchase_survival",
    "dwell": "dwell",
    "depth": "visitor_weeks",
    "visitor_kind": "visitor_weeks",
    "returning_revenue": "returning_revenue",
    "cohort_value": "cohort_value",
    "cohort_forecast": "cohort_forecast",
    "item_lift": "repurchase_items",
    "churn": "order_gaps",
    "segment_flow": "segment_flow",
    "prediction_deciles": "prediction_deciles",
    "prediction_quality": "prediction_ranking",
    "campaign_effect": "campaign_results",
}


def test_captions_are_the_definitions(page: ElementTree.Element) -> None:
    texts = {metric: text for metric, _, _, _, text in defined()}
    for metric, key in CAPTIONS.items():
        caption = words(next(panel(page, key).iter("figcaption")))
        assert texts[metric] in caption, metric


LATER_MARTS = {"user_predictions", "prediction_deciles", "prediction_quality", "campaign_results"}


def test_every_metric_has_an_owner_and_a_mart() -> None:
    rows = defined()
    assert len({metric for metric, *_ in rows}) == len(rows) > 15
    for metric, _, owner, mart, _ in rows:
        assert re.fullmatch(r"team:[a-z-]+", owner), metric
        assert mart in {*MARTS, *LATER_MARTS}, metric


def test_the_worked_queries_answer_the_questions_promised() -> None:
    blocks = "\n".join(analyst_blocks("sql"))
    for table in ("user_predictions", "prediction_deciles", "segment_history"):
        assert f"marts.{table}" in blocks
    assert "marts.item_second_orders" in blocks
