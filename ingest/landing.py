"""Raw files in, landing parquet by day and quarantined rows out.

`land` re-maps only the days that new, changed, late or deleted files touch, and its result is the
same, byte for byte, as if everything were landed at once:

- a day is mapped again from all files that have rows on it. A SELECT that compares rows with each
  other (a join, a group, a window: DuckDB's plan tells) is mapped from all files instead;
- of rows with one key the smallest (timestamp, file, row) wins, also across days. A row that loses
  to another day is kept in `landing/_other_days/<table>.parquet`, from where it comes back when
  the winner goes. The hashes in `landing/_keys/` say on which days to look for a key;
- rows after the night are left; the ledger remembers their days and reads their files again then.
  Those more than a day after it (and after `today`) are put aside as broken until then;
- rows of a new file on days more than `lookback_days` before the last night are too late: they are
  put aside, and what was published of those days stays. A file that had landed and has changed is
  a correction and taken in, however old; a first landing takes in everything, and so does one of
  which no file has stayed as it was.

New files are staged beside the landing and moved in one by one; the ledger names the days in doubt
before and forgets them after, so that a run that was killed is repaired by the next one.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import duckdb

from core.duck import connect
from core.paths import Paths
from core.shop import Shop, ShopError
from ingest.contract import TABLES
from ingest.ledger import (
    FileState,
    Ledger,
    TableState,
    changed,
    current_files,
    load,
    moving_files,
    save,
)
from ingest.mapping import mappings
from ingest.parts import write_empty_files
from ingest.pseudonym import load_key
from ingest.raw import find_files
from ingest.staging import Staged, Staging, clear

FUTURE_DAYS = 1  # clocks that run ahead by no more than this have their rows wait for their night


@dataclass(frozen=True)
class Counts:
    """Rows of one table, over all that has landed; `late` is part of `quarantined`.

    mapped = landed + deduplicated + quarantined + excluded + later.
    """

    mapped: int = 0
    landed: int = 0
    deduplicated: int = 0
    quarantined: int = 0
    excluded: int = 0
    later: int = 0
    late: int = 0

    def __str__(self) -> str:
        """In words that add up."""
        late = f" ({self.late:,} of them too late)" if self.late else ""
        return (
            f"{self.mapped:,} rows read, {self.landed:,} landed, {self.deduplicated:,} duplicates, "
            f"{self.quarantined:,} quarantined{late}, {self.excluded:,} excluded by the shop's "
            f"rules, {self.later:,} after the night"
        )


@dataclass(frozen=True)
class Landed:
    """What `land` did and what lies in the landing now."""

    tables: dict[str, Counts]
    touched_days: list[date]  # of events, reviews and messages: days with other content than before
    changed: bool
    files: int
    changed_files: list[str]
    worst_reason: str | None  # most frequent reason in the quarantine
    fingerprint: str  # of everything but the raw files that the landing follows from


def land(shop: Shop, paths: Paths, night: date, today: date | None = None) -> Landed:
    """Bring the landing of `shop` to `night`; does nothing when nothing has changed.

    `today` is the day of the run, when that is after the night: rows up to a day ahead of both are
    left for their own night, those after that are in the future. Raises ShopError when a SELECT of
    the shop cannot run or does not return the contract's columns, and when all raw files are gone;
    the landing is then as it was.
    """
    ledger = load(_ledger_path(paths))
    yesterday = (today or night) - timedelta(days=1)
    horizon = max(night, yesterday) + timedelta(days=FUTURE_DAYS)
    states, changes, staged = _read(shop, paths, night, horizon, ledger)
    gone = (set(ledger.gone) | ledger.files.keys()) - states.keys()
    new = Ledger(
        night,
        horizon,
        sorted(gone),
        states,
        {name: each.state for name, each in staged.items()},
    )
    _move_into_place(paths, ledger, staged)
    new.worst_reason = (
        _worst_reason(paths) if any(each.moves for each in staged.values()) else ledger.worst_reason
    )
    if new != ledger:
        save(_ledger_path(paths), new)
    shutil.rmtree(_work(paths))
    touched = {d for name, s in staged.items() if not TABLES[name].snapshot for d in s.days}
    return Landed(
        tables={name: _counts(new.table(name)) for name in TABLES},
        touched_days=sorted(date.fromisoformat(day) for day in touched),
        changed=any(each.days or each.moves for each in staged.values()),
        files=len(states),
        changed_files=sorted(changes),
        worst_reason=new.worst_reason,
        fingerprint=_digest([new.table(name).fingerprint for name in TABLES]),
    )


def _read(
    shop: Shop, paths: Paths, night: date, horizon: date, ledger: Ledger
) -> tuple[dict[str, FileState], set[str], dict[str, Staged]]:
    """The raw files, those among them that changed, and what they come to; nothing is in place yet.

    When somebody writes to the files meanwhile, they are read once more. What is written after that
    makes a changed file, which the next landing reads again.
    """
    key = load_key(paths)
    for last in (False, True):
        files = find_files(shop, paths.raw)
        names = {file for some in files.values() for file in some}
        states = current_files(paths.raw, names, ledger.files)
        if ledger.files and not states:
            raise ShopError(
                f"{paths.raw} has no raw files any more, but {len(ledger.files)} had landed; bring"
                f" them back, or delete {paths.landing} to start anew"
            )
        files = {raw: [file for file in some if file in states] for raw, some in files.items()}
        changes = changed(states, ledger.files)
        try:
            staged = _stage(shop, paths, key, night, horizon, ledger, files, changes)
        except (OSError, duckdb.Error, ShopError) as error:
            moving = moving_files(paths.raw, states)
            if not moving:
                raise
            if last:
                raise ShopError(
                    f"raw files changed or went away while they were read ({', '.join(moving)}):"
                    " run again when they are all there"
                ) from error
        else:
            if last or not moving_files(paths.raw, states):
                break
    return states, changes, staged


def _stage(
    shop: Shop,
    paths: Paths,
    key: bytes,
    night: date,
    horizon: date,
    ledger: Ledger,
    files: dict[str, list[str]],
    changes: set[str],
) -> dict[str, Staged]:
    """Every table's next state, with its new files beside the landing."""
    work = _work(paths)
    shutil.rmtree(work, ignore_errors=True)
    (work / "spill").mkdir(parents=True)
    write_empty_files(paths)
    staged: dict[str, Staged] = {}
    shop_tables = {mapping.table.name: mapping for mapping in mappings(shop)}
    for name, table in TABLES.items():
        if name in shop_tables:
            with connect() as connection:  # one each: what a table took in memory is given back
                connection.execute(f"SET temp_directory = '{work / 'spill'}'")
                staged[name] = Staging(
                    connection,
                    paths,
                    work,
                    shop_tables[name],
                    key,
                    night,
                    horizon,
                    ledger,
                    files,
                    changes,
                ).run()
        elif name in ledger.tables:
            staged[name] = clear(paths, table)
    return staged


def changed_files(shop: Shop, paths: Paths) -> list[str]:
    """Raw files that are new, gone or changed since the last landing; cheap when none is."""
    ledger = load(_ledger_path(paths))
    names = {file for some in find_files(shop, paths.raw).values() for file in some}
    return sorted(changed(current_files(paths.raw, names, ledger.files), ledger.files))


def start_anew(paths: Paths) -> None:
    """Let the next landing take in everything, as the first one did."""
    _ledger_path(paths).unlink(missing_ok=True)


def last_night(paths: Paths) -> date | None:
    """The night that landed last, or None before the first."""
    return load(_ledger_path(paths)).night


def _move_into_place(paths: Paths, ledger: Ledger, staged: dict[str, Staged]) -> None:
    """Put the staged files where they belong, with the days in doubt in the ledger meanwhile."""
    doubt = {name: sorted(each.in_doubt) for name, each in staged.items() if each.moves}
    if not doubt:
        return
    save(_ledger_path(paths), replace(ledger, unfinished=ledger.unfinished | doubt))
    for each in staged.values():
        for place, file in each.moves.items():
            if file:
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)
            else:
                place.unlink()
                if place.parent.name.startswith("day=") and not any(place.parent.iterdir()):
                    place.parent.rmdir()


def _counts(state: TableState) -> Counts:
    days = state.days.values()
    landed = sum(day.landed for day in days)
    undated = state.undated.values()
    broken = sum(day.broken for day in days) + sum(broken for broken, *_ in undated)
    excluded = sum(day.excluded for day in days) + sum(excluded for _, excluded, _ in undated)
    candidates, later = sum(day.candidates for day in days), sum(day.later for day in days)
    late = sum(late for *_, late in undated)
    return Counts(
        mapped=candidates + broken + excluded + later + late,
        landed=landed,
        deduplicated=candidates - landed,
        quarantined=broken + late,
        excluded=excluded,
        later=later,
        late=late,
    )


def _worst_reason(paths: Paths) -> str | None:
    with connect() as connection:
        found = connection.execute(
            "SELECT reason FROM read_parquet(?) WHERE kind = 'broken'"
            " GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 1",
            [f"{paths.quarantine}/*/*.parquet"],
        ).fetchone()
    return str(found[0]) if found else None


def _work(paths: Paths) -> Path:
    """Where the new files are until they are all there."""
    return paths.home / "landing.new"


def _ledger_path(paths: Paths) -> Path:
    return paths.landing / "_ledger.json"


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
