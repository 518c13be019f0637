"""One night of a shop through the command line, in a process of its own, and what it took."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil

from core.shop import ROOT, load_shop

_STEP = re.compile(r"^ *\d+s  (\S+) done in ([\d.]+) s$", re.MULTILINE)
_BETWEEN_LOOKS = 0.1  # seconds


@dataclass(frozen=True)
class Took:
    """What a night took."""

    seconds: float
    """of the whole command, the start of Python included"""
    peak: int
    """bytes resident in the command's processes, the most at any look; shared pages count twice"""
    steps: dict[str, float]
    """seconds by step, in the order in which they ended; empty when there was nothing to do"""


def run_night(shop: str, night: date | None, *options: str) -> Took:
    """Run one night below `PERENNIAL_VAR`; exits with the night's own words when it fails."""
    command = [sys.executable, "-m", "orchestration", "run", "--shop", shop, *options]
    command += ["--night", night.isoformat()] if night else []
    seconds, peak, said = watch(command)
    return Took(seconds, peak, {step: float(took) for step, took in _STEP.findall(said)})


def newest_night(shop: str, scale: str, raw: Path | None) -> bool:
    """Run the newest night of a simulated shop of this size, or of a real one from its raw files.

    False where those are not here (`real_data`).
    """
    if load_shop(shop).simulated:
        run_night(shop, None, "--scale", scale)
        return True
    folder = real_data(shop, raw)
    if folder:
        run_night(shop, None, "--data", str(folder))
    return folder is not None


def watch(command: list[str]) -> tuple[float, int, str]:
    """Run a command: seconds, most bytes resident, its words; exits with those if it fails."""
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = psutil.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _resident(process))
            time.sleep(_BETWEEN_LOOKS)
        seconds = time.perf_counter() - began
        output.seek(0)
        said = output.read()
    if process.returncode:
        raise SystemExit(said)
    return seconds, peak, said


def real_data(shop: str, data: Path | None) -> Path | None:
    """The folder of a real shop's raw files: `data`, else beside the repository; None if absent."""
    folder = data or ROOT.parent / "shared" / "data" / shop
    return folder if folder.is_dir() else None


def _resident(process: psutil.Process) -> int:
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += each.memory_info().rss
    return total
