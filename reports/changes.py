"""What changed, and what carries the change? Two spans compared, and their difference taken apart.

`day` compares the night with the mean of the same weekday in the four weeks before, `week` the last
seven days with the seven before. A plain mean on one side, so that parts add up to the whole: the
change of the net revenue is the sum of its factors, and the change of a measure is, within each
dimension, the sum over its segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from reports import queries
from reports.expectation import DAILY

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SHOWN = 3
"""How many segments of a dimension are named; the others are one row."""

_SPANS = {
    # (days back from the night, 1 = now and 0 = before)
    "day": [(0, 1), *[(7 * week, 0) for week in range(1, 5)]],
    "week": [(back, 1) for back in range(7)] + [(back, 0) for back in range(7, 14)],
}

_SUMMED = (
    "visitors",
    "new_shoppers",
    "orders",
    "known_orders",
    "returning_orders",
    "gross_revenue",
    "refunds",
)

_SPAN_DAYS = """
    spans AS (
        SELECT $night::DATE - unnest($backs)::INTEGER AS day, unnest($nows) = 1 AS is_now
    ), sides AS (
        -- days before the shop's first do not count as empty ones; sums are divided at the end,
        -- so that they are exact
        SELECT day, is_now, CASE WHEN $mean THEN count(*) OVER (PARTITION BY is_now) ELSE 1 END
               AS divisor
        FROM spans WHERE day >= (SELECT min(event_date) FROM marts.fct_events)
        QUALIFY count(*) FILTER (WHERE NOT is_now) OVER () > 0
    )
"""


def _span(span: str) -> dict[str, object]:
    backs, nows = zip(*_SPANS[span], strict=True)
    return {"backs": list(backs), "nows": list(nows), "mean": span == "day"}


def totals(connection: duckdb.DuckDBPyConnection, night: date, span: str) -> pa.Table:
    """One row per side, before and now: sums of its days, to be divided by `divisor`.

    Empty when the shop has no day to compare with. Visitors are counted day by day.
    """
    return queries.table(
        connection,
        f"""
        WITH {DAILY}, {_SPAN_DAYS}
        SELECT is_now, any_value(divisor) AS divisor,
               {", ".join(f"sum({name})::DOUBLE AS {name}" for name in _SUMMED)},
               sum(daily.gross_revenue - daily.refunds)::DOUBLE AS net_revenue
        FROM daily JOIN sides USING (day) GROUP BY is_now ORDER BY is_now
        """,
        night=night,
        back=28,
        **_span(span),
    )


@dataclass(frozen=True)
class Side:
    """The sums of one side of a comparison."""

    visitors: float
    orders: float
    gross: float
    refunds: float

    @property
    def factors(self) -> tuple[float | None, float | None, float | None]:
        """Visitors, orders a visitor, money an order; None where there is nothing to divide by."""
        each, value = _ratio(self.orders, self.visitors), _ratio(self.gross, self.orders)
        return self.visitors, each, value


def contributions(before: Side, now: Side) -> dict[str, float]:
    """What each factor and the refunds add to the change of the net revenue; they sum to it.

    The Shapley value of gross revenue = visitors x orders a visitor x money an order: the change a
    factor makes, averaged over the orders in which the three could have changed. Unlike a split by
    logarithms it takes a day without orders. A factor that a side does not have is taken from the
    other, so it adds nothing.
    """
    pairs = [
        (b if b is not None else n or 0.0, n if n is not None else b or 0.0)
        for b, n in zip(before.factors, now.factors, strict=True)
    ]
    found = {}
    for at, name in enumerate(("visitors", "orders_per_visitor", "order_value")):
        (x0, x1), (y0, y1), (z0, z1) = (pairs[(at + step) % 3] for step in range(3))
        found[name] = (x1 - x0) * ((y0 * z0 + y1 * z1) / 3 + (y0 * z1 + y1 * z0) / 6)
    return found | {"refunds": before.refunds - now.refunds}


def bridge(connection: duckdb.DuckDBPyConnection, night: date, span: str) -> pa.Table:
    """One row per factor: its value before and now, and what it adds to the net revenue.

    `orders` is the smaller number of orders behind the two sides.
    """
    import pyarrow as pa

    rows = totals(connection, night, span).to_pylist()
    names = ("visitors", "orders", "gross_revenue", "refunds")
    sides = [Side(*(row[name] / row["divisor"] for name in names)) for row in rows]
    if len(sides) < 2 or not any(side.gross or side.refunds for side in sides):
        return pa.table({})
    before, now = sides
    parts = contributions(before, now)
    values = [(*side.factors, side.refunds, side.gross - side.refunds) for side in sides]
    return pa.table(
        {
            "factor": [*parts, "net_revenue"],
            "before": values[0],
            "now": values[1],
            "contribution": [*parts.values(), values[1][-1] - values[0][-1]],
            "orders": [int(min(row["orders"] for row in rows))] * (len(parts) + 1),
        }
    )


def _ratio(top: float, under: float) -> float | None:
    return top / under if under else None


def week(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per measure: the last seven days, the seven before, and what a rate rests on.

    `change` is relative, but for a share it is the difference: `change_in` says which.
    """
    import pyarrow as pa

    sides = totals(connection, night, "week").to_pylist()
    ratios = {
        "conversion": ("orders", "visitors"),
        "order_value": ("gross_revenue", "orders"),
        "returning_share": ("returning_orders", "known_orders"),
    }
    shares = ("conversion", "returning_share")
    found: list[tuple[str, float | None, float | None, float | None, str, int | None]] = []
    for measure in ("visitors", "new_shoppers", "orders", "net_revenue", *ratios, "refunds"):
        top, under = ratios.get(measure, (measure, None))
        values = [_ratio(side[top], side[under] if under else 1) for side in sides]
        if len(sides) < 2 or not any(values):
            continue
        before, now = values
        change = now / before - 1 if now is not None and before and before > 0 else None
        if measure in shares:
            change = now - before if now is not None and before is not None else None
        n = int(min(side[under] for side in sides)) if under else None
        kind = "points" if measure in shares else "percent"
        found.append((measure, before, now, change, kind, n))
    columns = ("measure", "before", "now", "change", "change_in", "n")
    return pa.table({name: [row[at] for row in found] for at, name in enumerate(columns)})


def segments(connection: duckdb.DuckDBPyConnection, night: date, span: str) -> pa.Table:
    """One row per measure, dimension and segment: before, now, change and its share.

    `shoppers` are the distinct visitors behind both sides. An order, its refunds included, belongs
    to the channel and country it was placed from; a visit to the day's first. A dimension with
    one segment only says nothing and is left out. Shares are of the measure's whole change.
    """
    return queries.table(
        connection,
        f"""
        WITH {_SPAN_DAYS}, lines AS (
            SELECT is_now, divisor, line_date, order_id, user_id, item_id, line_type, revenue
            FROM marts.fct_order_lines JOIN sides ON line_date = day
        ), placed AS (
            SELECT order_id, min(event_date) AS placed_on,
                   arg_min(visitor_key, (event_ts, event_id)) AS who,
                   arg_min(channel, (event_ts, event_id)) AS channel,
                   arg_min(country, (event_ts, event_id)) AS country
            FROM marts.fct_events
            WHERE event_type = 'purchase' AND order_id IN (SELECT order_id FROM lines)
            GROUP BY order_id
        ), firsts AS (
            SELECT user_id, min(line_date) AS first_day FROM marts.fct_order_lines
            WHERE line_type = 'purchase' AND user_id IN (SELECT user_id FROM lines) GROUP BY user_id
        ), told AS (
            SELECT lines.*, coalesce(who, lines.user_id, 'order:' || order_id) AS who,
                   channel, country, category,
                   CASE WHEN user_id IS NULL THEN 'guest'
                        WHEN first_day < coalesce(placed_on, line_date) THEN 'bought before'
                        ELSE 'first order' END AS shopper
            FROM lines LEFT JOIN placed USING (order_id) LEFT JOIN firsts USING (user_id)
            LEFT JOIN marts.dim_items USING (item_id)
        ), visits AS (
            SELECT is_now, divisor, event_date, visitor_key AS who, any_value(user_id) AS user_id,
                   arg_min(channel, (event_ts, event_id)) AS channel,
                   arg_min(country, (event_ts, event_id)) AS country
            FROM marts.fct_events JOIN sides ON event_date = day
            WHERE is_activity GROUP BY ALL
        ), seen AS (
            SELECT visits.*, CASE WHEN user_id IS NULL THEN 'guest'
                                  WHEN first_seen_at::DATE = event_date THEN 'first visit'
                                  ELSE 'came before' END AS shopper
            FROM visits LEFT JOIN marts.dim_users USING (user_id)
        ), facts AS (
            SELECT 'net_revenue' AS measure, is_now, who, divisor, revenue AS amount,
                   channel, country, shopper, category FROM told
            UNION ALL
            SELECT 'refunds', is_now, who, divisor, -revenue, channel, country, shopper, category
            FROM told WHERE line_type = 'refund'
            UNION ALL
            SELECT DISTINCT ON (order_id, line_date) 'orders', is_now, who, divisor, 1,
                   channel, country, shopper, NULL FROM told WHERE line_type = 'purchase'
            UNION ALL
            SELECT 'visitors', is_now, who, divisor, 1, channel, country, shopper, NULL FROM seen
            UNION ALL
            SELECT 'new_shoppers', is_now, who, divisor, 1, channel, country, NULL, NULL FROM seen
            WHERE shopper = 'first visit'
        ), long AS (
            SELECT measure, is_now, who, divisor, amount, dimension,
                   coalesce(segment, 'not stated') AS segment
            FROM facts CROSS JOIN LATERAL (VALUES ('channel', channel), ('country', country),
                ('shopper', shopper), ('category', category)) parts(dimension, segment)
            WHERE (dimension != 'category' OR measure IN ('net_revenue', 'refunds'))
              AND (dimension != 'shopper' OR measure != 'new_shoppers')
        ), sums AS (
            SELECT measure, dimension, segment, is_now,
                   sum(amount)::DOUBLE / any_value(divisor) AS amount
            FROM long GROUP BY ALL
        ), ranked AS (
            SELECT measure, dimension, segment,
                   coalesce(sum(amount) FILTER (WHERE NOT is_now), 0) AS before,
                   coalesce(sum(amount) FILTER (WHERE is_now), 0) AS now,
                   row_number() OVER (PARTITION BY measure, dimension
                                      ORDER BY round(abs(now - before), 6) DESC, segment) AS rank,
                   count(*) OVER (PARTITION BY measure, dimension) AS segments
            FROM sums GROUP BY measure, dimension, segment QUALIFY segments > 1
        ), named AS (
            SELECT *, CASE WHEN rank > {SHOWN} AND segments > {SHOWN + 1}
                           THEN 'all others' ELSE segment END AS name
            FROM ranked
        ), people AS (
            SELECT measure, dimension, name, count(DISTINCT who) AS shoppers
            FROM long JOIN named USING (measure, dimension, segment) GROUP BY ALL
        ), parts AS (
            SELECT measure, dimension, name, min(rank) AS rank, round(sum(before), 6) AS before,
                   round(sum(now), 6) AS now, round(sum(now - before), 6) AS change
            FROM named GROUP BY ALL
        )
        SELECT measure, dimension, name AS segment, before, now, change,
               change / nullif(round(sum(change) OVER (PARTITION BY measure, dimension), 4), 0)
                   AS share, shoppers
        FROM parts JOIN people USING (measure, dimension, name)
        ORDER BY measure, list_position(['channel', 'country', 'shopper', 'category'], dimension),
                 rank
        """,
        night=night,
        **_span(span),
    )


def missing_hours(connection: duckdb.DuckDBPyConnection, night: date) -> list[int]:
    """The hours (UTC) of the night's day without an event that nine of ten days before had.

    The days before are the last 28 with any event; of fewer than 14 nothing is said.
    """
    rows = connection.execute(
        """
        WITH hours AS (
            SELECT DISTINCT event_date, hour(event_ts) AS hour FROM marts.fct_events
            WHERE event_date BETWEEN $night::DATE - 28 AND $night
        ), days AS (
            SELECT count(DISTINCT event_date) AS days FROM hours WHERE event_date < $night
        )
        SELECT hour FROM hours, days
        WHERE event_date < $night AND days >= 14
          AND hour NOT IN (SELECT hour FROM hours WHERE event_date = $night)
        GROUP BY hour, days HAVING count(*) >= 0.9 * days ORDER BY hour
        """,
        {"night": night},
    ).fetchall()
    return [hour for (hour,) in rows]


def unusual_deliveries(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per kind (`late`, `quarantined`) of which the night's files hold unusually many rows.

    Unusual: at least ten, and a larger share of the files' rows than on any of the other days on
    record. Of fewer than seven of those nothing is said: such a shop does not deliver by day.
    """
    return queries.table(
        connection,
        """
        WITH files AS (
            SELECT name::DATE AS day, kind, value::BIGINT AS rows,
                   (detail->>('$.' || kind))::BIGINT AS n
            FROM marts.run_manifest, (VALUES ('late'), ('quarantined')) kinds(kind)
            WHERE section = 'delivery'
        )
        SELECT kind, max(n) FILTER (day = $night) AS rows,
               max(n / (rows + n)) FILTER (day = $night) AS share,
               max(n / (rows + n)) FILTER (day < $night) AS most_before
        FROM files GROUP BY kind
        HAVING count(*) FILTER (day < $night) >= 7
           AND max(n) FILTER (day = $night) >= 10 AND share > most_before
        ORDER BY kind
        """,
        night=night,
    )
