"""What a person types after `make` is data: it arrives as it was typed, and no shell runs it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

ODD = [
    "C000516",
    'O\'Brien "Bob"@x.org',
    "`touch ran`x",
    "$(touch ran)",
    "$(shell touch ran)",
    "pa$$word",
    "a; touch ran #",
    "王小明 0001\\",
]


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A folder with the Makefile and a `python` that writes its arguments into `told`."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / ".ready").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\" > told\n")
    python.chmod(0o755)
    return tmp_path


def make(folder: Path, *words: str) -> tuple[int, str]:
    ran = subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize("identity", ODD)
def test_an_id_reaches_forget_as_it_was_typed(told: Path, identity: str) -> None:
    code, said = make(told, "forget", "SHOP=demo", f"USER={identity}")
    assert code == 0, said
    arguments = (told / "told").read_text().split("\0")[:-1]
    assert arguments == ["-m", "privacy", "forget", "--shop", "demo", "--user", identity]
    assert not (told / "ran").exists()


@pytest.mark.parametrize("identity", ["my files", "`touch ran`", "a'b\"c", "x; touch ran"])
def test_a_folder_reaches_the_night_as_it_was_typed(told: Path, identity: str) -> None:
    code, said = make(told, "run", f"DATA={identity}", "NIGHT=2026-06-30")
    assert code == 0, said
    assert f"--data\0{identity}\0--night\0" in (told / "told").read_text()
    assert not (told / "ran").exists()


@pytest.mark.parametrize("epsilon", ["0.5", "one; touch ran", "1 'or' 2"])
def test_an_epsilon_reaches_share_as_it_was_typed(told: Path, epsilon: str) -> None:
    code, said = make(told, "share", f"EPSILON={epsilon}")
    assert code == 0, said
    assert (told / "told").read_text().endswith(f"share\0--shop\0demo\0--epsilon\0{epsilon}\0")
    assert not (told / "ran").exists()


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["forget"], "USER"),
        (["backup"], "TO=folder"),
        (["restore"], "NIGHT="),
        (["backfill", "FROM=2026-06-01"], "TO="),
    ],
)
def test_what_is_missing_is_asked_for(told: Path, words: list[str], missing: str) -> None:
    code, said = make(told, *words)
    assert code == 2 and missing in said
    assert not (told / "told").exists()
