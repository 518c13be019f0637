"""What several tests share: a night of the small demo shop, run once as a person would run it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from tests.servers import Servers, running, why_not

if "PYTEST_XDIST_WORKER" in os.environ:
    # two trainings at once on two threads each would mostly wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# how long an example takes is a matter of what else the machine does
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = ROOT.parent / "shared" / "data"
_SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = (*_SETTINGS["tool"]["mypy"]["packages"], "dbt_project")
"""The folders without which a night does not run."""


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str


@dataclass(frozen=True)
class Place:
    """A folder that plays `var/`, and the command line working on it."""

    var: Path

    def __call__(self, *arguments: str, **environment: str) -> Ran:
        """`python -m orchestration ...` in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "orchestration", *arguments],
            cwd=ROOT,
            env={**os.environ, "PERENNIAL_VAR": str(self.var), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Ran(done.returncode, done.stdout)

    def home(self, shop: str = "demo") -> Path:
        """The shop's folder."""
        return self.var / shop


@pytest.fixture(scope="session")
def demo_night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Ran]:
    """One night of the small demo shop; tests may read it but must not change it.

    Run once, however many processes the tests are spread over.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    place, said = Place(folder / "night"), folder / "night.txt"
    with (folder / "night.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            ran = place("run", "--shop", "demo", "--scale", "small")
            assert ran.code == 0, ran.out
            said.write_text(ran.out)
    return place, Ran(0, said.read_text())


@pytest.fixture
def real_data() -> Path:
    """The folder of real data beside the repository; skips where it is not there."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real data are not at {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def team_servers() -> Iterator[Servers]:
    """A real Redis and PostgreSQL of this test run; skips where they are not installed."""
    if reason := why_not():
        pytest.skip(reason)
    with running() as servers:
        yield servers
