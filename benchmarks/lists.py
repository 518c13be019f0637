"""What do the rules of a shop's lists cost and bring, and how good are the lists of a quarter?

Runs a night of each shop in a folder that is thrown away. Rules: everybody's list as of the first
held-out day, without rules, with each rule of the shop's `rules.yml` alone, and with all. Next
quarter: both parts held against the last 90 days, of which nothing was known when they were made.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib.night import newest_night
from benchmarks.lib.page import publish, quiet, table
from core.paths import Paths
from core.shop import Shop, load_shop
from ml.baselines import popularity
from ml.evaluate import Evaluation, evaluate
from ml.metrics import Estimate
from ml.next_quarter import HORIZON, PLACES, Comparison
from ml.nightly import NightInputs, champion_service, validation
from ml.recommender.train import Config, train
from ml.rule_costs import foreseen, rule_costs
from ml.rules import load
from orchestration.lib.inputs import SEED, night_inputs
from orchestration.lib.night import Night

HEADER = ["", "NDCG@10", "difference", "coverage", "Gini of exposure", "diversity", "novelty, bits"]


def cells(row: dict[str, Any]) -> list[str]:
    """One row of the page."""
    half = row["high"] - row["difference"]
    return [
        row["rules"],
        f"{row['ndcg_at_10']:.4f}",
        f"{row['difference']:+.4f} ± {half:.4f}",
        *(f"{row[name]:.3f}" for name in ("coverage", "gini_of_exposure", "intra_list_diversity")),
        f"{row['novelty']:.2f}",
    ]


def rules_of(shop: Shop, night: Night, inputs: NightInputs, service: str) -> str:
    """The table of what each rule costs and brings."""
    file = shop.folder / "rules.yml"
    if not file.exists():
        return f"{shop.title} has no rules.yml."
    found = rule_costs(
        inputs, models=night.paths.models, feature_service=service, rules=load(file)
    ).to_pylist()
    return table(HEADER, list(map(cells, found)))


def quarter_of(night: Night, inputs: NightInputs, repeat: Comparison | str) -> str:
    """The table of both parts of the next quarter's lists, each beside its baseline."""
    rows = []
    if not isinstance(repeat, str):
        told = [("recall", repeat.repeat["recall"], repeat.frequency["recall"], "")]
        told += [("NDCG", repeat.repeat["ndcg"], repeat.frequency["ndcg"], repeat.difference)]
        rows += [part("repeat", f"{name}@10", *figures) for name, *figures in told]
    new, popular = explored(night, inputs)
    for name in ("recall", "ndcg"):
        both = [of(found, f"{name}_unseen") for found in (new, popular)]
        rows.append(part("explore", f"{name.upper() if name == 'ndcg' else name}@{PLACES}", *both))
    header = ["part", "figure", "ours", "baseline", "difference", "shoppers"]
    said = "" if not isinstance(repeat, str) else f"\n\nRepeat: {repeat}."
    return table(header, rows) + said


def part(name: str, figure: str, ours: Estimate, plain: Estimate, gain: Any = "") -> list[str]:
    """One row: a part of the list beside its baseline."""
    half = (plain.high - plain.low) / 2
    shown = f"{gain.value:+.4f} ± {gain.high - gain.value:.4f}" if gain else ""
    own = f"{ours.value:.4f} ± {ours.high - ours.value:.4f}"
    return [name, figure, own, f"{plain.value:.4f} ± {half:.4f}", shown, f"{ours.n:,}"]


def of(found: Evaluation, metric: str) -> Estimate:
    """A figure of the first `PLACES` places."""
    row = next(
        row for row in found.table.to_pylist() if (row["metric"], row["k"]) == (metric, PLACES)
    )
    return Estimate(row["value"], row["low"], row["high"], row["n_users"])


def explored(night: Night, inputs: NightInputs) -> tuple[Evaluation, Evaluation]:
    """What is new to a shopper, by a recommender of 90 days ago and by what was popular then.

    The recommender is trained as on a night of that day; what the shopper had met is not ranked.
    """
    before = replace(night, night=night.night - timedelta(days=HORIZON))
    then = night_inputs(before, "recommender_v1")
    known = replace(inputs, item_features_at_cutoff=then.item_features_at_night)
    case = validation(replace(known, holdout_days=HORIZON))
    nightly = replace(case.data, horizon=inputs.holdout_days)
    config = Config(SEED, inputs.max_steps, max_length=inputs.max_length, **inputs.settings)
    model = train(nightly, case.facts, config, log=lambda _: None).model
    held, cutoff = case.held_out(), case.inputs.cutoff
    sold = case.events.of_kinds(inputs.target_events).between(None, cutoff)
    return (
        evaluate("ours", case.scorer(model), held, (PLACES,)),
        evaluate("popular", popularity(sold, cutoff), held, (PLACES,)),
    )


def measured(name: str) -> str:
    """The section of a shop whose night has run."""
    shop = load_shop(name)
    newest = shop.default_night or shop.end
    if newest is None:
        raise SystemExit(f"{name} has no default_night: name one in its shop.yml")
    night = Night(shop, Paths(name), newest)
    service = champion_service(night.paths.models, night.night)
    if service is None:
        raise SystemExit(f"the night of {name} promoted no model: there is nothing to measure")
    inputs = night_inputs(night, service)
    return "\n\n".join(
        [
            f"## {shop.title}",
            rules_of(shop, night, inputs, service),
            "Next quarter:",
            quarter_of(night, inputs, foreseen(inputs)),
        ]
    )


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shops", nargs="+", default=["demo", "online_retail"])
    parser.add_argument("--scale", choices=["small", "default", "large"], default="default")
    parser.add_argument("--data", type=Path, help="folder of the real shop's raw files")
    parser.add_argument("--there", action="store_true", help="the nights lie in PERENNIAL_VAR")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    parts = [
        "Rules: the first ten places of everybody who did something on the held-out days, which "
        "the model had not seen; differences to no rules over the same shoppers, with 95 % "
        "intervals. Diversity is 1 - cosine of the texts over the pairs of a list; Gini is 0 where "
        "all items are shown alike; novelty is the mean of -log2 of the share of shoppers who met "
        "an item.",
        "Next quarter: what a shopper bought again in the last 90 days, beside personal top "
        "frequency; and what they bought of items new to them, beside the most popular of those.",
    ]
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as folder:
        if not asked.there:
            os.environ["PERENNIAL_VAR"] = folder
        for name in asked.shops:
            if not (asked.there or newest_night(name, asked.scale, asked.data)):
                print(f"Skipped: the raw files of {name} are not here; name --data.")
                continue
            parts.append(measured(name))
    publish("The lists and their rules", parts, ["torch", "numpy"], asked.write)


if __name__ == "__main__":
    main()
