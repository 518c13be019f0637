"""What does the data path of a night cost, step by step, and does it grow with history?

The simulated shop at scale `large`: 180 days of events from nothing, then one night more; with
`--long 1800` also a smaller shop with 1,800 days of history, which by then has as many events a
day: they are brought in by half years and with four weeks of feature snapshots instead of 26 (a
night adds one either way). Every step is the function that the nightly job calls, in a process of
its own. The floor of a full refresh is the SQL that dbt compiles, run as one script in one DuckDB
connection. Peers build three marts and check the landed events, in the same run on the same files.
No model is trained: the lists are those of popularity.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib.page import publish, quiet, table
from benchmarks.lib.steps import SHOP, Step, run
from core.paths import Paths
from core.shop import load_shop
from ingest.landing import last_night

HALF_YEAR = timedelta(days=180)
FEW_SNAPSHOTS = {"feature_weeks": 4}


def night_steps(night: date, **of_dbt: int) -> dict[str, Step]:
    """The data path of one night, each step and what it took."""
    day = night.isoformat()
    run("deliver", night=day)
    steps: dict[str, Callable[[], Step]] = {
        "landing": lambda: run("land", night=day),
        "audit of landing": lambda: run("audit", night=day, stage="landing"),
        "warehouse (dbt)": lambda: run("warehouse", night=day, **of_dbt),
        "audit of marts": lambda: run("audit", night=day, stage="marts"),
        "feature export": lambda: run("export", night=day),
        "text embedding": lambda: run("embed", night=day),
        "audit of features": lambda: run("audit", night=day, stage="features"),
        "popularity lists": lambda: run("lists", night=day),
        "audit of lists": lambda: run("audit", night=day, stage="recommendations"),
        "publishing": lambda: run("publish", night=day),
        "online store": lambda: run("materialize", night=day),
    }
    return {name: _told(name, step()) for name, step in steps.items()}


def _told(name: str, step: Step) -> Step:
    print(f"  {name}: {step.seconds:.1f} s, {step.rows:,} rows", file=sys.stderr, flush=True)
    return step


def from_nothing(nights: dict[str, Step], simulated: Step, script: Step) -> str:
    """The table of the first night."""
    shown = {"simulation": simulated, **nights, "floor: dbt's SQL as one script": script}
    return table(
        ["step", "s", "rows", "rows a second", "peak MB"],
        [
            [
                name,
                f"{step.seconds:.1f}",
                f"{step.rows:,}" if "audit" not in name else f"{step.rows} checks",
                f"{step.rows / step.seconds:,.0f}" if "audit" not in name else "-",
                f"{step.peak / 2**20:,.0f}",
            ]
            for name, step in shown.items()
        ],
    )


def one_more(first: dict[str, Step], runs: dict[str, dict[str, Step]]) -> str:
    """The table of one night more, on each history."""
    base = next(iter(runs.values()))
    rows = []
    for name in first:
        times = [steps[name].seconds for steps in runs.values()]
        ratio = [f"{times[-1] / times[0]:.2f}"] if len(times) > 1 else []
        share = f"{base[name].seconds / first[name].seconds:.0%}"
        rows.append([name, *(f"{each:.1f}" for each in times), share, *ratio])
    totals = [sum(step.seconds for step in steps.values()) for steps in runs.values()]
    whole = sum(step.seconds for step in first.values())
    growth = [f"{totals[-1] / totals[0]:.2f}"] if len(totals) > 1 else []
    rows.append(
        ["**all steps**", *(f"**{t:.1f}**" for t in totals), f"{totals[0] / whole:.0%}", *growth]
    )
    heads = [f"s, on {name}" for name in runs]
    more = ["long / short"] if len(runs) > 1 else []
    return table(["step", *heads, "of the first night", *more], rows)


def peers() -> str:
    """The table of the same work by other means."""
    day = "2026-01-01"
    parts = []
    for title, step, engines in (
        ("Three marts", "marts", ("duckdb", "polars", "pandas")),
        ("Five checks", "expectations", ("duckdb", "pandas")),
    ):
        found = {engine: _told(engine, run(step, night=day, engine=engine)) for engine in engines}
        ours = found["duckdb"]
        rows = [
            [
                f"{title.lower()}, {engine}",
                f"{each.seconds:.1f}",
                f"{each.seconds / ours.seconds:.2f}",
                f"{each.peak / 2**20:,.0f}",
                "equal" if each.said["digest"] == ours.said["digest"] else "DIFFERENT",
            ]
            for engine, each in found.items()
        ]
        parts.append(
            f"**{title} of {ours.rows:,} landed events**\n\n"
            + table(["", "s", "x DuckDB", "peak MB", "against DuckDB's"], rows)
        )
    return "\n\n".join(parts)


def history(folder: Path, until: date, scale: str, **of_dbt: int) -> tuple[Step, dict[str, Step]]:
    """A shop with everything up to `until`, brought in by half years: the last piece's steps."""
    os.environ["PERENNIAL_VAR"] = str(folder)
    start = load_shop(SHOP).start
    after = until + timedelta(days=1)
    simulated = _told("simulation", run("simulate", night=after.isoformat(), scale=scale))
    ends = [until]
    landed = last_night(Paths(SHOP))  # of a run that was broken off in the same folder
    while ends[0] - HALF_YEAR > (landed or start):
        ends.insert(0, ends[0] - HALF_YEAR)
    for night in ends[:-1]:
        print(f"history up to {night}", file=sys.stderr, flush=True)
        run("deliver", night=night.isoformat())
        _told("landing", run("land", night=night.isoformat()))
        _told("warehouse", run("warehouse", night=night.isoformat(), **of_dbt))
    print(f"night {until}", file=sys.stderr, flush=True)
    return simulated, night_steps(until, **of_dbt)


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=["small", "default", "large"], default="large")
    parser.add_argument("--long", type=int, metavar="DAYS", help="a longer history as well")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="perennial-bench-"))
    start = load_shop(SHOP).start
    short = start + HALF_YEAR - timedelta(days=2)
    short -= timedelta(days=(short.isoweekday() - 1) % 7)  # a Monday: no night reads everything
    simulated, first = history(folder / "short", short, asked.scale)
    script = _told("script", run("script", night=short.isoformat()))
    beside = peers()
    events = first["warehouse (dbt)"].rows
    print("one night more", file=sys.stderr, flush=True)
    runs = {f"{events / 1e6:.1f} M events": night_steps(short + timedelta(days=1))}
    new = f"{next(iter(runs.values()))['landing'].rows:,}"
    if asked.long:
        shutil.rmtree(folder / "short" / SHOP / "peers", ignore_errors=True)
        until = start + timedelta(days=asked.long)
        until -= timedelta(days=(until.isoweekday() - 1) % 7)
        _, before = history(folder / "long", until, "long", **FEW_SNAPSHOTS)
        print("one night more", file=sys.stderr, flush=True)
        steps = night_steps(until + timedelta(days=1), **FEW_SNAPSHOTS)
        runs[f"{before['warehouse (dbt)'].rows / 1e6:.1f} M events"] = steps
        new += f" and {steps['landing'].rows:,}"
    ratio = first["warehouse (dbt)"].seconds / script.seconds
    parts = [
        f"The simulated shop at scale `{asked.scale}`; each step runs once.",
        f"**{short} from nothing: {(short - start).days + 1} days, {events:,} events.** The dbt "
        f"step takes {ratio:.2f} times the script.",
        from_nothing(first, simulated, script),
        f"**One night more** ({new} new rows)",
        one_more(first, runs),
        beside,
    ]
    libraries = ["duckdb", "dbt-core", "great-expectations", "polars", "pandas"]
    publish("The data path of a night", parts, libraries, asked.write)
    if not asked.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
