"""How fast is the demo shop made, how much memory does it take, and how true to life is it?

Events are made and spoilt as for the raw files, day by day, and thrown away; nothing else runs in
the process, so its peak memory is the simulator's. `--fit` instead looks for `Habits` that bring
the demo shop nearer to Online Retail II, and `--table` writes shops/demo/fit.csv anew.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib.night import real_data
from benchmarks.lib.page import publish, quiet, table
from shops.demo import fit
from shops.demo.delivery import Delivery
from shops.demo.life import HABITS, Habits
from shops.demo.simulate import SCALES, SEED, Scale, World

TRIED = Scale(5_000, 1_500)  # large enough to fit to, and quicker than the default


def generate(scale: Scale, days: int, most: int) -> list[list[str]]:
    """A row of figures for each half year, until there are `most` events."""
    world, delivery = World(scale), Delivery(SEED)
    rows, events, began, began_cpu = [], 0, time.perf_counter(), time.process_time()
    for number in range(days):
        day = delivery.events(number, world.day(number).events)
        events += day.num_rows
        if number % 180 == 179 or number == days - 1 or events >= most:
            wall, cpu = time.perf_counter() - began, time.process_time() - began_cpu
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
            figures = (number + 1, events, day.num_rows, events / wall, events / cpu)
            rows.append([*(f"{figure:,.0f}" for figure in figures), f"{peak:.2f}"])
        if events >= most:
            break
    return rows


def closeness() -> str:
    """The table of distances to Online Retail II."""
    curves = fit.read_table()
    real, demo = curves["online_retail"], curves["demo"]
    apart = fit.distances(real, demo)
    picked = {"retention": (1, 2, 3), "orders": (1, 2, 4), "gaps": (7, 28, 84),
              "popularity": (1, 10, 50)}  # fmt: skip
    rows = [
        [f"{name}, at {', '.join(map(str, at))}",
         *(" ".join(f"{shop[name][n - 1]:.3f}" for n in at) for shop in (real, demo)),
         f"{apart[name]:.3f}"]
        for name, at in picked.items()
    ]  # fmt: skip
    return table(["curve", "Online Retail II", "demo (simulated)", "largest difference"], rows)


def search(tries: int) -> None:
    """Try habits near the best so far; print whatever is nearer to Online Retail II."""
    real, rng, step = fit.read_table()["online_retail"], np.random.default_rng(SEED), 0.2
    best, nearest = HABITS, float("inf")
    for number in range(tries):
        habits = _near(best, rng, step) if number else best
        apart = fit.distances(real, fit.demo_curves(habits, TRIED))
        loss = sum(apart.values()) + max(apart.values())
        step *= 0.95
        if loss < nearest:
            best, nearest, step = habits, loss, min(step * 1.4, 0.4)
            print(number, {name: round(value, 3) for name, value in apart.items()}, habits)


def _near(habits: Habits, rng: np.random.Generator, step: float) -> Habits:
    """Every number moved by a few per cent, those between 0 and 1 along their odds."""

    def moved(value: float) -> float:
        odds = value / (1 - value) if value < 1 else value
        odds *= float(np.exp(step * rng.normal()))
        return round(odds / (1 + odds) if value < 1 else odds, 3)

    share = np.array([moved(value) for value in habits.share])
    others: dict[str, Any] = {
        name: moved(getattr(habits, name)) for name in ("keen", "sated", "rest", "attention")
    }
    others["stay"] = tuple(moved(value) for value in habits.stay)
    others["share"] = tuple((share / share.sum()).round(3).tolist())
    return replace(habits, **others)


def main() -> None:
    """Measure and show, or fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=list(SCALES), default="large")
    parser.add_argument("--users", type=int, help="after 180 days, about, instead of a scale")
    parser.add_argument("--items", type=int, default=2_000, help="with --users")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--events", type=int, default=10**12, help="stop once there are as many")
    parser.add_argument("--fit", type=int, metavar="TRIES", help="look for better habits")
    parser.add_argument("--table", action="store_true", help="write shops/demo/fit.csv anew")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    if asked.table:
        folder = real_data("online_retail", None)
        if folder is None:
            raise SystemExit("the two files of Online Retail II are not there")
        fit.write_table(fit.online_retail_curves(folder), fit.demo_curves())
    if asked.fit:
        search(asked.fit)
        return
    header = ["days", "events so far", "events on the last day", "events/s", "events/s of CPU time",
              "peak memory, GB"]  # fmt: skip
    scale = Scale(asked.users, asked.items) if asked.users else SCALES[asked.scale]
    rows = generate(scale, asked.days, asked.events)
    said = (
        f"The simulated shop with about {scale.users:,} shoppers after 180 days, made and spoilt "
        "day by day in one process and thrown away. Events/s is by the clock and falls when other "
        "programs take the cores; by CPU time it does not."
    )
    about = "How near it comes to Online Retail II; `shops/demo/fit.py` says what is compared."
    parts = [said, table(header, rows), about, closeness()]
    publish("The simulator", parts, ["numpy", "pyarrow"], asked.write)


if __name__ == "__main__":
    main()
