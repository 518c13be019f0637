"""Who moves where? Moves between life-cycle segments, and how those in each of them visit.

Reads `marts.segment_history`; where it is missing there are no such panels.
"""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from reports import plots
from reports.panels import Panel, Source, count, few, percent, total, trust
from reports.plots import SMALL
from reports.queries import RECENT_DAYS, table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BACK_DAYS = 90
"""How far back the moves begin."""

SEGMENTS = {
    "new": plots.BLUE,
    "active": plots.GREEN,
    "won_back": plots.PINK,
    "at_risk": plots.ORANGE,
    "lapsed": plots.GREY,
}
"""The life-cycle segments from top to bottom, each with its colour."""

OUTSIDE = "not a customer"


# --- tables --------------------------------------------------------------------------------------


def moves(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per pair of life-cycle segments: then (90 days ago) and now, with its customers."""
    order = f"coalesce(list_position({list(SEGMENTS)}, {{}}), 9)"
    return table(
        connection,
        f"""
        WITH stays AS (
            SELECT user_id, segment, from_night, coalesce(to_night, $night::DATE) AS to_night
            FROM marts.segment_history WHERE kind = 'life_cycle'
        ), tonight AS (
            SELECT user_id, segment FROM stays WHERE $night::DATE BETWEEN from_night AND to_night
        ), formerly AS (
            SELECT user_id, segment FROM stays
            WHERE $night::DATE - {BACK_DAYS} BETWEEN from_night AND to_night
        ), moved AS (
            SELECT coalesce(formerly.segment, '{OUTSIDE}') AS before, tonight.segment AS after,
                   count(*) AS customers
            FROM tonight LEFT JOIN formerly USING (user_id) GROUP BY ALL
        )
        SELECT *, customers / sum(customers) OVER (PARTITION BY before) AS share_of_before
        FROM moved ORDER BY {order.format("before")}, {order.format("after")}
        """,
        night=night,
    )


def visits(connection: duckdb.DuckDBPyConnection, night: date) -> pa.Table:
    """One row per life-cycle segment: its customers' sessions of the latest 28 days.

    A session counts under the segment of its day. `customers` are those who came.
    """
    return table(
        connection,
        f"""
        SELECT segment, count(*) AS sessions, count(DISTINCT user_id) AS customers,
               avg(depth) AS depth, quantile_disc(dwell_ms, 0.5) AS median_dwell_ms,
               count(*) FILTER (purchases > 0) AS with_order, with_order / sessions AS order_share
        FROM marts.fct_sessions JOIN marts.segment_history USING (user_id)
        WHERE kind = 'life_cycle' AND session_date > $night::DATE - {RECENT_DAYS}
          AND session_date BETWEEN from_night AND coalesce(to_night, $night::DATE)
        GROUP BY segment ORDER BY list_position({list(SEGMENTS)}, segment), segment
        """,
        night=night,
    )


# --- figures -------------------------------------------------------------------------------------


def _draw_moves(data: pa.Table) -> Figure:
    """Two columns of segments and bands between them, as thick as many went that way.

    A band has the colour of where it leads; of fewer than `SMALL` it is pale.
    """
    rows = data.to_pylist()
    whole = sum(row["customers"] for row in rows)
    sides = {side: _column(rows, side, whole * 0.03) for side in ("before", "after")}
    at = {side: {name: top for name, top, _ in column} for side, column in sides.items()}
    with plots.styled():
        figure = plots.blank(height=4.6)
        axes = figure.subplots()
        for row in rows:
            n = row["customers"]
            start, end = at["before"][row["before"]], at["after"][row["after"]]
            colour = SEGMENTS.get(row["after"], plots.MUTED) if n >= SMALL else plots.FAINT
            _ribbon(axes, start, end, n, colour)
            at["before"][row["before"]] += n
            at["after"][row["after"]] += n
        bottom = max(top + n for column in sides.values() for _, top, n in column)
        for side, x, align in (("before", -0.03, "right"), ("after", 1.03, "left")):
            for (name, top, n), y in zip(
                sides[side], _apart(sides[side], bottom * 0.1), strict=True
            ):
                colour = SEGMENTS.get(name, plots.MUTED)
                axes.fill_between(
                    [x * 0.9, x * 0.9 + 0.03] if x < 0 else [x - 0.03, x],
                    top,
                    top + n,
                    color=colour,
                    linewidth=0,
                )
                share = f"{n:,} ({n / whole * 100:.0f}%)"
                axes.text(
                    x + (0.02 if x > 0 else -0.02),
                    y,
                    f"{name.replace('_', ' ')}\n{share}",
                    ha=align,
                    va="center",
                    fontsize=9.5,
                    linespacing=1.15,
                    color=plots.INK if n >= SMALL else plots.GREY,
                )
        axes.set_xlim(-0.52, 1.5)
        axes.set_ylim(bottom * 1.03, -bottom * 0.02)
        axes.set_axis_off()
        axes.text(-0.03, -bottom * 0.05, f"{BACK_DAYS} days ago", ha="right", color=plots.MUTED)
        axes.text(1.03, -bottom * 0.05, "tonight", ha="left", color=plots.MUTED)
    return figure


def _column(rows: list[dict[str, Any]], side: str, gap: float) -> list[tuple[str, float, int]]:
    """The segments of one side from top to bottom: name, where it begins, its customers."""
    sums: dict[str, int] = {}
    for row in rows:
        sums[row[side]] = sums.get(row[side], 0) + row["customers"]
    names = [*(name for name in SEGMENTS if name in sums), *sorted(sums.keys() - SEGMENTS)]
    column, top = [], 0.0
    for name in names:
        column.append((name, top, sums[name]))
        top += sums[name] + gap
    return column


def _apart(column: list[tuple[str, float, int]], least: float) -> list[float]:
    """Where the labels of a column stand: in the middle of each, but never on one another."""
    heights = [top + n / 2 for _, top, n in column]
    for upper, lower in pairwise(range(len(heights))):
        heights[lower] = max(heights[lower], heights[upper] + least)
    return heights


def _ribbon(axes: Axes, start: float, end: float, n: int, colour: str) -> None:
    import numpy as np

    x = np.linspace(0, 1, 40)
    top = start + (end - start) * (3 * x**2 - 2 * x**3)
    axes.fill_between(x, top, top + n, color=colour, alpha=0.45, linewidth=0)


# --- panels --------------------------------------------------------------------------------------


def panels(source: Source) -> list[Panel]:
    """What there is to see of life-cycle segments."""
    if not source.has("segment_history"):
        return []
    seen = "view" in source.event_types()
    return [_moved(source), _visits(source)] if seen else [_moved(source)]


def _moved(source: Source) -> Panel:
    return source.plot(
        plots.Plot(moves, _draw_moves),
        source.night,
        key="segment_flow",
        title="Who moved where",
        definition=f"{source.definition('segment_flow')} A band is as thick as many went that "
        f"way and has the colour of where it leads; pale: fewer than {SMALL}.",
        empty="There are no customers yet.",
        n=lambda data: f"{count(total(data, 'customers'))} customers",
        reading=_slipped,
        tall=True,
    )


def _slipped(data: pa.Table) -> str:
    rows = [row for row in data.to_pylist() if row["before"] in ("new", "active", "won_back")]
    n = sum(row["customers"] for row in rows)
    lost = sum(row["customers"] for row in rows if row["after"] in ("at_risk", "lapsed"))
    if not n:
        return ""
    return (
        f"Of {count(n)} who were new, active or won back {BACK_DAYS} days ago, "
        f"{percent(lost / n)} are at risk or lapsed tonight{trust(n)}."
    )


def _visits(source: Source) -> Panel:
    data = visits(source.connection, source.night)
    return Panel(
        "segment_visits",
        "Visits by life-cycle segment",
        f"Sessions of the latest {RECENT_DAYS} days under the segment of their day. "
        f"Depth: {source.definition('depth')} Dwell: the median of the known dwell of a session.",
        data,
        n=f"{count(total(data, 'sessions'))} sessions" if data.num_rows else "",
        headers=("segment", "users", "sessions", "depth", "dwell", "bought"),
        rows=[
            [
                row["segment"].replace("_", " "),
                count(row["customers"]),
                count(row["sessions"]),
                f"{row['depth']:.1f}",
                "-"
                if row["median_dwell_ms"] is None
                else f"{row['median_dwell_ms'] / 60_000:.1f} min",
                percent(row["order_share"]),
            ]
            for row in data.to_pylist()
        ],
        few=few(data, "sessions"),
        empty="" if data.num_rows else "No customer visited in these weeks.",
    )
