"""A person is erased after a whole night: nothing of them is left, and the next night is whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from core.paths import Paths
from ingest.pseudonym import ERASED, load_key, pseudonym
from tests.conftest import ROOT, Place, Ran

pytestmark = pytest.mark.faults


def _active_shopper(raw: Path) -> str:
    found = duckdb.execute(
        "SELECT customer FROM read_parquet(?) WHERE customer IS NOT NULL"
        " GROUP BY customer ORDER BY count(*) DESC, customer LIMIT 1",
        [f"{raw}/events/*.parquet"],
    ).fetchall()
    return str(found[0][0])


def test_the_night_after_a_shopper_was_erased(
    demo_night: tuple[Place, Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / "var")
    shutil.copytree(demo_night[0].var, place.var)
    monkeypatch.setenv("PERENNIAL_VAR", str(place.var))
    paths = Paths("demo")
    who = _active_shopper(paths.raw)
    name = pseudonym(load_key(paths), who)
    done = subprocess.run(
        [sys.executable, "-m", "privacy", "forget", "--shop", "demo", "--user", who],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for file in (file for file in place.var.rglob("*") if file.is_file()):
        assert name.encode() not in file.read_bytes(), file
    (card,) = paths.models.glob("*/*/card.json")
    assert json.loads(card.read_text())["due_for_retraining"]
    with duckdb.connect(str(paths.marts), read_only=True) as marts:  # readers go on meanwhile
        users = marts.execute("SELECT count(*) FROM marts.dim_users").fetchall()[0][0]

    # the simulated shop delivers everything again: the door is what keeps the person out
    ran = place("run", "--shop", "demo", "--scale", "small")
    assert ran.code == 0, ran.out
    assert "Nothing has changed" not in ran.out
    with duckdb.connect(str(paths.marts), read_only=True) as marts:
        assert marts.execute("SELECT count(*) FROM marts.dim_users").fetchall() == [(users,)]
        left = marts.execute("SELECT count(*) FROM marts.fct_events WHERE user_id = ?", [name])
        assert left.fetchall() == [(0,)]
        reasons = marts.execute(
            "SELECT detail FROM marts.run_manifest WHERE name = 'events/excluded'"
        ).fetchall()
    assert json.loads(reasons[0][0])["reasons"][ERASED] > 0
    assert len(list(paths.models.glob("*/*/card.json"))) == 2  # trained anew
    for file in (file for file in place.var.rglob("*") if file.is_file()):
        assert name.encode() not in file.read_bytes(), file
