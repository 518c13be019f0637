"""The dbt project: its manifest, the variables of a night, and what must be built again."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import date
from pathlib import Path
from typing import Any

from core.paths import Paths
from core.shop import ROOT, Shop
from ingest import ledger
from ingest.contract import TABLES
from orchestration.lib.night import Night

PROJECT = ROOT / "dbt_project"
EXECUTABLE = Path(sys.executable).parent / "dbt"
MANIFEST = PROJECT / "target" / "manifest.json"


def manifest() -> Path:
    """The manifest's path, made anew only when a file of the project is newer.

    Dagster's own `prepare_if_dev` parses in every process that loads the definitions. One process
    at a time looks and parses, and the file is whole or absent: dbt writes in place, and half of a
    manifest is as new as all of it.
    """
    newest = max(path.stat().st_mtime for path in _sources())
    parsed = MANIFEST.parent / "parsed"
    parsed.mkdir(parents=True, exist_ok=True)
    with (parsed / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if MANIFEST.exists() and MANIFEST.stat().st_mtime >= newest:
            return MANIFEST
        folders = ["--project-dir", PROJECT, "--profiles-dir", PROJECT, "--target-path", parsed]
        command = [str(each) for each in (EXECUTABLE, "parse", "--quiet", *folders)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"dbt cannot parse {PROJECT}:\n{done.stdout}{done.stderr}")
        (parsed / MANIFEST.name).replace(MANIFEST)
    return MANIFEST


def _sources() -> list[Path]:
    patterns = ("*.yml", "models/**/*", "macros/**/*", "tests/**/*")
    found = [path for pattern in patterns for path in PROJECT.glob(pattern)]
    return [path for path in found if path.is_file()]


def variables(shop: Shop) -> str:
    """The `--vars` of a shop, as JSON: the same every night, or dbt would parse all anew."""
    values: dict[str, Any] = {
        "start": shop.start.isoformat(),
        "currency": shop.currency,
        "repurchase_windows": shop.orders.repurchase_windows,
        "churn_gap_quantile": shop.churn.gap_quantile,
    }
    return json.dumps(values)


@contextmanager
def building(night: date, reprocess_from: date) -> Iterator[None]:
    """Tell dbt, by the environment, which night it builds and from which day on again."""
    said = {
        "PERENNIAL_NIGHT": night.isoformat(),
        "PERENNIAL_REPROCESS_FROM": reprocess_from.isoformat(),
    }
    os.environ.update(said)
    try:
        yield
    finally:
        for name in said:
            del os.environ[name]


def project_digest() -> str:
    """Hash of every file the models are made of; another one means a full refresh."""
    digest = hashlib.sha256()
    for path in sorted(_sources()):
        digest.update(str(path.relative_to(PROJECT)).encode() + path.read_bytes())
    return digest.hexdigest()


def landing_digests(paths: Paths) -> dict[str, str]:
    """Hash of what has landed, for each day, from the ledger of the landing."""
    parts: dict[str, list[str]] = {}
    for name, state in sorted(ledger.load(paths.landing / "_ledger.json").tables.items()):
        if TABLES[name].snapshot:
            continue  # the catalogue belongs to no day: its tables are built whole each night
        for day, rows in state.days.items():
            if rows.sha256:
                parts.setdefault(day, []).append(f"{name}:{rows.sha256}")
    return {day: hashlib.sha256(" ".join(of).encode()).hexdigest() for day, of in parts.items()}


def reprocess_from(tonight: Night, landed: dict[str, str]) -> date | None:
    """The first day the warehouse must build again, or None for all of it.

    It is the first day whose landed rows are not those that the warehouse was built from, and never
    later than the night itself. A night that failed half way is thereby made good by the next one.
    """
    path = tonight.paths.home / "warehouse.json"
    if not path.exists() or not tonight.paths.warehouse.exists():
        return None
    built = json.loads(path.read_text())
    if built["project"] != project_digest():
        return None
    known: dict[str, str] = built["days"]
    differing = [day for day in known | landed if known.get(day) != landed.get(day)]
    first = min([*differing, built["night"], tonight.night.isoformat()])
    return max(tonight.shop.start, date.fromisoformat(first))


def remember_build(tonight: Night, landed: dict[str, str]) -> None:
    """Put on record what the warehouse was built from, once it is."""
    path = tonight.paths.home / "warehouse.json"
    content = {"night": tonight.night.isoformat(), "project": project_digest(), "days": landed}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


@contextmanager
def quiet(say: Callable[[str], None]) -> Iterator[None]:
    """Keep dbt's own lines off the terminal, but for its errors and warnings and its last line."""
    written = io.StringIO()
    try:
        with redirect_stdout(written):
            yield
    finally:
        for line in written.getvalue().splitlines():
            if re.search(r"\b(ERROR|FAIL|WARN|Done\.)\b|Error in", line):
                say(line.strip())
