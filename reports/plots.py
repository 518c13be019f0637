"""The figures: Arrow in, matplotlib Figure out, in one calm style.

Each public name is a `Plot`: call it with a connection (and the arguments of its query) for a
Figure, or use `.query` and `.draw` apart to keep the table that is drawn. `svg` and `png` render a
Figure to the same bytes every time. Colours are those of Okabe and Ito, which people with any
colour vision can tell apart; what rests on fewer than `SMALL` is drawn grey.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports import changes, queries, survival

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALL = 30
"""Below this n a rate says little: its interval spans tens of percentage points."""

NARROW = 4.3
"""Inches: half of the page's column, and what a telephone shows without scrolling."""

PHONE_PERIODS = 6
"""As many periods of a cohort as a telephone shows in letters that can be read."""

INK, MUTED, GREY, FAINT, GRID = "#22303c", "#66737f", "#98a3ad", "#c3cad1", "#e3e7eb"
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#b0578d"
SHADES = ("#f1f6fb", "#c9dff0", "#8fbfe0", "#4a93c7", "#12609c", "#083a66")

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout on every machine
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "svg.hashsalt": "perennial",
}


@dataclass(frozen=True)
class Plot:
    """A query and the drawing of its table."""

    query: Callable[..., pa.Table]
    draw: Callable[[pa.Table], Figure]
    phone: Callable[[pa.Table], Figure | None] = lambda data: None
    """The same for a telephone, where the figure is too wide for one."""

    def __call__(self, connection: duckdb.DuckDBPyConnection, *arguments: object) -> Figure:
        """The figure, straight from the marts; raises ValueError when there is nothing to draw."""
        data = self.query(connection, *arguments)
        if data.num_rows == 0:
            raise ValueError("no rows: this shop has no data for this figure")
        return self.draw(data)


# --- rendering -----------------------------------------------------------------------------------


def styled() -> Any:
    """The one style of all figures, as a context to draw in."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)  # type: ignore[arg-type]


def svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element for a page; `name` keeps its ids apart from others'."""
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    figure.set_layout_engine("none")  # laid out now: a PNG of it need not do so again
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    text = text.replace("'DejaVu Sans'", "var(--font)")
    width = figure.get_figwidth() * 72
    # as wide as the screen allows, but letters neither larger nor much smaller than the page's;
    # what would become too small is scrolled sideways
    size = f"max-width: {width * 1.45:.0f}px"
    if width > NARROW * 72:
        size += f"; min-width: {width:.0f}px"
    head, rest = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box, "matplotlib always writes a viewBox"
    return f'<svg {box.group()} style="{size}">{rest}'.strip()


def png(figure: Figure, dpi: int = 110, stamp: str = "") -> bytes:
    """The figure as PNG bytes, on white; above it `stamp` (`simulated`), as nothing else says it
    of a picture that has left the page.
    """
    from matplotlib.transforms import Bbox

    width, height = figure.get_size_inches()
    buffer = io.BytesIO()
    with styled():
        if stamp:
            figure.text(0.995, 1, stamp, ha="right", va="bottom", fontsize=8.5, color=ORANGE)
        figure.savefig(
            buffer,
            format="png",
            dpi=dpi,
            facecolor="white",
            metadata={"Software": None},
            bbox_inches=Bbox.from_bounds(0, 0, width, height + (0.2 if stamp else 0)),
        )
    return buffer.getvalue()


# --- shared pieces -------------------------------------------------------------------------------


def blank(width: float = NARROW, height: float = 3.3) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def percent_axis(axis: Any) -> None:
    """Labels an axis of shares in percent."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:g}%"))


def short_axis(axis: Any) -> None:
    """Labels an axis with `short` numbers."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def date_axis(axes: Axes, most: int = 7) -> None:
    """Labels the x axis with few dates, each as short as the others allow."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=most)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(
        ConciseDateFormatter(
            locator,
            formats=["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%S"],
            zero_formats=["", "%Y", "%d %b", "%d %b", "%H:%M", "%H:%M"],
            offset_formats=["", "", "%Y", "%Y", "%Y", "%Y"],
        )
    )
    axes.grid(visible=False, axis="x")


def legend_above(axes: Axes, columns: int) -> None:
    """A legend in a row above the axes."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)


def short(value: float) -> str:
    """`1.2 M`, `34 k`, `560`: a number for a label."""
    for limit, unit in ((1e9, " bn"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def signed(value: float) -> str:
    """`+1.2 k` or `-34`: a change for a label."""
    return f"{'-' if value < 0 else '+'}{short(abs(value))}"


def clip(text: str, length: int = 34) -> str:
    """The text, cut off where it is longer than a label may be."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def lists(data: pa.Table, *names: str) -> list[list[Any]]:
    """Columns of a table as lists."""
    return [data[name].to_pylist() for name in names]


def trusted_colours(ns: Sequence[int], colour: str) -> list[str]:
    """The colour of each value, pale where it rests on fewer than `SMALL`."""
    return [colour if n >= SMALL else FAINT for n in ns]


def bar_chart(
    labels: Sequence[str],
    values: Sequence[float],
    notes: Sequence[str],
    ns: Sequence[int],
    colour: str = BLUE,
) -> Figure:
    """Horizontal bars, the first on top, each with a note at its end; no axis to decipher.

    A bar that rests on fewer than `SMALL` of `ns` is grey.
    """
    colours = trusted_colours(ns, colour)
    with styled():
        figure = blank(height=0.5 + 0.32 * len(labels))
        axes = figure.subplots()
        axes.barh(range(len(labels)), values, color=colours, height=0.66)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        longest = max(max(values), 1e-9)
        for row, (value, note) in enumerate(zip(values, notes, strict=True)):
            axes.text(max(value, 0) + longest * 0.02, row, note, va="center", fontsize=10)
        # room for the longest note: a letter is about six points wide
        room = NARROW * 72 - 6 * max(map(len, labels))
        axes.set_xlim(0, longest * room / max(room - 6.4 * max(map(len, notes)) - 6, room / 4))
        axes.xaxis.set_visible(False)
        axes.grid(visible=False)
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.tick_params(length=0)
    return figure


# --- the figures ---------------------------------------------------------------------------------


def _draw_bridge(data: pa.Table) -> Figure:
    """From the net revenue before to now: each factor starts where the one above it ended."""
    *parts, whole = data.to_pylist()
    names = {"orders_per_visitor": "orders a visitor", "order_value": "money an order"}
    bars = [("before", 0.0, whole["before"], MUTED, short(whole["before"]))]
    at = whole["before"]
    for part in parts:
        step = part["contribution"]
        label = names.get(part["factor"], part["factor"])
        bars.append((label, at, step, ORANGE if step < 0 else BLUE, signed(step)))
        at += step
    bars.append(("now", 0.0, whole["now"], MUTED, short(whole["now"])))
    few = whole["orders"] < SMALL
    ends = [end for _, start, step, _, _ in bars for end in (start, start + step)]
    reach = (max(ends) - min(ends)) or 1.0
    with styled():
        figure = blank(height=0.5 + 0.36 * len(bars))
        axes = figure.subplots()
        for row, (_, start, step, colour, note) in enumerate(bars):
            axes.barh(row, step, left=start, color=FAINT if few else colour, height=0.62)
            edge = max(start, start + step) + reach * 0.02
            axes.text(edge, row, note, va="center", fontsize=10, color=MUTED if few else INK)
        for row in range(len(bars) - 1):
            end = bars[row][1] + bars[row][2]
            axes.plot([end, end], [row - 0.31, row + 1.31], color=GREY, linewidth=0.7)
        axes.set_yticks(range(len(bars)), [label for label, *_ in bars])
        axes.invert_yaxis()
        axes.set_xlim(min(ends), max(ends) + reach * 0.24)
        axes.xaxis.set_visible(False)
        axes.grid(visible=False)
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.tick_params(length=0)
    return figure


def _draw_sales(data: pa.Table) -> Figure:
    weeks, orders, revenue, complete = lists(data, "week", "orders", "net_revenue", "is_complete")
    shades = [BLUE if whole else FAINT for whole in complete]
    with styled():
        figure = blank(height=5.4)
        upper, lower = figure.subplots(2, sharex=True, height_ratios=[2, 1])
        upper.bar(weeks, [float(value) for value in revenue], width=5.6, color=shades)
        lower.bar(weeks, orders, width=5.6, color=shades)
        upper.set_ylabel("net revenue")
        lower.set_ylabel("orders")
        for axes in (upper, lower):
            short_axis(axes.yaxis)
            axes.yaxis.get_major_locator().set_params(nbins=4)
        date_axis(lower)
        upper.grid(visible=False, axis="x")
        figure.align_ylabels()
    return figure


def _draw_retention(data: pa.Table, small: float = 6.5) -> Figure:
    """Cohorts down, periods across: the rate, and below it the interval in `small` letters.

    A cell below `SMALL` users stays uncoloured and grey.
    """
    from matplotlib.colors import LinearSegmentedColormap

    cohorts = sorted(set(data["cohort"].to_pylist()))
    last = max(data["period"].to_pylist())
    sizes = dict(zip(*lists(data, "cohort", "size"), strict=True))
    rates, eligibles = lists(data, "rate", "eligible")
    trusted = [rate for rate, n in zip(rates, eligibles, strict=True) if n >= SMALL]
    top = max(trusted, default=0) or 1
    shade = LinearSegmentedColormap.from_list("blues", SHADES)
    monthly = all(cohort.day == 1 for cohort in cohorts)
    with styled():
        figure = blank(max(NARROW, 1.6 + 0.37 * last), 0.75 + 0.34 * len(cohorts))
        axes = figure.subplots()
        for cohort, period, n, rate, low, high in zip(
            *lists(data, "cohort", "period", "eligible", "rate", "low", "high"), strict=True
        ):
            row, few = cohorts.index(cohort), n < SMALL
            axes.add_patch(cell(period, row, "#ffffff" if few else shade(rate / top)))
            dark = not few and rate / top > 0.55
            colour = GREY if few else "#ffffff" if dark else INK
            axes.text(
                period,
                row - 0.14,
                f"{rate * 100:.0f}",
                ha="center",
                va="center",
                fontsize=9,
                color=colour,
            )
            axes.text(
                period,
                row + 0.24,
                f"{low * 100:.0f}-{high * 100:.0f}",
                ha="center",
                va="center",
                fontsize=small,
                color=colour,
            )
        labels = [f"{cohort:%b %Y}" if monthly else f"{cohort:%d %b %Y}" for cohort in cohorts]
        axes.set_yticks(
            range(len(cohorts)),
            [f"{label} ({sizes[c]:,})" for label, c in zip(labels, cohorts, strict=True)],
            fontsize=9.5,
        )
        axes.set_xticks(range(1, last + 1), [str(period) for period in range(1, last + 1)])
        axes.xaxis.set_ticks_position("top")
        axes.set_xlabel(f"{'months' if monthly else 'weeks'} after the first event", loc="left")
        axes.xaxis.set_label_position("top")
        axes.set_xlim(0.5, last + 0.5)
        axes.set_ylim(len(cohorts) - 0.5, -0.5)
        bare(axes)
    return figure


def _draw_first_periods(data: pa.Table) -> Figure | None:
    import pyarrow.compute as pc

    first = data.filter(pc.less_equal(data["period"], PHONE_PERIODS))
    return _draw_retention(first, small=7.5) if first.num_rows < data.num_rows else None


def cell(x: float, y: float, colour: Any) -> Any:
    """One cell of a heat map."""
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour, edgecolor="none")


def bare(axes: Axes) -> None:
    """Takes grid, frame and ticks off, where the cells say all."""
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def band(axes: Axes, data: pa.Table, x: str, colour: str, label: str, marker: str = "") -> None:
    """A rate with its interval; where n is below `SMALL` the line goes on in grey."""
    xs, rates, lows, highs, ns = lists(data, x, "rate", "low", "high", "eligible")
    enough = [n >= SMALL for n in ns]
    axes.plot(xs, rates, color=FAINT, linewidth=1.2, marker=marker, markersize=3)
    solid = [rate if good else math.nan for rate, good in zip(rates, enough, strict=True)]
    axes.plot(xs, solid, color=colour, label=label, marker=marker, markersize=3.5)
    axes.fill_between(xs, lows, highs, where=enough, color=colour, alpha=0.15, linewidth=0)


def _draw_retention_curve(data: pa.Table) -> Figure:
    """Two axes, as the two rates often differ a hundredfold."""
    import pyarrow.compute as pc

    grain = data["cohort_grain"][0].as_py()
    with styled():
        figure = blank(height=3.8)
        for axes, kind, colour, label in zip(
            figure.subplots(2, sharex=True),
            ("n_day", "unbounded"),
            (BLUE, ORANGE),
            (f"came in {grain} N itself", f"came in {grain} N or later"),
            strict=True,
        ):
            part = data.filter(pc.equal(data["kind"], kind))
            if part.num_rows:
                band(axes, part, "period", colour, label)
            axes.set_title(label, fontsize=10.5, loc="left", color=colour)
            axes.set_ylim(bottom=0)
            axes.yaxis.get_major_locator().set_params(nbins=4)
            percent_axis(axes.yaxis)
        axes.set_xlabel(f"{grain} N after the first event")
        axes.set_xlim(left=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _draw_repurchase_windows(data: pa.Table) -> Figure:
    windows, rates, lows, highs, ns = lists(data, "window_days", "rate", "low", "high", "eligible")
    rows = range(len(windows))
    with styled():
        figure = blank(height=0.9 + 0.42 * len(windows))
        axes = figure.subplots()
        for row, rate, low, high, n in zip(rows, rates, lows, highs, ns, strict=True):
            colour = BLUE if n >= SMALL else FAINT
            axes.plot([low, high], [row, row], color=colour, linewidth=6, alpha=0.3)
            axes.plot([rate], [row], "o", color=colour)
            note = f"  {rate * 100:.1f}% of {n:,}"
            axes.text(1, row, note, va="center", transform=axes.get_yaxis_transform(), fontsize=10)
        axes.set_yticks(rows, [f"{window} days" for window in windows])
        axes.set_ylim(len(windows) - 0.5, -0.5)
        axes.set_xlim(0, min(1.0, max(highs) * 1.1) + 0.01)
        axes.set_xlabel("customers who ordered again")
        percent_axis(axes.xaxis)
        axes.grid(visible=False, axis="y")
    return figure


def _draw_second_order(data: pa.Table) -> Figure:
    """One minus Kaplan and Meier's curve, in steps, with its median where it is reached."""
    days, rates, lows, highs, ns = lists(data, "days", "rate", "low", "high", "eligible")
    enough = [n >= SMALL for n in ns]
    with styled():
        figure = blank()
        axes = figure.subplots()
        axes.step([0, *days], [0, *rates], where="post", color=FAINT, linewidth=1.2)
        solid = [rate if good else math.nan for rate, good in zip(rates, enough, strict=True)]
        axes.step(days, solid, where="post", color=BLUE)
        axes.fill_between(
            days, lows, highs, where=enough, step="post", color=BLUE, alpha=0.15, linewidth=0
        )
        for day in (30, 90, 180, 365):
            at = [rate for rate, d, ok in zip(rates, days, enough, strict=True) if d <= day and ok]
            if at and max(days) >= day:
                axes.plot([day], [at[-1]], "o", color=BLUE, markersize=4)
                axes.annotate(
                    f"{at[-1] * 100:.0f}% by {day}",
                    (day, at[-1]),
                    textcoords="offset points",
                    xytext=(5, -12),
                    fontsize=9,
                )
        middle = survival.median(data).days
        if middle is not None:
            axes.plot([0, middle, middle], [0.5, 0.5, 0], color=MUTED, linewidth=0.9, ls=":")
        axes.set_ylim(0, min(1.0, max(highs) * 1.05 + 0.02))
        axes.set_xlim(left=0)
        axes.set_xlabel("days after the first order")
        axes.set_ylabel("ordered again")
        percent_axis(axes.yaxis)
    return figure


def _draw_repurchase_items(data: pa.Table) -> Figure:
    """A row an item: its lift and the interval, against the shop at 1."""
    titles, lifts, lows, highs, ns = lists(
        data, "title", "lift", "lift_low", "lift_high", "first_buyers"
    )
    with styled():
        figure = blank(height=0.9 + 0.36 * len(titles))
        axes = figure.subplots()
        axes.axvline(1, color=GREY, linewidth=0.9)
        for row, (lift, low, high) in enumerate(zip(lifts, lows, highs, strict=True)):
            colour = BLUE if low > 1 else MUTED
            axes.plot([low, high], [row, row], color=colour, linewidth=6, alpha=0.3)
            axes.plot([lift], [row], "o", color=colour)
        labels = [f"{clip(title, 24)} ({n:,})" for title, n in zip(titles, ns, strict=True)]
        axes.set_yticks(range(len(titles)), labels, fontsize=9.5)
        axes.set_ylim(len(titles) - 0.5, -0.5)
        axes.set_xlabel("times the shop's rate")
        axes.grid(visible=False, axis="y")
    return figure


KINDS = {"customer": GREEN, "returning": BLUE, "new": ORANGE, "guest": PINK}


def _draw_visitor_weeks(data: pa.Table) -> Figure:
    """Above the pages of a session, below its minutes, a line for each kind of visitor."""
    import pyarrow.compute as pc

    with styled():
        figure = blank(height=4.6)
        upper, lower = figure.subplots(2, sharex=True)
        for axes, name, n, scale, label in (
            (upper, "depth", "sessions", 1, "pages"),
            (lower, "seconds", "with_dwell", 60, "minutes"),
        ):
            for kind, colour in KINDS.items():
                part = data.filter(pc.equal(data["visitor_kind"], kind))
                if part.num_rows:
                    _mean_line(axes, part, name, n, scale, colour, kind)
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
            axes.yaxis.get_major_locator().set_params(nbins=5)
        legend_above(upper, 4)
        upper.grid(visible=False, axis="x")
        date_axis(lower)
        figure.align_ylabels()
    return figure


def _mean_line(
    axes: Axes, data: pa.Table, name: str, n: str, scale: float, colour: str, label: str
) -> None:
    weeks, ns, *bounds = lists(data, "week", n, name, f"{name}_low", f"{name}_high")
    means, lows, highs = (
        [math.nan if value is None else value / scale for value in values] for values in bounds
    )
    enough = [count >= SMALL for count in ns]
    axes.plot(weeks, means, color=FAINT, linewidth=1)
    solid = [mean if good else math.nan for mean, good in zip(means, enough, strict=True)]
    axes.plot(weeks, solid, color=colour, label=label, linewidth=1.5)
    axes.fill_between(weeks, lows, highs, where=enough, color=colour, alpha=0.15, linewidth=0)


def _draw_repurchase_cohorts(data: pa.Table) -> Figure:
    import pyarrow.compute as pc

    windows = sorted(set(data["window_days"].to_pylist()))
    colours = (BLUE, ORANGE, GREEN, PINK)
    with styled():
        figure = blank()
        axes = figure.subplots()
        for position, window in enumerate(windows):
            part = data.filter(pc.equal(data["window_days"], window))
            band(axes, part, "cohort", colours[position % 4], f"{window} days", "o")
        date_axis(axes)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("month of the first order")
        percent_axis(axes.yaxis)
        legend_above(axes, len(windows) if len(windows) < 4 else 2)
    return figure


def _draw_order_gaps(data: pa.Table) -> Figure:
    days, shares, gaps = lists(data, "days", "share_up_to", "gaps")
    (colour,) = trusted_colours([sum(gaps)], BLUE)
    with styled():
        figure = blank()
        axes = figure.subplots()
        axes.step([0, *days], [0, *shares], where="post", color=colour)
        for share in (0.5, 0.9):
            at = next(day for day, value in zip(days, shares, strict=True) if value >= share)
            axes.plot([0, at, at], [share, share, 0], color=MUTED, linewidth=0.9, linestyle=":")
            axes.text(
                at, share - 0.04, f"  {share * 100:.0f}% within {at} days", va="top", fontsize=9
            )
        axes.set_ylim(0, 1.02)
        axes.set_xlim(left=0)
        axes.set_xlabel("days between an order and the next")
        percent_axis(axes.yaxis)
    return figure


def _draw_dwell(data: pa.Table) -> Figure:
    days, medians, means, coverage, ns = lists(
        data, "stat_date", "median_ms", "winsorised_mean_ms", "coverage", "with_dwell"
    )
    with styled():
        figure = blank(height=3.6)
        upper, lower = figure.subplots(2, sharex=True, height_ratios=[2, 1])
        for values, colour, label in (
            (means, ORANGE, "winsorised mean"),
            (medians, BLUE, "median"),
        ):
            seconds = [math.nan if value is None else value / 1000 for value in values]
            trusted = [s if n >= SMALL else math.nan for s, n in zip(seconds, ns, strict=True)]
            upper.plot(days, seconds, color=FAINT, linewidth=1)
            upper.plot(days, trusted, color=colour, label=label)
        lower.plot(days, coverage, color=FAINT, linewidth=1)
        lower.plot(
            days,
            [c if n >= SMALL else math.nan for c, n in zip(coverage, ns, strict=True)],
            color=GREEN,
        )
        lower.set_ylim(0, 1.05)
        upper.set_ylim(bottom=0)
        upper.set_ylabel("seconds")
        lower.set_ylabel("coverage")
        percent_axis(lower.yaxis)
        legend_above(upper, 2)
        upper.grid(visible=False, axis="x")
        date_axis(lower)
        figure.align_ylabels()
    return figure


def _draw_funnel_steps(data: pa.Table) -> Figure:
    steps, sessions, shares = lists(data, "step", "sessions", "share_of_sessions")
    notes = [f"{n:,} ({share * 100:.1f}%)" for n, share in zip(sessions, shares, strict=True)]
    return bar_chart(steps, sessions, notes, sessions)


def _draw_funnel_weeks(data: pa.Table) -> Figure:
    with styled():
        figure = blank()
        axes = figure.subplots()
        weeks, ns = lists(data, "week", "sessions")
        for name, colour, label in (
            ("cart_share", BLUE, "cart"),
            ("checkout_share", ORANGE, "checkout"),
            ("bought_share", GREEN, "bought"),
        ):
            values = data[name].to_pylist()
            trusted = [v if n >= SMALL else math.nan for v, n in zip(values, ns, strict=True)]
            axes.plot(weeks, values, color=FAINT, linewidth=1)
            axes.plot(weeks, trusted, color=colour, label=label, marker="o", markersize=2.5)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("of sessions")
        percent_axis(axes.yaxis)
        date_axis(axes)
        legend_above(axes, 3)
    return figure


def _draw_rfm_segments(data: pa.Table) -> Figure:
    segments, customers, share, revenue = lists(
        data, "segment", "customers", "customer_share", "revenue_share"
    )
    rows = range(len(segments))
    with styled():
        figure = blank(height=0.8 + 0.42 * len(segments))
        axes = figure.subplots()
        for offset, values, colour, label in (
            (-0.19, share, BLUE, "customers"),
            (0.19, [value or 0 for value in revenue], ORANGE, "net revenue"),
        ):
            colours = trusted_colours(customers, colour)
            axes.barh([row + offset for row in rows], values, height=0.36, color=colours)
            axes.barh(0, 0, color=colour, label=label)  # the legend's, whatever is grey
        names = [str(name).replace("_", " ") for name in segments]
        axes.set_yticks(
            rows, [f"{name}  ({n:,})" for name, n in zip(names, customers, strict=True)]
        )
        axes.invert_yaxis()
        percent_axis(axes.xaxis)
        axes.grid(visible=False, axis="y")
        legend_above(axes, 2)
    return figure


def _draw_rfm_grid(data: pa.Table) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap

    shade = LinearSegmentedColormap.from_list("blues", SHADES)
    top = max(data["customers"].to_pylist())
    with styled():
        figure = blank(height=3.5)
        axes = figure.subplots()
        for r, f, n in zip(*lists(data, "r_score", "f_score", "customers"), strict=True):
            few = n < SMALL
            axes.add_patch(cell(r, f, "#ffffff" if few else shade(n / top)))
            colour = GREY if few else "#ffffff" if n / top > 0.55 else INK
            axes.text(r, f, f"{n:,}", ha="center", va="center", color=colour)
        axes.set_xlim(0.5, 5.5)
        axes.set_ylim(0.5, 5.5)
        axes.set_xticks(range(1, 6))
        axes.set_yticks(range(1, 6))
        axes.set_xlabel("recency score  (5: ordered most recently)")
        axes.set_ylabel("frequency score  (5: most orders)")
        bare(axes)
    return figure


def _draw_top_items(data: pa.Table) -> Figure:
    titles, revenue, buyers = lists(data, "title", "net_revenue", "buyers")
    values = [float(value) for value in revenue]
    notes = [
        f"{short(value)}, {n:,} buyer{'s' * (n != 1)}"
        for value, n in zip(values, buyers, strict=True)
    ]
    return bar_chart([clip(title, 26) for title in titles], values, notes, buyers)


def _draw_order_counts(data: pa.Table) -> Figure:
    orders, customers, shares = lists(data, "orders", "customers", "share")
    notes = [f"{n:,} ({share * 100:.0f}%)" for n, share in zip(customers, shares, strict=True)]
    return bar_chart(orders, customers, notes, customers)


def _draw_reasons(data: pa.Table) -> Figure:
    reasons, entries, shares = lists(data, "reason", "entries", "share")
    notes = [f"{share * 100:.0f}%" for share in shares]
    return bar_chart([clip(reason) for reason in reasons], entries, notes, entries, GREEN)


def _draw_model_metrics(data: pa.Table) -> Figure:
    """One small panel a metric, one row a model; the trained models in colour, baselines grey."""
    import pyarrow.compute as pc

    metrics = sorted(
        set(data["metric"].to_pylist()),
        key=lambda name: (not name.startswith("ndcg@"), not name.startswith("recall@"), name),
    )
    models = sorted(
        set(data["model"].to_pylist()), key=lambda m: ("challenger champion".find(m) < 0, m)
    )
    colours = {"challenger": BLUE, "champion": GREEN}
    across = min(2, len(metrics))
    down = math.ceil(len(metrics) / across)
    with styled():
        figure = blank(height=down * (0.62 + 0.24 * len(models)))
        grid = figure.subplots(down, across, sharey=True, squeeze=False).flatten().tolist()
        for axes, metric in zip(grid, metrics, strict=False):
            part = data.filter(pc.equal(data["metric"], metric))
            users = max((n for n in part["n_users"].to_pylist() if n is not None), default=SMALL)
            for model, value, low, high in zip(
                *lists(part, "model", "value", "low", "high"), strict=True
            ):
                row = models.index(model)
                colour = colours.get(model, MUTED) if users >= SMALL else FAINT
                if low is not None and high is not None:
                    axes.plot([low, high], [row, row], color=colour, linewidth=5, alpha=0.3)
                axes.plot([value], [row], "o", color=colour, markersize=5)
            few = "" if users >= SMALL else f"\n(n {users})"
            axes.set_title(metric.replace("_", " ") + few, fontsize=10.5, loc="left")
            axes.set_yticks(range(len(models)), [model.replace("_", " ") for model in models])
            axes.set_ylim(len(models) - 0.5, -0.5)
            axes.margins(x=0.15)
            axes.set_xlim(left=0)
            axes.xaxis.get_major_locator().set_params(nbins=3)
            axes.grid(visible=False, axis="y")
        for axes in grid[len(metrics) :]:
            axes.set_visible(False)
    return figure


bridge = Plot(changes.bridge, _draw_bridge)
sales = Plot(queries.sales, _draw_sales)
retention_heatmap = Plot(queries.retention, _draw_retention, _draw_first_periods)
retention_curve = Plot(queries.retention_curve, _draw_retention_curve)
second_order = Plot(survival.curve, _draw_second_order)
repurchase_items = Plot(queries.repurchase_items, _draw_repurchase_items)
visitor_weeks = Plot(queries.visitor_weeks, _draw_visitor_weeks)
repurchase_windows = Plot(queries.repurchase_windows, _draw_repurchase_windows)
repurchase_cohorts = Plot(queries.repurchase_cohorts, _draw_repurchase_cohorts)
order_counts = Plot(queries.order_counts, _draw_order_counts)
order_gaps = Plot(queries.order_gaps, _draw_order_gaps)
dwell = Plot(queries.dwell, _draw_dwell)
funnel_steps = Plot(queries.funnel_steps, _draw_funnel_steps)
funnel_weeks = Plot(queries.funnel_weeks, _draw_funnel_weeks)
rfm_segments = Plot(queries.rfm_segments, _draw_rfm_segments)
rfm_grid = Plot(queries.rfm_grid, _draw_rfm_grid)
top_items = Plot(queries.top_items, _draw_top_items)
recommendation_reasons = Plot(queries.recommendation_reasons, _draw_reasons)
model_metrics = Plot(queries.model_metrics_at_10, _draw_model_metrics)
