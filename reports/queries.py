"""What the report shows, as small Arrow tables straight from the marts.

One function a figure: a connection (and, where a figure looks at the latest weeks, the night) in,
an Arrow table of at most a few hundred rows out, in the order it is drawn. All aggregation happens
in DuckDB. A rate comes with its numerator, its denominator and a 95% Wilson interval, and is
always the sum of the numerators over the sum of the eligible, never a mean of rates.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

RECENT_DAYS = 28
"""`Latest` means these many days up to and including the night: four whole weeks."""

COHORTS = {"week": 26, "month": 25}
"""How many of the latest cohorts a heat map shows, and how many periods after the first."""

CURVE_PERIODS = {"day": 60, "week": 26, "month": 24}
"""How far a retention curve is drawn, in units of its grain."""


def table(connection: duckdb.DuckDBPyConnection, sql: str, **values: object) -> pa.Table:
    """The rows of a query."""
    return connection.sql(sql, params=values).to_arrow_table()


def wilson(hits: str, n: str) -> str:
    """SQL for `low` and `high` of Wilson's 95% interval of `hits` out of `n`.

    Source: Wilson (1927); unlike the plain normal interval it stays within [0, 1] for small n.
    """
    z = 1.959963984540054
    middle = f"(({hits}) + {z**2 / 2}) / (({n}) + {z**2})"
    half = (
        f"{z} * sqrt(({hits})::DOUBLE * (({n}) - ({hits})) / ({n}) + {z**2 / 4}) / (({n}) + {z**2})"
    )
    return f"greatest(0, {middle} - {half}) AS low, least(1, {middle} + {half}) AS high"


# --- headline ------------------------------------------------------------------------------------


def headline(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row: users, customers, orders, money and the repeat rate since the first day."""
    return table(
        connection,
        """
        WITH orders AS (
            SELECT count(*) AS orders,
                   count(*) FILTER (WHERE user_id IS NULL) AS guest_orders,
                   count(DISTINCT user_id) AS customers,
                   count(DISTINCT user_id) FILTER (WHERE order_number >= 2) AS repeat_customers
            FROM marts.fct_orders WHERE is_valid
        ), money AS (
            SELECT coalesce(sum(revenue) FILTER (WHERE line_type = 'purchase'), 0) AS gross_revenue,
                   coalesce(-sum(revenue) FILTER (WHERE line_type = 'refund'), 0)
                       AS refunded_revenue,
                   coalesce(sum(revenue), 0) AS net_revenue
            FROM marts.fct_order_lines
        ), events AS (
            SELECT count(*) AS events, min(event_date) AS first_day, max(event_date) AS last_day
            FROM marts.fct_events
        )
        SELECT (SELECT count(*) FROM marts.dim_users) AS users, orders.*, money.*, events.*,
               repeat_customers / nullif(customers, 0) AS repeat_rate
        FROM orders, money, events
        """,
    )


def recent(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per measure: the latest 28 days beside the 28 days before them."""
    return table(
        connection,
        f"""
        WITH days AS (
            SELECT $night::DATE - {RECENT_DAYS} AS middle,
                   $night::DATE - {2 * RECENT_DAYS} AS oldest, $night::DATE AS newest
        ), counts AS (
            SELECT 1 AS position, 'active users' AS measure,
                   count(DISTINCT user_id) FILTER (WHERE event_date > middle)::DOUBLE AS latest,
                   count(DISTINCT user_id) FILTER (WHERE event_date <= middle)::DOUBLE AS before
            FROM marts.fct_events, days
            WHERE event_date > oldest AND event_date <= newest
              AND event_type NOT IN ('refund', 'exposure')
            UNION ALL
            SELECT 2, 'sessions', count(*) FILTER (WHERE session_date > middle),
                   count(*) FILTER (WHERE session_date <= middle)
            FROM marts.fct_sessions, days
            WHERE session_date > oldest AND session_date <= newest
            UNION ALL
            SELECT 3, 'orders', count(*) FILTER (WHERE order_date > middle),
                   count(*) FILTER (WHERE order_date <= middle)
            FROM marts.fct_orders, days
            WHERE order_date > oldest AND order_date <= newest AND is_valid
            UNION ALL
            SELECT 4, 'net revenue', coalesce(sum(revenue) FILTER (WHERE line_date > middle), 0),
                   coalesce(sum(revenue) FILTER (WHERE line_date <= middle), 0)
            FROM marts.fct_order_lines, days
            WHERE line_date > oldest AND line_date <= newest
        )
        SELECT measure, latest, before, latest / nullif(before, 0) - 1 AS change
        FROM counts ORDER BY position
        """,
        night=night,
    )


def deliveries(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per kind of event: how many, how many by a known user, from when to when."""
    return table(
        connection,
        """
        SELECT event_type, count(*) AS events, count(user_id) AS by_known_users,
               min(event_date) AS first_day, max(event_date) AS last_day
        FROM marts.fct_events GROUP BY ALL ORDER BY events DESC, event_type
        """,
    )


def has_events(connection: duckdb.DuckDBPyConnection, day: date) -> bool:
    """Whether any event of this day has arrived."""
    rows = connection.execute(
        "SELECT 1 FROM marts.fct_events WHERE event_date = $day LIMIT 1", {"day": day}
    )
    return bool(rows.fetchall())


def sales(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per week (its Monday): valid orders, net revenue, whether the week is over."""
    return table(
        connection,
        """
        WITH money AS (
            SELECT date_trunc('week', line_date)::DATE AS week, sum(revenue) AS net_revenue
            FROM marts.fct_order_lines GROUP BY ALL
        ), orders AS (
            SELECT date_trunc('week', order_date)::DATE AS week, count(*) AS orders
            FROM marts.fct_orders WHERE is_valid GROUP BY ALL
        )
        SELECT week, coalesce(orders, 0) AS orders,
               coalesce(net_revenue, 0)::DECIMAL(18, 2) AS net_revenue,
               week + 6 <= $night::DATE AS is_complete
        FROM money FULL JOIN orders USING (week) ORDER BY week
        """,
        night=night,
    )


def definitions(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per metric: what it means, who owns it, where it is."""
    return table(
        connection,
        "SELECT metric, title, definition, owner, mart FROM marts.metric_definitions "
        "ORDER BY title",
    )


# --- retention -----------------------------------------------------------------------------------


def retention(connection: duckdb.DuckDBPyConnection, grain: str) -> pa.Table:
    """One row per cohort and period (N-day kind) of the latest cohorts of a grain.

    `size` is the cohort's users; `eligible` are those for whom the period has fully elapsed.
    """
    latest = COHORTS[grain]
    return table(
        connection,
        f"""
        WITH cells AS (
            SELECT cohort, period, eligible, returned
            FROM marts.retention_cohorts
            WHERE cohort_grain = $grain AND kind = 'n_day' AND eligible > 0
        ), shown AS (
            SELECT cohort, max(eligible) AS size FROM cells
            GROUP BY cohort ORDER BY cohort DESC LIMIT {latest}
        )
        SELECT cohort, size, period, eligible, returned, returned / eligible AS rate,
               {wilson("returned", "eligible")}
        FROM cells JOIN shown USING (cohort)
        WHERE period BETWEEN 1 AND {latest} ORDER BY cohort, period
        """,
        grain=grain,
    )


def retention_curve(connection: duckdb.DuckDBPyConnection, grain: str) -> pa.Table:
    """One row per kind (`n_day`, `unbounded`) and period, all cohorts of a grain together."""
    return table(
        connection,
        f"""
        WITH sums AS (
            SELECT kind, period, sum(eligible)::BIGINT AS eligible,
                   sum(returned)::BIGINT AS returned
            FROM marts.retention_cohorts
            WHERE cohort_grain = $grain AND kind IN ('n_day', 'unbounded')
              AND period BETWEEN 1 AND {CURVE_PERIODS[grain]}
            GROUP BY kind, period HAVING sum(eligible) > 0
        )
        SELECT $grain AS cohort_grain, kind, period, eligible, returned,
               returned / eligible AS rate,
               {wilson("returned", "eligible")}
        FROM sums ORDER BY kind, period
        """,
        grain=grain,
    )


# --- repurchase ----------------------------------------------------------------------------------


def repurchase_windows(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per window W: all cohorts together."""
    return table(
        connection,
        f"""
        WITH sums AS (
            SELECT window_days, sum(eligible)::BIGINT AS eligible,
                   sum(repurchased)::BIGINT AS repurchased
            FROM marts.repurchase_rates WHERE cohort IS NOT NULL
            GROUP BY window_days HAVING sum(eligible) > 0
        )
        SELECT window_days, eligible, repurchased, repurchased / eligible AS rate,
               {wilson("repurchased", "eligible")}
        FROM sums ORDER BY window_days
        """,
    )


def repurchase_cohorts(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per month of the first order and window W."""
    return table(
        connection,
        f"""
        SELECT cohort, window_days, eligible, repurchased, repurchased / eligible AS rate,
               {wilson("repurchased", "eligible")}
        FROM marts.repurchase_rates WHERE cohort IS NOT NULL AND eligible > 0
        ORDER BY window_days, cohort
        """,
    )


def order_counts(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per number of valid orders (1 to 4, 5 to 9, 10 or more): customers."""
    return table(
        connection,
        """
        WITH customers AS (
            SELECT user_id, max(order_number) AS orders FROM marts.fct_orders
            WHERE order_number IS NOT NULL GROUP BY user_id
        ), grouped AS (
            SELECT CASE WHEN orders < 5 THEN orders WHEN orders < 10 THEN 5 ELSE 10 END AS least
            FROM customers
        )
        SELECT CASE least WHEN 1 THEN '1 order' WHEN 5 THEN '5 to 9' WHEN 10 THEN '10 or more'
               ELSE least || ' orders' END AS orders,
               count(*) AS customers, count(*) / sum(count(*)) OVER () AS share
        FROM grouped GROUP BY least ORDER BY least
        """,
    )


def order_gaps(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per number of days between two orders of a customer, with the running share."""
    return table(
        connection,
        """
        WITH gaps AS (
            SELECT floor(days_since_previous)::INTEGER AS days, count(*) AS gaps
            FROM marts.fct_orders
            WHERE is_valid AND order_number >= 2 AND days_since_previous IS NOT NULL GROUP BY ALL
        )
        SELECT days, gaps,
               sum(gaps) OVER (ORDER BY days) / sum(gaps) OVER () AS share_up_to
        FROM gaps ORDER BY days
        """,
    )


def churn_horizon(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """The one row of `marts.churn_horizon`."""
    return table(
        connection, "SELECT gap_quantile, horizon_days, gaps FROM marts.churn_horizon LIMIT 1"
    )


def repurchase_items(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """The items with the surest lift: at least 30 first buyers, by the low end of the interval."""
    return table(
        connection,
        """
        SELECT item_id, coalesce(title, item_id) AS title, category, first_buyers, ordered_again,
               rate, low, high, shop_rate, lift, lift_low, lift_high,
               count(*) OVER () AS items_judged,
               count(*) FILTER (lift_low > 1) OVER () AS items_above
        FROM marts.item_second_orders LEFT JOIN marts.dim_items USING (item_id)
        WHERE first_buyers >= 30 AND lift IS NOT NULL
        ORDER BY lift_low DESC, item_id LIMIT 10
        """,
    )


# --- visits --------------------------------------------------------------------------------------


def dwell(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per day with views of the latest 90, if any of their views has a dwell."""
    return table(
        connection,
        """
        SELECT stat_date, events, with_dwell, coverage, median_ms, winsorised_mean_ms
        FROM marts.dwell_stats
        WHERE stat_date > $night::DATE - 90 AND stat_date <= $night::DATE
          AND event_type = 'view'
        QUALIFY sum(with_dwell) OVER () > 0
        ORDER BY stat_date
        """,
        night=night,
    )


def dwell_kinds(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per kind of event over the latest 28 days: coverage and quartiles of the dwell."""
    return table(
        connection,
        f"""
        SELECT event_type, count(*) AS events, count(dwell_ms) AS with_dwell,
               with_dwell / count(*) AS coverage,
               quantile_disc(dwell_ms, 0.25) AS lower_quartile_ms,
               quantile_disc(dwell_ms, 0.5) AS median_ms,
               quantile_disc(dwell_ms, 0.75) AS upper_quartile_ms
        FROM marts.fct_events
        WHERE event_date > $night::DATE - {RECENT_DAYS} AND event_date <= $night::DATE
          AND event_type IN ('view', 'click', 'search', 'cart_add', 'cart_remove', 'checkout')
        GROUP BY event_type HAVING count(dwell_ms) > 0 ORDER BY events DESC, event_type
        """,
        night=night,
    )


def visitor_weeks(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per whole week (its Monday) of the latest 26 and kind of visitor: depth and dwell.

    Means with their 95% intervals, from sums and sums of squares. No rows where nothing is viewed.
    """
    return table(
        connection,
        f"""
        WITH weeks AS (
            SELECT date_trunc('week', stat_date)::DATE AS week, visitor_kind,
                   sum(sessions)::BIGINT AS sessions, sum(pages) AS pages,
                   sum(squared_pages)::DOUBLE AS squared_pages,
                   sum(with_dwell)::BIGINT AS with_dwell, sum(dwell_s) AS dwell_s,
                   sum(squared_dwell_s)::DOUBLE AS squared_dwell_s
            FROM marts.session_stats
            WHERE stat_date >= date_trunc('week', $night::DATE + 1)::DATE - 26 * 7
              AND stat_date < date_trunc('week', $night::DATE + 1)::DATE
            GROUP BY ALL
        )
        SELECT week, visitor_kind, sessions, with_dwell,
               {_mean("pages", "squared_pages", "sessions", "depth")},
               {_mean("dwell_s", "squared_dwell_s", "with_dwell", "seconds")}
        FROM weeks QUALIFY sum(pages) OVER () > 0 ORDER BY week, visitor_kind
        """,
        night=night,
    )


def _mean(total: str, squares: str, n: str, name: str) -> str:
    """SQL for the mean called `name` and `<name>_low`, `<name>_high`, its normal 95% interval."""
    variance = f"greatest(0, {squares} - {total} * {total} / {n}) / nullif({n} - 1, 0)"
    half = f"1.96 * sqrt(({variance}) / nullif({n}, 0))"
    mean = f"{total} / nullif({n}, 0)"
    return f"{mean} AS {name}, {mean} - {half} AS {name}_low, {mean} + {half} AS {name}_high"


def funnel_steps(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per step of a visit, over the latest 28 days."""
    return table(
        connection,
        f"""
        WITH sums AS (
            SELECT sum(sessions)::BIGINT AS sessions, sum(sessions_view)::BIGINT AS viewed,
                   sum(sessions_cart)::BIGINT AS cart, sum(sessions_checkout)::BIGINT AS checkout,
                   sum(sessions_purchase)::BIGINT AS bought
            FROM marts.funnel_daily
            WHERE funnel_date > $night::DATE - {RECENT_DAYS} AND funnel_date <= $night::DATE
        ), steps AS (
            SELECT 1 AS position, 'all sessions' AS step, sessions AS n, sessions FROM sums
            UNION ALL SELECT 2, 'viewed an item', viewed, sessions FROM sums
            UNION ALL SELECT 3, 'added to the cart', cart, sessions FROM sums
            UNION ALL SELECT 4, 'began the checkout', checkout, sessions FROM sums
            UNION ALL SELECT 5, 'bought', bought, sessions FROM sums
        )
        SELECT step, n AS sessions, n / sessions AS share_of_sessions
        FROM steps WHERE sessions > 0 AND EXISTS (FROM sums WHERE viewed + cart + checkout > 0)
        ORDER BY position
        """,
        night=night,
    )


def funnel_weeks(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per whole week (its Monday): sessions that reached each step, and their shares."""
    return table(
        connection,
        """
        WITH weeks AS (
            SELECT date_trunc('week', funnel_date)::DATE AS week,
                   sum(sessions)::BIGINT AS sessions, sum(sessions_view)::BIGINT AS viewed,
                   sum(sessions_cart)::BIGINT AS cart, sum(sessions_checkout)::BIGINT AS checkout,
                   sum(sessions_purchase)::BIGINT AS bought
            FROM marts.funnel_daily GROUP BY ALL
        )
        SELECT week, sessions, viewed, cart, checkout, bought, viewed / sessions AS viewed_share,
               cart / sessions AS cart_share, checkout / sessions AS checkout_share,
               bought / sessions AS bought_share
        FROM weeks
        WHERE sessions > 0 AND week + 6 <= $night::DATE
          AND EXISTS (FROM weeks WHERE viewed + cart + checkout > 0)
        ORDER BY week
        """,
        night=night,
    )


# --- customers and items -------------------------------------------------------------------------


def rfm_segments(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per RFM segment: customers, their money, typical recency and frequency."""
    return table(
        connection,
        """
        SELECT segment, count(*) AS customers, count(*) / sum(count(*)) OVER () AS customer_share,
               sum(monetary)::DECIMAL(18, 2) AS net_revenue,
               (sum(monetary) / nullif(sum(sum(monetary)) OVER (), 0))::DOUBLE AS revenue_share,
               median(recency_days)::DOUBLE AS median_recency_days,
               median(frequency)::DOUBLE AS median_orders
        FROM marts.user_rfm GROUP BY segment ORDER BY net_revenue DESC, segment
        """,
    )


def rfm_grid(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per pair of recency score and frequency score: customers."""
    return table(
        connection,
        """
        SELECT r_score, f_score, count(*) AS customers
        FROM marts.user_rfm GROUP BY ALL ORDER BY r_score, f_score
        """,
    )


def top_items(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """The ten items with the highest net revenue of the latest 28 days."""
    return table(
        connection,
        f"""
        WITH sold AS (
            SELECT item_id, sum(revenue)::DECIMAL(18, 2) AS net_revenue,
                   coalesce(sum(quantity) FILTER (WHERE line_type = 'purchase'), 0)::BIGINT
                       AS units,
                   coalesce(sum(quantity) FILTER (WHERE line_type = 'refund'), 0)::BIGINT
                       AS refunded_units,
                   count(DISTINCT user_id) AS buyers
            FROM marts.fct_order_lines
            WHERE line_date > $night::DATE - {RECENT_DAYS} AND line_date <= $night::DATE
              AND item_id IS NOT NULL
            GROUP BY item_id ORDER BY net_revenue DESC, item_id LIMIT 10
        ), seen AS (
            SELECT item_id, sum(views)::BIGINT AS views FROM marts.item_daily_stats
            WHERE stat_date > $night::DATE - {RECENT_DAYS} AND stat_date <= $night::DATE
            GROUP BY item_id
        )
        SELECT item_id, coalesce(title, item_id) AS title, category, net_revenue, units,
               refunded_units, buyers, coalesce(views, 0) AS views
        FROM sold LEFT JOIN marts.dim_items USING (item_id) LEFT JOIN seen USING (item_id)
        WHERE net_revenue > 0 ORDER BY net_revenue DESC, item_id
        """,
        night=night,
    )


# --- recommendations -----------------------------------------------------------------------------


def recommendation_coverage(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row: who has a list, how long it is, how much of the catalogue the lists show."""
    return table(
        connection,
        """
        SELECT count(DISTINCT user_id) AS users_with_list,
               (SELECT count(*) FROM marts.dim_users) AS users,
               count(DISTINCT item_id) FILTER (WHERE rank <= 10) AS items_in_top_10,
               (SELECT count(*) FROM marts.dim_items WHERE is_catalogued) AS items,
               max(rank) AS longest_list, max(model_version) AS model_version
        FROM marts.recommendations
        """,
    )


def recommendation_reasons(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per kind of reason: entries among everyone's first ten.

    Reasons name items (`because you viewed Blue mug`), so their kind is their first three words,
    and `it` where the item itself is meant.
    """
    return table(
        connection,
        """
        WITH spoken AS (
            SELECT string_split(coalesce(reason, 'no reason given'), ' ') AS words
            FROM marts.recommendations WHERE rank <= 10
        ), kinds AS (
            SELECT array_to_string(words[1:3], ' ') || CASE
                WHEN list_contains(words[4:5], 'it') THEN ' it'
                WHEN len(words) > 3 THEN ' ...' ELSE '' END AS reason
            FROM spoken
        )
        SELECT reason, count(*) AS entries, count(*) / sum(count(*)) OVER () AS share
        FROM kinds GROUP BY reason ORDER BY entries DESC, reason LIMIT 12
        """,
    )


def recommendation_sample(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Three users (the latest to order): five items they touched last, and their first five.

    Columns: user_id, list (`touched` or `recommended`), rank, item_id, title, reason.
    """
    return table(
        connection,
        """
        WITH people AS (
            SELECT user_id FROM marts.dim_users
            WHERE user_id IN (SELECT user_id FROM marts.recommendations)
            ORDER BY last_order_at DESC NULLS LAST, user_id LIMIT 3
        ), touched AS (
            SELECT user_id, item_id, max(event_ts) AS touched_at FROM marts.fct_events
            WHERE user_id IN (FROM people) AND item_id IS NOT NULL
              AND event_type IN ('view', 'cart_add', 'purchase')
            GROUP BY user_id, item_id
        ), entries AS (
            SELECT user_id, 'touched' AS list, item_id, NULL::VARCHAR AS reason,
                   row_number() OVER (PARTITION BY user_id ORDER BY touched_at DESC, item_id)
                       AS rank
            FROM touched
            UNION ALL
            SELECT user_id, 'recommended', item_id, reason, rank
            FROM marts.recommendations WHERE user_id IN (FROM people)
        )
        SELECT user_id, list, rank, item_id, coalesce(title, item_id) AS title, reason
        FROM entries LEFT JOIN marts.dim_items USING (item_id)
        WHERE rank <= 5 ORDER BY user_id, list DESC, rank
        """,
    )


def model_metrics(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per metric and model on the held-out days, with the interval where there is one."""
    return table(
        connection,
        """
        WITH metrics AS (
            SELECT name, TRY_CAST(value AS DOUBLE) AS value,
                   json_extract_string(detail, '$.metric') AS metric,
                   json_extract_string(detail, '$.k') AS k,
                   json_extract_string(detail, '$.model') AS model,
                   TRY_CAST(json_extract_string(detail, '$.low') AS DOUBLE) AS low,
                   TRY_CAST(json_extract_string(detail, '$.high') AS DOUBLE) AS high,
                   TRY_CAST(json_extract_string(detail, '$.n_users') AS BIGINT) AS n_users
            FROM marts.run_manifest WHERE section = 'model'
        )
        SELECT coalesce(metric || coalesce('@' || k, ''), split_part(name, '/', -1)) AS metric,
               model, value, low, high, n_users
        FROM metrics WHERE model IS NOT NULL AND value IS NOT NULL
        ORDER BY 1, value DESC, model
        """,
    )


def model_metrics_at_10(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """`model_metrics` of the first ten places, which is what a page shows at once."""
    import pyarrow.compute as pc

    data = model_metrics(connection)
    return data.filter(pc.ends_with(data["metric"], "@10"))


def decision(connection: duckdb.DuckDBPyConnection) -> str | None:
    """What the promotion gate decided this night, in its own words."""
    rows = connection.execute(
        "SELECT json_extract_string(detail, '$.decision') FROM marts.run_manifest "
        "WHERE section = 'version' AND name = 'challenger'"
    ).fetchall()
    return rows[0][0] if rows else None


# --- the night itself ----------------------------------------------------------------------------


def manifest(connection: duckdb.DuckDBPyConnection, *sections: str) -> pa.Table:
    """The rows of `marts.run_manifest` in these sections."""
    return table(
        connection,
        """
        SELECT section, name, value, passed, detail FROM marts.run_manifest
        WHERE section IN (SELECT unnest($sections)) ORDER BY section, name, value, detail
        """,
        sections=list(sections),
    )


def reasons(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """The fifteen most frequent reasons for which rows were quarantined or excluded.

    The manifest keeps them as `{"reasons": {"price_missing": 12}}` beside each count.
    """
    return table(
        connection,
        """
        WITH kept AS (
            SELECT name, json_extract(detail, '$.reasons') AS reasons FROM marts.run_manifest
            WHERE section = 'rows' AND json_extract(detail, '$.reasons') IS NOT NULL
        ), single AS (
            SELECT name, reasons, unnest(json_keys(reasons)) AS reason FROM kept
        )
        SELECT split_part(name, '/', 1) AS "table", split_part(name, '/', 2) AS fate, reason,
               (reasons->>('$."' || reason || '"'))::BIGINT AS rows
        FROM single ORDER BY rows DESC, "table", fate, reason LIMIT 15
        """,
    )


def set_aside(connection: duckdb.DuckDBPyConnection) -> tuple[int, str]:
    """How many rows were quarantined or excluded, and the most frequent reason of the former."""
    rows = connection.execute(
        """
        SELECT coalesce(sum(TRY_CAST(value AS BIGINT)) FILTER (WHERE section = 'rows' AND
                   split_part(name, '/', 2) IN ('quarantined', 'excluded')), 0),
               coalesce(max(value) FILTER (WHERE section = 'input'
                   AND name = 'worst_quarantine_reason'), 'none')
        FROM marts.run_manifest
        WHERE section = 'rows' OR name = 'worst_quarantine_reason'
        """
    ).fetchall()
    return int(rows[0][0]), str(rows[0][1])


def published_night(connection: duckdb.DuckDBPyConnection) -> date | None:
    """The night the published file holds, or None when it says nothing about it."""
    rows = connection.execute("SELECT max(night) FROM marts.run_manifest").fetchall()
    night: date | None = rows[0][0]
    return night
