"""What has landed so far: which raw files, on which days, and how many rows went where.

One JSON file, replaced last and at once. Without it (or when it cannot be read) everything is
landed again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

_VERSION = 4  # raised when the layout of landing or ledger changes; an older one is not read


@dataclass
class FileState:
    """How a raw file looked when it was landed."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass
class DayState:
    """Rows of one table on one day, by what became of them; `sha256` of its landing file."""

    candidates: int = 0  # rows that keep the contract, before duplicates are taken out
    landed: int = 0
    broken: int = 0
    excluded: int = 0
    later: int = 0
    sha256: str | None = None


@dataclass
class TableState:
    """One table: days, what each file gave, and rows and files without a day."""

    fingerprint: str = ""
    days: dict[str, DayState] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)  # file -> days it has rows on
    undated: dict[str, list[int]] = field(default_factory=dict)  # file -> broken, excluded, late
    closed: dict[str, str] = field(default_factory=dict)  # file with late rows -> first open day


@dataclass
class Ledger:
    """The state of `landing/`.

    `horizon` is the last day a row could be of without being in the future, `gone` are files that
    had landed and were withdrawn (one that returns is no late delivery), `unfinished` are days (by
    table) whose replacement had begun.
    """

    night: date | None = None
    horizon: date | None = None
    gone: list[str] = field(default_factory=list)
    files: dict[str, FileState] = field(default_factory=dict)
    tables: dict[str, TableState] = field(default_factory=dict)
    unfinished: dict[str, list[str]] = field(default_factory=dict)
    worst_reason: str | None = None

    def table(self, name: str) -> TableState:
        """The table's state; that of one never landed if it is not known."""
        return self.tables.get(name, TableState())


def load(path: Path) -> Ledger:
    """The ledger in `path`, or an empty one when there is none that can be read."""
    try:
        data = json.loads(path.read_text())
        if data.pop("version") != _VERSION:
            return Ledger()
        return Ledger(
            night=_date(data["night"]),
            horizon=_date(data["horizon"]),
            gone=data["gone"],
            files={name: FileState(**state) for name, state in data["files"].items()},
            tables={
                name: TableState(
                    **{**state, "days": {d: DayState(**s) for d, s in state["days"].items()}}
                )
                for name, state in data["tables"].items()
            },
            unfinished=data["unfinished"],
            worst_reason=data["worst_reason"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Ledger()


def save(path: Path, ledger: Ledger) -> None:
    """Replace the ledger at once."""
    data = {"version": _VERSION, **asdict(ledger)}
    for name in ("night", "horizon"):
        data[name] = data[name] and data[name].isoformat()
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(data, sort_keys=True, separators=(",", ":")))
    new.replace(path)


def _date(text: str | None) -> date | None:
    return date.fromisoformat(text) if text else None


def current_files(
    folder: Path, names: set[str], known: dict[str, FileState]
) -> dict[str, FileState]:
    """The state of the raw files now; a file is read only when its size or time has changed."""
    states = {}
    for name in sorted(names):
        before = known.get(name)
        try:
            if before and _looks_as_before(folder / name, before):
                states[name] = before
                continue
            stat = (folder / name).stat()
            with (folder / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            continue  # it was there when the names were listed: now it is gone
        states[name] = FileState(stat.st_size, stat.st_mtime_ns, digest)
    return states


def moving_files(folder: Path, states: dict[str, FileState]) -> list[str]:
    """Files that somebody has written to, or taken away, since `states` were taken."""
    return [name for name, state in states.items() if not _looks_as_before(folder / name, state)]


def _looks_as_before(file: Path, state: FileState) -> bool:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return False
    return (state.size, state.mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def changed(now: dict[str, FileState], before: dict[str, FileState]) -> set[str]:
    """Files that are new, gone or of other content."""
    return {
        name
        for name in now.keys() | before.keys()
        if name not in now or name not in before or now[name].sha256 != before[name].sha256
    }
