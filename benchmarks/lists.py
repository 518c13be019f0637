"""What do the rules of a shop's lists cost, and what do they bring?

Runs a night of the demo shop in a folder that is thrown away, then makes everybody's list as of the
first held-out day: without rules, with each rule of `shops/demo/rules.yml` alone, and with all.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib.night import run_night
from benchmarks.lib.page import publish, quiet, table
from core.paths import Paths
from core.shop import load_shop
from ml.nightly import champion_service
from ml.rule_costs import foreseen, rule_costs
from ml.rules import load
from orchestration.lib.inputs import night_inputs
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


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=["small", "default", "large"], default="small")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    shop = load_shop("demo")
    assert shop.default_night is not None
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as folder:
        os.environ["PERENNIAL_VAR"] = folder
        run_night("demo", None, "--scale", asked.scale)
        night = Night(shop, Paths("demo"), shop.default_night)
        service = champion_service(night.paths.models, night.night)
        if service is None:
            raise SystemExit("the night promoted no model: there is nothing to measure")
        inputs = night_inputs(night, service)
        rows = rule_costs(
            inputs,
            models=night.paths.models,
            feature_service=service,
            rules=load(shop.folder / "rules.yml"),
        ).to_pylist()
        quarter = foreseen(inputs)
    parts = [
        "The first ten places of everybody who did something on the held-out days, which the model "
        "had not seen; differences to no rules over the same shoppers, with 95 % intervals. "
        "Diversity is 1 - cosine of the texts over the pairs of a list; Gini is 0 where all items "
        "are shown alike; novelty is the mean of -log2 of the share of shoppers who met an item.",
        f"## Demo shop (simulated), scale {asked.scale}\n\n"
        + table(HEADER, list(map(cells, rows))),
        f"Next quarter, what is bought again: {quarter}",
    ]
    publish("The rules of the lists", parts, ["torch", "numpy"], asked.write)


if __name__ == "__main__":
    main()
