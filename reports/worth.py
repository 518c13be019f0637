"""What are customers worth? Revenue of those who return, the value of cohorts, what is expected.

The forecast and the expectations need `marts.user_predictions` and are left out without it.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from reports import plots
from reports.panels import Panel, Section, Source, count, few, percent, total, trust
from reports.plots import SMALL
from reports.queries import table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from matplotlib.figure import Figure

MONTH_DAYS = 30
"""A month since the first order, as `marts.cohort_value` counts it."""

YEAR_MONTHS = 12
"""How far the forecast of a cohort goes, in such months."""

HORIZONS = (90, 180, 365)
"""The horizons in days for which spend is predicted; between them it grows in proportion."""


# --- tables --------------------------------------------------------------------------------------


def returning_revenue(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per month: net revenue of users with an id, and how much of it returned."""
    return table(
        connection,
        """
        SELECT month, orders, returning_orders, customers, returning_customers,
               net_revenue::DECIMAL(18, 2) AS net_revenue,
               returning_net_revenue::DECIMAL(18, 2) AS returning_net_revenue, share,
               last_day(month) <= $night::DATE AS is_complete
        FROM marts.returning_revenue WHERE orders > 0 ORDER BY month
        """,
        night=night,
    )


def cohort_values(
    connection: duckdb.DuckDBPyConnection, night: date, has_predictions: bool
) -> pa.Table:
    """One row per cohort and month since, of the first 24; `is_forecast` of those to come."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = table(
        connection,
        "SELECT cohort, months, customers, value, false AS is_forecast "
        "FROM marts.cohort_value ORDER BY cohort, months",
    )
    forecasts = cohort_forecasts(connection, night, has_predictions)
    forecasts = forecasts.filter(
        pc.and_(
            pc.is_valid(forecasts["forecast"]),
            pc.is_in(forecasts["cohort"], value_set=known["cohort"].combine_chunks()),
        )
    )
    expected = pa.table(
        {
            "cohort": forecasts["cohort"],
            "months": pa.repeat(pa.scalar(YEAR_MONTHS, pa.int32()), forecasts.num_rows),
            "customers": forecasts["customers"],
            "value": forecasts["forecast"],
            "is_forecast": pa.repeat(True, forecasts.num_rows),
        },
        schema=known.schema,
    )
    return pa.concat_tables([known, expected])


def cohort_forecasts(
    connection: duckdb.DuckDBPyConnection, night: date, has_predictions: bool
) -> pa.Table:
    """One row per cohort of the latest year: value after some months, so far, and forecast to 12.

    The forecast is there for cohorts of which someone's 12 months are not over and everyone like
    that has a prediction; those whose months are over count with what they brought within them.
    """
    # spend to come within the days that are left, in proportion between the predicted horizons
    predicted = (
        "SELECT user_id, "
        + ", ".join(
            f"max(value) FILTER (horizon_days = {horizon}) AS in_{horizon}" for horizon in HORIZONS
        )
        + " FROM marts.user_predictions WHERE target = 'spend' GROUP BY user_id"
        if has_predictions
        else "SELECT NULL::VARCHAR AS user_id, "
        + ", ".join(f"NULL::DOUBLE AS in_{horizon}" for horizon in HORIZONS)
    )
    return table(
        connection,
        f"""
        WITH firsts AS (
            SELECT user_id, order_date AS first_date, date_trunc('month', order_date)::DATE
                       AS cohort, order_date + {MONTH_DAYS * YEAR_MONTHS} AS year_end
            FROM marts.fct_orders WHERE order_number = 1
        ), paid AS (
            SELECT user_id, sum(net_revenue) AS so_far,
                   coalesce(sum(net_revenue) FILTER (activity_date < year_end), 0) AS in_year
            FROM marts.user_daily_activity JOIN firsts USING (user_id)
            WHERE net_revenue <> 0 GROUP BY user_id
        ), predicted AS ({predicted}), expected AS (
            SELECT cohort, coalesce(so_far, 0)::DOUBLE AS so_far,
                   (year_end - 1 - $night::DATE) AS days_left,
                   coalesce(in_year, 0)::DOUBLE + CASE
                       WHEN days_left <= 0 THEN 0
                       WHEN days_left <= 90 THEN in_90 * days_left / 90
                       WHEN days_left <= 180 THEN in_90 + (in_180 - in_90) * (days_left - 90) / 90
                       ELSE in_180 + (in_365 - in_180) * (days_left - 180) / 185
                   END AS in_year_expected
            FROM firsts LEFT JOIN paid USING (user_id) LEFT JOIN predicted USING (user_id)
        ), cohorts AS (
            SELECT cohort, count(*) AS customers, round(avg(so_far), 6) AS so_far,
                   CASE WHEN max(days_left) > 0 AND count(in_year_expected) = count(*)
                        THEN round(avg(in_year_expected), 6) END AS forecast
            FROM expected GROUP BY cohort ORDER BY cohort DESC LIMIT {YEAR_MONTHS + 1}
        )
        SELECT cohort, cohorts.customers, so_far,
               {
            ", ".join(
                f"max(value) FILTER (months = {months}) AS after_{months}"
                for months in (1, 3, 6, YEAR_MONTHS)
            )
        }, forecast
        FROM cohorts LEFT JOIN marts.cohort_value USING (cohort) GROUP BY ALL
        ORDER BY cohort
        """,
        night=night,
    )


def expected(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per target and horizon of the night's predictions: users, mean and sum."""
    return table(
        connection,
        """
        SELECT target, horizon_days, count(*) AS users, round(avg(value), 6) AS mean,
            round(sum(value), 4) AS total
        FROM marts.user_predictions GROUP BY target, horizon_days
        ORDER BY list_position(['purchase', 'repurchase', 'churn', 'spend'], target), horizon_days
        """,
    )


# --- figures -------------------------------------------------------------------------------------


def _draw_returning(data: pa.Table) -> Figure:
    months, shares, orders, all_net, back_net = plots.lists(
        data, "month", "share", "orders", "net_revenue", "returning_net_revenue"
    )
    enough = [n >= SMALL for n in orders]
    returned = [float(value) for value in back_net]
    with plots.styled():
        figure = plots.blank(height=4.4)
        upper, lower = figure.subplots(2, sharex=True)
        upper.plot(months, shares, color=plots.FAINT, linewidth=1.2, marker="o", markersize=3)
        upper.plot(
            months,
            [share if good else float("nan") for share, good in zip(shares, enough, strict=True)],
            color=plots.BLUE,
            marker="o",
            markersize=3.5,
        )
        lower.bar(months, returned, width=24, color=plots.BLUE, label="returning")
        lower.bar(
            months,
            [float(whole) - back for whole, back in zip(all_net, returned, strict=True)],
            width=24,
            bottom=returned,
            color=plots.SHADES[2],
            label="first orders",
        )
        upper.set_ylim(0, 1)
        upper.set_ylabel("of net revenue")
        lower.set_ylabel("net revenue")
        plots.percent_axis(upper.yaxis)
        plots.short_axis(lower.yaxis)
        plots.legend_above(lower, 2)
        upper.grid(visible=False, axis="x")
        plots.date_axis(lower)
        figure.align_ylabels()
    return figure


NEWEST = 3
"""How many of the newest cohorts are named in the figure of values."""


def _draw_values(data: pa.Table) -> Figure:
    """All cohorts pale, the newest with some months behind them and the oldest in colour."""
    from matplotlib.ticker import MaxNLocator

    curves: dict[date, list[tuple[int, float]]] = {}
    forecasts: dict[date, tuple[int, float]] = {}
    sizes: dict[date, int] = {}
    for cohort, months, n, value, is_forecast in zip(
        *plots.lists(data, "cohort", "months", "customers", "value", "is_forecast"), strict=True
    ):
        if is_forecast:
            forecasts[cohort] = (months, value)
        else:
            curves.setdefault(cohort, []).append((months, value))
        sizes[cohort] = n
    trusted = [cohort for cohort in curves if sizes[cohort] >= SMALL]
    named = dict.fromkeys([*trusted[:1], *trusted[-NEWEST:]])
    colours = dict(zip(named, (plots.INK, plots.GREEN, plots.ORANGE, plots.BLUE), strict=False))
    with plots.styled():
        figure = plots.blank(height=3.8)
        axes = figure.subplots()
        for cohort, curve in curves.items():
            xs, values = [0, *(x for x, _ in curve)], [0.0, *(value for _, value in curve)]
            colour = colours.get(cohort)
            axes.plot(
                xs,
                values,
                color=colour or plots.FAINT,
                linewidth=1.8 if colour else 0.9,
                marker="o" if colour else "",
                markersize=3,
                label=f"{cohort:%b %Y}" if colour else None,
                zorder=3 if colour else 2,
            )
            if colour and cohort in forecasts:
                ends = (curve[-1], forecasts[cohort])
                axes.plot(*zip(*ends, strict=True), color=colour, linewidth=1.2, ls="--")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("months since the first order")
        axes.set_ylabel("net revenue a customer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        plots.short_axis(axes.yaxis)
        if named:
            plots.legend_above(axes, 2)
    return figure


# --- panels --------------------------------------------------------------------------------------


def worth(source: Source) -> Section:
    """What are customers worth?"""
    empty = "No month of first orders is old enough yet: 30 days are not over for all of it."
    currency = source.shop.currency
    values = plots.Plot(cohort_values, _draw_values)
    returning = plots.Plot(returning_revenue, _draw_returning)
    panels = [
        source.plot(
            returning,
            source.night,
            key="returning_revenue",
            title="Revenue from users who had bought before",
            definition=f"{source.definition('returning_revenue')} The data begin on "
            f"{source.shop.start}: who had bought before that passes for new. Grey: fewer than "
            f"{SMALL} orders.",
            empty="Nobody with an id has ordered yet.",
            n=lambda data: f"{count(total(data, 'orders'))} orders in {data.num_rows} months",
            reading=_returned,
        ),
        source.plot(
            values,
            source.night,
            source.has("user_predictions"),
            key="cohort_value",
            title="What a customer brings, by months since the first order",
            definition=f"{source.definition('cohort_value')} In {currency}. In colour the oldest "
            f"and the newest cohorts of {SMALL} and more, the others pale."
            + (" Dashed: the forecast to 12 months." if source.has("user_predictions") else ""),
            empty=empty,
            n=_in_cohorts,
        ),
        _forecasts(source),
    ]
    if source.has("user_predictions"):
        panels.append(_expected(source))
    lead = "Net revenue, purchases less refunds, of customers known by an id."
    return Section("worth", "What are customers worth?", lead, panels)


def _returned(data: pa.Table) -> str:
    whole = [row for row in data.to_pylist() if row["is_complete"]]
    if not whole:
        return ""
    last = whole[-1]
    return (
        f"{last['month']:%B %Y}: {percent(last['share'])} of net revenue came from "
        f"{count(last['returning_customers'])} users who had bought before"
        f"{trust(last['orders'])}."
    )


def _in_cohorts(data: pa.Table) -> str:
    sizes = {row["cohort"]: row["customers"] for row in data.to_pylist()}
    return f"{count(sum(sizes.values()))} customers in {len(sizes)} cohorts"


def _forecasts(source: Source) -> Panel:
    predicted = source.has("user_predictions")
    data = cohort_forecasts(source.connection, source.night, predicted)
    forecast = predicted and any(value is not None for value in data["forecast"].to_pylist())
    columns = [name for name in data.column_names if name.startswith("after_")]
    columns = [name for name in columns if data[name].null_count < data.num_rows]
    columns += ["forecast"][:forecast]
    months = [name.removeprefix("after_") for name in columns]
    return Panel(
        "cohort_forecast",
        "The value of the latest cohorts",
        f"Net revenue a customer ({source.shop.currency}) after so many months of "
        f"{MONTH_DAYS} days, once over for all."
        + (f" Forecast: {source.definition('cohort_forecast')}" if forecast else ""),
        data,
        n=f"{count(total(data, 'customers'))} customers",
        headers=(
            "first order",
            "customers",
            "so far",
            *(f"{name} mo." if name != "forecast" else "forecast" for name in months),
        ),
        rows=[
            [
                f"{row['cohort']:%b %Y}",
                count(row["customers"]),
                count(row["so_far"]),
                *(count(row[name]) for name in columns),
            ]
            for row in reversed(data.to_pylist())
        ],
        few=tuple(reversed(few(data, "customers"))),
        empty="" if data.num_rows else "Nobody with an id has ordered yet.",
    )


_TARGETS = {
    "purchase": "will buy",
    "repurchase": "will buy again",
    "churn": "will be lost",
    "spend": "will spend",
}


def _expected(source: Source) -> Panel:
    data = expected(source.connection)
    return Panel(
        "expected",
        "What the models expect from this night on",
        "Sums of what is predicted for each user: so many users, or so much "
        f"{source.shop.currency}. How far such predictions were off in the past stands below, "
        "under predictions.",
        data,
        headers=("users who", "within", "users", "expected", "a user"),
        rows=[
            [
                _TARGETS.get(row["target"], row["target"]),
                f"{row['horizon_days']} days",
                count(row["users"]),
                count(row["total"]),
                f"{row['mean']:,.2f}" if row["target"] == "spend" else percent(row["mean"]),
            ]
            for row in data.to_pylist()
        ],
        few=few(data, "users"),
        empty="" if data.num_rows else "Nothing was predicted this night.",
    )
