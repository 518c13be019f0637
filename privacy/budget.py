"""How much of its privacy budget a shop has spent: a ledger that only grows.

`share/ledger.jsonl` has a line for each draw of noise: night, query, epsilon, when granted. A line
is on disk before noise is drawn, so that a kill wastes budget and never leaks; a line that a kill
cut short was never granted, and is taken back. What was released is gone for good, and so is its
budget.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from core.paths import Paths
from privacy import PrivacyError

LEDGER = "ledger.jsonl"


class BudgetSpent(PrivacyError):
    """What is asked for costs more than is left; nothing was charged."""


@dataclass(frozen=True)
class Grant:
    """One line of the ledger."""

    id: str
    night: str
    query: str
    settings: str
    """what the query was asked with, as a hash"""
    epsilon: str
    delta: float
    granted_at: str


class Ledger:
    """The ledger of one shop; made by `opened`, which keeps others out meanwhile."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.grants = list(_read(file))

    @property
    def spent(self) -> Decimal:
        """Epsilon of all that was ever granted."""
        return sum((Decimal(grant.epsilon) for grant in self.grants), Decimal(0))

    def check(self, epsilon: Decimal, budget: Decimal, shop: str) -> None:
        """Raises BudgetSpent when this much is not left."""
        left = budget - self.spent
        if epsilon > left:
            instead = f"ask for less (EPSILON={left.normalize():f}), or " if left > 0 else ""
            raise BudgetSpent(
                f"{shop} has a privacy budget of {budget.normalize():f}, of which "
                f"{self.spent.normalize():f} is spent and {max(left, Decimal(0)).normalize():f} "
                f"left: this needs {epsilon.normalize():f}. What was released is in "
                f"{self.file.parent} and costs nothing to hand out again; {instead}raise "
                f"share.budget in shops/{shop}/shop.yml, which weakens the promise to every user"
            )

    def charge(
        self, night: date, query: str, settings: str, epsilon: Decimal, delta: float, now: datetime
    ) -> Grant:
        """Write one more line; when this returns, it is on disk."""
        granted = now.isoformat(timespec="seconds")
        name = secrets.token_hex(8)
        grant = Grant(name, night.isoformat(), query, settings, f"{epsilon:f}", delta, granted)
        new = not self.file.exists()
        with self.file.open("a") as out:
            out.write(_line(grant))
            out.flush()
            os.fsync(out.fileno())
        if new:
            _sync(self.file.parent)
        self.grants.append(grant)
        return grant


@contextmanager
def opened(paths: Paths) -> Iterator[Ledger]:
    """The ledger, while no other process may charge it; waits for one that does."""
    paths.share.mkdir(parents=True, exist_ok=True)
    with (paths.share / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = paths.share / LEDGER
        _take_back_what_was_cut_short(file)
        yield Ledger(file)


def carry_over(here: Path, coming: Path) -> None:
    """Bring what was spent and released here into a state that comes from a backup.

    Going back to an older state gives no budget back: people outside have what they have.
    """
    if not here.is_dir():
        return
    ours, theirs = here / LEDGER, coming / LEDGER
    _take_back_what_was_cut_short(ours)
    known = {grant.id for grant in _read(theirs)}
    coming.mkdir(exist_ok=True)
    with theirs.open("a") as out:
        out.writelines(_line(grant) for grant in _read(ours) if grant.id not in known)
    for path in sorted(here.glob("*/*")):
        target = coming / path.relative_to(here)
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(path, target)


def _read(file: Path) -> Iterator[Grant]:
    if not file.exists():
        return
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            grant = Grant(**json.loads(line))
            whole = Decimal(grant.epsilon) > 0
        except (TypeError, ValueError, InvalidOperation):
            whole = False
        if not whole:
            raise PrivacyError(
                f"{file} is damaged in line {number}: nothing is released without knowing what was "
                "spent; bring it back from a backup"
            )
        yield grant


def _line(grant: Grant) -> str:
    return json.dumps(asdict(grant)) + "\n"


def _take_back_what_was_cut_short(file: Path) -> None:
    if file.exists() and (content := file.read_bytes()) and not content.endswith(b"\n"):
        with file.open("r+b") as out:
            out.truncate(content.rfind(b"\n") + 1)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
