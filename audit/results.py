"""What the checks of a night found, as plain JSON files that hold no clock time."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from core.paths import Paths


@dataclass(frozen=True)
class Check:
    """The outcome of one check; `sample` holds a few of the rows that break it."""

    name: str
    stage: str
    blocking: bool
    passed: bool
    message: str
    observed: str
    expected: str
    failed_rows: int
    sample: list[dict[str, Any]] = field(default_factory=list)
    unit: str = "row"  # what `failed_rows` and `sample` count


def path(paths: Paths, night: date, stage: str) -> Path:
    """Where the results of one stage of one night are."""
    return paths.audit(night) / f"{stage}.json"


def write(paths: Paths, night: date, stage: str, checks: list[Check]) -> Path:
    """Write the results of one stage; a reader sees the old file or the new one, whole."""
    target = path(paths, night, stage)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "shop": paths.shop,
        "night": night.isoformat(),
        "stage": stage,
        "checks": [asdict(check) for check in checks],
    }
    temporary = target.with_suffix(".json.next")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    temporary.replace(target)
    return target


def load(paths: Paths, night: date) -> dict[str, list[Check]]:
    """The checks of every stage that was audited for `night`, in the order the stages run."""
    from audit.catalogue import STAGES

    found = {}
    for stage in STAGES:
        file = path(paths, night, stage)
        if file.exists():
            found[stage] = [Check(**check) for check in json.loads(file.read_text())["checks"]]
    return found
