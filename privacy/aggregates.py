"""The aggregates that may leave the house, and how much of each a single user can be.

Each is SQL over the published marts that says, user by user, what they add to which cell. A user
then counts in at most so many cells, and in each by no more than its bound: this, not the noise, is
done here. A row of a user depends on that user's data alone, never on how they compare with others.

Cells are months and weeks of the calendar since the shop's start, whoever was there. Where they
also depend on data (countries), `every_cell` is None and only cells with many users may be told.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import duckdb

from core.shop import Shop

_WEEKS, _COHORTS, _MONTHS = 4, 12, 12


@dataclass(frozen=True)
class Measure:
    """A sum over users: each adds between -bound and bound to a cell."""

    name: str
    bound: int
    decimals: int = 0
    """after the point, as for money; a count has none"""

    @property
    def smallest_units(self) -> int:
        """The bound in the unit that is summed (a cent)."""
        return self.bound * 10**self.decimals


@dataclass(frozen=True)
class Aggregate:
    """The first measure is the number of users in a cell."""

    name: str
    about: str
    keys: tuple[str, ...]
    measures: tuple[Measure, ...]
    cells: int
    """in so many a user counts; of more, some are drawn by a hash"""
    of_users: str
    """SELECT of user_id, keys and measures"""
    every_cell: str | None
    """SELECT of the keys of all cells that there can be, without a look at the data"""


def catalogue(shop: Shop) -> tuple[Aggregate, ...]:
    """What `make share` writes, within the bounds of the shop's settings."""
    share = shop.share
    users = Measure("users", 1)
    return (
        Aggregate(
            "weekly_active_users",
            f"users with activity in each of the last {_WEEKS} whole weeks, by country",
            ("week", "country"),
            (users,),
            min(share.max_cells, _WEEKS),
            f"""
            SELECT user_id, date_trunc('week', activity_date)::DATE AS week,
                coalesce(any_value(country), 'unknown') AS country, 1 AS users
            FROM user_daily_activity LEFT JOIN dim_users USING (user_id)
            WHERE user_daily_activity.events > 0
                AND week BETWEEN {_this_week()} - {7 * _WEEKS} AND {_this_week()} - 7
            GROUP BY ALL""",
            None,
        ),
        Aggregate(
            "orders_by_month",
            f"users who ordered in each of the last {_MONTHS} whole months, their orders and what "
            f"they paid after refunds, in {shop.currency}",
            ("month",),
            (
                users,
                Measure("orders", share.max_orders),
                Measure("net_revenue", share.max_spend, decimals=2),
            ),
            min(share.max_cells, _MONTHS),
            """
            SELECT user_id, date_trunc('month', order_date)::DATE AS month, 1 AS users,
                count(*) AS orders, sum(net_revenue) AS net_revenue
            FROM fct_orders WHERE is_valid GROUP BY ALL""",
            f"""
            SELECT month FROM ({_units("month")}) AS calendar(month)
            WHERE month >= {_this_month()} - INTERVAL {_MONTHS} MONTH
                AND month < {_this_month()}""",
        ),
        Aggregate(
            "repurchase_by_month",
            "users by the month of their first order, and how many ordered again within 90 days; "
            f"the last {_MONTHS} months whose users have all had 90 days",
            ("first_order_month",),
            (users, Measure("ordered_again", 1)),
            1,
            """
            SELECT user_id, date_trunc('month', min(order_date))::DATE AS first_order_month,
                1 AS users, coalesce(max((order_number = 2 AND days_since_previous <= 90)::INT), 0)
                    AS ordered_again
            FROM fct_orders WHERE order_number IS NOT NULL GROUP BY user_id""",
            f"""
            SELECT month AS first_order_month FROM ({_units("month")}) AS calendar(month)
            WHERE month + INTERVAL 1 MONTH + INTERVAL 90 DAY <= getvariable('night') + 1
            QUALIFY row_number() OVER (ORDER BY month DESC) <= {_MONTHS}""",
        ),
        Aggregate(
            "retention_by_week",
            "users by the week of their first activity, and how many were active one and four "
            f"weeks after it; the last {_COHORTS} weeks for which the fourth is over",
            ("first_week",),
            (users, Measure("active_week_1", 1), Measure("active_week_4", 1)),
            1,
            """
            WITH active AS (
                SELECT user_id, date_trunc('week', activity_date)::DATE AS week,
                    min(week) OVER (PARTITION BY user_id) AS first_week
                FROM user_daily_activity WHERE events > 0
            )
            SELECT user_id, first_week, 1 AS users,
                max((week = first_week + 7)::INT) AS active_week_1,
                max((week = first_week + 28)::INT) AS active_week_4
            FROM active GROUP BY ALL""",
            f"""
            SELECT week AS first_week FROM ({_units("week")}) AS calendar(week)
            WHERE week BETWEEN {_this_week()} - {7 * (_COHORTS + 4)} AND {_this_week()} - 35""",
        ),
    )


Cells = dict[tuple[str, ...], list[int]]
"""Keys of a cell to its measures, each in its smallest unit (a cent)."""


def exact(
    connection: duckdb.DuckDBPyConnection, aggregate: Aggregate, start: date, night: date
) -> Cells:
    """The bounded sums, without noise: for the mechanism alone, never to be written anywhere."""
    connection.execute("SET VARIABLE start = $start", {"start": start})
    connection.execute("SET VARIABLE night = $night", {"night": night})
    keys = ", ".join(aggregate.keys)
    sums = ", ".join(f"{_clipped(m)} AS {m.name}" for m in aggregate.measures)
    names = ", ".join(f"coalesce({m.name}, 0)" for m in aggregate.measures)
    cells = f"({aggregate.every_cell}) LEFT JOIN total" if aggregate.every_cell else "total"
    using = f"USING ({keys})" if aggregate.every_cell else ""
    rows = connection.execute(f"""
        WITH of_users AS ({aggregate.of_users}),
        kept AS (
            SELECT * FROM of_users WHERE user_id IS NOT NULL
            -- by the user's own data alone: what others do moves nobody in or out
            QUALIFY row_number() OVER (
                PARTITION BY user_id ORDER BY md5(concat_ws('|', user_id, {keys})), {keys}
            ) <= {aggregate.cells}
        ),
        total AS (SELECT {keys}, {sums} FROM kept GROUP BY {keys})
        SELECT {", ".join(f"{key}::VARCHAR" for key in aggregate.keys)}, {names}
        FROM {cells} {using} ORDER BY {keys}
        """).fetchall()
    width = len(aggregate.keys)
    return {row[:width]: [int(value) for value in row[width:]] for row in rows}


def _clipped(measure: Measure) -> str:
    within = f"greatest(least({measure.name}, {measure.bound}), -{measure.bound})"
    # a bounded amount of whole cents is exact as a double
    return f"sum(round({within}::DOUBLE * {10**measure.decimals})::BIGINT)::BIGINT"


def _units(unit: str) -> str:
    """Every week or month from the shop's start to the night."""
    return (
        f"SELECT unnest(generate_series(date_trunc('{unit}', getvariable('start')), "
        f"getvariable('night'), INTERVAL 1 {unit}))::DATE"
    )


def _this_week() -> str:
    """The first day of the week that is not over at the end of the night."""
    return "date_trunc('week', getvariable('night') + 1)::DATE"


def _this_month() -> str:
    return "date_trunc('month', getvariable('night') + 1)::DATE"
