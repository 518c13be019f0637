"""How fast are a million customers fitted and told what to expect?

Customers are simulated as BG/NBD describes them, with times to the second, so that hardly two are
alike; spend as Gamma-Gamma does. Each model is fitted and asked in a process of its own, for its
peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.lib.page import publish, quiet, table
from ml.value.bg_nbd import BgNbd
from ml.value.gamma_gamma import GammaGamma
from ml.value.history import Array, History
from ml.value.pareto_nbd import ParetoNbd

MODELS = ("BG/NBD", "Pareto/NBD", "Gamma-Gamma")
R, ALPHA, A, B = 0.6, 40.0, 0.9, 2.5
"""in days"""
P, Q, V = 6.0, 3.5, 15.0
DAYS = 720
HORIZON = 90.0


def history(n: int, seed: int) -> History:
    """Of n customers whose first purchase lies 30 to 720 days back."""
    rng = np.random.default_rng(seed)
    rate, leave = rng.gamma(R, 1 / ALPHA, n), rng.beta(A, B, n)
    age = rng.uniform(30, DAYS, n)
    repeats, recency, now = np.zeros(n), np.zeros(n), np.zeros(n)
    left = np.arange(n)
    while len(left):
        now[left] += rng.exponential(1, len(left)) / np.maximum(rate[left], 1e-9)
        left = left[now[left] < age[left]]
        repeats[left] += 1
        recency[left] = now[left]
        left = left[rng.random(len(left)) >= leave[left]]
    return History.of(repeats, recency, age)


def spend(purchases: Array, seed: int) -> Array:
    """[n] mean amounts; 0 without a purchase."""
    rng = np.random.default_rng(seed)
    nu = rng.gamma(Q, 1 / V, len(purchases))
    shape = P * np.maximum(purchases, 1)
    return rng.gamma(shape) / (nu * np.maximum(purchases, 1)) * (purchases > 0)


def one(model: str, n: int, seed: int) -> dict[str, object]:
    """Fit and ask one model: seconds of each, and what came out."""
    rows = history(n, seed)
    mean = spend(rows.repeats, seed)
    began = perf_counter()
    if model == "Gamma-Gamma":
        fitted, fit = GammaGamma.fit(rows.repeats, mean)
    else:
        fitted, fit = (BgNbd if model == "BG/NBD" else ParetoNbd).fit(rows)
    between = perf_counter()
    if isinstance(fitted, GammaGamma):
        told = fitted.expected(rows.repeats, mean)
    else:
        told = fitted.expected(rows, HORIZON)
    ended = perf_counter()
    return {
        "fit": between - began,
        "ask": ended - between,
        "parameters": fit.parameters.tolist(),
        "evaluations": fit.evaluations,
        "mean": float(told.mean()),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=MODELS, help="print this model's figures as JSON")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    n = asked.customers
    if asked.only:
        print(json.dumps(one(asked.only, n, asked.seed)))
        return
    rows = []
    for model in MODELS:
        command = [sys.executable, __file__, "--only", model, "--customers", str(n)]
        command += ["--seed", str(asked.seed)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = json.loads(said)
        numbers = ", ".join(f"{value:.3f}" for value in found["parameters"])
        rows.append(
            [
                f"{model} ({numbers})",
                f"{found['fit']:.1f}",
                str(found["evaluations"]),
                f"{n / found['fit']:,.0f}",
                f"{found['ask']:.1f}",
                f"{n / found['ask']:,.0f}",
                f"{found['peak'] / 2**30:.1f}",
            ]
        )
    head = ["", "fit, s", "passes", "customers/s", "ask, s", "customers/s", "peak GB"]
    parts = [
        f"{n:,} customers simulated with r {R}, alpha {ALPHA:.0f} days, a {A}, b {B} and amounts "
        f"of p {P:.0f}, q {Q}, v {V:.0f}; seed {asked.seed}. Asked: purchases of the next "
        f"{HORIZON:.0f} days, or the mean amount. The peak holds the simulated customers too.",
        table(head, rows),
    ]
    publish("A million customers", parts, ["numpy", "scipy", "torch"], asked.write)


if __name__ == "__main__":
    main()
