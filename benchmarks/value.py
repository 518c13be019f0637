"""How fast are a million customers fitted, and asked for P(alive), purchases and spend?

The customers of each model are simulated by its own law, with times to the second, so that hardly
two are alike, and with times in whole days, as a shop's marts have them: equal customers are then
one row that counts as many. Each fit runs in a process of its own. Its memory is the highest that
the process holds while it fits (VmHWM of Linux, set back before) less what it holds before. The
peer, `lifetimes`, is not among perennial's dependencies: it is measured where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import scipy.optimize
import scipy.special  # noqa: F401  the models import both when they are first used

from benchmarks.lib.page import publish, quiet, table
from ml.value.bg_nbd import BgNbd
from ml.value.gamma_gamma import GammaGamma
from ml.value.history import Array, History
from ml.value.likelihood import Fit
from ml.value.pareto_nbd import ParetoNbd

BG, PARETO, GAMMA = "BG/NBD", "Pareto/NBD", "Gamma-Gamma"
TRUE: dict[str, Any] = {
    BG: (0.6, 40.0, 0.9, 2.5),
    PARETO: (0.6, 40.0, 0.7, 300.0),
    GAMMA: (6.0, 3.5, 15.0),
}
"""r, alpha, a, b; r, alpha, s, beta; p, q, v; times in days"""
NAMES = {BG: "r alpha a b", PARETO: "r alpha s beta", GAMMA: "p q v"}
SECONDS, WHOLE_DAYS = "seconds", "days"
YOUNGEST, OLDEST, HORIZON = 30, 720, 90.0


def history(law: str, n: int, seed: int, unit: str = SECONDS) -> History:
    """Of n customers whose first purchase lies 30 to 720 days back."""
    rng = np.random.default_rng(seed)
    r, alpha, second, third = TRUE[law]
    rate = np.maximum(rng.gamma(r, 1 / alpha, n), 1e-9)
    age = rng.uniform(YOUNGEST, OLDEST, n)
    lost = rng.gamma(second, 1 / third, n) if law == PARETO else rng.beta(second, third, n)
    last = rng.exponential(1, n) / np.maximum(lost, 1e-12) if law == PARETO else np.full(n, np.inf)
    repeats, recency, now = np.zeros(n), np.zeros(n), np.zeros(n)
    left = np.arange(n)
    while len(left):
        now[left] += rng.exponential(1, len(left)) / rate[left]
        left = left[now[left] < np.minimum(age, last)[left]]
        repeats[left] += 1
        recency[left] = now[left]
        if law == BG:
            left = left[rng.random(len(left)) >= lost[left]]
    if unit == WHOLE_DAYS:
        age, recency = np.ceil(age), np.ceil(recency)
    return History.of(repeats, recency, age)


def spend(purchases: Array, seed: int) -> Array:
    """[n] mean amounts; 0 without a purchase."""
    p, q, v = TRUE[GAMMA]
    rng = np.random.default_rng(seed)
    nu = rng.gamma(q, 1 / v, len(purchases))
    shape = p * np.maximum(purchases, 1)
    return rng.gamma(shape) / (nu * np.maximum(purchases, 1)) * (purchases > 0)


def one(law: str, unit: str, n: int, seed: int) -> dict[str, Any]:
    """Fit one model: seconds, bytes, what was found, and what one pass over everybody takes."""
    rows = history(BG if law == GAMMA else law, n, seed, unit)
    mean = spend(rows.repeats, seed)
    began = _memory()
    start = perf_counter()
    fit = fitted(law, rows, mean)[1]
    seconds = perf_counter() - start
    half = fit.interval()
    return {
        "fit": seconds,
        "bytes": _highest() - began,
        "rows": len(rows.distinct()) if law != GAMMA else int((rows.repeats > 0).sum()),
        "found": fit.parameters.tolist(),
        "low": half[:, 0].tolist(),
        "high": half[:, 1].tolist(),
        "passes": fit.evaluations,
        "pass": one_pass(law, rows, mean, fit.parameters),
    }


def fitted(law: str, rows: History, mean: Array) -> tuple[Any, Fit]:
    """The model of a law, fitted."""
    if law == GAMMA:
        return GammaGamma.fit(rows.repeats, mean)
    return BgNbd.fit(rows) if law == BG else ParetoNbd.fit(rows)


def one_pass(law: str, rows: History, mean: Array, parameters: Array) -> float:
    """Seconds of the likelihood and its gradient, once."""
    from ml.value import bg_nbd, gamma_gamma, pareto_nbd

    bought = rows.repeats > 0
    objective: Any
    if law == GAMMA:
        objective = gamma_gamma._Objective(rows.repeats[bought], mean[bought])
    else:
        objective = (bg_nbd if law == BG else pareto_nbd)._Objective(rows.distinct())
    start = perf_counter()
    objective(parameters)
    return perf_counter() - start


def asked(n: int, seed: int) -> dict[str, Any]:
    """Seconds and bytes of each question to the true models, of n customers."""
    rows = history(BG, n, seed)
    mean = spend(rows.repeats, seed)
    bg, pareto, gamma = BgNbd(*TRUE[BG]), ParetoNbd(*TRUE[PARETO]), GammaGamma(*TRUE[GAMMA])
    found: dict[str, Any] = {}
    for name, question in {
        f"{BG}, P(alive)": lambda: bg.p_alive(rows),
        f"{BG}, purchases": lambda: bg.expected(rows, HORIZON),
        f"{PARETO}, P(alive)": lambda: pareto.p_alive(rows),
        f"{PARETO}, purchases": lambda: pareto.expected(rows, HORIZON),
        f"{BG} and {GAMMA}, spend": lambda: (
            bg.expected(rows, HORIZON) * gamma.expected(rows.repeats, mean)
        ),
    }.items():
        began, start = _memory(), perf_counter()
        told = question()
        found[name] = [perf_counter() - start, _highest() - began, float(told.mean())]
    return found


def peer(law: str, n: int, seed: int) -> dict[str, Any]:
    """The same fit by the library `lifetimes`."""
    import lifetimes

    rows = history(BG if law == GAMMA else law, n, seed)
    mean = spend(rows.repeats, seed)
    began, start = _memory(), perf_counter()
    if law == GAMMA:
        model, bought = lifetimes.GammaGammaFitter(), rows.repeats > 0
        model.fit(rows.repeats[bought], mean[bought])
    else:
        model = (lifetimes.BetaGeoFitter if law == BG else lifetimes.ParetoNBDFitter)()
        model.fit(rows.repeats, rows.recency, rows.age)
    seconds, used = perf_counter() - start, _highest() - began
    return {"fit": seconds, "bytes": used, "found": [float(each) for each in model.params_]}


def _memory() -> int:
    """Bytes held now; from here on `_highest` counts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _highest() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def _apart(what: str, law: str, unit: str, n: int, seed: int, limit: float | None = None) -> Any:
    """The figures of one process; None when it takes longer than `limit` seconds."""
    command = [sys.executable, "-W", "ignore", __file__, "--only", what, "--law", law]
    command += ["--unit", unit, "--customers", str(n), "--seed", str(seed)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout)


def fits(n: int, seed: int, rounds: int) -> str:
    """The table of fits: the median of some rounds, and the slowest."""
    rows, found = [], []
    for law, unit in ((BG, SECONDS), (BG, WHOLE_DAYS), (PARETO, SECONDS), (PARETO, WHOLE_DAYS),
                      (GAMMA, SECONDS)):  # fmt: skip
        turns = [_apart("fit", law, unit, n, seed) for _ in range(rounds)]
        seconds = float(np.median([turn["fit"] for turn in turns]))
        one = turns[0]
        rows.append(
            [
                f"{law}, {'times to the second' if unit == SECONDS else 'whole days'}",
                f"{one['rows']:,}",
                f"{seconds:.1f}",
                f"{max(turn['fit'] for turn in turns):.1f}",
                f"{n / seconds:,.0f}",
                str(one["passes"]),
                f"{np.median([turn['pass'] for turn in turns]):.2f}",
                f"{max(turn['bytes'] for turn in turns) / 2**20:,.0f}",
            ]
        )
        if unit == SECONDS:
            found += [
                [f"{law}, {name}", f"{true:g}", f"{value:.4g}", f"{low:.4g} to {high:.4g}"]
                for name, true, value, low, high in zip(
                    NAMES[law].split(), TRUE[law], one["found"], one["low"], one["high"],
                    strict=True,
                )
            ]  # fmt: skip
    head = ["", "rows", "fit, s", "slowest, s", "customers/s", "steps", "one pass, s", "MB"]
    parameters = table(["", "true", "found", "95 % interval"], found)
    return f"{table(head, rows)}\n\nFound, times to the second:\n\n{parameters}"


def peers(n: int, seed: int, limit: float) -> str:
    """The table of the peer, beside our fit of as many customers."""
    if importlib.util.find_spec("lifetimes") is None:
        return "The library lifetimes is not installed: no peer."
    rows = []
    for law in (BG, PARETO, GAMMA):
        ours = _apart("fit", law, SECONDS, n, seed)
        other = _apart("peer", law, SECONDS, n, seed, limit)
        body = [f"{other['fit']:.1f}", f"{other['bytes'] / 2**20:,.0f}"] if other else ["-", "-"]
        numbers = ", ".join(f"{each:.4g}" for each in other["found"]) if other else "not in time"
        ends = ", ".join(f"{each:.4g}" for each in ours["found"])
        rows.append([law, f"{ours['fit']:.1f}", *body, ends, numbers])
    head = ["", "ours, s", "lifetimes, s", "lifetimes, MB", "ours found", "lifetimes found"]
    about = f"lifetimes {version('lifetimes')}, {n:,} customers, times to the second"
    return f"{about}:\n\n{table(head, rows)}"


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--peer-customers", type=int, default=100_000)
    parser.add_argument("--limit", type=float, default=300, help="seconds that a peer may take")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["fit", "ask", "peer"], help="print one step as JSON")
    parser.add_argument("--law", choices=list(TRUE), default=BG)
    parser.add_argument("--unit", choices=[SECONDS, WHOLE_DAYS], default=SECONDS)
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    said = parser.parse_args()
    quiet()
    n, seed = said.customers, said.seed
    if said.only:
        step = {"fit": lambda: one(said.law, said.unit, n, seed), "ask": lambda: asked(n, seed),
                "peer": lambda: peer(said.law, n, seed)}[said.only]  # fmt: skip
        print(json.dumps(step()))
        return
    told = _apart("ask", BG, SECONDS, n, seed)
    answers = [
        [name, f"{seconds:.2f}", f"{n / seconds:,.0f}", f"{used / 2**20:,.0f}", f"{mean:.4g}"]
        for name, (seconds, used, mean) in told.items()
    ]
    parts = [
        f"{n:,} customers of each law, first seen {YOUNGEST} to {OLDEST} days ago; seed {seed}. "
        f"The median of {said.rounds} fits. A fit is its steps, and some passes for the "
        "covariance; `rows` are those that differ. MB is what the fit held beyond its customers.",
        fits(n, seed, said.rounds),
        peers(said.peer_customers, seed, said.limit),
        f"Asked, by the true parameters, of {HORIZON:.0f} days and customers of BG/NBD:\n\n"
        + table(["", "s", "customers/s", "MB", "mean"], answers),
    ]
    publish("A million customers fitted", parts, ["numpy", "scipy", "torch"], said.write)


if __name__ == "__main__":
    main()
