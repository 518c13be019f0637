"""What was to be expected of a day? Each measure of the last weeks beside a range made before it.

The rule, for a measure and a day: the mean of the 14 days before, times what this weekday usually
is of such a mean (the median of the eight weeks before). The first factor carries the trend, the
second the week. The range is where nine of ten of the rule's own errors of the 56 days before
lay, in units of the same mean. Nothing of the day itself, or after it, is used; the range of a
past day is made in the same way, so how often it held can be counted. Where nothing came in the
fourteen days before there is no range: the rule knows nothing of how much may come.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from reports import queries

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

LEVEL_DAYS = 14
"""The level of a measure is its mean over these many days before."""

WEEKS = 8
"""The usual share of a weekday is the median of these many weeks, of at least half of them."""

ERROR_DAYS = 56
"""The range comes from the errors of these many days before, of at least half of them."""

WITHIN = 0.9
"""The share of days that the range is meant to hold."""

BACK_TEST_DAYS = 28
"""How many days before the night the range is tried on."""

DIGITS = {
    "visitors": 0,
    "new_shoppers": 0,
    "orders": 0,
    "net_revenue": 0,
    "conversion": 3,
    "returning_share": 3,
    "median_dwell_ms": -2,
    "refunds": 0,
}
"""The measures in the order they are shown, and the decimals they are shown with."""

DAILY = """
    days AS (
        SELECT unnest(generate_series(
            greatest($night::DATE - $back::INTEGER, (SELECT min(event_date) FROM marts.fct_events)),
            $night::DATE, INTERVAL 1 DAY))::DATE AS day
    ), visited AS (
        SELECT event_date AS day, count(DISTINCT visitor_key) AS visitors
        FROM marts.fct_events
        WHERE is_activity AND event_date BETWEEN $night::DATE - $back::INTEGER AND $night
        GROUP BY ALL
    ), arrived AS (
        SELECT first_seen_at::DATE AS day, count(*) AS new_shoppers
        FROM marts.dim_users GROUP BY ALL
    ), lines AS (
        SELECT line_date AS day, order_id, user_id, line_type, revenue
        FROM marts.fct_order_lines
        WHERE line_date BETWEEN $night::DATE - $back::INTEGER AND $night
    ), firsts AS (
        SELECT user_id, min(line_date) AS first_day FROM marts.fct_order_lines
        WHERE line_type = 'purchase' AND user_id IN (SELECT user_id FROM lines) GROUP BY user_id
    ), sold AS (
        SELECT day,
               count(DISTINCT order_id) FILTER (WHERE line_type = 'purchase') AS orders,
               count(DISTINCT order_id) FILTER (
                   WHERE line_type = 'purchase' AND user_id IS NOT NULL) AS known_orders,
               count(DISTINCT order_id) FILTER (
                   WHERE line_type = 'purchase' AND first_day < day) AS returning_orders,
               coalesce(sum(revenue) FILTER (WHERE line_type = 'purchase'), 0) AS gross_revenue,
               coalesce(-sum(revenue) FILTER (WHERE line_type = 'refund'), 0) AS refunds
        FROM lines LEFT JOIN firsts USING (user_id) GROUP BY day
    ), dwelt AS (
        SELECT stat_date AS day, with_dwell, median_ms FROM marts.dwell_stats
        WHERE event_type = 'view'
    ), daily AS (
        SELECT day, coalesce(visitors, 0) AS visitors, coalesce(new_shoppers, 0) AS new_shoppers,
               coalesce(orders, 0) AS orders, coalesce(known_orders, 0) AS known_orders,
               coalesce(returning_orders, 0) AS returning_orders,
               coalesce(gross_revenue, 0) AS gross_revenue, coalesce(refunds, 0) AS refunds,
               coalesce(with_dwell, 0) AS with_dwell, median_ms
        FROM days LEFT JOIN visited USING (day) LEFT JOIN arrived USING (day)
        LEFT JOIN sold USING (day) LEFT JOIN dwelt USING (day)
    )
"""
"""CTEs that end in `daily`: one row per day of the last `$back` days, with 0 where nothing came.

Orders and refunds count on the day they happened, so a past day is not judged by what was sent
back after it.
"""


def measures(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per measure and day: the night and the days of the back-test before it.

    `n` is what a ratio rests on, NULL for a count or a sum. `state` is `inside`, `above` or `below`
    the range, NULL when there is none (yet) or the day has no value.
    """
    digits = " ".join(f"WHEN '{name}' THEN {digits}" for name, digits in DIGITS.items())
    order = " ".join(f"WHEN '{name}' THEN {at}" for at, name in enumerate(DIGITS))
    return queries.table(
        connection,
        f"""
        WITH {DAILY}, wide AS (
            SELECT day, visitors::DOUBLE AS visitors, new_shoppers::DOUBLE AS new_shoppers,
                   orders::DOUBLE AS orders, (gross_revenue - refunds)::DOUBLE AS net_revenue,
                   orders / nullif(visitors, 0) AS conversion,
                   returning_orders / nullif(known_orders, 0) AS returning_share,
                   median_ms::DOUBLE AS median_dwell_ms, refunds::DOUBLE AS refunds
            FROM daily
        ), long AS (
            FROM wide UNPIVOT INCLUDE NULLS (value FOR measure IN ({", ".join(DIGITS)}))
        ), levels AS (
            SELECT *, CASE WHEN count(value) OVER before >= {LEVEL_DAYS // 2}
                           THEN avg(abs(value)) OVER before END AS level
            FROM long WINDOW before AS (PARTITION BY measure ORDER BY day
                ROWS BETWEEN {LEVEL_DAYS} PRECEDING AND 1 PRECEDING)
        ), usual AS (
            SELECT *, CASE WHEN count(value / nullif(level, 0)) OVER weeks >= {WEEKS // 2}
                      THEN median(value / nullif(level, 0)) OVER weeks * level
                      WHEN level = 0 THEN 0 END AS expected
            FROM levels WINDOW weeks AS (PARTITION BY measure, dayofweek(day) ORDER BY day
                ROWS BETWEEN {WEEKS} PRECEDING AND 1 PRECEDING)
        ), errors AS (
            -- where nothing ever comes, nothing is expected, and that is no error
            SELECT *, CASE WHEN level > 0 THEN (value - expected) / level
                           WHEN value = expected THEN 0 END AS error FROM usual
        ), ranges AS (
            SELECT *, CASE measure {digits} END AS digits,
                   count(error) OVER past AS errors,
                   expected + quantile_cont(error, {(1 - WITHIN) / 2}) OVER past * level AS least,
                   expected + quantile_cont(error, {(1 + WITHIN) / 2}) OVER past * level AS most
            FROM errors WINDOW past AS (PARTITION BY measure ORDER BY day
                ROWS BETWEEN {ERROR_DAYS} PRECEDING AND 1 PRECEDING)
        ), rounded AS (
            -- outwards to the decimals that are shown, so that what is read is what is judged
            SELECT day, measure, value,
                   least(expected, CASE WHEN measure = 'returning_share' THEN 1 END) AS expected,
                   CASE WHEN errors >= {ERROR_DAYS // 2} AND level > 0 THEN
                       greatest(floor(least * pow(10, digits)) / pow(10, digits),
                                CASE WHEN measure != 'net_revenue' THEN 0 END) END AS low,
                   CASE WHEN errors >= {ERROR_DAYS // 2} AND level > 0 THEN
                       least(ceil(most * pow(10, digits)) / pow(10, digits),
                             CASE WHEN measure = 'returning_share' THEN 1 END) END AS high,
                   round(value * pow(10, digits)) / pow(10, digits) AS shown
            FROM ranges
        )
        SELECT measure, day, value,
               CASE measure WHEN 'conversion' THEN visitors WHEN 'returning_share' THEN known_orders
                    WHEN 'median_dwell_ms' THEN with_dwell END AS n,
               round(expected, 6) AS expected, low, high,
               CASE WHEN shown < low THEN 'below' WHEN shown > high THEN 'above'
                    WHEN shown BETWEEN low AND high THEN 'inside' END AS state
        FROM rounded JOIN daily USING (day)
        WHERE day >= $night::DATE - {BACK_TEST_DAYS}
        ORDER BY CASE measure {order} END, day
        """,
        night=night,
        back=BACK_TEST_DAYS + ERROR_DAYS + 7 * WEEKS + LEVEL_DAYS,
    )
