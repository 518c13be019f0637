"""The pictures of a training, as PNG bytes."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

METRICS = (
    ("ndcg", "NDCG@10"),
    ("recall", "Recall@10"),
    ("ndcg_unseen", "NDCG@10, new to the user"),
)
COLOURS = ("#9aa5b1", "#7b8794", "#52606d", "#e0a458", "#2f855a")


def loss_curve(curves: dict[str, list[float]], version: str) -> bytes:
    """Loss by optimiser step, of the users trained on and of those spared."""
    figure, axes = _figure()
    for name, label, colour in (
        ("loss", "trained on", COLOURS[-1]),
        ("valid_loss", "users spared from training", COLOURS[-2]),
    ):
        if curves[name]:
            axes.plot(curves["steps"], curves[name], color=colour, marker="o", ms=3, label=label)
    axes.set(xlabel="optimiser step", ylabel="cross-entropy over all items", title=version)
    axes.legend(frameon=False)
    return _png(figure)


def metric_bars(metrics: pa.Table, version: str) -> bytes:
    """The models side by side with their 95 % intervals, on the held-out days."""
    figure, axes = _figure()
    models = pc.unique(metrics["model"]).to_pylist()
    at_10 = metrics.filter(pc.equal(metrics["k"], 10)).to_pylist()
    value = {(row["model"], row["metric"]): row for row in at_10}
    width = 0.8 / len(models)
    for place, model in enumerate(models):
        rows = [value.get((model, metric)) for metric, _ in METRICS]
        heights = [row["value"] or 0.0 if row else 0.0 for row in rows]
        errors = [(row["high"] or 0.0) - (row["value"] or 0.0) if row else 0.0 for row in rows]
        axes.bar(
            [i + (place - (len(models) - 1) / 2) * width for i in range(len(METRICS))],
            heights,
            width * 0.92,
            yerr=[max(error, 0.0) for error in errors],
            label=model,
            color=COLOURS[place % len(COLOURS)],
            error_kw={"linewidth": 0.8, "ecolor": "#323f4b"},
        )
    axes.set_xticks(range(len(METRICS)), [label for _, label in METRICS])
    axes.set_title(f"{version}: held-out days, all items ranked, 95 % intervals")
    axes.legend(frameon=False)
    return _png(figure)


def told_and_came(deciles: pa.Table) -> dict[str, bytes]:
    """By target: what was told and what came, by tenths of users, as of the newest moment."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in deciles.filter(pc.equal(deciles["origin"], "backtest")).to_pylist():
        found.setdefault(f"{row['target']} in {row['horizon_days']} days", []).append(row)
    pictures = {}
    for name, rows in found.items():
        figure, axes = _figure()
        place = [row["decile"] for row in rows]
        axes.bar(place, [row["actual"] for row in rows], color=COLOURS[0], label="came")
        told = [row["predicted"] for row in rows]
        axes.plot(place, told, color=COLOURS[-1], marker="o", label="told")
        axes.set(xlabel="tenth of the users, by what was told", xticks=place)
        axes.set_title(f"{name}, told as of {rows[0]['night']}")
        axes.legend(frameon=False)
        pictures[name] = _png(figure)
    return pictures


def _figure() -> tuple[Any, Any]:
    # A figure of its own, without pyplot: no global state, no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def encoder_curve(curves: dict[str, list[float]], frozen: float, version: str) -> bytes:
    """Loss and recall of the next item by optimiser step of a fine-tuned text encoder."""
    figure, axes = _figure()
    steps = curves["steps"]
    axes.plot(steps, curves["recall"], color=COLOURS[-1], marker="o", ms=3, label="fine-tuned")
    axes.axhline(frozen, color=COLOURS[0], linestyle="--", label="frozen, judging shoppers")
    axes.set(xlabel="optimiser step", ylabel="recall@10 of the next item", title=version)
    axes.legend(frameon=False, loc="lower right")
    beside = axes.twinx()
    beside.plot(steps, curves["loss"], color=COLOURS[-2], marker="o", ms=3)
    beside.set_ylabel("loss", color=COLOURS[-2])
    return _png(figure)
