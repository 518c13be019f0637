"""How good are the predictions of purchase, churn, repurchase and spend, against plain rules?

A night of each shop is run (or is `--there` in PERENNIAL_VAR), then its value models are trained
anew from the very tables that the night reads, so that the seconds are theirs alone. On the
simulated shop, what is told of the next 90 days is also held against what then comes to pass in the
simulator, beside what the simulator itself would have expected: nobody can do better than that.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib.night import newest_night
from benchmarks.lib.page import publish, quiet, table
from core.duck import connect
from core.paths import Paths
from core.shop import load_shop
from ingest.pseudonym import load_key, pseudonyms
from ml.value.judge import Prediction, judge
from ml.value.nightly import Outcome, train
from ml.value.tell import Told, tell
from orchestration.lib.inputs import SEED
from orchestration.lib.night import Night
from orchestration.lib.value_inputs import SERVICE, value_inputs

SHOWN = {
    False: ("auc", "pr_auc", "log_loss", "brier", "ece", "predicted_over_actual"),
    True: ("gini", "decile_gini", "mae", "predicted_over_actual"),
}


def section(shop: str, threads: int, has_vector: bool) -> str:
    """The tables of one shop's newest night."""
    about, paths = load_shop(shop), Paths(shop)
    with connect(paths.marts, read_only=True) as marts:
        found = marts.execute("SELECT max(night) FROM marts.run_manifest").fetchone()
    assert found is not None
    night = Night(about, paths, found[0])
    began = time.perf_counter()
    inputs = value_inputs(night)
    if not has_vector:
        inputs = replace(inputs, events=inputs.events.slice(0, 0))
    read = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        models, card = Path(folder), {"feature_service": SERVICE}
        outcomes = train(inputs, models=models, card=card, seed=SEED, threads=threads)
        trained = time.perf_counter()
        told = tell(inputs, models=models, feature_service=SERVICE, seed=SEED)
    ended = time.perf_counter()
    parts = [
        f"## {about.title}",
        f"Night {night.night}: {inputs.past.num_rows:,} moments of the past, "
        f"{inputs.tonight.num_rows:,} users. Read in {read - began:.1f} s, trained and judged in "
        f"{trained - read:.1f} s, told with reasons in {ended - trained:.1f} s. Seed {SEED}; "
        "95 % intervals by a bootstrap over users.",
        *(part for each in outcomes for part in _quality(each)),
    ]
    if about.simulated:
        parts.append(truth(paths, night.night, told))
    return "\n\n".join(parts)


def _quality(found: Outcome) -> list[str]:
    name = f"### {found.target.name} in {found.target.days} days"
    rows = found.quality.to_pylist()
    shown = SHOWN[found.target.is_amount]
    by = {(row["model"], row["metric"]): row for row in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    body = [[model, *(_figure(by[model, metric]) for metric in shown)] for model in models]
    judged = [table(["", *shown], body)] if rows else []
    return [name, f"{found.decision[:1].upper()}{found.decision[1:]}.", *judged]


def _figure(row: dict) -> str:
    digits = 1 if row["metric"] == "mae" else 4
    return f"{row['value']:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"


def truth(paths: Paths, night: date, told: Told) -> str:
    """What was told of 90 days of spend beside what the simulator knew, by what then came."""
    spend = told.predictions.filter(
        pc.and_(
            pc.equal(told.predictions["target"], "spend"),
            pc.equal(told.predictions["horizon_days"], 90),
        )
    )
    with connect() as duck:
        users = f"read_parquet('{paths.raw}/truth/users.parquet')"
        names = [name for (name,) in duck.execute(f"SELECT customer FROM {users}").fetchall()]
        who = pseudonyms(load_key(paths), names)  # noqa: F841  DuckDB reads it by its name
        rows = duck.execute(
            f"""
            SELECT value, expected_spend_90d, spend_90d FROM {users}
            JOIN who ON customer = identity JOIN spend ON user_id = pseudonym
            WHERE NOT bot ORDER BY user_id
            """
        ).fetchnumpy()
    came = np.asarray(rows["spend_90d"], np.float64)
    ways = {
        "told": np.asarray(rows["value"], np.float64),
        "expected by the simulator": np.asarray(rows["expected_spend_90d"], np.float64),
    }
    judged = judge("told", ways, came, True, SEED)
    by = {(row["model"], row["metric"]): row for row in judged.quality.to_pylist()}
    body = [[way, *(_figure(by[way, metric]) for metric in SHOWN[True])] for way in ways]
    closeness = np.corrcoef(*(np.argsort(np.argsort(each)) for each in ways.values()))[0, 1]
    gini = {way: Prediction(each, came, True).measures(np.ones(len(came)))["gini"]
            for way, each in ways.items()}  # fmt: skip
    return (
        f"### Spend in the 90 days after {night}, as the simulator goes on\n\n"
        f"{len(came):,} shoppers, told by {', '.join(set(spend['model_version'].to_pylist()))}. "
        f"The Gini is {gini['told'] / gini['expected by the simulator']:.0%} of the best "
        f"achievable; rank correlation with what the simulator expects {closeness:.3f}.\n\n"
        + table(["", *SHOWN[True]], body)
    )


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shop", nargs="+", default=["demo"], help="folders below shops/")
    parser.add_argument("--scale", choices=["small", "default", "large"], default="small")
    parser.add_argument("--raw", type=Path, help="folder of the real shop's raw files")
    parser.add_argument("--there", action="store_true", help="the nights lie in PERENNIAL_VAR")
    parser.add_argument("--threads", type=int, default=2, help="of LightGBM")
    parser.add_argument("--no-vector", action="store_true", help="heads without users' vectors")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    parts = []
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as folder:
        if not asked.there:
            os.environ["PERENNIAL_VAR"] = folder
        for shop in asked.shop:
            if asked.there or newest_night(shop, asked.scale, asked.raw):
                parts.append(section(shop, asked.threads, not asked.no_vector))
            else:
                parts.append(f"## {shop}\n\nSkipped: its raw files are not here; name --raw.")
    publish("Predictions of every user", parts, ["lightgbm", "duckdb"], asked.write)


if __name__ == "__main__":
    main()
