"""One night's report: the published marts in, one self-contained HTML page out.

The same marts give the same bytes. The page loads nothing from anywhere: styles, figures and data
are inside it; the data lie beside it as CSV as well.
"""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from core.duck import connect
from core.paths import Paths
from core.shop import Shop
from reports import entry, plots, queries
from reports.panels import Panel, Section, Source
from reports.sections import sections

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

TABLES = (
    "churn_horizon",
    "cohort_value",
    "dim_items",
    "dim_users",
    "dwell_stats",
    "fct_events",
    "fct_order_lines",
    "fct_orders",
    "fct_sessions",
    "funnel_daily",
    "item_daily_stats",
    "item_second_orders",
    "metric_definitions",
    "recommendations",
    "repurchase_rates",
    "repurchase_survival",
    "retention_cohorts",
    "returning_revenue",
    "run_manifest",
    "session_stats",
    "user_daily_activity",
    "user_rfm",
)
"""The marts the report reads; of predictions, segments and campaigns what is there."""


class ReportError(RuntimeError):
    """A report that cannot be built; the message says what to do."""


@dataclass(frozen=True)
class Report:
    """What was written: the page, each figure as PNG by its key, the CSV files beside the page."""

    path: Path
    plots: dict[str, bytes]
    data_files: list[Path]


def build(shop: Shop, paths: Paths, night: date) -> Report:
    """Write `reports/<night>/index.html` and its CSV files from the published marts.

    Raises ReportError when nothing is published, when what is published is another night, or when
    a mart is missing. Files are replaced one by one and atomically, the page last, and then the
    folder's entry page, which shows the same.
    """
    if not paths.marts.exists():
        raise ReportError(f"{paths.marts} is missing: publish a night of {shop.name} first")
    with connect(paths.marts, read_only=True) as connection:
        _check_published(connection, paths, night)
        found = sections(Source(connection, shop, night))
    panels = [panel for section in found for panel in section.panels]
    csvs = {panel.key: _csv(panel.data) for panel in panels if panel.data.num_rows}
    page = render(shop, night, found, csvs)
    folder = paths.report(night)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.csv"):
        if old.stem not in csvs:
            old.unlink()
    files = [_write(folder / f"{key}.csv", data) for key, data in csvs.items()]
    stamp = "simulated" if shop.simulated else ""
    figures = {p.key: plots.png(p.figure, stamp=stamp) for p in panels if p.figure is not None}
    written = Report(_write(folder / "index.html", page.encode()), figures, files)
    entry.show(paths, page)
    return written


def render(shop: Shop, night: date, found: list[Section], csvs: dict[str, bytes]) -> str:
    """The page as one string; `csvs` are the data of the panels by key."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    panels = [panel for section in found for panel in section.panels]
    return environment.get_template("page.html.j2").render(
        shop=shop,
        night=night,
        sections=found,
        small=plots.SMALL,
        svgs={p.key: Markup(plots.svg(p.figure, p.key)) for p in panels if p.figure is not None},
        phone_svgs={
            p.key: Markup(plots.svg(p.phone, f"{p.key}-phone"))
            for p in panels
            if p.phone is not None
        },
        phone_periods=plots.PHONE_PERIODS,
        csvs={key: _data_link(data) for key, data in csvs.items()},
        stem="_".join([shop.name, night.isoformat(), *["simulated"][: shop.simulated]]),
        kind=_kind,
        stacked=_stacked,
    )


def _check_published(connection: duckdb.DuckDBPyConnection, paths: Paths, night: date) -> None:
    there = {
        row[0]
        for row in connection.execute("SELECT table_name FROM information_schema.tables").fetchall()
    }
    missing = [name for name in TABLES if name not in there]
    if missing:
        raise ReportError(
            f"{paths.marts} lacks marts.{', marts.'.join(missing)}: publish the night again"
        )
    published = queries.published_night(connection)
    if published != night:
        raise ReportError(
            f"{paths.marts} holds the night of {published}, not {night}: "
            f"run the night of {night} before its report"
        )


def _csv(data: pa.Table) -> bytes:
    import pyarrow.csv

    buffer = io.BytesIO()
    pyarrow.csv.write_csv(data, buffer)
    return buffer.getvalue()


def _data_link(data: bytes) -> str:
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(data).decode()


def _kind(panel: Panel, column: int) -> str:
    """How a table's column is set: `number` flush right, `short` without a line break."""
    cells = {row[column] for row in panel.rows} - {"-"}
    if cells and all(re.fullmatch(r"[-+]?[\d.,]+( s|%| points)?", cell) for cell in cells):
        return "number"
    return "short" if all(len(cell) <= 12 for cell in cells) else "text"


def _stacked(columns: int) -> int:
    """How many columns of a wide table stand beside each other on a telephone."""
    return columns if columns <= 5 else math.ceil(columns / 2)


def _write(path: Path, data: bytes) -> Path:
    """Write under another name, then rename: a reader sees the old file or the new one."""
    draft = path.with_name(path.name + ".next")
    draft.write_bytes(data)
    return draft.replace(path)
