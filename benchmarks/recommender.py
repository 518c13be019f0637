"""How good are the lists?

Runs a night of each shop through the command line, in a folder that is thrown away, and shows what
that night published of the new model and the plain baselines: all of them ranked the same whole
catalogue for the same users and were held against the same last days, which none had seen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib.night import real_data, run_night
from benchmarks.lib.page import publish, quiet, table
from core.duck import connect
from core.paths import Paths
from core.shop import load_shop
from ml import registry

COLUMNS = {
    "NDCG@10": ("ndcg", 10),
    "NDCG@20": ("ndcg", 20),
    "Recall@10": ("recall", 10),
    "Recall@20": ("recall", 20),
    "new items Recall@20": ("new_item_recall", 20),
    "coverage@20": ("coverage", 20),
}


def published(shop: str) -> tuple[list[dict[str, Any]], str, str]:
    """The night's metrics (model, metric, k, value, low, high, n_users), version and decision."""
    with connect(Paths(shop).marts, read_only=True) as marts:
        metrics = marts.execute(
            "SELECT detail FROM marts.run_manifest WHERE section = 'model' ORDER BY name"
        ).fetchall()
        version, decision = marts.execute(
            "SELECT value, detail FROM marts.run_manifest "
            "WHERE section = 'version' AND name = 'challenger'"
        ).fetchall()[0]
    return [json.loads(metric) for (metric,) in metrics], version, json.loads(decision)["decision"]


def quality(metrics: list[dict[str, Any]]) -> str:
    """One row a model, the best NDCG@10 first."""
    by_name = {(each["model"], each["metric"], each["k"]): each for each in metrics}
    models = sorted(
        {each["model"] for each in metrics}, key=lambda model: -by_name[model, "ndcg", 10]["value"]
    )
    rows = [
        [model, *(figure(by_name.get((model, *column))) for column in COLUMNS.values())]
        for model in models
    ]
    return table(["", *COLUMNS], rows)


def figure(metric: dict[str, Any] | None) -> str:
    """A value with its 95 % interval, where it has one."""
    if metric is None or metric["value"] is None:
        return "-"
    if metric["low"] is None:
        return f"{metric['value']:.3f}"
    half = metric["value"] - metric["low"]  # the interval is symmetric
    return f"{metric['value']:.4f} ± {half:.4f}"


def section(shop: str, scale: str, data: Path | None) -> str | None:
    """Run the shop's night and tell of it; None when a real shop's data are not there."""
    about = load_shop(shop)
    folder = None if about.simulated else real_data(shop, data)
    if not about.simulated and folder is None:
        return None
    run_night(shop, None, *(["--data", str(folder)] if folder else ["--scale", scale]))
    metrics, version, decision = published(shop)
    title = f"## {about.title}{'' if folder else f', scale {scale}'}"
    if not metrics:
        return f"{title}\n\n{decision}"
    card = registry.card(Paths(shop).models, "recommender", version)
    new = next((each["n_users"] for each in metrics if each["metric"] == "new_item_recall"), 0)
    return (
        f"{title}\n\n"
        f"Night {card['night']}: learned from {card['data_from']} to {card['data_until']}, held "
        f"against the {card['held_out_days']} days after it; {card['held_out_users']:,} users with "
        f"something to foresee, {new:,} of them in new items. Seed {card['seed']}, "
        f"{card['config']['max_steps']} steps at most.\n\n"
        f"{quality(metrics)}\n\n{decision}"
    )


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shop", nargs="+", default=["demo"], help="folders below shops/")
    parser.add_argument("--scale", choices=["small", "default", "large"], default="small")
    parser.add_argument("--data", type=Path, help="folder of the real shop's raw files")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    parts = [
        "Means over users with 95 % intervals (normal). Every model ranks the whole catalogue; "
        "items that a user has met before count like others. New items had no event from anybody "
        "before the held-out days and are known by their texts ('-': nobody took one); coverage "
        "is the share of the catalogue in anybody's first 20."
    ]
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as folder:
        os.environ["PERENNIAL_VAR"] = folder
        for shop in asked.shop:
            told = section(shop, asked.scale, asked.data)
            parts.append(told or f"## {shop}\n\nSkipped: its raw files are not here; name --data.")
    publish("The recommender", parts, ["torch", "sentence-transformers", "duckdb"], asked.write)


if __name__ == "__main__":
    main()
