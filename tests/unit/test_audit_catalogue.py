"""The list of checks that orchestration shows before any of them has run."""

import re
import subprocess
import sys
from collections import Counter

from audit.catalogue import CATALOGUE, STAGES


def test_every_check_has_a_name_of_its_own_that_says_its_stage():
    names = [check.name for checks in CATALOGUE.values() for check in checks]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    for stage, checks in CATALOGUE.items():
        for check in checks:
            assert check.stage == stage
            assert re.fullmatch(r"[a-z]+(\.[a-z0-9_]+){1,2}", check.name)


def test_every_stage_can_stop_the_night():
    assert tuple(CATALOGUE) == STAGES
    for checks in CATALOGUE.values():
        assert any(check.blocking for check in checks)


def test_listing_the_checks_does_not_import_great_expectations():
    code = "import sys, audit.catalogue, audit.suites, audit.publish; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "audit.suites" in loaded
    assert "great_expectations" not in loaded
