"""How long does a night take, how much memory, and what does the next one cost?

Three nights of the simulated shop, each the whole command in a process of its own, in a folder that
is thrown away: the first from nothing, the same again, and the day after. Beside them the floor of
the first: the functions that its steps call, called in a row by a script.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib import steps
from benchmarks.lib.night import Took, run_night
from benchmarks.lib.page import publish, quiet, table
from core.duck import connect
from core.paths import Paths
from core.shop import load_shop

SHOP = "demo"


def rows_read() -> int:
    """Raw rows that the published night was made from, as its manifest says."""
    with connect(Paths(SHOP).marts, read_only=True) as marts:
        found = marts.execute(
            "SELECT sum(CAST(value AS BIGINT)) FROM marts.run_manifest "
            "WHERE section = 'rows' AND name LIKE '%/mapped'"
        ).fetchall()
    return int(found[0][0])


def compare(nights: dict[str, tuple[Took, int]]) -> str:
    """The table of nights, given what each took and the raw rows that were new to it."""
    taken = [took for took, _ in nights.values()]
    steps = dict.fromkeys(step for took in taken for step in took.steps)
    rows = [
        [step, *(f"{took.steps[step]:.1f}" if step in took.steps else "-" for took in taken)]
        for step in steps
    ]
    start = [f"{took.seconds - sum(took.steps.values()):.1f}" for took in taken]
    rows += [
        ["starting, between the steps, ending", *start],
        ["**the whole command, s**", *(f"**{took.seconds:.1f}**" for took in taken)],
        ["peak memory, MB", *(f"{took.peak / 2**20:,.0f}" for took in taken)],
        ["new raw rows", *(f"{new:,}" for _, new in nights.values())],
        ["new raw rows a second", *(f"{new / took.seconds:,.0f}" for took, new in nights.values())],
    ]
    return table(["step, s", *nights], rows)


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=["small", "default", "large"], default="small")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    last = load_shop(SHOP).default_night
    assert last is not None
    first = last - timedelta(days=1)
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as folder:
        os.environ["PERENNIAL_VAR"] = f"{folder}/row"
        row = steps.run("in_a_row", night=first.isoformat(), scale=asked.scale)
        os.environ["PERENNIAL_VAR"] = f"{folder}/nights"
        nothing = run_night(SHOP, first, "--scale", asked.scale)
        rows = rows_read()
        again = run_night(SHOP, first)
        one_more = run_night(SHOP, last)
        nights = {
            f"{first} from nothing": (nothing, rows),
            f"{first} again": (again, 0),
            f"{last}, one day more": (one_more, rows_read() - rows),
        }
    said = (
        f"The simulated shop at scale `{asked.scale}`: {(first - load_shop(SHOP).start).days + 1} "
        "days of events, then one day more. Each night runs once, so read differences of a second "
        "as none. Memory is what the command's processes held together."
    )
    floor = (
        f"The functions of the first night called in a row took {row.wall:.1f} s and "
        f"{row.peak / 2**20:,.0f} MB: the orchestrated night takes "
        f"{nothing.seconds / row.wall:.2f} times as long."
    )
    libraries = ["duckdb", "dbt-core", "dagster", "torch"]
    publish("A night", [said, compare(nights), floor], libraries, asked.write)


if __name__ == "__main__":
    main()
