"""The first things read in the morning: how was the day, what changed, and why?

The day's measures beside what was expected of them, the change of the net revenue taken apart, the
segments that carry a change, and what the data itself may have to do with it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from reports import changes, expectation, plots, queries
from reports.panels import Panel, Section, Source, Tile, count, few, percent, seconds
from reports.plots import SMALL

if TYPE_CHECKING:
    import pyarrow as pa

LABELS = {
    "visitors": "Visitors",
    "new_shoppers": "New shoppers",
    "orders": "Orders",
    "net_revenue": "Net revenue",
    "conversion": "Orders a visitor",
    "returning_share": "Returning orders",
    "median_dwell_ms": "Median page time",
    "refunds": "Refunds",
}

_FORMATS: dict[str, Callable[[float | None], str]] = {
    "conversion": percent,
    "returning_share": percent,
    "median_dwell_ms": seconds,
}

_SAID = {"inside": "✓ as usual", "above": "▲ above", "below": "▼ below", "unknown": "no range"}
"""Read without colour as well."""

_CHANGES = {"percent": "%", "points": " points"}

_RATES = (
    "Orders a visitor: orders over visitors. Returning orders: of the orders by users with an id, "
    "guests left out, those by who had bought before."
)

_EXPLAINED = ("net_revenue", "orders", "visitors", "new_shoppers", "refunds")
"""The measures that are sums over shoppers, so that segments can carry them."""


def day_name(day: date) -> str:
    """`Monday 29 June`."""
    return f"{day:%A} {day.day} {day:%B}"


def _format(measure: str, value: float | None) -> str:
    return _FORMATS.get(measure, count)(value)


def _by_measure(source: Source, measured: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """The rows of each measure that this shop has, the night's day last."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in measured.to_pylist():
        found.setdefault(row["measure"], []).append(row)
    kept = {m: rows for m, rows in found.items() if any(r["value"] is not None for r in rows)}
    if _who_visits(source):
        kept.pop("conversion", None)  # who comes is who buys
    return kept


def _who_visits(source: Source) -> str:
    """What a visitor is, where the shop does not deliver visits."""
    only_orders = not source.event_types() - {"purchase", "refund", "exposure"}
    return " This shop delivers no visits: a visitor is who ordered." if only_orders else ""


def _tiles(source: Source, measured: pa.Table) -> list[Tile]:
    return [_tile(source, m, rows) for m, rows in _by_measure(source, measured).items()]


def _tile(source: Source, measure: str, rows: list[dict[str, Any]]) -> Tile:
    *past, today = rows
    state = today["state"] or "unknown"
    judged = [row for row in past if row["state"]]
    held = sum(row["state"] == "inside" for row in judged)
    money = f", {source.shop.currency}" if measure in ("net_revenue", "refunds") else ""
    expected = "the shop is too young to say"
    if today["expected"] == 0:
        expected = f"none in the {expectation.LEVEL_DAYS} days before"
    if today["low"] is not None:
        expected = f"usual {_format(measure, today['low'])} to {_format(measure, today['high'])}"
    rests = {
        "conversion": "visitors",
        "returning_share": "non-guest orders",
        "median_dwell_ms": "views",
    }
    return Tile(
        measure,
        LABELS[measure] + money,
        _format(measure, today["value"]),
        state,
        _SAID[state] if today["value"] is not None else "no value",
        expected,
        f"held {held} of {len(judged)} days" if judged else "",
        f"only {count(today['n'])} {rests[measure]}"
        if today["n"] is not None and today["n"] < SMALL
        else "",
        _spark(rows),
    )


def _spark(rows: list[dict[str, Any]]) -> Markup:
    """The last weeks as a line on its band of expectation, the night's day as a dot."""
    width, height, edge = 120.0, 24.0, 3.5
    values = [row["value"] for row in rows]
    rows = [row | ({"low": None, "high": None} if row["value"] is None else {}) for row in rows]
    ends = [v for row in rows for v in (row["value"], row["low"], row["high"]) if v is not None]
    if not ends:
        return Markup()
    least, reach = min(ends), (max(ends) - min(ends)) or 1.0
    step = (width - 2 * edge) / max(len(rows) - 1, 1)

    def point(at: int, value: float) -> str:
        y = height - edge - (value - least) / reach * (height - 2 * edge)
        return f"{edge + at * step:.1f},{y:.1f}"

    banded = [at for at, row in enumerate(rows) if row["low"] is not None]
    outline = [point(at, rows[at]["high"]) for at in banded]
    outline += [point(at, rows[at]["low"]) for at in reversed(banded)]
    band = f'<polygon class="band" points="{" ".join(outline)}"/>' if banded else ""
    line = " ".join(point(at, value) for at, value in enumerate(values) if value is not None)
    dot = ""
    if values[-1] is not None:
        x, y = point(len(rows) - 1, values[-1]).split(",")
        dot = f'<circle cx="{x}" cy="{y}" r="2.4"/>'
    return Markup(
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" aria-hidden="true">{band}'
        f'<polyline points="{line}"/>{dot}</svg>'
    )


def yesterday(source: Source, measured: pa.Table, reasons: pa.Table) -> Section:
    """How the night's day was: every measure beside its expectation."""
    tiles = _tiles(source, measured)
    named = {
        state: [LABELS[tile.key].lower() for tile in tiles if tile.state == state]
        for state in ("above", "below", "inside", "unknown")
    }
    judged = len(tiles) - len(named["unknown"])
    lead = f"{len(named['inside'])} of {judged} measures as usual"
    if named["unknown"]:
        lead = f"{judged} of {len(tiles)} measures can be judged, {len(named['inside'])} as usual"
    for state in ("above", "below"):
        if named[state]:
            lead += f"; {state}: {', '.join(named[state])}"
    if not judged:
        lead = "The shop is too young to say what is usual for a day"
    faults = sum(row["is_fault"] for row in reasons.to_pylist())
    data = f"{faults} problem{'s' * (faults != 1)}, see below" if faults else "no problem found"
    return Section(
        "yesterday",
        f"How was {day_name(source.night)}?",
        f"{lead}. Data: {data}.",
        [],
        tiles=tiles,
    )


def _expectations(source: Source, measured: pa.Table) -> Panel:
    rows, small = [], []
    for measure, days in _by_measure(source, measured).items():
        *past, today = days
        judged = [row["state"] for row in past if row["state"]]
        rows.append(
            [
                LABELS[measure],
                _format(measure, today["value"]),
                _format(measure, today["expected"]),
                _format(measure, today["low"]),
                _format(measure, today["high"]),
                f"{judged.count('inside')} of {len(judged)}",
                count(today["n"]),
            ]
        )
        small.append(today["n"] is not None and today["n"] < SMALL)
    return Panel(
        "expectations",
        "What was expected, and how often that held",
        f"Expected: the mean of the {expectation.LEVEL_DAYS} days before, which carries the trend, "
        "times what this weekday usually is of such a mean, the median of the "
        f"{expectation.WEEKS} weeks before. Range: where nine of ten of this rule's own errors of "
        f"the {expectation.ERROR_DAYS} days before lay. Nothing of the day itself is used. Held: "
        f"on how many of the {expectation.BACK_TEST_DAYS} days before the range made for each "
        "held. Nine of ten is what it is meant to do, so by chance alone one of eight measures is "
        "outside on most days. An order counts on its own day, a refund on the day of "
        f"the refund. {_RATES} n: what a ratio rests on." + _who_visits(source),
        measured,
        headers=("measure", "value", "expected", "from", "to", "held", "n"),
        rows=rows,
        few=tuple(small),
        empty="" if rows else "Nothing has been delivered yet.",
        wide=True,
    )


def changed(source: Source, measured: pa.Table, reasons: pa.Table) -> Section:
    """What changed against the days before, what carries it, and whether the data are to blame."""
    night = source.night
    spans = {span: changes.segments(source.connection, night, span) for span in ("day", "week")}
    states = {m: rows[-1]["state"] for m, rows in _by_measure(source, measured).items()}
    outside = [measure for measure, state in states.items() if state in ("above", "below")]
    told = [measure for measure in outside if measure in _EXPLAINED] or ["net_revenue"]
    day = f"{day_name(night)} against the mean of the four {night:%A}s before"
    week = "the last seven days against the seven before"
    panels = [
        _bridge(source, "day", f"Net revenue: {day}"),
        _bridge(source, "week", f"Net revenue: {week}"),
        _data_reasons(reasons),
        _week(source),
        *(_segments(source, spans["day"], measure, "day", day) for measure in told),
        # the last of an odd number fills its row
        _segments(source, spans["week"], "net_revenue", "week", week, wide=len(told) % 2 == 0),
        _expectations(source, measured),
    ]
    why = "Nothing was out of its range" if any(states.values()) else "Nothing has a range yet"
    why += "; the net revenue is taken apart all the same."
    if outside:
        why = (
            f"Out of range: {', '.join(LABELS[measure].lower() for measure in outside)}. "
            f"Taken apart by segment: {', '.join(LABELS[measure].lower() for measure in told)}."
        )
    return Section("changes", "What changed, and why?", why, panels)


def _bridge(source: Source, span: str, title: str) -> Panel:
    def reading(data: pa.Table) -> str:
        *parts, whole = data.to_pylist()
        largest = max(parts, key=lambda part: abs(part["contribution"]))
        name = {"orders_per_visitor": "orders a visitor", "order_value": "money an order"}.get(
            largest["factor"], largest["factor"]
        )
        return (
            f"{plots.signed(whole['contribution'])} {source.shop.currency}, most of all by {name}: "
            f"{plots.signed(largest['contribution'])}."
        )

    return source.plot(
        plots.bridge,
        source.night,
        span,
        key=f"bridge_{span}",
        title=title,
        definition="Net revenue = visitors x orders a visitor x money an order - refunds. Each bar "
        "is what one of them adds; together they are the whole change. A factor's part is its "
        "Shapley value: the change it makes, averaged over the orders in which they could have "
        f"changed. Visitors are counted day by day. Grey: fewer than {SMALL} orders on a side."
        + _who_visits(source),
        empty="Nothing was sold in these days, or there is no day to compare with.",
        n=lambda data: f"{count(data['orders'].to_pylist()[0])} orders on the smaller side",
        reading=reading,
    )


def _segments(
    source: Source, data: pa.Table, measure: str, span: str, against: str, wide: bool = False
) -> Panel:
    import pyarrow.compute as pc

    part = data.filter(pc.equal(data["measure"], measure)).drop_columns(["measure"])
    rows = part.to_pylist()
    when = "the day" if span == "day" else "seven days"
    digits = 0 if span == "week" or measure in ("net_revenue", "refunds") else 1
    return Panel(
        f"segments_{measure}_{span}",
        f"{LABELS[measure]}, {when}: who carries the change",
        f"{against[0].upper()}{against[1:]}. The changes of a group add up to the whole; shares "
        "may pass 100% where segments moved against each other. A refund belongs to the channel "
        "and country of its order. Shoppers: distinct visitors behind both sides.",
        part,
        headers=("segment", "change", "share", "shoppers", "before", "now"),
        rows=[
            [
                f"{row['dimension']}: {row['segment']}",
                f"{row['change']:+,.{digits}f}",
                percent(row["share"], 0),
                count(row["shoppers"]),
                f"{row['before']:,.{digits}f}",
                f"{row['now']:,.{digits}f}",
            ]
            for row in rows
        ],
        few=few(part, "shoppers"),
        empty="" if rows else "No segments to tell apart in these days.",
        wide=wide,
    )


def _week(source: Source) -> Panel:
    data = changes.week(source.connection, source.night)
    return Panel(
        "week",
        "The last seven days against the seven before",
        "Sums of the days, and for the rates the sums divided. Visitors are counted day by day. "
        f"{_RATES} Both change by percentage points, all else by percent.",
        data,
        headers=("measure", "before", "now", "change", "n"),
        rows=[
            [
                {"order_value": "Money an order"}.get(
                    row["measure"], LABELS.get(row["measure"], "")
                ),
                _format(row["measure"], row["before"]),
                _format(row["measure"], row["now"]),
                "-"
                if row["change"] is None
                else f"{row['change'] * 100:+.1f}{_CHANGES[row['change_in']]}",
                count(row["n"]),
            ]
            for row in data.to_pylist()
        ],
        few=few(data, "n"),
        empty="" if data.num_rows else "There are no seven days before to compare with.",
        wide=True,
    )


def data_reasons(source: Source) -> pa.Table:
    """One row per thing about the data that may explain a change; `is_fault` when it is a problem.

    Columns: what, found, is_fault.
    """
    import pyarrow as pa

    connection, night = source.connection, source.night
    found: list[tuple[str, str, bool]] = []
    hours = changes.missing_hours(connection, night)
    if len(hours) == 24 or not queries.has_events(connection, night):
        found.append(("no events", "Not one event of this day has arrived.", True))
    elif hours:
        listed = ", ".join(f"{hour:02d}:00" for hour in hours)
        plural = "s" if len(hours) > 1 else ""
        found.append(("missing hours", f"No event in the hour{plural} {listed} UTC.", True))
    for row in changes.unusual_deliveries(connection, night).to_pylist():
        what = {"late": "late rows", "quarantined": "quarantined rows"}[row["kind"]]
        said = f"{count(row['rows'])} {what} ({percent(row['share'])}) in the day's files"
        found.append((what, f"{said}; before, {percent(row['most_before'])} at most.", True))
    for row in queries.manifest(connection, "check").to_pylist():
        if row["passed"] is False:
            found.append(("failed check", f"{row['name']}: {row['value']}", True))
    promoted = queries.decision(connection) or ""
    if promoted.lower().startswith("promoted"):
        found.append(
            ("new model", "A new recommender was promoted; it acts from the next day on.", False)
        )
    return pa.table(
        {
            "what": pa.array([what for what, _, _ in found], pa.string()),
            "found": pa.array([said for _, said, _ in found], pa.string()),
            "is_fault": pa.array([fault for _, _, fault in found], pa.bool_()),
        }
    )


def _data_reasons(data: pa.Table) -> Panel:
    faults = any(data["is_fault"].to_pylist())
    return Panel(
        "data_reasons",
        "Is it the data?",
        "Looked at: hours of the day without an event that nine of ten of the 28 days before had; "
        "more late or quarantined rows in the day's files than in those of the five weeks before; "
        "checks that failed; a new model.",
        data,
        reading="" if faults else "No data reason found.",
        headers=("what", "found"),
        rows=[[row["what"], row["found"]] for row in data.to_pylist()],
        empty="" if data.num_rows else "No data reason found.",
        wide=True,
    )
