"""How good are the predictions? What was predicted on past nights beside what came of it.

Reads `marts.prediction_deciles` and `marts.prediction_quality`; without both there is no section.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from reports import plots
from reports.panels import Panel, Section, Source, count, few
from reports.plots import SMALL
from reports.queries import table, wilson

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from matplotlib.figure import Figure

TARGETS = ("purchase", "repurchase", "churn", "spend")

RANKING = ("auc", "gini")
"""The metric that is drawn: the first of these that a target has; each is better when higher."""

OURS = {"champion": plots.GREEN, "challenger": plots.BLUE}
"""The colours of the trained models; the plain rules beside them are grey."""


# --- tables --------------------------------------------------------------------------------------


def deciles(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per target, horizon and decile: the latest night on which what came is known.

    A night that was published goes before one that was only played through (`backtest`). Of a
    probability, `low` and `high` are Wilson's interval of the share that came.
    """
    return table(
        connection,
        f"""
        WITH judged AS (
            SELECT * FROM marts.prediction_deciles WHERE actual IS NOT NULL AND n > 0
            QUALIFY dense_rank() OVER (
                PARTITION BY target, horizon_days ORDER BY origin = 'published' DESC, night DESC,
                origin) = 1
        ), bounds AS (SELECT *, {wilson("actual * n", "n")} FROM judged)
        SELECT target, horizon_days, origin, night, decile, predicted, actual,
               CASE WHEN target <> 'spend' THEN low END AS low,
               CASE WHEN target <> 'spend' THEN high END AS high, n
        FROM bounds
        ORDER BY coalesce(list_position({list(TARGETS)}, target), 9), horizon_days, decile
        """,
    )


def quality(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per target, horizon, metric and model, on the latest night that was judged."""
    return table(
        connection,
        f"""
        SELECT target, horizon_days, metric, model, value, low, high, n, night
        FROM marts.prediction_quality WHERE value IS NOT NULL
        QUALIFY dense_rank() OVER (PARTITION BY target, horizon_days ORDER BY night DESC) = 1
        ORDER BY coalesce(list_position({list(TARGETS)}, target), 9), horizon_days, metric, model
        """,
    )


def ranking(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """`quality`, of each target only the metric that is drawn."""
    import pyarrow as pa

    data = quality(connection)
    drawn: dict[tuple[str, int], str] = {}
    rows = data.to_pylist()
    for row in rows:
        key = (row["target"], row["horizon_days"])
        if row["metric"] in RANKING:
            drawn[key] = min(drawn.get(key, row["metric"]), row["metric"], key=RANKING.index)
    keep = [row["metric"] == drawn.get((row["target"], row["horizon_days"])) for row in rows]
    return data.filter(pa.array(keep, pa.bool_()))


# --- figures -------------------------------------------------------------------------------------


def _parts(data: pa.Table) -> list[tuple[str, int, list[dict[str, Any]]]]:
    """The rows of each target and horizon."""
    parts: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in data.to_pylist():
        parts.setdefault((row["target"], row["horizon_days"]), []).append(row)
    return [(target, horizon, rows) for (target, horizon), rows in parts.items()]


def _grid(count: int, row_height: float, room: float) -> tuple[Figure, list[Any]]:
    """A figure of small panels, two in a row."""
    across = min(2, count)
    down = math.ceil(count / across)
    figure = plots.blank(height=down * row_height + room)
    grid = figure.subplots(down, across, squeeze=False).flatten().tolist()
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid


def _draw_deciles(data: pa.Table) -> Figure:
    """Tenths of users from the highest prediction: what was predicted, and what came."""
    parts = _parts(data)
    with plots.styled():
        figure, grid = _grid(len(parts), 1.75, 0.4)
        for axes, (target, horizon, rows) in zip(grid, parts, strict=False):
            xs = [row["decile"] for row in rows]
            colours = plots.trusted_colours([row["n"] for row in rows], plots.SHADES[2])
            axes.bar(xs, [row["actual"] for row in rows], color=colours, width=0.8, label="came")
            for row in rows:
                if row["low"] is not None:
                    x = row["decile"]
                    axes.plot([x, x], [row["low"], row["high"]], color=plots.GREY, linewidth=1.2)
            axes.plot(
                xs,
                [row["predicted"] for row in rows],
                color=plots.ORANGE,
                marker="o",
                markersize=3.5,
                linewidth=1.2,
                label="predicted",
            )
            axes.set_title(f"{target}, {horizon} days", fontsize=10, loc="left")
            axes.set_xticks([1, 5, 10])
            axes.set_ylim(bottom=0)
            axes.grid(visible=False, axis="x")
            axes.yaxis.get_major_locator().set_params(nbins=4)
            if target == "spend":
                plots.short_axis(axes.yaxis)
            else:
                plots.percent_axis(axes.yaxis)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return figure


def _draw_ranking(data: pa.Table) -> Figure:
    """One small panel a target and horizon, one row a model."""
    parts = _parts(data)
    models = sorted(set(data["model"].to_pylist()), key=lambda name: (name not in OURS, name))
    with plots.styled():
        figure, grid = _grid(len(parts), 0.62 + 0.24 * len(models), 0.1)
        for position, (axes, (target, horizon, rows)) in enumerate(zip(grid, parts, strict=False)):
            for row in rows:
                at = models.index(row["model"])
                enough = row["n"] is None or row["n"] >= SMALL
                colour = OURS.get(row["model"], plots.MUTED) if enough else plots.FAINT
                if row["low"] is not None and row["high"] is not None:
                    axes.plot(
                        [row["low"], row["high"]], [at, at], color=colour, linewidth=5, alpha=0.3
                    )
                axes.plot([row["value"]], [at], "o", color=colour, markersize=5)
            metric = {"auc": "AUC", "gini": "Gini"}[rows[0]["metric"]]
            axes.set_title(f"{target}, {horizon} days\n{metric}", fontsize=9.5, loc="left")
            names = [model.replace("_", " ") for model in models]
            axes.set_yticks(range(len(models)), names if position % 2 == 0 else [""] * len(names))
            axes.set_ylim(len(models) - 0.5, -0.5)
            axes.margins(x=0.15)
            axes.xaxis.get_major_locator().set_params(nbins=3)
            axes.grid(visible=False, axis="y")
    return figure


# --- panels --------------------------------------------------------------------------------------


def predictions(source: Source) -> list[Section]:
    """The section, where a model's predictions have been judged at all."""
    panels: list[Panel] = []
    if source.has("prediction_deciles"):
        panels.append(
            source.plot(
                plots.Plot(deciles, _draw_deciles),
                key="prediction_deciles",
                title="Predicted and what came, by tenths",
                definition=f"{source.definition('prediction_deciles')} Bars are what came, with "
                "95% Wilson intervals where it is a share; dots what was predicted. Dots on the "
                "bars' ends: the numbers can be taken as they are. Bars that fall from left to "
                f"right: the order is right. Pale: fewer than {SMALL} users.",
                empty="No prediction is old enough yet to know what came of it.",
                n=_judged,
                tall=True,
            )
        )
    if source.has("prediction_quality"):
        panels += [
            source.plot(
                plots.Plot(ranking, _draw_ranking),
                key="prediction_ranking",
                title="Does the model order users better than plain rules?",
                definition=f"{source.definition('prediction_quality')} Drawn is how well it puts "
                "users in order, to the right is better; bars are 95% intervals. Green: the "
                "champion, blue: its challenger, grey: plain rules.",
                empty="No prediction was judged yet.",
                n=_judged,
            ),
            _quality_table(source),
        ]
    if not panels:
        return []
    lead = "Judged only by what happened after the night of the prediction."
    return [Section("predictions", "How good are the predictions?", lead, panels)]


def _judged(data: pa.Table) -> str:
    users: dict[tuple[str, int], int] = {}
    for target, horizon, rows in _parts(data):
        ns = [row["n"] or 0 for row in rows]
        users[target, horizon] = sum(ns) if "decile" in data.column_names else max(ns)
    low, high = min(users.values()), max(users.values())
    return f"{count(low)} users" if low == high else f"{count(low)} to {count(high)} users"


def _quality_table(source: Source) -> Panel:
    def bounds(row: dict[str, Any]) -> str:
        if row["low"] is None or row["high"] is None:
            return "-"
        return f"{row['low']:,.4g} to {row['high']:,.4g}"

    data = quality(source.connection)
    return Panel(
        "prediction_quality",
        "All metrics of the predictions as a table",
        "Of log loss, Brier score, calibration error (ece) and mean absolute error (mae) less is "
        "better; predicted over actual is best at 1; of the others more is better.",
        data,
        headers=("predicted", "metric", "model", "value", "interval", "users"),
        rows=[
            [
                f"{row['target']} {row['horizon_days']} d",
                row["metric"].replace("_", " "),
                row["model"].replace("_", " "),
                f"{row['value']:,.4g}",
                bounds(row),
                count(row["n"]),
            ]
            for row in data.to_pylist()
        ],
        few=few(data, "n"),
        empty="" if data.num_rows else "No prediction was judged yet.",
        folded=True,
    )
