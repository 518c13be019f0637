"""Can the report's numbers be trusted? Rows in and their fate, checks, inputs and versions.

All of it is read from `marts.run_manifest`, which every published night carries.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from reports import queries
from reports.panels import Panel, Section, Source, count

if TYPE_CHECKING:
    import pyarrow as pa

ROW_FATES = ("mapped", "landed", "deduplicated", "quarantined", "excluded", "later")
"""What may become of a raw row; the manifest's rows `<table>/<fate>`."""


def quality(source: Source) -> Section:
    """Can the numbers above be trusted?"""
    checks = queries.manifest(source.connection, "check")
    failed = [row for row in checks.to_pylist() if row["passed"] is False]
    lead = (
        f"{count(checks.num_rows - len(failed))} of {count(checks.num_rows)} checks passed. "
        "A blocking check that fails stops publication, so a failed check on this page is a "
        "warning."
        if checks.num_rows
        else "No check results were recorded with this night."
    )
    return Section(
        "quality",
        "Can these numbers be trusted?",
        lead,
        [
            _fates(source),
            _stages(checks),
            _reasons(source),
            *([_failed(failed, checks)] if failed else []),
            _checks(checks),
            *_run(source),
        ],
    )


def _fates(source: Source) -> Panel:
    data = queries.manifest(source.connection, "rows")
    table: dict[str, dict[str, str]] = {}
    for row in data.to_pylist():
        name, _, fate = row["name"].partition("/")
        if fate in ROW_FATES:
            table.setdefault(name, {})[fate] = f"{int(row['value']):,}"
    return Panel(
        "rows",
        "What became of the raw rows",
        "mapped = landed + deduplicated + quarantined + excluded + later. Deduplicated: delivered "
        "more than once. Quarantined: breaks the contract. Excluded: not an event by the shop's "
        "own rule. Later: belongs to a later night.",
        data,
        headers=("table", *ROW_FATES),
        rows=[
            [name, *(fates.get(fate, "-") for fate in ROW_FATES)] for name, fates in table.items()
        ],
        empty="" if table else "The manifest of this night has no row counts.",
        wide=True,
    )


def _reasons(source: Source) -> Panel:
    data = queries.reasons(source.connection)
    rows, worst = queries.set_aside(source.connection)
    unsaid = f"{count(rows)} rows were set aside; most of those that broke the contract: {worst}."
    return Panel(
        "reasons",
        "Why rows were set aside",
        "The most frequent reasons; every row is kept in quarantine with its file and line.",
        data,
        headers=("table", "fate", "reason", "rows"),
        rows=[
            [row["table"], row["fate"], row["reason"], count(row["rows"])]
            for row in data.to_pylist()
        ],
        empty="" if data.num_rows else unsaid if rows else "No row was set aside.",
    )


def _stages(checks: pa.Table) -> Panel:
    stages: dict[str, list[bool]] = {}
    for row in checks.to_pylist():
        stage = str(_detail(row).get("stage", "other"))
        stages.setdefault(stage, []).append(row["passed"] is not False)
    return Panel(
        "checks_by_stage",
        "Checks by stage",
        "Landing: the raw rows as they came in. Marts, features, recommendations, campaigns: what "
        "was made of them. The evidence is in the night's Data Docs.",
        checks,
        n=f"{count(checks.num_rows)} checks",
        headers=("stage", "checks", "passed", "failed"),
        rows=[
            [stage, count(len(results)), count(sum(results)), count(len(results) - sum(results))]
            for stage, results in stages.items()
        ],
        empty="" if stages else "No checks were recorded.",
    )


def _detail(row: dict[str, Any]) -> dict[str, Any]:
    detail = json.loads(row["detail"] or "{}")
    return detail if isinstance(detail, dict) else {}


def _check_cells(row: dict[str, Any]) -> list[str]:
    detail = _detail(row)
    expected = detail.get("expected") or detail.get("message") or ""
    return [row["name"], str(expected), row["value"] or ""]


def _failed(failed: list[dict[str, Any]], checks: pa.Table) -> Panel:
    return Panel(
        "failed_checks",
        "Checks that failed",
        "Warnings only: a failed blocking check would have kept this night from being published.",
        checks,
        headers=("check", "expected", "found"),
        rows=[_check_cells(row) for row in failed],
        wide=True,
    )


def _checks(checks: pa.Table) -> Panel:
    marks = {True: "passed", False: "failed", None: "-"}
    return Panel(
        "checks",
        "All checks",
        "Every check of the night, as recorded in marts.run_manifest.",
        checks,
        headers=("result", "check", "expected", "found"),
        rows=[[marks[row["passed"]], *_check_cells(row)] for row in checks.to_pylist()],
        empty="" if checks.num_rows else "No checks were recorded.",
        folded=True,
    )


def _run(source: Source) -> list[Panel]:
    """What went in, and which versions and settings made it."""
    found = []
    for key, title, names in (
        ("inputs", "Raw files that went in", ["input"]),
        ("versions", "Versions and settings", ["version", "setting"]),
    ):
        data = queries.manifest(source.connection, *names)
        found.append(
            Panel(
                key,
                title,
                "As recorded in marts.run_manifest.",
                data,
                headers=("name", "value"),
                rows=[[row["name"], row["value"] or ""] for row in data.to_pylist()],
                empty="" if data.num_rows else "Nothing was recorded.",
                folded=True,
            )
        )
    return found
