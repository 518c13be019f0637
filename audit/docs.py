"""The night's Data Docs: what Great Expectations found, as HTML that a person reads.

Great Expectations renders each validation; the page around it is ours, because its own loads style
sheets, scripts and an image from five foreign hosts and is empty without them. These pages load
nothing: one index of the night, one page per stage, each a single file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from audit import results
from audit.catalogue import STAGES
from core.paths import Paths
from core.shop import Shop

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def write(
    shop: Shop, paths: Paths, night: date, stage: str, validations: Mapping[str, Any]
) -> None:
    """Write the page of `stage` and the index of the night under `audit(night)/data_docs/`.

    `validations` is, per table, a validation result of Great Expectations (None: no such table).
    """
    folder = paths.audit(night) / "data_docs"
    folder.mkdir(parents=True, exist_ok=True)
    checks = results.load(paths, night)
    common = {"shop": shop, "night": night, "stages": STAGES, "checks": checks}
    tables = {table: _sections(result) for table, result in validations.items() if result}
    _replace(folder / f"{stage}.html", "stage.html", {**common, "stage": stage, "tables": tables})
    _replace(folder / "index.html", "index.html", common)


def _sections(validation: Any) -> list[str]:
    """The HTML of one validation result, section by section, as Great Expectations renders it."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    sections = ValidationResultsPageRenderer().render(validation).to_json_dict()["sections"]
    html = [
        _view().render({"section": section, "section_loop": {"index": number}})
        for number, section in enumerate(sections[1:], start=1)  # the first repeats the summary
    ]
    return [re.sub(r'\s(id|data-[a-z-]+)="[^"]*"', "", part) for part in html]


@cache
def _view() -> Any:
    """One view for all sections: a new one would compile the same templates again."""
    from great_expectations.render.view import DefaultJinjaSectionView

    return DefaultJinjaSectionView()


def _replace(file: Path, template: str, values: dict[str, Any]) -> None:
    temporary = file.with_suffix(".next")
    temporary.write_text(_TEMPLATES.get_template(template).render(**values))
    temporary.replace(file)
