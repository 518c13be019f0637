"""The page people keep open: `reports/index.html`, the report of the night that is published.

A night that fails leaves that report as it is; the page then begins with a notice that names the
step, the checks and where the evidence is. The notice goes when a night as late is published.
A kept night that is restored brings its own report back, under a notice that says so.
"""

from __future__ import annotations

import html
import json
import re
from datetime import date
from pathlib import Path

from core.paths import Paths

_BOX = "margin: .7rem 0 0; padding: .5rem .8rem; border-left: 6px solid"

_NOTICE = re.compile(r"<!-- notice -->.*?<!-- /notice -->\n", re.DOTALL)

_NO_REPORT = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{shop}: no report</title></head>
<body style="font: 16px/1.5 system-ui, sans-serif; margin: 1rem">
<header><h1>{said}</h1></header>
</body>
</html>
"""


def show(paths: Paths, page: str) -> Path:
    """Let the entry page be `page`, under the notice of a failure that still stands."""
    failure = _failure(paths)
    notice = _notice(paths, failure) if failure else ""
    return _write(_folder(paths) / "index.html", page.replace("<header>", f"{notice}<header>", 1))


def tell_failure(paths: Paths, night: date, step: str, checks: list[str]) -> Path:
    """Put the notice of a failed night above the report that stays."""
    folder = _folder(paths)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"night": night.isoformat(), "step": step, "checks": checks}
    _write(folder / "failed.json", json.dumps(content, indent=1) + "\n")
    entry = folder / "index.html"
    if entry.exists():
        return show(paths, _NOTICE.sub("", entry.read_text()))
    said = f"No night of {paths.shop} has been published yet"
    return show(paths, _NO_REPORT.format(shop=paths.shop, said=said))


def show_restored(paths: Paths, night: date) -> Path:
    """Let the entry page be the report of `night`, which was published again from the kept ones."""
    report = paths.report(night) / "index.html"
    if report.exists():
        page = report.read_text()
    else:  # reports may be kept for a shorter time than nights
        said = f"The report of {paths.shop} for the night of {night} is no longer kept"
        page = _NO_REPORT.format(shop=paths.shop, said=said)
    _folder(paths).mkdir(parents=True, exist_ok=True)
    notice = (
        f'<p role="status" style="{_BOX} #b36b00; background: #fff4dc; color: #3a2600">'
        f"<b>Restored: the night of {night} is the one that is published now.</b> "
        "The next run publishes the newest night again.</p>\n"
    )
    return show(paths, page.replace("<header>", f"{notice}<header>", 1))


def clear_failure(paths: Paths, night: date) -> None:
    """`night` is published: no failure of it, or of an earlier night, is news any more."""
    failure = _failure(paths)
    if failure and date.fromisoformat(str(failure["night"])) <= night:
        (_folder(paths) / "failed.json").unlink()


def _folder(paths: Paths) -> Path:
    return paths.home / "reports"


def _failure(paths: Paths) -> dict[str, object] | None:
    record = _folder(paths) / "failed.json"
    return json.loads(record.read_text()) if record.exists() else None


def _notice(paths: Paths, failure: dict[str, object]) -> str:
    night, names = failure["night"], failure["checks"]
    checks = ", ".join(names) if isinstance(names, list) else ""
    said = f"Night {night} failed at {failure['step']}" + (f": {checks}" if checks else "")
    docs = f"audit/{night}/data_docs/index.html"
    link = f' See <a href="../{docs}">its Data Docs</a>.' if (paths.home / docs).exists() else ""
    return (
        f'<!-- notice --><p role="alert" style="{_BOX} #b3261e; background: #fde7e5; '
        'color: #410e0b; overflow-wrap: anywhere">'
        f"<b>{html.escape(said)}.</b> What you see is the night that is published.{link}</p>"
        "<!-- /notice -->\n"
    )


def _write(path: Path, text: str) -> Path:
    """Write under another name, then rename: a reader sees the old file or the new one."""
    draft = path.with_name(path.name + ".next")
    draft.write_text(text)
    return draft.replace(path)
