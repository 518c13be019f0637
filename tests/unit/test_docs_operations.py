"""docs/operations.md says what to do about every check that can stop a night."""

from __future__ import annotations

import re
from fnmatch import fnmatch

from audit.catalogue import CATALOGUE
from core.shop import ROOT


def test_every_blocking_check_has_a_row_and_every_row_a_check() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    table = page.split("| check that blocks |")[1].split("\n\n")[0]
    first_cells = " ".join(row.split("|")[1] for row in table.splitlines() if row.startswith("|"))
    named = re.findall("`(.*?)`", first_cells)
    checks = [spec.name for stage in CATALOGUE.values() for spec in stage if spec.blocking]
    assert [check for check in checks if not any(fnmatch(check, each) for each in named)] == []
    ours = [each for each in named if each.split(".")[0] in CATALOGUE]
    assert [each for each in ours if not any(fnmatch(check, each) for check in checks)] == []
