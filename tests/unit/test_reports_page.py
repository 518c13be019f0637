"""The report's page against a plain recount of a small shop, and the promises it makes.

The marts of the small shop are made here by plain SQL, in the columns that the dbt project
publishes, so that these tests need neither dbt nor a night's run.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import duckdb
import jinja2
import pytest

from core.paths import Paths
from core.shop import ROOT, Recommender, Shop
from reports import plots, queries
from reports.build import Report, ReportError, build

NIGHT = date(2026, 3, 31)

BASE = """
CREATE TABLE marts.dim_items AS
    SELECT format('item{:02d}', i) AS item_id, 'Title & <' || i || '>' AS title,
           NULL::VARCHAR AS description, 'root > leaf' AS category_path, 'root' AS category,
           'brand' AS brand, (1 + i)::DECIMAL(18, 4) AS price,
           TIMESTAMP '2026-01-01' AS valid_from, NULL::TIMESTAMP AS first_event_at,
           NULL::TIMESTAMP AS first_sold_at, true AS is_catalogued
    FROM range(20) t(i);
-- 60 users come on their first day and on some days after it, half of them first in week one;
-- 8 guests come once
CREATE TABLE visits AS
    SELECT i, k, DATE '2026-01-01' + (CASE WHEN i < 30 THEN i % 4 ELSE i % 40 END + k)::INTEGER
               AS day,
           CASE WHEN i < 60 THEN format('user{:02d}', i) END AS user_id
    FROM range(68) u(i), range(90) d(k)
    WHERE (k = 0 OR (i < 60 AND (i * 7 + k * 5) % 11 = 0))
      AND day <= DATE '2026-03-31';
CREATE TABLE marts.fct_events AS
    SELECT format('{}-{}-{}', i, k, position) AS event_id, day + time AS event_ts,
           day AS event_date, user_id, coalesce(user_id, format('guest{}', i)) AS visitor_key,
           format('{}-{}', i, k) AS session_key, event_type, event_type != 'refund' AS is_activity,
           format('item{:02d}', (i + k * 3 + position // 5) % 20) AS item_id,
           CASE WHEN event_type IN ('checkout', 'purchase', 'refund')
                THEN format('o{}-{}', i, k) END AS order_id,
           CASE WHEN event_type IN ('purchase', 'refund') THEN 1 + (i + k) % 3 END::BIGINT
               AS quantity,
           (1 + (i + k * 3) % 20)::DECIMAL(18, 4) AS unit_price, 'EUR' AS currency,
           CASE WHEN position = 0 THEN 60000 + 1000 * ((i + k) % 9) END::BIGINT AS dwell_ms,
           NULL::VARCHAR AS query, ['web', 'mail'][1 + i % 2] AS channel,
           ['DE', 'AT', 'CH'][1 + i % 3] AS country,
           NULL::VARCHAR AS properties, true AS is_known_item
    FROM visits, (VALUES (0, 'view', TIME '10:00:00', 1), (1, 'cart_add', TIME '10:01:00', 2),
                         (2, 'checkout', TIME '10:02:00', 4), (3, 'purchase', TIME '10:03:00', 4),
                         (4, 'refund', TIME '20:00:00', 20), (5, 'purchase', TIME '10:03:00', 8))
             s(position, event_type, time, every)
    WHERE (i // 3 + k + 2) % every = 0;
CREATE TABLE marts.fct_order_lines AS
    SELECT event_id AS line_id, order_id, user_id, item_id, event_ts AS line_ts,
           event_date AS line_date, event_type AS line_type, quantity, unit_price,
           (CASE event_type WHEN 'refund' THEN -1 ELSE 1 END * quantity * unit_price)
               ::DECIMAL(18, 4) AS revenue
    FROM marts.fct_events WHERE event_type IN ('purchase', 'refund');
CREATE TABLE marts.fct_orders AS
    WITH orders AS (
        SELECT order_id, user_id, min(line_ts) AS ordered_at, count(*) AS lines,
               sum(quantity)::BIGINT AS units,
               sum(revenue) FILTER (WHERE line_type = 'purchase') AS gross_revenue,
               coalesce(-sum(revenue) FILTER (WHERE line_type = 'refund'), 0) AS refunded_revenue,
               sum(revenue) AS net_revenue
        FROM marts.fct_order_lines GROUP BY ALL
    )
    SELECT *, ordered_at::DATE AS order_date, net_revenue > 0 AS is_valid,
           CASE WHEN is_valid AND user_id IS NOT NULL THEN row_number() OVER w END AS order_number,
           CASE WHEN is_valid AND user_id IS NOT NULL
                THEN order_date - lag(order_date) OVER w END::BIGINT AS days_since_previous
    FROM orders WINDOW w AS (
        PARTITION BY user_id, net_revenue > 0 ORDER BY ordered_at, order_id);
CREATE TABLE marts.fct_sessions AS
    SELECT session_key, user_id, event_date AS session_date, min(event_ts) AS started_at,
           max(event_ts) AS ended_at, count(*) AS events,
           count(*) FILTER (WHERE event_type = 'view') AS views, 1::BIGINT AS items_viewed,
           count(*) FILTER (WHERE event_type = 'cart_add') AS cart_adds,
           count(*) FILTER (WHERE event_type = 'checkout') AS checkouts,
           count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
           60000::BIGINT AS duration_ms, 60000::BIGINT AS dwell_ms, 1::BIGINT AS depth,
           'web' AS channel
    FROM marts.fct_events WHERE event_type != 'refund' GROUP BY ALL;
CREATE TABLE marts.dim_users AS
    SELECT user_id, min(event_ts) AS first_seen_at, max(event_ts) AS last_seen_at,
           'web' AS first_channel, 'DE' AS country, min(ordered_at) AS first_order_at,
           max(ordered_at) AS last_order_at, count(DISTINCT order_id) FILTER (is_valid) AS orders,
           0::BIGINT AS units, 0::DECIMAL(18, 4) AS gross_revenue,
           0::DECIMAL(18, 4) AS refunded_revenue, 0::DECIMAL(18, 4) AS net_revenue,
           coalesce(bool_or(is_valid), false) AS is_customer
    FROM marts.fct_events LEFT JOIN (
        SELECT order_id, ordered_at, is_valid FROM marts.fct_orders) USING (order_id)
    WHERE user_id IS NOT NULL GROUP BY user_id;
"""

DERIVED = """
CREATE TABLE active AS SELECT DISTINCT user_id, event_date AS day FROM marts.fct_events
    WHERE user_id IS NOT NULL AND event_type NOT IN ('refund', 'exposure');
CREATE TABLE marts.retention_cohorts AS
    WITH grains(grain) AS (VALUES ('day'), ('week'), ('month')),
    first AS (
        SELECT grain, user_id, min(date_trunc(grain, day))::DATE AS cohort
        FROM active, grains GROUP BY ALL
    ), periods AS (
        SELECT grain, cohort, user_id, period FROM first, range(61) p(period)
        WHERE date_add(cohort, to_days(0)) IS NOT NULL AND (period + 1) * CASE grain
            WHEN 'day' THEN 1 WHEN 'week' THEN 7 ELSE 31 END + (cohort - DATE '2000-01-01')
            <= (SELECT max(day) FROM active) - DATE '2000-01-01' + 1
    ), came AS (
        SELECT DISTINCT grain, user_id, date_diff(grain, cohort, day) AS period
        FROM first JOIN active USING (user_id)
    )
    SELECT grain AS cohort_grain, cohort, kind, period::INTEGER AS period, count(*) AS eligible,
           count(*) FILTER (WHERE EXISTS (
               SELECT 1 FROM came WHERE came.grain = periods.grain
                 AND came.user_id = periods.user_id
                 AND CASE kind WHEN 'n_day' THEN came.period = periods.period
                     ELSE came.period >= periods.period END)) AS returned,
           returned / eligible AS rate
    FROM periods, (VALUES ('n_day'), ('unbounded')) kinds(kind) GROUP BY ALL;
CREATE TABLE marts.repurchase_rates AS
    WITH last AS (SELECT max(event_date) AS night FROM marts.fct_events),
    first AS (SELECT user_id, order_date FROM marts.fct_orders WHERE order_number = 1),
    second AS (SELECT user_id, order_date AS again FROM marts.fct_orders WHERE order_number = 2)
    SELECT date_trunc('month', order_date)::DATE AS cohort, window_days, count(*) AS eligible,
           count(*) FILTER (WHERE again <= order_date + window_days) AS repurchased,
           repurchased / eligible AS rate
    FROM first LEFT JOIN second USING (user_id), last, (VALUES (30), (60)) w(window_days)
    WHERE order_date + window_days <= night GROUP BY ALL;
CREATE TABLE marts.dwell_stats AS
    SELECT event_date AS stat_date, event_type, count(*) AS events, count(dwell_ms) AS with_dwell,
           with_dwell / count(*) AS coverage, median(dwell_ms)::DOUBLE AS median_ms,
           avg(dwell_ms) AS winsorised_mean_ms
    FROM marts.fct_events WHERE event_type = 'view' GROUP BY ALL;
CREATE TABLE marts.funnel_daily AS
    SELECT session_date AS funnel_date, count(*) AS sessions,
           count(*) FILTER (WHERE views > 0) AS sessions_view,
           count(*) FILTER (WHERE cart_adds > 0) AS sessions_cart,
           count(*) FILTER (WHERE checkouts > 0) AS sessions_checkout,
           count(*) FILTER (WHERE purchases > 0) AS sessions_purchase
    FROM marts.fct_sessions GROUP BY ALL;
CREATE TABLE marts.user_rfm AS
    SELECT user_id, 1 AS recency_days, count(*) AS frequency, sum(net_revenue) AS monetary,
           1 + (max(order_date) - DATE '2009-01-01') % 5 AS r_score,
           least(5, count(*)) AS f_score, 3 AS m_score,
           CASE WHEN count(*) >= 4 THEN 'champions' ELSE 'at_risk' END AS segment
    FROM marts.fct_orders WHERE order_number IS NOT NULL GROUP BY user_id;
CREATE TABLE marts.churn_horizon AS
    SELECT 0.9 AS gap_quantile, quantile_disc(days_since_previous, 0.9) AS horizon_days,
           count(*) AS gaps FROM marts.fct_orders WHERE days_since_previous IS NOT NULL;
CREATE TABLE marts.segment_history AS
    WITH customers AS (
        SELECT user_id, min(order_date) AS day FROM marts.fct_orders
        WHERE order_number IS NOT NULL GROUP BY user_id)
    SELECT user_id, 'life_cycle' AS kind, 'new' AS segment, day AS from_night, day + 9 AS to_night
    FROM customers
    UNION ALL SELECT user_id, 'life_cycle', 'active', day + 10, NULL FROM customers;
CREATE TABLE marts.item_daily_stats AS
    SELECT item_id, event_date AS stat_date, count(*) FILTER (WHERE event_type = 'view') AS views,
           0::BIGINT AS units, 0::DECIMAL(18, 4) AS revenue
    FROM marts.fct_events WHERE item_id IS NOT NULL GROUP BY ALL;
CREATE TABLE marts.recommendations AS
    SELECT DATE '2026-03-31' AS night, user_id, rank::INTEGER AS rank,
           (SELECT list(item_id ORDER BY item_id) FROM marts.dim_items)
               [1 + (ascii(right(user_id, 1)) + rank * 3) % 20] AS item_id,
           1 / rank AS score, CASE WHEN rank % 2 = 0 THEN 'like what you viewed'
               ELSE 'often bought next' END AS reason, 'recommender-3' AS model_version
    FROM marts.dim_users, range(1, 11) r(rank);
CREATE TABLE marts.user_daily_activity AS
    SELECT user_id, event_date AS activity_date, count(*) AS events,
           coalesce((SELECT sum(revenue) FROM marts.fct_order_lines AS l
                     WHERE l.user_id = e.user_id AND l.line_date = e.event_date), 0) AS net_revenue
    FROM marts.fct_events AS e WHERE user_id IS NOT NULL GROUP BY user_id, event_date;
CREATE TABLE waits AS
    SELECT a.user_id, a.order_id, a.order_date AS first_date,
           date_trunc('month', a.order_date)::DATE AS cohort, b.order_date - a.order_date AS wait,
           (SELECT max(event_date) FROM marts.fct_events) - a.order_date AS watched
    FROM marts.fct_orders AS a LEFT JOIN marts.fct_orders AS b
      ON a.user_id = b.user_id AND b.order_number = 2 WHERE a.order_number = 1;
CREATE TABLE marts.repurchase_survival AS
    WITH ended AS (
        SELECT coalesce(wait, watched)::INTEGER AS days, count(wait) AS ordered_again,
               count(*) - count(wait) AS censored
        FROM waits GROUP BY ALL
    )
    SELECT days, (SELECT count(*) FROM waits WHERE coalesce(wait, watched) >= days)
               AS at_risk, ordered_again, censored FROM ended;
CREATE TABLE marts.returning_revenue AS
    SELECT date_trunc('month', order_date)::DATE AS month, count(*) AS orders,
           count(*) FILTER (order_number > 1) AS returning_orders,
           count(DISTINCT user_id) AS customers,
           count(DISTINCT user_id) FILTER (order_number > 1) AS returning_customers,
           sum(net_revenue) AS net_revenue,
           coalesce(sum(net_revenue) FILTER (order_number > 1), 0) AS returning_net_revenue,
           (returning_net_revenue / sum(net_revenue))::DOUBLE AS share
    FROM marts.fct_orders WHERE order_number IS NOT NULL GROUP BY month;
CREATE TABLE marts.cohort_value AS
    SELECT cohort, months::INTEGER AS months, count(*) AS customers,
           sum((SELECT coalesce(sum(net_revenue), 0) FROM marts.user_daily_activity AS d
                WHERE d.user_id = w.user_id AND activity_date < first_date + 30 * months::INTEGER))
               AS net_revenue, (net_revenue / customers)::DOUBLE AS value
    FROM waits AS w, range(1, 25) m(months) GROUP BY cohort, months
    HAVING min(watched) >= 30 * months - 1;
CREATE TABLE marts.session_stats AS
    SELECT session_date AS stat_date, CASE WHEN user_id IS NULL THEN 'guest'
           WHEN session_date > (SELECT min(order_date) FROM marts.fct_orders AS o
                                WHERE o.user_id = s.user_id) THEN 'customer'
           WHEN session_date > (SELECT min(session_date) FROM marts.fct_sessions AS o
                                WHERE o.user_id = s.user_id) THEN 'returning'
           ELSE 'new' END AS visitor_kind, count(*) AS sessions, sum(depth)::BIGINT AS pages,
           sum(depth * depth)::BIGINT AS squared_pages, count(dwell_ms) AS with_dwell,
           sum(dwell_ms // 1000)::BIGINT AS dwell_s,
           sum((dwell_ms // 1000) ^ 2)::BIGINT AS squared_dwell_s
    FROM marts.fct_sessions AS s GROUP BY ALL;
CREATE TABLE marts.item_second_orders AS
    WITH bought AS (
        SELECT DISTINCT item_id, w.user_id, coalesce(wait <= 90, false) AS again
        FROM waits AS w JOIN marts.fct_order_lines AS l USING (order_id)
        WHERE line_type = 'purchase' AND watched >= 60
    )
    -- ten customers for each, so that some items have enough
    SELECT item_id, 10 * count(*) AS first_buyers, 10 * count(*) FILTER (again) AS ordered_again,
           ordered_again / first_buyers AS rate, rate * 0.8 AS low, rate * 1.2 AS high,
           0.5::DOUBLE AS shop_rate, rate / shop_rate AS lift, low / shop_rate AS lift_low,
           high / shop_rate AS lift_high
    FROM bought GROUP BY item_id;
CREATE TABLE marts.run_manifest AS
    SELECT DATE '2026-03-31' AS night, section, name, value, passed, detail FROM (VALUES
        ('input', 'files', '12', NULL, NULL),
        ('version', 'git', 'abc1234', NULL, NULL),
        ('version', 'challenger', 'recommender-3', NULL, '{"decision": "Promoted: better."}'),
        ('rows', 'events/mapped', '1234567', NULL, NULL),
        ('rows', 'events/landed', '1234000', NULL, NULL),
        ('rows', 'events/deduplicated', '500', NULL, NULL),
        ('rows', 'events/quarantined', '67', NULL,
         '{"reasons": {"price_missing": 60, "order_missing": 7}}'),
        ('rows', 'events/excluded', '0', NULL, NULL),
        ('rows', 'events/later', '0', NULL, NULL),
        ('check', 'landing.quarantine.share', '67 of 1,234,567', true,
         '{"stage": "landing", "expected": "few rows break the contract"}'),
        ('check', 'marts.revenue.steady', '30 after 100', false,
         '{"stage": "marts", "expected": "revenue is steady from week to week"}'),
        ('model', 'recommender/challenger/ndcg@10', '0.0612', NULL,
         '{"model": "challenger", "metric": "ndcg", "k": 10, "low": 0.05, "high": 0.07,
           "n_users": 900}'),
        ('model', 'recommender/popularity/ndcg@10', '0.0313', NULL,
         '{"model": "popularity", "metric": "ndcg", "k": 10, "low": 0.02, "high": 0.04,
           "n_users": 900}'),
        ('model', 'recommender/popularity/coverage@10', '0.25', NULL,
         '{"model": "popularity", "metric": "coverage", "k": 10, "low": null, "high": null,
           "n_users": 900}')
    ) m(section, name, value, passed, detail);
"""

# What only later steps of a night publish; without it the report leaves its panels out.
LATER = """
CREATE TABLE marts.user_predictions AS
    SELECT DATE '2026-03-31' AS night, user_id, target, days::INTEGER AS horizon_days,
           CASE target WHEN 'spend' THEN days * (1 + ascii(right(user_id, 1)) % 5) / 10
                ELSE (ascii(right(user_id, 1)) % 10) / 10 END::DOUBLE AS value,
           value * 0.8 AS low, value * 1.2 AS high, ['bought lately'] AS top_reasons,
           'value-1' AS model_version
    FROM marts.dim_users, (VALUES ('purchase', 7), ('purchase', 30), ('churn', 40),
        ('repurchase', 90), ('spend', 90), ('spend', 180), ('spend', 365)) t(target, days);
CREATE TABLE marts.prediction_deciles AS
    SELECT night::DATE AS night, origin, target, days::INTEGER AS horizon_days,
           decile::INTEGER AS decile, (1 / decile)::DOUBLE AS predicted,
           CASE WHEN night < '2026-03-25' THEN share / decile END::DOUBLE AS actual, 40 AS n
    FROM range(1, 11) d(decile), (VALUES ('purchase', 7), ('spend', 90)) t(target, days),
        (VALUES ('2026-01-31', 'backtest', 0.1), ('2026-02-14', 'published', 0.2),
                ('2026-02-20', 'published', 0.3), ('2026-03-20', 'backtest', 0.4),
                ('2026-03-30', 'published', 0.5)) n(night, origin, share);
CREATE TABLE marts.prediction_quality AS
    SELECT night::DATE AS night, target, days::INTEGER AS horizon_days, model, metric,
           (value + better)::DOUBLE AS value, value - 0.1 AS low, value + 0.1 AS high, 400 AS n
    FROM (VALUES ('2026-02-14', 0.1), ('2026-02-20', 0.2)) n(night, better),
        (VALUES ('champion'), ('recency')) m(model),
        (VALUES ('purchase', 7, 'brier', 0.1), ('purchase', 7, 'auc', 0.6),
                ('spend', 90, 'mae', 3.0), ('spend', 90, 'gini', 0.3))
            q(target, days, metric, value);
CREATE TABLE marts.campaign_results AS
    SELECT DATE '2026-03-31' AS night, * FROM (VALUES
        ('win_back', 'Win back', 28, 0, 800, 200, 0.12, 0.08, 0.04, 0.01, 0.07, 0.5, -0.2, 1.2,
         'It helped.'),
        ('second', 'A second order', 14, 9, 20, 5, 0.1, 0.2, -0.1, -0.4, 0.2, 0.0, NULL, NULL,
         'Too few.')) c(campaign, title, outcome_days, n_waiting, n_treated, n_holdout,
         treated_rate, holdout_rate, rate_difference, rate_low, rate_high, revenue_difference,
         revenue_low, revenue_high, verdict);
"""

NO_VISITS = """
DELETE FROM marts.fct_events WHERE event_type NOT IN ('purchase', 'refund');
DELETE FROM marts.fct_sessions WHERE purchases = 0;
UPDATE marts.fct_sessions SET views = 0, cart_adds = 0, checkouts = 0;
"""


@contextmanager
def opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The file as an analyst opens it: DuckDB calls its database `marts`."""
    with duckdb.connect(str(path)) as connection:
        yield connection


def metric_definitions() -> str:
    """The model that defines the metrics, as plain SQL: it reads no other."""
    model = ROOT / "dbt_project" / "models" / "marts" / "metric_definitions.sql"
    return jinja2.Template(model.read_text()).render()


def make_marts(path: Path, *changes: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened(path) as connection:
        for statements in (BASE, *changes, DERIVED):
            connection.execute(statements)
        connection.execute(f"CREATE TABLE marts.metric_definitions AS {metric_definitions()}")


def shop(simulated: bool = True) -> Shop:
    return Shop(
        name="small",
        title="Small & Fine",
        simulated=simulated,
        time_zone="Europe/Berlin",
        currency="EUR",
        language="en",
        start=date(2026, 1, 1),
        raw={},
        recommender=Recommender(input_events=["view"], target_events=["purchase"], holdout_days=7),
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paths]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_VAR", str(tmp_path_factory.mktemp("var")))
        paths = Paths("small")
        make_marts(paths.marts)
        yield paths


@pytest.fixture(scope="module")
def report(home: Paths) -> Report:
    return build(shop(), home, NIGHT)


@pytest.fixture(scope="module")
def page(report: Report) -> ElementTree.Element:
    """The page parsed as XML, which fails unless every element is closed."""
    return ElementTree.fromstring(report.path.read_text().removeprefix("<!DOCTYPE html>"))


def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Paths) -> Paths:
    """A copy of the small shop's published marts that a test may change."""
    source = home.marts
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths = Paths("small")
    paths.home.mkdir()
    shutil.copy(source, paths.marts)
    return paths


def words(element: ElementTree.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def panel(page: ElementTree.Element, key: str) -> ElementTree.Element:
    found = [figure for figure in page.iter("figure") if figure.get("id") == key]
    assert len(found) == 1, f"panel {key} is there {len(found)} times"
    return found[0]


def data_inside(element: ElementTree.Element) -> bytes:
    link = next(a for a in element.iter("a") if a.get("download"))
    return base64.b64decode((link.get("href") or "").split("base64,")[1])


def recount(home: Paths, sql: str) -> list[tuple]:
    with opened(home.marts) as connection:
        return connection.execute(sql).fetchall()


def test_headline_numbers_equal_a_plain_recount(home: Paths, page: ElementTree.Element) -> None:
    cards = {
        words(card[0]).removesuffix(" simulated"): words(card[1])
        for card in page.iter("div")
        if card.get("class") == "card"
    }
    ((users,),) = recount(
        home, "SELECT count(DISTINCT user_id) FROM marts.fct_events WHERE user_id IS NOT NULL"
    )
    orders = recount(
        home,
        "SELECT order_id, any_value(user_id) FROM marts.fct_order_lines "
        "GROUP BY order_id HAVING sum(revenue) > 0",
    )
    ((net,),) = recount(home, "SELECT sum(revenue) FROM marts.fct_order_lines")
    buyers = [user for _, user in orders if user]
    customers, repeaters = set(buyers), {user for user in buyers if buyers.count(user) > 1}
    assert 0 < len(repeaters) < len(customers) < users
    assert cards == {
        "Users": f"{users}",
        "Customers": f"{len(customers)}",
        "Orders": f"{len(orders)}",
        "Net revenue": f"{net:,.0f} EUR",
        "Repeat rate": f"{len(repeaters) / len(customers) * 100:.1f}%",
    }


def test_retention_equals_a_recount_in_python(home: Paths, page: ElementTree.Element) -> None:
    days: dict[str, set[date]] = {}
    for user, day in recount(
        home,
        "SELECT user_id, event_date FROM marts.fct_events "
        "WHERE user_id IS NOT NULL AND event_type != 'refund'",
    ):
        days.setdefault(user, set()).add(day)
    eligible = [d for d in days.values() if (NIGHT - min(d)).days >= 7]
    came = [d for d in eligible if any((day - min(d)).days == 7 for day in d)]
    later = [d for d in eligible if any((day - min(d)).days >= 7 for day in d)]
    assert (
        f"{len(came) / len(eligible) * 100:.1f}% of {len(eligible)} came back on day 7; "
        f"{len(later) / len(eligible) * 100:.1f}% came on day 7 or later."
    ) in words(panel(page, "curve_day"))


def test_repurchase_rates_are_sums_over_sums(home: Paths, page: ElementTree.Element) -> None:
    rates = recount(
        home,
        "SELECT window_days, sum(repurchased) / sum(eligible), sum(eligible) "
        "FROM marts.repurchase_rates GROUP BY window_days ORDER BY window_days",
    )
    text = words(panel(page, "repurchase_windows"))
    assert len(rates) == 2
    for window, rate, n in rates:
        assert f"{rate * 100:.1f}% order again within {window} days" in text
        assert f"{rate * 100:.1f}% of {n}" in text


def test_data_quality_shows_rows_reasons_and_failed_checks(page: ElementTree.Element) -> None:
    assert "events 1,234,567 1,234,000 500 67 0 0" in words(panel(page, "rows"))
    assert "events quarantined price_missing 60" in words(panel(page, "reasons"))
    assert "marts.revenue.steady revenue is steady from week to week 30 after 100" in words(
        panel(page, "failed_checks")
    )
    assert "1 of 2 checks passed" in words(page)


def test_model_metrics_show_value_and_interval(page: ElementTree.Element) -> None:
    text = words(panel(page, "model_metrics_table"))
    assert "ndcg@10 challenger 0.0612 0.0500 to 0.0700 900" in text
    assert "coverage@10 popularity 0.2500 - 900" in text
    assert "NDCG@10: challenger 0.0612, popularity 0.0313." in words(panel(page, "model_metrics"))
    assert "Promoted: better." in words(page)


def test_reasons_are_grouped_by_their_kind_not_by_the_items_they_name() -> None:
    with duckdb.connect() as connection:
        connection.execute(
            """
            CREATE SCHEMA marts;
            CREATE TABLE marts.recommendations AS SELECT * FROM (VALUES
                (1, 'because you viewed Blue mug'), (2, 'because you viewed Red mug'),
                (3, 'because you viewed it'), (4, 'bought before'), (5, NULL),
                (11, 'beyond the first ten')) r(rank, reason)
            """
        )
        rows = queries.recommendation_reasons(connection).to_pylist()
    assert [(row["reason"], row["entries"]) for row in rows] == [
        ("because you viewed ...", 2),
        ("because you viewed it", 1),
        ("bought before", 1),
        ("no reason given", 1),
    ]


def test_who_gets_a_list_equals_a_recount(home: Paths, page: ElementTree.Element) -> None:
    rows = recount(home, "SELECT user_id, item_id FROM marts.recommendations WHERE rank <= 10")
    users, items = {user for user, _ in rows}, {item for _, item in rows}
    text = words(panel(page, "recommendation_coverage"))
    assert f"users with a list {len(users)} 60" in text
    assert f"items in first tens {len(items)} 20" in text


def test_every_panel_has_its_data_inside_and_beside(
    report: Report, page: ElementTree.Element
) -> None:
    panels = list(page.iter("figure"))
    assert len(panels) > 20
    beside = {path.stem: path.read_bytes() for path in report.data_files}
    for figure in panels:
        key = figure.get("id") or ""
        assert data_inside(figure) == beside.pop(key)
    assert not beside


def test_csv_is_what_is_drawn(home: Paths, page: ElementTree.Element) -> None:
    rows = list(csv.DictReader(io.StringIO(data_inside(panel(page, "retention_week")).decode())))
    drawn = [
        "".join(text.itertext())
        for text in next(panel(page, "retention_week").iter("svg")).iter("text")
        if re.search("font-size: 9px", text.get("style") or "")
    ]
    assert drawn == [f"{float(row['rate']) * 100:.0f}" for row in rows]
    assert any(int(row["eligible"]) < plots.SMALL for row in rows)


def test_cells_of_few_users_are_grey(page: ElementTree.Element) -> None:
    rows = list(csv.DictReader(io.StringIO(data_inside(panel(page, "retention_week")).decode())))
    grey = [
        text
        for text in next(panel(page, "retention_week").iter("svg")).iter("text")
        if plots.GREY in (style := text.get("style") or "") and "font-size: 9px" in style
    ]
    few = [row for row in rows if int(row["eligible"]) < plots.SMALL]
    assert 0 < len(grey) == len(few) < len(rows)


def picture_height(png: bytes) -> int:
    return int.from_bytes(png[20:24])


def test_simulated_is_said_of_the_page_and_of_every_figure(
    home: Paths, report: Report, page: ElementTree.Element
) -> None:
    assert "Simulated." in words(next(page.iter("header")))
    for element in [
        *page.iter("figure"),
        *(e for e in page.iter("div") if e.get("class") == "card"),
    ]:
        assert "simulated" in words(element)
    drawn = [figure for figure in page.iter("figure") if list(figure.iter("svg"))]
    assert {figure.get("id") for figure in drawn} == set(report.plots)
    # the card says it of a figure, so the figure need not; a picture has no card around it
    plain = build(shop(simulated=False), home, NIGHT)
    for key, picture in build(shop(), home, NIGHT).plots.items():
        assert picture_height(picture) > picture_height(plain.plots[key])
    links = [a.get("download") for a in page.iter("a") if a.get("download")]
    assert all("_simulated_" in str(link) for link in links)


def test_the_page_needs_nothing_from_anywhere(report: Report, page: ElementTree.Element) -> None:
    text = report.path.read_text()
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert not list(page.iter("script")) and not list(page.iter("img"))
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in page.iter():
        target = element.get("href") or ""
        assert target == "" or target.startswith("data:") or target.removeprefix("#") in ids
    for used in re.findall(r"url\(#([^)]+)\)", text):
        assert used in ids
    assert report.path.stat().st_size < 3_000_000


def test_titles_of_items_are_escaped(page: ElementTree.Element) -> None:
    assert "Title & <" in words(panel(page, "top_items_table"))


def test_same_marts_give_the_same_files_whatever_lay_there(
    report: Report, home: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {path.name: path.read_bytes() for path in report.path.parent.iterdir()}
    paths = fresh(tmp_path, monkeypatch, home)
    paths.report(NIGHT).mkdir(parents=True)
    (paths.report(NIGHT) / "formerly.csv").write_text("a\n1\n")
    again = build(shop(), paths, NIGHT)
    assert {path.name: path.read_bytes() for path in again.path.parent.iterdir()} == first
    assert again.plots == report.plots
    assert set(first) == {"index.html", *(path.name for path in report.data_files)}


def test_plots_can_be_drawn_alone(home: Paths) -> None:
    with opened(home.marts) as connection:
        figure = plots.retention_heatmap(connection, "week")
        assert plots.png(figure).startswith(b"\x89PNG")
        connection.execute("CREATE TEMP TABLE none AS FROM marts.retention_cohorts LIMIT 0")
        with pytest.raises(ValueError, match="no data"):
            plots.dwell(connection, date(2020, 1, 1))


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (3, 7), (50, 100), (0, 10_000)])
def test_wilson_interval_encloses_the_rate_and_stays_within_0_and_1(hits: int, n: int) -> None:
    with duckdb.connect() as connection:
        sql = f"SELECT {queries.wilson(str(hits), str(n))}"
        low, high = connection.execute(sql).fetchall()[0]
    assert 0 <= low <= hits / n <= high <= 1


def test_wilson_interval_of_a_textbook() -> None:
    # 10 of 20: (0.299, 0.701), e.g. Agresti and Coull (1998)
    with duckdb.connect() as connection:
        low, high = connection.execute(f"SELECT {queries.wilson('10', '20')}").fetchall()[0]
    assert (round(low, 3), round(high, 3)) == (0.299, 0.701)


def test_a_real_shop_without_visits_is_told_so_and_not_called_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths = Paths("small")
    make_marts(paths.marts, NO_VISITS)
    text = build(shop(simulated=False), paths, NIGHT).path.read_text()
    assert "simulated" not in text.lower()
    page = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>"))
    assert "no page views, carts or checkouts" in words(panel(page, "visits_none"))
    assert "It delivers purchases and refunds." in words(panel(page, "visits_none"))
    assert 'id="funnel_steps"' not in text and 'id="dwell"' not in text
    assert list(panel(page, "retention_month").iter("svg"))


def test_an_empty_shop_still_gets_a_page_that_explains_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths = Paths("small")
    make_marts(paths.marts)
    with opened(paths.marts) as connection:
        tables = connection.execute("SELECT table_name FROM information_schema.tables").fetchall()
        for (table,) in tables:
            if table == "metric_definitions":  # which are not the shop's
                continue
            keep = "WHERE section != 'version'" if table == "run_manifest" else ""
            connection.execute(f"DELETE FROM marts.{table} {keep}")
    report = build(shop(), paths, NIGHT)
    page = ElementTree.fromstring(report.path.read_text().removeprefix("<!DOCTYPE html>"))
    assert report.plots == {}
    assert "Nothing has been sold yet." in words(panel(page, "sales"))
    assert "No cohort is old enough" in words(panel(page, "curve_day"))
    assert "No recommendations were published" in words(page)
    assert "nan" not in words(page).lower().split()


def test_a_failed_build_leaves_the_former_page(
    home: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = fresh(tmp_path, monkeypatch, home)
    page = paths.report(NIGHT) / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("the former page")
    with opened(paths.marts) as connection:
        connection.execute("DROP TABLE marts.user_rfm")
    with pytest.raises(ReportError, match=r"lacks marts\.user_rfm: publish the night again"):
        build(shop(), paths, NIGHT)
    assert [path.name for path in page.parent.iterdir()] == ["index.html"]
    assert page.read_text() == "the former page"


def test_another_night_than_the_published_is_refused(home: Paths) -> None:
    with pytest.raises(ReportError, match="holds the night of 2026-03-31, not 2026-03-30"):
        build(shop(), home, date(2026, 3, 30))
    assert not home.report(date(2026, 3, 30)).exists()


def test_without_published_marts_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    with pytest.raises(ReportError, match="publish a night of small first"):
        build(shop(), Paths("small"), NIGHT)


def analyst_blocks(language: str) -> list[str]:
    text = (ROOT / "docs" / "analyst.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def complete(home: Paths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small shop's marts with what only later steps publish."""
    file = tmp_path_factory.mktemp("complete") / "marts.duckdb"
    shutil.copy(home.marts, file)
    with opened(file) as connection:
        connection.execute(LATER)
    return file


def test_the_analyst_page_has_its_worked_queries() -> None:
    assert len(analyst_blocks("sql")) >= 10


@pytest.mark.parametrize("sql", analyst_blocks("sql"))
def test_worked_queries_of_the_analyst_page_run_and_answer(complete: Path, sql: str) -> None:
    with opened(complete) as connection:
        assert connection.execute(sql).fetchall()


def test_opening_the_file_from_python_works_as_written(
    home: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "var" / "demo").mkdir(parents=True)
    shutil.copy(home.marts, tmp_path / "var" / "demo" / "marts.duckdb")
    monkeypatch.chdir(tmp_path)
    (code,) = analyst_blocks("python")
    names: dict = {}
    exec(code, names)
    assert names["table"].num_rows == 5
    names["connection"].close()
