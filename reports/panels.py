"""The pieces of a report: a `Panel` is one figure or table with its words and its data.

Also here: `Source`, the opened marts that panels are made from, and how numbers are written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from core.shop import Shop
from reports.plots import SMALL, Plot

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from matplotlib.figure import Figure

Words = Callable[["pa.Table"], str]


@dataclass(frozen=True)
class Panel:
    """One figure or table of the page; `data` is exactly what is drawn or listed.

    Either `figure`, or `headers` and `rows`, or `empty` (why there is nothing to see) is set; a
    figure too wide for a telephone has another for it in `phone`. `few` says of each row whether it
    rests on fewer than `SMALL`; those are set in grey.
    """

    key: str
    title: str
    definition: str
    data: pa.Table
    n: str = ""
    reading: str = ""
    figure: Figure | None = None
    phone: Figure | None = None
    headers: tuple[str, ...] = ()
    rows: list[list[str]] = field(default_factory=list)
    few: tuple[bool, ...] = ()
    empty: str = ""
    wide: bool = False
    folded: bool = False
    tall: bool = False


@dataclass(frozen=True)
class Card:
    """One headline number."""

    label: str
    value: str
    note: str
    unit: str = ""


@dataclass(frozen=True)
class Tile:
    """One measure of the night's day beside what was expected of it.

    `state` is `inside`, `above`, `below` or `unknown`; `words` say the same without colour.
    """

    key: str
    label: str
    value: str
    state: str
    words: str
    expected: str
    held: str
    few: str
    spark: Markup


@dataclass(frozen=True)
class Section:
    """The panels that answer one question."""

    key: str
    title: str
    lead: str
    panels: list[Panel]
    cards: list[Card] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """The published marts of one shop and night, opened for reading."""

    connection: duckdb.DuckDBPyConnection
    shop: Shop
    night: date

    def event_types(self) -> set[str]:
        """The kinds of event the shop has delivered so far."""
        rows = self.connection.execute("SELECT DISTINCT event_type FROM marts.fct_events")
        return {row[0] for row in rows.fetchall()}

    def has(self, mart: str) -> bool:
        """Whether the published file has this mart; some come only with later steps."""
        rows = self.connection.execute(
            "SELECT 1 FROM duckdb_tables() WHERE table_name = $1 AND NOT internal", [mart]
        )
        return bool(rows.fetchall())

    def definition(self, metric: str) -> str:
        """What the metric means, in the words of `marts.metric_definitions`."""
        rows = self.connection.execute(
            "SELECT definition FROM marts.metric_definitions WHERE metric = $1", [metric]
        ).fetchall()
        if not rows:
            raise KeyError(f"marts.metric_definitions does not define {metric}")
        return str(rows[0][0])

    def plot(
        self,
        plot: Plot,
        *arguments: object,
        key: str,
        title: str,
        definition: str,
        empty: str,
        n: Words,
        reading: Words | None = None,
        wide: bool = False,
        tall: bool = False,
    ) -> Panel:
        """A panel that draws `plot`, or says `empty` when its query has no rows."""
        data = plot.query(self.connection, *arguments)
        if data.num_rows == 0:
            return Panel(key, title, definition, data, empty=empty)
        return Panel(
            key,
            title,
            definition,
            data,
            n=n(data),
            reading=reading(data) if reading else "",
            figure=plot.draw(data),
            phone=plot.phone(data),
            wide=wide,
            tall=tall,
        )


# --- words for numbers ---------------------------------------------------------------------------


def count(value: float | None) -> str:
    """`12,345`, or a dash."""
    return "-" if value is None else f"{value:,.0f}"


def percent(value: float | None, digits: int = 1) -> str:
    """`12.3%`, or a dash."""
    # plus zero: a hair below it is not shown as -0%
    return "-" if value is None else f"{round(float(value) * 100, digits) + 0.0:.{digits}f}%"


def seconds(milliseconds: float | None) -> str:
    """`12.3 s`, or a dash."""
    return "-" if milliseconds is None else f"{milliseconds / 1000:,.1f} s"


def total(data: pa.Table, column: str) -> int:
    """The sum of a column of counts."""
    return sum(data[column].to_pylist())


def first(data: pa.Table, **where: object) -> dict[str, Any] | None:
    """The first row whose columns have these values."""
    rows: list[dict[str, Any]] = data.to_pylist()
    return next((row for row in rows if all(row[k] == v for k, v in where.items())), None)


def few(data: pa.Table, column: str) -> tuple[bool, ...]:
    """Of each row, whether this column's count is below `SMALL`; an unknown count is not."""
    return tuple(n is not None and n < SMALL for n in data[column].to_pylist())


def trust(n: int) -> str:
    """Nothing, or a warning that so few say little."""
    return "" if n >= SMALL else f" (only {n}: too few to trust)"
