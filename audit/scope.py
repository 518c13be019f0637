"""How far back tonight's audit reads the tables that grow by the day.

A day that has not changed since it was audited and published need not be read again: a night reads
the days that are new or different, and LOOK_BACK before them, which is as far back as any check
compares. Everything is read on Sundays, when the rules or the SQL have changed, and when nothing
says what was audited before.
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
EVERYTHING = date(1970, 1, 1)


def since(shop: Shop, paths: Paths, night: date) -> date:
    """The first day that the audit of `night` reads."""
    file = _file(paths)
    if night.isoweekday() == 7 or not file.exists():
        return EVERYTHING
    audited = json.loads(file.read_text())
    if audited["rules"] != _rules(shop, paths):
        return EVERYTHING
    then, now = audited["days"], _days(paths)
    differing = [day for day in then | now if then.get(day) != now.get(day)]
    first = min([*differing, audited["night"], night.isoformat()])
    return max(EVERYTHING, date.fromisoformat(first) - LOOK_BACK)


def remember(shop: Shop, paths: Paths, night: date) -> None:
    """Put on record that everything up to `night` was audited and is published."""
    content = {"night": night.isoformat(), "rules": _rules(shop, paths), "days": _days(paths)}
    temporary = _file(paths).with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(_file(paths))


def _file(paths: Paths) -> Path:
    return paths.home / "audited.json"


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
