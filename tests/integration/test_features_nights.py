"""The feature models on marts made here: by hand, and night by night against a full refresh."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest

from core.shop import ROOT

PROJECT = ROOT / "dbt_project"
START = date(2026, 1, 1)  # a Thursday
VIEWS = {
    "user_behaviour_v1": "user_id",
    "user_purchases_v1": "user_id",
    "item_stats_v1": "item_id",
}

# Ann is worked by hand below; the others do something of everything, one event in ten comes a day
# or two late. `h(x, n)` is a fixed number below n.
EVERYTHING = """
CREATE MACRO h(x, n) AS (hash(x::VARCHAR) % n)::INTEGER;
CREATE TABLE everything AS
SELECT *, event_ts::DATE AS event_date,
    event_ts::DATE + CASE WHEN h('late' || event_id, 10) = 0 THEN 1 + h(event_id, 2) ELSE 0 END
        AS arrival
FROM (
    SELECT 'e' || n AS event_id, 'u' || h('u' || n, 12) AS user_id,
        TIMESTAMP '2026-01-01' + to_minutes(h('t' || n, 11 * 1440)) AS event_ts,
        ['view', 'click', 'search', 'cart_add', 'cart_remove', 'checkout', 'purchase', 'refund',
         'exposure'][1 + h('k' || n, 9)] AS event_type,
        'i' || h('i' || n, 9) AS item_id, 'o' || h('o' || n, 40) AS order_id,
        1 + h('q' || n, 3) AS quantity, (1 + h('p' || n, 900) / 100)::DECIMAL(18, 4) AS unit_price,
        's' || h('s' || n, 60) AS session_key,
        CASE WHEN n % 3 = 0 THEN h('d' || n, 600000) END AS dwell_ms
    FROM range(500) AS t(n)
);
INSERT INTO everything
SELECT 'a' || event_ts, 'ann', event_ts, event_type, item_id, order_id, quantity, unit_price,
    session_key, dwell_ms, event_ts::DATE, event_ts::DATE
FROM (VALUES
    (TIMESTAMP '2026-01-01 10:00:00', 'view', 'i1', NULL, NULL, NULL, 's1', 30000),
    (TIMESTAMP '2026-01-01 10:00:30', 'cart_add', 'i1', NULL, NULL, NULL, 's1', NULL),
    (TIMESTAMP '2026-01-01 10:01:00', 'purchase', 'i1', 'x1', 2, 10, 's1', NULL),
    (TIMESTAMP '2026-01-03 20:00:00', 'view', 'i1', NULL, NULL, NULL, 's2', NULL),
    (TIMESTAMP '2026-01-03 20:01:00', 'view', 'i2', NULL, NULL, NULL, 's2', NULL),
    (TIMESTAMP '2026-01-04 23:59:00', 'view', 'i2', NULL, NULL, NULL, 's3', 120000),
    (TIMESTAMP '2026-01-05 08:00:00', 'refund', 'i1', 'x1', 1, 10, NULL, NULL),
    (TIMESTAMP '2026-01-07 09:00:00', 'purchase', 'i2', 'x2', 1, 5, 's4', NULL)
) AS ann(event_ts, event_type, item_id, order_id, quantity, unit_price, session_key, dwell_ms);
"""

# The columns of the marts that the feature models read, of what has arrived by the night.
MARTS = """
CREATE SCHEMA IF NOT EXISTS marts; CREATE SCHEMA IF NOT EXISTS staging;
CREATE OR REPLACE TABLE marts.fct_events AS
    FROM source.everything WHERE arrival <= DATE '{night}' AND event_date <= DATE '{night}';
CREATE OR REPLACE TABLE marts.fct_order_lines AS
    SELECT order_id, user_id, item_id, event_date AS line_date, event_type AS line_type, quantity,
        (quantity * unit_price * CASE event_type WHEN 'refund' THEN -1 ELSE 1 END)::DECIMAL(18, 4)
            AS revenue
    FROM marts.fct_events WHERE event_type IN ('purchase', 'refund');
CREATE OR REPLACE TABLE marts.user_daily_activity AS
    SELECT user_id, event_date AS activity_date,
        count(*) FILTER (event_type NOT IN ('refund', 'exposure')) AS events,
        min(event_ts) AS first_event_at, max(event_ts) AS last_event_at,
        NULL::VARCHAR AS first_channel, NULL::VARCHAR AS last_country,
        coalesce(sum(quantity) FILTER (event_type = 'purchase'), 0)::BIGINT AS units,
        coalesce(sum(quantity * unit_price) FILTER (event_type = 'purchase'), 0)::DECIMAL(38, 4)
            AS gross_revenue,
        coalesce(sum(quantity * unit_price) FILTER (event_type = 'refund'), 0)::DECIMAL(38, 4)
            AS refunded_revenue,
        gross_revenue - refunded_revenue AS net_revenue
    FROM marts.fct_events GROUP BY ALL;
CREATE OR REPLACE TABLE marts.item_daily_stats AS
    SELECT item_id, event_date AS stat_date, min(event_ts) AS first_event_at,
        min(event_ts) FILTER (event_type = 'purchase') AS first_sold_at,
        count(*) FILTER (event_type = 'view') AS "views",
        count(*) FILTER (event_type = 'click') AS clicks,
        count(*) FILTER (event_type = 'cart_add') AS cart_adds,
        count(*) FILTER (event_type = 'exposure') AS exposures,
        count(*) FILTER (event_type = 'purchase') AS purchases,
        coalesce(sum(quantity) FILTER (event_type = 'purchase'), 0)::BIGINT AS units,
        coalesce(sum(quantity) FILTER (event_type = 'refund'), 0)::BIGINT AS refunded_units,
        coalesce(sum(quantity * unit_price) FILTER (event_type = 'purchase'), 0)
            - coalesce(sum(quantity * unit_price) FILTER (event_type = 'refund'), 0) AS revenue
    FROM marts.fct_events WHERE item_id IS NOT NULL GROUP BY ALL;
CREATE OR REPLACE TABLE staging.stg_items AS
    SELECT item_id, price::DECIMAL(18, 4) AS price, valid_from
    FROM (VALUES ('i1', 10.00, TIMESTAMP '2025-12-01'), ('i1', 12.00, TIMESTAMP
        '2026-01-07 12:00:00'), ('new', 3.50, TIMESTAMP '2026-01-06')
    ) AS t(item_id, price, valid_from)
    WHERE valid_from < TIMESTAMP '{night}' + INTERVAL 1 DAY;
"""


class Shop:
    """A warehouse of hand-made marts, and dbt run on it in this process."""

    def __init__(self, home: Path) -> None:
        self.file, self.log = home / "warehouse.duckdb", str(home / "dbt")
        self.source = home / "source.duckdb"
        with duckdb.connect(str(self.source)) as duck:
            duck.execute(EVERYTHING)
        parsed = dbtRunner().invoke(["parse", *self._options(START, START)])
        assert isinstance(parsed.result, Manifest), parsed.exception
        self.runner = dbtRunner(manifest=parsed.result)

    def _options(self, night: date, reprocess_from: date) -> list[str]:
        variables = {"night": night, "reprocess_from": reprocess_from, "start": START}
        folders = {"project-dir": PROJECT, "profiles-dir": PROJECT}
        folders |= {"target-path": self.log, "log-path": self.log}
        options = [part for name, at in folders.items() for part in (f"--{name}", str(at))]
        return ["--quiet", *options, "--vars", json.dumps(variables, default=str)]

    def build(self, night: date, reprocess_from: date, *more: str) -> dict[str, list[tuple]]:
        """Marts and features of a night; returns the feature tables, ordered."""
        with duckdb.connect(str(self.file)) as duck:
            duck.execute(f"ATTACH '{self.source}' AS source (READ_ONLY)")
            duck.execute(MARTS.format(night=night))
        state = ["int_user_trade_days", "int_user_history", "int_buying_days", "int_item_history"]
        models = ["--select", *state, "int_item_snapshots", "path:models/features", *more]
        options = [*models, *self._options(night, reprocess_from)]
        done = self.runner.invoke(["run", *options])
        DuckDBConnectionManager.close_all_connections()
        assert done.success, done.exception or [one.message for one in done.result]
        with duckdb.connect(str(self.file), read_only=True) as duck:
            return {
                view: duck.execute(
                    f"FROM features.{view} ORDER BY event_timestamp, {key}"
                ).fetchall()
                for view, key in VIEWS.items()
            }

    def row(self, view: str, key: str, moment: str) -> dict[str, object]:
        with duckdb.connect(str(self.file), read_only=True) as duck:
            found = duck.execute(
                f"FROM features.{view} WHERE {VIEWS[view]} = ? AND event_timestamp = ?::TIMESTAMP",
                [key, moment],
            )
            return dict(
                zip([c[0] for c in found.description], found.fetchone() or (), strict=False)
            )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    home = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_SHOP_HOME", str(home))
        yield Shop(home)


def test_night_by_night_equals_a_full_refresh(shop: Shop) -> None:
    """Late events, a Sunday in the middle, nights left out, and back to an earlier night."""
    days = [date(2026, 1, day) for day in (3, 4, 5, 10, 11, 12)]
    shop.build(days[0], START)
    for last, night in pairwise(days):
        # at most two days late: what has come since the last night is of the day before it or later
        by_night = shop.build(night, last - timedelta(days=1))
    assert by_night == shop.build(days[-1], START, "--full-refresh")

    snapshots = {row[1] for row in by_night["user_behaviour_v1"]}
    assert snapshots == {datetime(2026, 1, day) for day in (5, 12, 13)}

    back = shop.build(days[1], date(2026, 1, 2))
    assert back == shop.build(days[1], START, "--full-refresh")


def test_worked_by_hand(shop: Shop) -> None:
    shop.build(date(2026, 1, 8), START, "--full-refresh")

    sunday = shop.row("user_behaviour_v1", "ann", "2026-01-05")
    expected = {
        "tenure_days": 4,
        "days_since_last_event": 1,
        "activity": 1,
        "active_days": 3,
        "views_7d": 4,
        "purchases_7d": 1,
        "refunds_7d": 0,
        "items_viewed_7d": 2,
        "sessions_7d": 3,
        "depth_30d": 4 / 3,
        "page_dwell_seconds_30d": 30,  # the page left on Monday is not known yet
        "evening_share_90d": 0.5,
        "weekend_share_90d": 0.5,
        "orders": 1,
        "orders_per_day": 0.25,
        "amount_per_day": 5,  # refunded on Monday, not yet known
        "refund_ratio": 0,
        "basket_units": 2,
        "price_level": 10,
        "days_between_orders": None,
    }
    assert {name: sunday[name] for name in expected} == expected

    night = shop.row("user_behaviour_v1", "ann", "2026-01-09")
    expected = {
        "tenure_days": 8,
        "days_since_last_event": 2,
        "activity": 0.5,
        "page_dwell_seconds_30d": 75,
        "refunds_7d": 1,
        "views_7d": 3,  # Thursday 1st has left the window of seven days
        "items_viewed_7d": 2,
        "items_bought_30d": 2,
        "orders": 2,
        "days_since_first_order": 8,
        "days_since_last_order": 2,
        "days_between_orders": 6,
        "amount_per_day": 15 / 8,
        "amount_30d": 15,
        "refund_ratio": 0.4,
    }
    assert {name: night[name] for name in expected} == expected


def test_an_item_has_the_price_and_the_age_of_the_moment(shop: Shop) -> None:
    shop.build(date(2026, 1, 8), START, "--full-refresh")

    assert shop.row("item_stats_v1", "i1", "2026-01-05")["price"] == 10
    assert shop.row("item_stats_v1", "i1", "2026-01-09")["price"] == 12
    assert shop.row("item_stats_v1", "new", "2026-01-05") == {}
    new = shop.row("item_stats_v1", "new", "2026-01-09")
    assert (new["price"], new["days_since_first_seen"], new["purchases"]) == (3.5, 3, 0)
