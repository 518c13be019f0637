"""How far back tonight's audit reads, and publishing writes, the tables that grow by the day.

A day that has not changed since it was audited and published need not be read again: a night reads
the days that are new or different, and LOOK_BACK before them, which is as far back as any check
compares. Everything is read on Sundays, when the rules or the SQL have changed, and when nothing
says what was audited before; and everything is written when the published file is not the one that
was written then.
"""

from __future__ import annotations

import hashlib
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from core.paths import Paths
from core.shop import Shop
from ingest import contract, ledger

LOOK_BACK = timedelta(days=35)
ONE_DAY = timedelta(days=1)
EVERYTHING = date(1970, 1, 1)


def since(shop: Shop, paths: Paths, night: date) -> date:
    """The first day that the audit of `night` reads."""
    changed = _first_change(shop, paths, night)
    return max(EVERYTHING + LOOK_BACK, changed) - LOOK_BACK


def to_write(shop: Shop, paths: Paths, night: date) -> date:
    """The first day that publishing `night` writes."""
    file = _file(paths)
    if not file.exists() or json.loads(file.read_text())["published"] != _published(paths):
        return EVERYTHING
    # a session that was open at midnight, and its last page, are rows of the day before
    return max(EVERYTHING + ONE_DAY, _first_change(shop, paths, night)) - ONE_DAY


def _first_change(shop: Shop, paths: Paths, night: date) -> date:
    file = _file(paths)
    if night.isoweekday() == 7 or not file.exists():
        return EVERYTHING
    audited = json.loads(file.read_text())
    if audited["rules"] != _rules(shop, paths):
        return EVERYTHING
    then, now = audited["days"], _days(paths)
    differing = [day for day in then | now if then.get(day) != now.get(day)]
    return date.fromisoformat(min([*differing, audited["night"], night.isoformat()]))


def remember(shop: Shop, paths: Paths, night: date) -> None:
    """Put on record that everything up to `night` was audited and is published."""
    content = {
        "night": night.isoformat(),
        "rules": _rules(shop, paths),
        "days": _days(paths),
        "published": _published(paths),
    }
    temporary = _file(paths).with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(_file(paths))


def _file(paths: Paths) -> Path:
    return paths.home / "audited.json"


def _published(paths: Paths) -> list[int]:
    """What tells the published file from any other: another night, or one that was rewritten."""
    if not paths.marts.exists():
        return []
    stat = paths.marts.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]


def _rules(shop: Shop, paths: Paths) -> str:
    """A hash of what is checked and of the SQL that made what is checked."""
    code = [*sorted(Path(__file__).parent.glob("*.py")), Path(contract.__file__)]
    digest = hashlib.sha256(shop.model_dump_json().encode())
    for path in code:
        digest.update(path.read_bytes())
    built = paths.home / "warehouse.json"
    if built.exists():
        digest.update(str(json.loads(built.read_text())["project"]).encode())
    return digest.hexdigest()


def _days(paths: Paths) -> dict[str, str]:
    """A hash of what has landed on each day."""
    landed: dict[str, dict[str, Any]] = {}
    for name, table in ledger.load(paths.landing / "_ledger.json").tables.items():
        for day, state in table.days.items():
            landed.setdefault(day, {})[name] = state.sha256
    return {
        day: hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        for day, parts in landed.items()
    }
