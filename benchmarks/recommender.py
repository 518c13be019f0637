"""How good are the lists?

Without `--data`: runs a night of each shop through the command line, in a folder that is thrown
away, and shows what that night published of the new model and the plain baselines: all of them
ranked the same whole catalogue for the same users and were held against the same last days, which
none had seen.

With `--data <folder>`: the nightly's own recommender in the protocol of the published tables, on
`sequences.parquet` and, where there is one, `items.parquet` (`lib/leave_one_out.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib import leave_one_out as loo
from benchmarks.lib.closeness import closeness
from benchmarks.lib.night import newest_night
from benchmarks.lib.page import at_least_one, publish, quiet, table
from core.duck import connect
from core.paths import Paths
from core.shop import load_shop
from ml import ModelError, TooLittleHistory, registry
from ml.baselines import popularity
from ml.device import device
from ml.evaluate import Evaluation, Scorer, evaluate
from ml.recommender.tower import BOTH, IDS, TEXT

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


def section(shop: str, scale: str) -> str:
    """Tell of a shop's night that has run."""
    about = load_shop(shop)
    metrics, version, decision = published(shop)
    title = f"## {about.title}{f', scale {scale}' if about.simulated else ''}"
    if not metrics:
        return f"{title}\n\n{decision}"
    card = registry.card(Paths(shop).models, "recommender", version)
    new = next((each["n_users"] for each in metrics if each["metric"] == "new_item_recall"), 0)
    close = f"\n\n{closeness(Paths(shop))}" if about.simulated else ""
    return (
        f"{title}\n\n"
        f"Night {card['night']}: learned from {card['data_from']} to {card['data_until']}, held "
        f"against the {card['held_out_days']} days after it; {card['held_out_users']:,} users with "
        f"something to foresee, {new:,} of them in new items. Seed {card['seed']}, "
        f"{card['config']['max_steps']} steps at most.\n\n"
        f"{quality(metrics)}\n\n{decision}{close}"
    )


ALONE = {IDS: "ids alone", TEXT: "texts alone", BOTH: "ids and texts in one network"}
"""What a tower is called in the tables."""


def published_protocol(folder: Path, seeds: int) -> Iterator[list[str]]:
    """The parts of a page about the folder's sequences: every model, masked and not, cold items.

    Given as often as there is more to show, since the whole takes long.
    """
    split = loo.read(folder)
    users, items, events = split.events.users, split.events.items, split.events.item
    text = loo.embedded(split)
    truth = split.truth(loo.LAST)
    alone = len(users) - len(truth.users)
    unmet = int((np.bincount(split.training.item, minlength=len(items)) == 0).sum())
    about = (
        f"{folder.name}: {len(users):,} users, {len(items):,} items ({unmet:,} of them in no "
        f"training event), {len(events):,} events. Each user's last item is the test, the one "
        "before it the validation, all else is learned from; at the test the validation item is "
        "known too, but not learned from unless a row says so. All items are ranked. Settings "
        f"were chosen on validation items. {loo.repeated(truth):,} users end on an item that they "
        "have met: a miss where such items are not ranked."
        + (f" {alone:,} users have one item alone and are not asked." if alone else "")
    )
    plain = baseline_rows(split)
    tables: list[str] = []
    for rows in network_rows(split, text, seeds):
        tables = [protocol_table(plain + rows, masked) for masked in (True, False)]
        yield [about, *tables]
    if text is not None:
        yield [about, *tables, cold_table(split, text)]


@dataclass
class Row:
    """A model in the tables: what it reached, once for each seed, and what its fitting took."""

    name: str
    found: list[Evaluation]
    seconds: float
    """of one fit"""


def baseline_rows(split: loo.Split) -> list[Row]:
    """Each plain baseline with the setting that foresees the validation items best."""
    rows = []
    for name, tries in loo.baselines(split).items():
        setting, fit = loo.choose(split, tries)
        began = perf_counter()
        score = fit(split.training, split.known)
        seconds = perf_counter() - began
        title = f"{name} ({setting})" if setting else name
        rows.append(Row(title, [evaluate(name, score, split.truth(loo.LAST), loo.KS)], seconds))
        print(f"{title}: {loo.metric(rows[-1].found[0], 'ndcg', 10):.4f}", flush=True)
    return rows


def network_rows(split: loo.Split, text: np.ndarray | None, seeds: int) -> Iterator[list[Row]]:
    """The recommender: each tower alone, all of them, all seeds together; refitted, texts alone."""
    config = replace(loo.RECIPE, towers=loo.RECIPE.towers if text is not None else (IDS,))
    truth = split.truth(loo.LAST)
    rows: dict[str, Row] = {}
    scorers = []

    def add(name: str, score: Scorer, seconds: float) -> None:
        found = evaluate(name, score, truth, loo.KS)
        rows.setdefault(name, Row(name, [], seconds)).found.append(found)
        print(f"{name}: {loo.metric(found, 'ndcg', 10):.4f}", flush=True)

    def fitted(until: int = loo.VALID, **settings: Any) -> tuple[loo.Fitted, Scorer, float]:
        began = perf_counter()
        network = loo.network(split, text, replace(config, **settings), until)
        seconds = perf_counter() - began
        return network, loo.ask(split, network.model, network.facts), seconds

    epochs = 0
    for seed in range(seeds):
        network, score, seconds = fitted(seed=seed)
        model, facts = network.model, network.facts
        for number, kind in enumerate(model.shape.towers if len(model.towers) > 1 else ()):
            add(ALONE[kind], loo.ask(split, model.alone(number), facts), seconds)
        scorers.append(score)
        add(f"perennial (towers of {' and '.join(model.shape.towers)})", score, seconds)
        epochs = epochs or network.epochs
    if seeds > 1:
        add(f"the same, {seeds} seeds together", loo.together(scorers), seeds * seconds)
    yield list(rows.values())
    _, score, seconds = fitted(loo.LAST, max_epochs=epochs)
    add("the same, fitted on training and validation, seed 0", score, seconds)
    if text is not None and TEXT not in config.towers:
        _, score, seconds = fitted(towers=(TEXT,))
        add(f"{ALONE[TEXT]}, seed 0", score, seconds)
    yield list(rows.values())


def protocol_table(rows: list[Row], masked: bool) -> str:
    """Recall and NDCG; mean and, over several seeds, the standard deviation."""
    columns = [(metric, k) for metric in ("recall", "ndcg") for k in loo.KS]

    def cell(row: Row, metric: str, k: int) -> str:
        values = [loo.metric(found, metric, k, masked) for found in row.found]
        spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        return f"{np.mean(values):.4f}{spread}"

    lines = [
        [row.name, *(cell(row, *column) for column in columns), f"{row.seconds:.0f}"]
        for row in rows
    ]
    title = "Items that the user has met are not ranked" if masked else "All items are ranked"
    names = {"recall": "R", "ndcg": "NDCG"}
    header = ["", *(f"{names[metric]}@{k}" for metric, k in columns), f"fit, s ({device()})"]
    return f"## {title}\n\n{table(header, lines)}"


def cold_table(split: loo.Split, text: np.ndarray) -> str:
    """How well items that nobody met are placed: a tenth of all is held out of training."""
    title = "## Items that nobody met"
    cold, hidden = loo.hide(split, share=0.1, seed=0)
    truth = loo.of_items(split.truth(loo.LAST), cold, hidden.known)
    if not len(truth.users):
        return f"{title}\n\nNobody ends on one of the {int(cold.sum()):,} items held out."
    try:
        fitted = loo.network(hidden, text, loo.RECIPE)
    except TooLittleHistory:
        return f"{title}\n\nWithout a tenth of the items there is nothing to learn from."
    scorers = {
        "perennial": loo.ask(hidden, fitted.model, fitted.facts),
        "popularity": popularity(hidden.known, loo.LAST, days=loo.LAST),
        "at random": loo.at_random(len(split.events.items)),
    }
    lines = []
    for name, score in scorers.items():
        everywhere = evaluate(name, score, truth, loo.KS)
        among = evaluate(name, score, replace(truth, candidates=cold), loo.KS)
        found = [loo.metric(each, "recall", k) for each in (everywhere, among) for k in (10, 20)]
        lines.append([name, *(f"{value:.4f}" for value in found)])
    header = ["", "R@10 of all", "R@20 of all", "R@10 of the cold", "R@20 of the cold"]
    return (
        f"{title}\n\n{int(cold.sum()):,} items, drawn at random, were held out of "
        f"all training and of every history; {len(truth.users):,} users take one of them last. "
        "Ranked among all items, and among the held-out ones alone.\n\n" + table(header, lines)
    )


def nights(shops: list[str], scale: str, raw: Path | None, there: bool) -> list[str]:
    """The parts of a page about a night of each shop, run first unless it is `there`."""
    parts = [
        "Means over users with 95 % intervals (normal). Every model ranks the whole catalogue; "
        "items that a user has met before count like others. New items had no event from anybody "
        "before the held-out days and are known by their texts ('-': nobody took one); coverage "
        "is the share of the catalogue in anybody's first 20."
    ]
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as folder:
        if not there:
            os.environ["PERENNIAL_VAR"] = folder
        for shop in shops:
            if there or newest_night(shop, scale, raw):
                parts.append(section(shop, scale))
            else:
                parts.append(f"## {shop}\n\nSkipped: its raw files are not here; name --raw.")
    return parts


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with sequences.parquet")
    parser.add_argument("--seeds", type=at_least_one, default=3, help="fits with --data")
    parser.add_argument("--shop", nargs="+", default=["demo"], help="folders below shops/")
    parser.add_argument("--scale", choices=["small", "default", "large"], default="small")
    parser.add_argument("--raw", type=Path, help="folder of the real shop's raw files")
    parser.add_argument("--there", action="store_true", help="the nights lie in PERENNIAL_VAR")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    libraries = ["torch", "sentence-transformers", "duckdb"]
    if asked.data is None:
        parts = nights(asked.shop, asked.scale, asked.raw, asked.there)
        publish("The recommender", parts, libraries, asked.write)
        return
    title = "The recommender in the protocol of published tables"
    name = f"recommender_{asked.data.name}"
    try:
        for parts in published_protocol(asked.data, asked.seeds):
            publish(title, parts, [*libraries, "implicit"], asked.write, name)
    except (loo.BadFolder, ModelError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
