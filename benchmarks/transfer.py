"""What does a new shop gain by starting from another shop's model?

The model of one shop's newest night is carried to another shop's first nights, as if that shop had
just opened: cold start (its own data alone), zero-shot (nothing learned there) and warm start (a
training that begins with the other's text tower), each judged on the days that follow.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import timedelta
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib.night import newest_night
from benchmarks.lib.page import publish, quiet, table
from core.paths import Paths
from core.shop import load_shop
from ml import TooLittleHistory
from ml.baselines import popularity
from ml.evaluate import evaluate
from ml.nightly import NightInputs, Validation, validation
from ml.recommender.files import Learned
from ml.recommender.train import Config, train
from ml.transfer import begin, carry, like
from orchestration.lib.inputs import night_inputs
from orchestration.lib.night import Night

NIGHTS = (1, 3, 10)


def inputs_of(name: str, nights: int | None) -> NightInputs:
    """What a shop knows at its newest night, or what it would after so many nights."""
    shop = load_shop(name)
    night = shop.default_night or shop.end
    if nights is not None:
        night = shop.start + timedelta(days=nights + shop.recommender.holdout_days - 1)
    if night is None:
        raise SystemExit(f"{name} has no default_night: name one in its shop.yml")
    return night_inputs(Night(shop, Paths(name), night))


def config_of(inputs: NightInputs, seed: int) -> Config:
    """The settings of that shop's night."""
    return Config(seed=seed, max_steps=inputs.max_steps, max_length=inputs.max_length)


def popular(inputs: NightInputs) -> tuple[float, int]:
    """NDCG@10 of what sold best until then, and of how many users."""
    case = validation(inputs)
    sold = case.events.of_kinds(inputs.target_events).between(None, inputs.cutoff)
    found = evaluate("", popularity(sold, inputs.cutoff), case.held_out()).ndcg
    return (float(found.mean()) if len(found) else 0.0), len(found)


def learn(inputs: NightInputs, config: Config) -> tuple[Learned, float]:
    """A cold start: the trained network, and its NDCG@10 on the held-out days."""
    case = validation(inputs)
    model = train(case.data, case.facts, config, log=lambda _: None).model
    return case.learned(model), case.ndcg(model)


def zero_shot(learned: Learned, inputs: NightInputs) -> float:
    """NDCG@10 of another shop's model on the held-out days, nothing learned here."""
    case, carried = carried_to(learned, inputs)
    return case.ndcg(carried.on(case.data.events.items, case.facts))


def warm_start(learned: Learned, inputs: NightInputs, config: Config) -> float:
    """NDCG@10 after a training that begins with another shop's model."""
    case, carried = carried_to(learned, inputs)
    same, begun = like(config, carried), partial(begin, carried=carried)
    return case.ndcg(train(case.data, case.facts, same, log=lambda _: None, start=begun).model)


def carried_to(learned: Learned, inputs: NightInputs) -> tuple[Validation, Learned]:
    """The shop's days with statistics and words as the other shop's model reads them."""
    case = validation(inputs, learned)
    return case, carry(learned, case.data.events.kinds, inputs.input_events)


def rows(learned: Learned, target: str, seed: int) -> list[list[str]]:
    """One row for each number of nights."""
    found = []
    for nights in NIGHTS:
        inputs = inputs_of(target, nights)
        config = config_of(inputs, seed)
        plain, users = popular(inputs)
        figures = [plain, zero_shot(learned, inputs)]
        try:
            figures += [learn(inputs, config)[1], warm_start(learned, inputs, config)]
            told = [f"{figure:.4f}" for figure in figures]
        except TooLittleHistory:
            told = [*(f"{figure:.4f}" for figure in figures), "-", "-"]
        found.append([f"after {nights}", f"{users:,}", *told])
        print(*found[-1], flush=True)
    return found


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shops", nargs=2, default=["demo", "online_retail"])
    parser.add_argument("--scale", choices=["small", "default", "large"], default="small")
    parser.add_argument("--data", type=Path, help="folder of the real shop's raw files")
    parser.add_argument("--there", action="store_true", help="the nights lie in PERENNIAL_VAR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    given = parser.parse_args()
    quiet()
    parts = [
        "NDCG@10 on the days that follow (all items ranked, those met before too). '-': nothing to "
        "learn from yet."
    ]
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as folder:
        if not given.there:
            os.environ["PERENNIAL_VAR"] = folder
            for name in given.shops:
                if not newest_night(name, given.scale, given.data):
                    print(f"Skipped: the raw files of {name} are not here; name --data.")
                    return
        for source, target in (given.shops, given.shops[::-1]):
            inputs = inputs_of(source, None)
            learned, own = learn(inputs, config_of(inputs, given.seed))
            header = ["nights", "users", "popularity", "zero-shot", "cold start", "warm start"]
            parts.append(
                f"## {source} to {target}\n\nThe model of {source} reaches {own:.4f} at home.\n\n"
                + table(header, rows(learned, target, given.seed))
            )
    publish("Starting from another shop's model", parts, ["torch"], given.write)


if __name__ == "__main__":
    main()
