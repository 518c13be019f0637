"""The search for settings: its budget, what it prunes, and that a killed one goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ml import ModelError
from ml.search import Found, Report, search

ROOT = Path(__file__).parents[2]
SPACE: dict[str, Any] = {"rate": (1e-3, 1.0), "layers": (1, 2, 3)}
PRESENT = {"rate": 0.5, "layers": 1}


def peak(settings: dict[str, Any], report: Report) -> float:
    """Best at a rate of 0.1 and 2 layers; what a trial ends with shows from the beginning."""
    value = 1 - abs(settings["rate"] - 0.1) - abs(settings["layers"] - 2)
    for _ in range(3):
        report(value)
    return value


def run(study: Path, trials: int = 25, objective: Any = peak, **more: Any) -> Found:
    budget = {"seconds": 60.0, "seed": 1, "log": lambda text: None} | more
    return search(objective, SPACE, PRESENT, study, trials=trials, **budget)


def test_it_finds_better_settings_than_the_present_ones_and_cuts_hopeless_ones_short(tmp_path):
    found = run(tmp_path / "study.db")
    assert found.value > 0.9 > found.present == pytest.approx(1 - 0.4 - 1)
    assert found.settings["layers"] == 2 and found.finished + found.pruned == 25
    assert found.pruned > 0


def test_the_budget_is_of_the_study_and_not_of_the_call(tmp_path):
    asked: list[float] = []

    def counted(settings: dict[str, Any], report: Report) -> float:
        asked.append(settings["rate"])
        return 0.0

    run(tmp_path / "study.db", 4, counted)
    run(tmp_path / "study.db", 4, counted)
    assert len(asked) == 4
    run(tmp_path / "study.db", 7, counted)
    assert len(asked) == len(set(asked)) == 7  # nothing is tried twice
    run(tmp_path / "other.db", 1000, counted, seconds=0.5)
    assert 7 < len(asked) < 1000


def test_a_trial_that_diverges_is_passed_over(tmp_path):
    def brittle(settings: dict[str, Any], report: Report) -> float:
        if settings["layers"] == 1:
            raise ModelError("diverged")
        return 1.0

    found = run(tmp_path / "study.db", 8, brittle)
    assert found.present is None and found.settings["layers"] > 1
    with pytest.raises(ModelError, match="no trial has finished"):
        run(tmp_path / "none.db", 1, brittle)


KILLED = """
import os, sys
from pathlib import Path
from tests.unit.test_ml_search import peak, run
calls = 0
def dies(settings, report):
    global calls
    calls += 1
    if calls == 3:
        os._exit(9)
    return peak(settings, report)
run(Path(sys.argv[1]), 8, dies)
"""


def test_a_killed_search_goes_on_with_the_same_study(tmp_path):
    study = tmp_path / "study.db"
    command = [sys.executable, "-c", KILLED, str(study)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 9
    tried: list[dict[str, Any]] = []

    def counted(settings: dict[str, Any], report: Report) -> float:
        tried.append(settings)
        return peak(settings, report)

    found = run(study, 8, counted)
    assert len(tried) == 6 and tried[0] != PRESENT  # two were done before the third was cut off
    assert found.finished + found.pruned == 8 and found.present is not None
