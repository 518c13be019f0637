"""Whole nights of a small shop through the audit: good ones are published, bad ones are not.

The shop is made by SQL: `_write_night` gives it landing files, a warehouse, features, embeddings
and recommendations as of a night, `_audit` runs the stages and `_publish` tries to publish.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from audit import results, scope, suites
from audit.catalogue import CATALOGUE, STAGES
from audit.publish import MANIFEST_SCHEMA, PublishError, content_hash, publish
from audit.source import AuditError
from core.duck import connect
from core.paths import Paths
from core.shop import ROOT, Shop, Thresholds
from ingest import ledger
from ingest.contract import PROVENANCE, TABLES

YESTERDAY, TONIGHT = date(2026, 3, 30), date(2026, 3, 31)
SHOP = Shop.model_validate(
    {
        "name": "small",
        "title": "A small shop",
        "simulated": True,
        "time_zone": "Europe/Berlin",
        "currency": "EUR",
        "language": "en",
        "start": "2026-03-01",
        "raw": {},
        "recommender": {
            "input_events": ["view"],
            "target_events": ["purchase"],
            "holdout_days": 7,
        },
    }
)

# 12 sessions a day of two views and a purchase; users and items in turn, odd minutes.
EVENTS = """
    SELECT format('e{}-{}-{}', d, s, k) AS event_id,
           TIMESTAMP '2026-03-01' + to_days(d) + to_hours(8 + s)
             + to_seconds((hash(d, s) % 1800 + 60 * k)::BIGINT) AS event_ts,
           md5('user' || ((d * 7 + s) % 40)) AS user_id, format('s{}-{}', d, s) AS session_id,
           ['view', 'view', 'purchase'][k + 1] AS event_type,
           format('item{}', (d * 5 + s * 3 + k) % 60) AS item_id,
           CASE k WHEN 2 THEN format('o{}-{}', d, s) END AS order_id,
           CASE k WHEN 2 THEN 1 + s % 2 END::BIGINT AS quantity,
           CASE k WHEN 2 THEN 5 + s % 7 END::DECIMAL(18, 4) AS unit_price, 'EUR' AS currency,
           NULL::BIGINT AS dwell_ms, NULL::VARCHAR AS query, 'mail' AS channel,
           NULL::VARCHAR AS properties, 'events.csv' AS _file, (d * 36 + s * 3 + k)::BIGINT AS _row
    FROM range(0, 60) days(d), range(0, 12) sessions(s), range(0, 3) steps(k)"""
ITEMS = """
    SELECT format('item{}', i) AS item_id, format('A fine mug, number {}', i) AS title,
           NULL::VARCHAR AS description, 'Home > Mugs' AS category_path, NULL::VARCHAR AS brand,
           5::DECIMAL(18, 4) AS price, TIMESTAMP '2026-03-01' AS valid_from,
           'items.csv' AS _file, i::BIGINT AS _row FROM range(0, 60) items(i)"""
MARTS = {
    "fct_events": "SELECT * EXCLUDE (session_id, _file, _row, day, dwell_ms), "
    "event_ts::DATE AS event_date, session_id AS session_key, 60000::BIGINT AS dwell_ms, "
    "true AS is_known_item FROM landed",
    "dim_users": "SELECT user_id, min(event_ts) AS first_seen_at FROM landed GROUP BY 1",
    "dim_items": "SELECT item_id, title, valid_from, true AS is_catalogued, "
    "false AS is_sold_out FROM items",
    "fct_sessions": "SELECT session_id AS session_key, min(event_ts) AS started_at, "
    "max(event_ts) AS ended_at, 120000 AS duration_ms, 120000 AS dwell_ms FROM landed GROUP BY 1",
    "fct_order_lines": "SELECT event_id AS line_id, order_id, user_id, item_id, "
    "event_ts AS line_ts, event_ts::DATE AS line_date, event_type AS line_type, quantity, "
    "unit_price, quantity * unit_price AS revenue FROM landed WHERE event_type = 'purchase'",
    "fct_orders": "SELECT *, 0::DECIMAL(18, 4) AS refunded_revenue, gross_revenue AS net_revenue, "
    "row_number() OVER (PARTITION BY user_id ORDER BY ordered_at) AS order_number FROM ("
    "SELECT order_id, user_id, min(event_ts) AS ordered_at, min(event_ts)::DATE AS order_date, "
    "sum(quantity) AS units, sum(quantity * unit_price) AS gross_revenue FROM landed "
    "WHERE event_type = 'purchase' GROUP BY order_id, user_id)",
    "user_daily_activity": "SELECT user_id, event_ts::DATE AS activity_date, count(*) AS events "
    "FROM landed GROUP BY ALL",
    "item_daily_stats": "SELECT item_id, event_ts::DATE AS stat_date, count(*) AS views "
    "FROM landed GROUP BY ALL",
    "retention_cohorts": "SELECT 'day' AS cohort_grain, DATE '2026-03-01' AS cohort, "
    "'n_day' AS kind, 0 AS period, 12 AS eligible, 12 AS returned, 1.0::DOUBLE AS rate",
    "repurchase_rates": "SELECT DATE '2026-03-01' AS cohort, 30 AS window_days, 12 AS eligible, "
    "6 AS repurchased, 0.5::DOUBLE AS rate",
    "dwell_stats": "SELECT event_ts::DATE AS stat_date, event_type, count(*) AS events "
    "FROM landed GROUP BY ALL",
    "funnel_daily": "SELECT event_ts::DATE AS funnel_date, 12 AS sessions, 12 AS sessions_view, "
    "0 AS sessions_cart, 0 AS sessions_checkout, 12 AS sessions_purchase FROM landed GROUP BY 1",
    "user_rfm": "SELECT user_id, 1 AS r_score, 5 AS f_score, 3 AS m_score FROM landed GROUP BY 1",
    "repurchase_survival": "SELECT 30 AS days, 40 AS at_risk",
    "session_stats": "SELECT DATE '2026-03-01' AS stat_date, 'new' AS visitor_kind",
    "returning_revenue": "SELECT DATE '2026-03-01' AS month, 0.5 AS share",
    "cohort_value": "SELECT DATE '2026-03-01' AS cohort, 1 AS months, 5.0 AS value",
    "item_second_orders": "SELECT 'item7' AS item_id, 1.0 AS lift",
    "metric_definitions": "SELECT 'dwell' AS metric, 'the time on a page' AS definition",
    "segment_history": "SELECT user_id, 'life_cycle' AS kind, 'new' AS segment, "
    "DATE '2026-03-01' AS from_night, NULL::DATE AS to_night FROM landed GROUP BY 1",
}
FEATURES = {
    "user_behaviour_v1": "SELECT user_id, getvariable('night_end') AS event_timestamp, "
    "1.5::DOUBLE AS mean_basket, 0.5::DOUBLE AS weekend_share FROM landed GROUP BY 1",
    "user_purchases_v1": "SELECT user_id, getvariable('night_end') AS event_timestamp, "
    "3.5::DOUBLE AS faded_orders FROM landed GROUP BY 1",
    "item_stats_v1": "SELECT item_id, getvariable('night_end') AS event_timestamp, "
    "2.5::DOUBLE AS views_7d FROM items",
}
PREDICTIONS = {
    "user_predictions": "SELECT user_id, 'purchase' AS target, 7 AS horizon_days, "
    "0.2::DOUBLE AS value, 0.1::DOUBLE AS low, 0.3::DOUBLE AS high, ['+ views: 2'] AS top_reasons, "
    "'val-1' AS model_version FROM marts.dim_users",
    "prediction_quality": "SELECT 'purchase' AS target, 7 AS horizon_days, 'champion' AS model, "
    "'auc' AS metric, 0.8::DOUBLE AS value",
    "prediction_deciles": "SELECT 'backtest' AS origin, 'purchase' AS target, 7 AS horizon_days, "
    "1 AS decile, 0.2::DOUBLE AS predicted",
    "prediction_fairness": "SELECT 'purchase' AS target, 7 AS horizon_days, 'country' AS kind, "
    "'gap' AS grp, 'calibration' AS metric, 0.02::DOUBLE AS value, 0::DOUBLE AS low",
    "prediction_drift": "SELECT 'purchase' AS target, 7 AS horizon_days, "
    "unnest(['prediction', 'views_7d']) AS feature, 0.05::DOUBLE AS psi",
    "prediction_drivers": "SELECT 'purchase' AS target, 7 AS horizon_days, 'views_7d' AS feature, "
    "0.4::DOUBLE AS share",
}


def _write_night(paths: Paths, night: date, open_when: str = "true") -> None:
    """All files of the shop as of `night`; only events for which `open_when` holds happened."""
    home = paths.home
    shutil.rmtree(home / "landing", ignore_errors=True)
    paths.warehouse.unlink(missing_ok=True)
    for folder in (
        "landing",
        "recommendations",
        "campaigns",
        "predictions",
        "quarantine/events",
        "features/item_text_embedding_minilm_v1",
    ):
        (home / folder).mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(paths.warehouse)) as c:
        c.execute(f"SET VARIABLE night_end = TIMESTAMP '{night}' + INTERVAL 1 DAY")
        events = f"FROM ({EVENTS}) WHERE event_ts < getvariable('night_end') AND ({open_when})"
        for table, rows, time_column in (
            ("events", events, "event_ts"),
            ("items", f"FROM ({ITEMS})", "valid_from"),
        ):
            c.execute(
                f"COPY (SELECT *, {time_column}::DATE AS day {rows}) TO '{home}/landing/{table}' "
                "(FORMAT parquet, PARTITION_BY (day))"
            )
        for table in TABLES.values():
            empty = home / "landing" / table.name / "day=1970-01-01"
            empty.mkdir(parents=True)
            columns = ", ".join(
                f'NULL::{column.type} AS "{column.name}"' for column in table.columns + PROVENANCE
            )
            c.execute(f"COPY (SELECT {columns} WHERE false) TO '{empty}/empty.parquet'")
        c.execute(
            "CREATE TEMP VIEW landed AS FROM read_parquet("
            f"'{home}/landing/events/*/*.parquet', hive_partitioning = true)"
        )
        c.execute(f"CREATE TEMP VIEW items AS {ITEMS}")
        for schema, tables in (("marts", MARTS), ("features", FEATURES)):
            c.execute(f"CREATE SCHEMA {schema}")
            for name, sql in tables.items():
                c.execute(f"CREATE TABLE {schema}.{name} AS {sql}")
        c.execute("COMMENT ON TABLE marts.dim_users IS 'One row per user.'")
        c.execute("COMMENT ON COLUMN marts.dim_users.user_id IS 'The user''s pseudonym.'")
        c.execute(
            "COPY (SELECT item_id, valid_from AS event_timestamp, md5(title) AS text_hash, "
            "list_transform(range(384), lambda i: (1 / sqrt(384))::FLOAT) AS embedding FROM items) "
            f"TO '{home}/features/item_text_embedding_minilm_v1/part.parquet'"
        )
        c.execute(
            f"""COPY (
              SELECT DATE '{night}' AS night, user_id,
                     row_number() OVER (PARTITION BY user_id ORDER BY score DESC, item_id)::INTEGER
                       AS rank,
                     item_id, score, 'liked before' AS reason, 1::DOUBLE AS propensity,
                     'model-1' AS model_version
              FROM (SELECT user_id, item_id, (hash(user_id, item_id) % 1000 / 1000)::DOUBLE AS score
                    FROM marts.dim_users, items)
              QUALIFY rank <= 50
            ) TO '{home}/recommendations/{night}.parquet'"""
        )
        c.execute(
            f"""COPY (SELECT DATE '{night}' AS night, user_id, 'repeat' AS part, 1 AS rank,
              'item5' AS item_id, 0.5::DOUBLE AS score, 'purchases' AS model_version
              FROM marts.dim_users) TO '{home}/recommendations/{night}.next_quarter.parquet'"""
        )
        for table, sql in PREDICTIONS.items():
            told = f"SELECT DATE '{night}' AS night, told.* FROM ({sql}) AS told"
            c.execute(f"COPY ({told}) TO '{home}/predictions/{night}.{table}.parquet'")
        c.execute(
            f"""COPY (SELECT 'spring' AS campaign, user_id, 'write' AS action,
              DATE '{night}' AS entered_night, row_number() OVER (ORDER BY user_id) % 5 = 0
              AS is_holdout, 0.2::DOUBLE AS holdout_share, 7 AS cap_days, 30 AS outcome_days
              FROM marts.dim_users) TO '{home}/campaigns/campaign_audience.parquet'"""
        )
        c.execute(
            f"""COPY (SELECT DATE '{night}' AS night, 'spring' AS campaign, 30 AS outcome_days,
              0 AS n_waiting, 32 AS n_treated, 8 AS n_holdout, 0.5::DOUBLE AS treated_rate,
              0.25::DOUBLE AS holdout_rate, 0.25::DOUBLE AS rate_difference,
              -0.1::DOUBLE AS rate_low, 0.6::DOUBLE AS rate_high, 2.5::DOUBLE AS revenue_difference,
              -1.0::DOUBLE AS revenue_low, 6.0::DOUBLE AS revenue_high)
              TO '{home}/campaigns/campaign_results.parquet'"""
        )
        _quarantine(c, paths, broken=3)


def _quarantine(c: duckdb.DuckDBPyConnection, paths: Paths, broken: int) -> None:
    c.execute(
        "COPY (SELECT 'events' AS table_name, 'broken' AS kind, CASE i % 3 WHEN 0 THEN "
        "'price_missing' ELSE 'item_missing' END AS reason, 'events.csv' AS file, i AS row, "
        f"'{{}}' AS payload FROM range({broken}) r(i)) "
        f"TO '{paths.quarantine}/events/part.parquet'"
    )


def _audit(paths: Paths, night: date, *stages: str) -> dict[str, results.Check]:
    checks = [check for stage in stages for check in suites.run(stage, SHOP, paths, night)]
    return {check.name: check for check in checks}


def _manifest(night: date) -> pa.Table:
    rows = [{"night": night, "section": "version", "name": "duckdb", "value": "2", "detail": "{}"}]
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


def _publish(paths: Paths, night: date):
    return publish(SHOP, paths, night, _manifest(night))


def _failed(checks: dict[str, results.Check], blocking: bool = True) -> set[str]:
    return {c.name for c in checks.values() if not c.passed and c.blocking == blocking}


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory) -> Path:
    """A folder where yesterday is published and tonight is audited, not yet published."""
    var = tmp_path_factory.mktemp("var")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_VAR", str(var))
        patch.setenv("PERENNIAL_MEMORY", "500MB")
        paths = Paths("small")
        for night in (YESTERDAY, TONIGHT):
            _write_night(paths, night)
            assert _failed(_audit(paths, night, *STAGES)) == set()
            if night == YESTERDAY:
                _publish(paths, night)
    return var


@pytest.fixture
def paths(two_nights, tmp_path, monkeypatch) -> Paths:
    """A copy of `two_nights` for one test."""
    shutil.copytree(two_nights, tmp_path / "var")
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("PERENNIAL_MEMORY", "500MB")
    return Paths("small")


# --- what is wrong with the data, which check says so ------------------------------------------


def _sql(*statements: str) -> Callable[[Paths], None]:
    """A fault done to the warehouse."""

    def harm(paths: Paths) -> None:
        with duckdb.connect(str(paths.warehouse)) as connection:
            for statement in statements:
                connection.execute(statement)

    return harm


def _rewrite(file: str, select: str) -> Callable[[Paths], None]:
    """A fault done to a parquet file, whose rows `select` reads from `t`."""

    def harm(paths: Paths) -> None:
        target = paths.home / file
        with duckdb.connect() as connection:
            connection.execute(f"CREATE TABLE t AS FROM '{target}'")
            connection.execute(f"COPY ({select}) TO '{target}' (FORMAT parquet)")

    return harm


def _broken_rows(paths: Paths) -> None:
    with duckdb.connect() as connection:
        _quarantine(connection, paths, broken=60)


def _no_events_tonight(paths: Paths) -> None:
    _write_night(paths, TONIGHT, open_when=f"event_ts::DATE < DATE '{TONIGHT}'")


def _yesterday_with_a_new_date(paths: Paths) -> None:
    _sql(
        f"DELETE FROM marts.fct_events WHERE event_date = '{TONIGHT}'",
        "INSERT INTO marts.fct_events SELECT * REPLACE ('copy-' || event_id AS event_id, "
        "event_ts + INTERVAL 1 DAY AS event_ts, event_date + 1 AS event_date) "
        f"FROM marts.fct_events WHERE event_date = '{YESTERDAY}'",
    )(paths)


RECOMMENDATIONS = f"recommendations/{TONIGHT}.parquet"
AUDIENCE = "campaigns/campaign_audience.parquet"
RESULTS = "campaigns/campaign_results.parquet"
TOLD = f"predictions/{TONIGHT}.user_predictions.parquet"
EMBEDDINGS = "features/item_text_embedding_minilm_v1/part.parquet"
EVENTS_TONIGHT = f"landing/events/day={TONIGHT}/data_0.parquet"
FAULTS: list[tuple[str, str, Callable[[Paths], None], str]] = [
    (
        "marts.fct_orders.total_equals_lines",
        "a wrong total",
        _sql(
            "UPDATE marts.fct_orders SET gross_revenue = gross_revenue + 0.01 "
            "WHERE order_id = 'o3-4'"
        ),
        "order_id o3-4",
    ),
    (
        "marts.fct_orders.total_equals_lines",
        "an order that is lost",
        _sql("DELETE FROM marts.fct_orders WHERE order_id = 'o3-4'"),
        "o3-4",
    ),
    (
        "marts.fct_orders.key",
        "orders twice",
        _sql("INSERT INTO marts.fct_orders FROM marts.fct_orders WHERE order_date = '2026-03-09'"),
        "copies 2",
    ),
    (
        "marts.fct_events.key",
        "an empty key",
        _sql("UPDATE marts.fct_events SET event_id = NULL WHERE event_id = 'e5-5-1'"),
        "event_id None",
    ),
    (
        "marts.fct_events.every_landed_event",
        "an event that is lost",
        _sql("DELETE FROM marts.fct_events WHERE event_id = 'e5-5-1'"),
        "event_date 2026-03-06, landed 36, built 35",
    ),
    (
        "marts.fct_events.dwell_not_negative",
        "negative dwell",
        _sql("UPDATE marts.fct_events SET dwell_ms = -1 WHERE event_id = 'e5-5-1'"),
        "e5-5-1",
    ),
    (
        "marts.fct_orders.revenue_week",
        "a fall in revenue",
        _sql(
            "UPDATE marts.fct_orders SET gross_revenue = gross_revenue / 10, "
            "net_revenue = net_revenue / 10 WHERE order_date > '2026-03-24'",
            "UPDATE marts.fct_order_lines SET revenue = revenue / 10 "
            "WHERE line_date > '2026-03-24'",
        ),
        "last_week",
    ),
    (
        "marts.dim_users.none_lost",
        "half of the users missing",
        _sql(
            "DELETE FROM marts.dim_users WHERE user_id IN "
            "(SELECT user_id FROM marts.dim_users ORDER BY user_id LIMIT 20)"
        ),
        "published_users 40",
    ),
    ("marts.fct_events.night_has_events", "a delivery that is missing", _no_events_tonight, "28"),
    (
        "marts.fct_events.not_an_earlier_day_again",
        "yesterday's data again",
        _yesterday_with_a_new_date,
        f"earlier_day {YESTERDAY}, repeated_events 36, events_tonight 36",
    ),
    (
        "marts.retention_cohorts.rates",
        "more returned than there were",
        _sql("UPDATE marts.retention_cohorts SET returned = 13, rate = 13 / 12"),
        "returned 13",
    ),
    (
        "marts.fct_orders.numbers_consecutive",
        "a number left out",
        _sql("UPDATE marts.fct_orders SET order_number = order_number + 1 WHERE order_number > 2"),
        "highest",
    ),
    (
        "marts.user_rfm.key",
        "a table that is missing",
        _sql("DROP TABLE marts.user_rfm"),
        "user_rfm is missing",
    ),
    (
        "marts.user_rfm.scores",
        "a column that is missing",
        _sql("ALTER TABLE marts.user_rfm DROP r_score"),
        "could not be evaluated",
    ),
    (
        "features.user_behaviour_v1.not_from_the_future",
        "a feature from the future",
        _sql(
            "UPDATE features.user_behaviour_v1 SET event_timestamp = event_timestamp + "
            "INTERVAL 1 HOUR WHERE user_id = (SELECT min(user_id) FROM marts.dim_users)"
        ),
        "event_timestamp 2026-04-01 01:00:00",
    ),
    (
        "features.user_behaviour_v1.finite",
        "a value that is no number",
        _sql("UPDATE features.user_behaviour_v1 SET mean_basket = 'nan'"),
        "feature mean_basket, value nan",
    ),
    (
        "features.user_behaviour_v1.shares",
        "a share above one",
        _sql("UPDATE features.user_behaviour_v1 SET weekend_share = 1.5"),
        "feature weekend_share, value 1.5",
    ),
    (
        "features.item_text_embedding_minilm_v1.unit_length",
        "embeddings of zeros",
        _rewrite(
            EMBEDDINGS,
            "SELECT * REPLACE (list_transform(embedding, lambda x: 0::FLOAT) AS embedding) FROM t",
        ),
        "squared_length 0.0",
    ),
    (
        "features.item_text_embedding_minilm_v1.every_item",
        "an item without an embedding",
        _rewrite(EMBEDDINGS, "FROM t WHERE item_id <> 'item7'"),
        "item_id item7",
    ),
    (
        "recommendations.items.known",
        "an unknown item recommended",
        _rewrite(
            RECOMMENDATIONS,
            "SELECT * REPLACE (CASE WHEN rank = 3 THEN 'ghost' ELSE item_id END AS item_id) FROM t",
        ),
        "item_id ghost, recommended 40",
    ),
    (
        "recommendations.users.everyone",
        "a user without recommendations",
        _rewrite(RECOMMENDATIONS, "FROM t WHERE user_id <> (SELECT min(user_id) FROM t)"),
        "items 0, expected 50",
    ),
    (
        "recommendations.users.everyone",
        "the same thirty items for everybody",
        _rewrite(
            RECOMMENDATIONS, "SELECT * REPLACE ('item' || rank AS item_id) FROM t WHERE rank <= 30"
        ),
        "items 30, expected 50",
    ),
    (
        "recommendations.scores.probabilities",
        "scores that are no probabilities",
        _rewrite(RECOMMENDATIONS, "SELECT * REPLACE (-score AS score) FROM t"),
        "score -",
    ),
    (
        "recommendations.next_quarter.items",
        "a sold-out item in the list of the next quarter",
        _sql("UPDATE marts.dim_items SET is_sold_out = item_id = 'item5'"),
        "item_id item5",
    ),
    (
        "recommendations.items.in_stock",
        "a sold-out item recommended",
        _sql("UPDATE marts.dim_items SET is_sold_out = item_id = 'item7'"),
        "item_id item7, recommended",
    ),
    (
        "predictions.user_predictions.key",
        "a prediction told twice",
        _rewrite(TOLD, "FROM t UNION ALL FROM t"),
        "copies 2",
    ),
    (
        "predictions.users.known",
        "a prediction of nobody who is known",
        _rewrite(TOLD, "SELECT * REPLACE ('x' || user_id AS user_id) FROM t"),
        "user_id x",
    ),
    (
        "predictions.users.everyone",
        "a user of whom nothing is told",
        _rewrite(TOLD, "FROM t WHERE user_id <> (SELECT min(user_id) FROM t)"),
        "told 39, known 40",
    ),
    (
        "predictions.values.sound",
        "a probability above 1",
        _rewrite(TOLD, "SELECT * REPLACE (1.5 AS value, 2.0 AS high) FROM t"),
        "value 1.5",
    ),
    (
        "predictions.values.sound",
        "a value outside of its interval",
        _rewrite(TOLD, "SELECT * REPLACE (0.05::DOUBLE AS value) FROM t"),
        "value 0.05",
    ),
    (
        "predictions.model.one",
        "a target told by two models",
        _rewrite(TOLD, "SELECT * REPLACE ('val-' || (hash(user_id) % 2) AS model_version) FROM t"),
        "versions 2",
    ),
    (
        "campaigns.campaign_audience.cap",
        "a shopper whom two campaigns choose within three days",
        _rewrite(
            AUDIENCE,
            "FROM t UNION ALL BY NAME SELECT * REPLACE ('summer' AS campaign, entered_night - 3 "
            "AS entered_night, 14 AS cap_days) FROM t WHERE user_id = (SELECT min(user_id) FROM t)",
        ),
        "apart 3, cap 14",
    ),
    (
        "campaigns.campaign_audience.key",
        "a shopper chosen twice by the same campaign",
        _rewrite(
            AUDIENCE,
            "FROM t UNION ALL BY NAME SELECT * REPLACE (entered_night - 30 AS entered_night) FROM t"
            " WHERE is_holdout",
        ),
        "copies 2",
    ),
    (
        "campaigns.campaign_audience.known",
        "somebody chosen whom nobody knows",
        _rewrite(AUDIENCE, "SELECT * REPLACE ('x' || user_id AS user_id) FROM t"),
        "campaign spring, user_id x",
    ),
    (
        "campaigns.campaign_results.everybody",
        "results without those who are held out",
        _rewrite(RESULTS, "SELECT * REPLACE (0 AS n_holdout) FROM t"),
        "counted 32, chosen 40",
    ),
    (
        "campaigns.campaign_results.rates",
        "a difference outside of its interval",
        _rewrite(RESULTS, "SELECT * REPLACE (0.7 AS rate_difference) FROM t"),
        "rate_difference 0.7",
    ),
    (
        "landing.quarantine.share",
        "too many broken rows",
        _broken_rows,
        "worst_reason item_missing, reason_rows 40, example_file events.csv, example_row 1",
    ),
    (
        "landing.events.pseudonyms",
        "an e-mail address in the landing files",
        _rewrite(EVENTS_TONIGHT, "SELECT * REPLACE ('someone@example.org' AS user_id) FROM t"),
        "events.csv",
    ),
    (
        "landing.events.types",
        "an event type nobody knows",
        _rewrite(EVENTS_TONIGHT, "SELECT * REPLACE ('<b>teleport' AS event_type) FROM t"),
        "event_type <b>teleport, rows 36",
    ),
]


@pytest.mark.parametrize(
    ("check", "harm", "says"),
    [(check, harm, says) for check, _, harm, says in FAULTS],
    ids=[name.replace(" ", "-") for _, name, _, _ in FAULTS],
)
def test_a_fault_blocks_the_night_and_leaves_the_published_file(paths, check, harm, says):
    before = paths.marts.read_bytes()
    harm(paths)
    stage = check.split(".")[0]
    later = STAGES[STAGES.index(stage) + 1 :] if stage == "landing" else ()
    found = _audit(paths, TONIGHT, stage)[check]
    assert not found.passed
    assert found.blocking
    assert found.message.startswith(f"{check}: ")
    assert says in found.message
    kept = {name: results.path(paths, TONIGHT, name) for name in later}
    assert not any(file.exists() for file in kept.values())
    with pytest.raises(PublishError) as refusal:
        _publish(paths, TONIGHT)
    if not later:
        assert check in str(refusal.value)
        assert found.message in str(refusal.value)
    assert "left as it was" in str(refusal.value)
    assert paths.marts.read_bytes() == before
    page = (paths.audit(TONIGHT) / "data_docs" / f"{stage}.html").read_text()
    index = (paths.audit(TONIGHT) / "data_docs" / "index.html").read_text()
    assert check in index
    assert "<b>teleport" not in page + index


# --- what must not be taken for a fault --------------------------------------------------------


def test_a_shop_that_is_closed_on_sundays_is_published_on_a_sunday(tmp_path, monkeypatch):
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths, saturday, sunday = Paths("small"), date(2026, 3, 28), date(2026, 3, 29)
    for night in (saturday, sunday):
        _write_night(paths, night, open_when="dayofweek(event_ts) <> 0")
        checks = _audit(paths, night, *STAGES)
        assert _failed(checks) == set()
        assert _publish(paths, night).changed
    assert _failed(checks, blocking=False) == {"marts.fct_events.reaches_the_night"}


def test_a_first_week_has_no_week_before(tmp_path, monkeypatch):
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths, night = Paths("small"), date(2026, 3, 7)
    _write_night(paths, night)
    checks = _audit(paths, night, "landing", "marts")
    assert _failed(checks) | _failed(checks, blocking=False) == set()
    assert "not evaluated" in checks["marts.fct_orders.revenue_week"].observed


def test_a_closed_week_is_no_fall_in_revenue(paths):
    _write_night(
        paths, TONIGHT, open_when="event_ts::DATE NOT BETWEEN '2026-03-20' AND '2026-03-27'"
    )
    assert _failed(_audit(paths, TONIGHT, "marts")) == set()


def test_the_rows_of_ingestion_must_add_up(paths):
    good = {
        "mapped": 10,
        "landed": 5,
        "deduplicated": 2,
        "quarantined": 1,
        "excluded": 1,
        "later": 1,
    }
    name = "landing.accounting.balanced"
    for counts, passed in ((good, True), ({**good, "landed": 4}, False)):
        checks = suites.run("landing", SHOP, paths, TONIGHT, {"events": counts})
        assert {check.name: check.passed for check in checks}[name] is passed


def test_every_row_that_was_read_is_in_the_marts_or_has_a_name(paths):
    landed = paths.landing / "events" / "*" / "*.parquet"
    rows = duckdb.execute(f"SELECT count(*) FROM '{landed}'").fetchall()[0][0]
    good = dict.fromkeys(("deduplicated", "quarantined", "excluded", "later"), 2)
    good |= {"mapped": rows + 8, "landed": rows}
    name = "marts.fct_events.every_row_accounted"
    for mapped, passed in ((rows + 8, True), (rows + 9, False)):
        checks = suites.run("marts", SHOP, paths, TONIGHT, {"events": {**good, "mapped": mapped}})
        found = {check.name: check for check in checks}[name]
        assert found.passed is passed
        assert found.observed == (
            f"events: {mapped:,} read = {rows:,} in the marts + 2 duplicates + 2 quarantined"
            " + 2 excluded + 2 later"
        )
    with duckdb.connect(str(paths.warehouse)) as connection:
        connection.execute("DELETE FROM marts.fct_events WHERE rowid = 0")
    checks = suites.run("marts", SHOP, paths, TONIGHT, {"events": good})
    assert not {check.name: check for check in checks}[name].passed


# --- results and docs --------------------------------------------------------------------------


def test_results_are_the_same_bytes_when_a_night_is_audited_again(paths):
    before = {stage: results.path(paths, TONIGHT, stage).read_bytes() for stage in STAGES}
    _audit(paths, TONIGHT, *STAGES)
    assert {stage: results.path(paths, TONIGHT, stage).read_bytes() for stage in STAGES} == before
    loaded = results.load(paths, TONIGHT)
    assert {stage: [check.name for check in checks] for stage, checks in loaded.items()} == {
        stage: [spec.name for spec in CATALOGUE[stage]] for stage in STAGES
    }


def test_data_docs_load_nothing_from_anywhere(paths):
    pages = sorted((paths.audit(TONIGHT) / "data_docs").iterdir())
    assert [page.name for page in pages] == sorted(["index.html", *(f"{s}.html" for s in STAGES)])
    for page in pages:
        text = page.read_text()
        assert "http" not in text
        assert "<script" not in text
        assert "simulated" in text


def test_an_audit_before_its_data_says_what_has_to_run_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    with pytest.raises(AuditError, match=r"landing.*is missing: the step that writes it"):
        suites.run("landing", SHOP, Paths("small"), TONIGHT)
    _write_night(Paths("small"), TONIGHT)
    Paths("small").warehouse.unlink()
    with pytest.raises(AuditError, match="build the warehouse"):
        suites.run("marts", SHOP, Paths("small"), TONIGHT)


# --- publishing --------------------------------------------------------------------------------


def test_a_published_night_holds_every_mart_and_says_how_it_was_made(paths):
    published = _publish(paths, TONIGHT)
    assert set(published.tables) == {
        *MARTS,
        *("recommendations", "next_quarter"),
        *PREDICTIONS,
        *("campaign_audience", "campaign_results", "run_manifest"),
    }
    with connect(paths.marts, read_only=True) as c:
        tables = c.execute(
            "SELECT database_name, table_name FROM duckdb_tables() ORDER BY 2"
        ).fetchall()
        assert tables == [("marts", name) for name in sorted(published.tables)]
        for name, count in published.tables.items():
            assert c.execute(f"SELECT count(*) FROM marts.{name}").fetchall() == [(count,)]
        assert published.tables["recommendations"] == 40 * 50
        comments = (
            "SELECT comment FROM duckdb_{} WHERE table_name = 'dim_users' AND comment IS NOT NULL"
        )
        assert c.execute(comments.format("tables()")).fetchall() == [("One row per user.",)]
        assert c.execute(comments.format("columns()")).fetchall() == [("The user's pseudonym.",)]
        sections = c.execute(
            "SELECT section, count(*), bool_and(passed), min(night), max(night) "
            "FROM marts.run_manifest GROUP BY 1 ORDER BY 1"
        ).fetchall()
        checks = sum(len(specs) for specs in CATALOGUE.values())
        assert sections == [
            ("check", checks, True, TONIGHT, TONIGHT),
            ("version", 1, None, TONIGHT, TONIGHT),
        ]
        detail = c.execute(
            "SELECT detail FROM marts.run_manifest WHERE section = 'check'"
        ).fetchall()
        assert all(json.loads(text)["stage"] in STAGES for (text,) in detail)


def test_publishing_a_night_twice_changes_no_byte(paths):
    assert _publish(paths, TONIGHT).changed
    before, written = paths.marts.read_bytes(), paths.marts.stat().st_mtime_ns
    again = _publish(paths, TONIGHT)
    assert not again.changed
    assert paths.marts.read_bytes() == before
    assert paths.marts.stat().st_mtime_ns == written
    assert [file.name for file in paths.home.glob("marts.duckdb*")] == ["marts.duckdb"]


def test_two_machines_publish_the_same_tables(paths, two_nights, tmp_path, monkeypatch):
    _publish(paths, TONIGHT)
    here = content_hash(paths.marts)
    shutil.copytree(two_nights, tmp_path / "other")
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path / "other"))
    monkeypatch.setenv("PERENNIAL_THREADS", "1")
    _publish(Paths("small"), TONIGHT)
    assert content_hash(Paths("small").marts) == here


@pytest.mark.parametrize("stage", STAGES)
def test_a_night_is_not_published_before_every_stage_is_audited(paths, stage):
    results.path(paths, TONIGHT, stage).unlink()
    with pytest.raises(PublishError, match=f"{stage} not audited"):
        _publish(paths, TONIGHT)


KILLED = """
import os, sys
from datetime import date, timedelta
from pathlib import Path
from audit import publish
from core.paths import Paths
from tests.integration.test_audit_night import SHOP, TONIGHT, _manifest

def die(*args, **kwargs):
    os._exit(9)

def die_at_orders(connection, name, *rest):
    return die() if name == "fct_orders" else copy(connection, name, *rest)

copy = publish._copy
match sys.argv[1]:
    case "begin": publish._build = die
    case "copy": publish._copy = die_at_orders
    case "compare": publish.content_hash = die
    case "sync": publish._sync = die
    case "rename": Path.replace = die
publish.publish(SHOP, Paths("small"), TONIGHT, _manifest(TONIGHT))
"""


@pytest.mark.parametrize("moment", ["begin", "copy", "compare", "sync", "rename"])
def test_a_night_killed_while_publishing_leaves_yesterday_and_succeeds_next_time(paths, moment):
    before = paths.marts.read_bytes()
    killed = subprocess.run([sys.executable, "-c", KILLED, moment], cwd=ROOT, check=False)
    assert killed.returncode == 9
    assert paths.marts.read_bytes() == before
    assert _publish(paths, TONIGHT).changed
    assert [file.name for file in paths.home.glob("marts.duckdb*")] == ["marts.duckdb"]
    with connect(paths.marts, read_only=True) as connection:
        night = connection.execute("SELECT max(night) FROM marts.run_manifest").fetchall()
    assert night == [(TONIGHT,)]


READER = """
import sys, time
from pathlib import Path
from core.duck import connect
marts, stop = Path(sys.argv[1]), Path(sys.argv[2])
seen, deadline = set(), time.monotonic() + 60
query = "SELECT max(night)::VARCHAR, count(*) FROM marts.fct_events, marts.run_manifest"
with connect() as held:
    # attached apart: DuckDB gives a process that connects to an open path the database it has open
    held.execute(f"ATTACH '{marts}' AS marts (READ_ONLY)")
    print("ready", flush=True)
    while not stop.exists() and time.monotonic() < deadline:
        assert held.execute(query).fetchall()[0][1] > 0
        with connect(marts, read_only=True) as fresh:
            seen.add(fresh.execute(query).fetchall()[0][0])
print(*sorted(seen))
"""


def test_a_reader_sees_no_error_and_no_half_night_while_nights_are_published(paths, tmp_path):
    stop = tmp_path / "stop"
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(paths.marts), str(stop)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    for number in range(4):
        manifest = _manifest(TONIGHT).set_column(3, "value", pa.array([str(number)]))
        assert publish(SHOP, paths, TONIGHT, manifest).changed
        time.sleep(0.1)
    stop.touch()
    out, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors
    assert str(TONIGHT) in out.split()


def test_a_published_day_is_read_again_only_when_something_about_it_changes(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days before the look-back are skipped; their keys are still compared with new ones."""
    monkeypatch.setattr(scope, "LOOK_BACK", timedelta(days=7))
    long_ago, dwell = date(2026, 3, 5), "marts.fct_events.dwell_not_negative"
    _sql(f"UPDATE marts.fct_events SET dwell_ms = -1 WHERE event_date = '{long_ago}'")(paths)

    assert _failed(_audit(paths, TONIGHT, "marts")) == set()
    stricter = SHOP.model_copy(update={"thresholds": Thresholds(max_user_drop=0.2)})
    assert dwell in {c.name for c in suites.run("marts", stricter, paths, TONIGHT) if not c.passed}
    assert scope.since(SHOP, paths, date(2026, 4, 5)) == scope.EVERYTHING  # a Sunday

    _sql(
        "UPDATE marts.fct_events SET event_id = (SELECT min(event_id) FROM marts.fct_events "
        f"WHERE event_date = '{long_ago}') WHERE event_id = (SELECT min(event_id) "
        f"FROM marts.fct_events WHERE event_date = '{TONIGHT}')"
    )(paths)
    assert "marts.fct_events.key" in _failed(_audit(paths, TONIGHT, "marts"))


def test_a_day_that_landed_anew_is_read_again(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scope, "LOOK_BACK", timedelta(days=7))
    assert scope.since(SHOP, paths, TONIGHT) == YESTERDAY - scope.LOOK_BACK
    landed = ledger.Ledger(
        TONIGHT, tables={"events": ledger.TableState(days={"2026-03-05": ledger.DayState(1)})}
    )
    ledger.save(paths.landing / "_ledger.json", landed)
    assert scope.since(SHOP, paths, TONIGHT) == date(2026, 3, 5) - scope.LOOK_BACK


def _published_rows(paths: Paths) -> dict[str, list]:
    with connect(paths.marts, read_only=True) as connection:
        names = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        return {
            name: connection.execute(f'FROM "{name}" ORDER BY ALL').fetchall() for (name,) in names
        }


def test_carrying_on_from_yesterdays_file_publishes_what_a_new_file_would(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the last days are written, and an older event's item may become unknown all the same."""
    monkeypatch.setattr(scope, "LOOK_BACK", timedelta(days=7))
    scope.remember(SHOP, paths, YESTERDAY)  # of this copy of the folder
    _sql("DELETE FROM marts.dim_items WHERE item_id = 'item7'")(paths)
    _sql(
        "UPDATE marts.fct_events SET is_known_item = item_id <> 'item7'",
        "COMMENT ON TABLE marts.fct_events IS 'Events.'",
    )(paths)
    assert scope.to_write(SHOP, paths, TONIGHT) == YESTERDAY - timedelta(days=1)
    assert _publish(paths, TONIGHT).changed
    carried = _published_rows(paths)
    assert not _publish(paths, TONIGHT).changed

    paths.marts.rename(paths.home / "aside.duckdb")  # not the file that is on record
    assert scope.to_write(SHOP, paths, TONIGHT) == scope.EVERYTHING
    assert _publish(paths, TONIGHT).changed
    assert _published_rows(paths) == carried
