"""A page of results: what was asked, tables, the machine and the command that made them."""

from __future__ import annotations

import argparse
import atexit
import os
import platform
import shlex
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import psutil

from core.shop import ROOT

RESULTS = ROOT / "benchmarks" / "results"
BUSY = os.getloadavg()[0]
"""What else ran when the benchmark started: one for each core that was taken."""


def quiet() -> None:
    """Keep the warnings of libraries, and DuckDB's pages about leaks at the end, off the screen."""
    warnings.showwarning = lambda *_, **__: None  # Feast puts its own filters before ours
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))


def at_least_one(text: str) -> int:
    """A count on the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text}")
    return int(text)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table; the first column is words, the others are figures."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])


def publish(
    title: str, parts: list[str], libraries: list[str], write: bool, name: str | None = None
) -> None:
    """Print the page and, with `write`, keep it as `results/<name, or that of the command>.md`."""
    page = "\n\n".join([f"# {title}", *parts, _made_by(libraries)]) + "\n"
    print(page, flush=True)
    if write:
        path = RESULTS / f"{name or Path(sys.argv[0]).stem}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(page)
        print(f"written to {path.relative_to(ROOT)}")


def _made_by(libraries: list[str]) -> str:
    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    command = shlex.join(["python", str(script), *sys.argv[1:]])
    cores = _cores()
    memory = round(psutil.virtual_memory().total / 2**30)
    machine = [
        f"{cores} core{'s' * (cores > 1)}",
        f"{memory} GB memory",
        f"{platform.system()} {platform.machine()}",
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in libraries),
    ]
    return f"{', '.join(machine)}; load before the start {BUSY:.1f}:\n\n    {command}"


def _cores() -> int:
    """Those that this process may use (`taskset` gives it fewer)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
