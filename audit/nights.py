"""Published nights are kept for a while, and any of them can be made the published one again.

A kept night is the published file itself under a second name (a hard link): publishing replaces the
name `marts.duckdb` and never writes into the file. Its lists and its manifest are tables in it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from core.duck import connect
from core.paths import Paths
from core.shop import KeepNights, ShopError


def keep(paths: Paths, night: date, record: dict[str, Any], policy: KeepNights) -> list[date]:
    """Keep the night that was just published and put on record what it was made from.

    Returns the nights that were thrown away because `policy` keeps them no longer.
    """
    folder = paths.kept(night)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "published.json", record)
    _link(paths.marts, folder / "marts.duckdb")
    _write(paths.published_record, record)
    there = kept(paths)
    gone = sorted(set(there) - to_keep(there, policy) - {night})
    for old in gone:
        # without its marts a night no longer counts as kept, should the rest stay half deleted
        (paths.kept(old) / "marts.duckdb").unlink()
        shutil.rmtree(paths.kept(old))
    return gone


def kept(paths: Paths) -> list[date]:
    """The nights that are kept, oldest first."""
    found = paths.kept_nights.glob("*/marts.duckdb")
    return sorted(date.fromisoformat(file.parent.name) for file in found)


def to_keep(nights: Iterable[date], policy: KeepNights) -> set[date]:
    """The newest nights, the last night of the newest weeks, and of the newest months."""

    def newest(count: int, period: Callable[[date], Any]) -> set[date]:
        last: dict[Any, date] = {}
        for night in sorted(nights):
            last[period(night)] = night
        return set(sorted(last.values(), reverse=True)[:count])

    return (
        newest(policy.daily, lambda night: night)
        | newest(policy.weekly, lambda night: night.isocalendar()[:2])
        | newest(policy.monthly, lambda night: (night.year, night.month))
    )


def restore(paths: Paths, night: date) -> None:
    """Make a kept night the published one again; raises ShopError and changes nothing otherwise.

    Readers see the one night or the other. The record of what is published is away in between, so
    that a run after a crash never takes the one for the other.
    """
    there = kept(paths)
    if night not in there:
        names = ", ".join(map(str, there)) or "none"
        raise ShopError(f"night {night} of {paths.shop} is not kept; these are: {names}")
    file = paths.kept(night) / "marts.duckdb"
    if (inside := _night_in(file)) != night:
        raise ShopError(f"{file} is not the night of {night} but of {inside}: it is left alone")
    record = json.loads((paths.kept(night) / "published.json").read_text())
    paths.published_record.unlink(missing_ok=True)
    _link(file, paths.marts)
    _write(paths.published_record, record)


def _night_in(file: Path) -> date | str:
    try:
        with connect(file, read_only=True) as connection:
            return connection.execute("SELECT max(night) FROM run_manifest").fetchall()[0][0]
    except duckdb.Error as error:
        return f"none that can be read ({str(error).splitlines()[0]})"


def _link(file: Path, place: Path) -> None:
    """Let `place` be `file` as well, replacing what is there; a copy where there are no links."""
    if place.exists() and place.samefile(file):
        return
    following = place.with_name(place.name + ".link")
    following.unlink(missing_ok=True)
    try:
        os.link(file, following)
    except OSError:
        shutil.copy(file, following)
    following.replace(place)


def _write(path: Path, record: dict[str, Any]) -> None:
    following = path.with_suffix(".tmp")
    following.write_text(json.dumps(record))
    following.replace(path)
