"""A folder goes into one encrypted file and comes back, or nothing happens."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import vault
from core.shop import ROOT
from core.vault import VaultError

KEY = pyrage.x25519.Identity.generate()
ABOUT = {"shop": "small"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of what there is in a shop's: files, a second name, SQLite, another's scratch."""
    home = tmp_path / "home"
    for name in ("landing/day=1", "published/1", "spill", "empty"):
        (home / name).mkdir(parents=True)
    (home / "marts.duckdb").write_bytes(os.urandom(300_000))
    (home / "marts.duckdb").chmod(0o640)
    os.link(home / "marts.duckdb", home / "published/1/marts.duckdb")
    (home / "landing/day=1/part é.parquet").write_bytes(b"rows" * 1000)
    (home / "spill/left").write_bytes(b"scratch")
    with closing(sqlite3.connect(home / "mlflow.db")) as connection, connection:
        connection.execute("CREATE TABLE runs AS SELECT 1 AS run")
    return home


def _write(folder: Path, archive: Path) -> int:
    return vault.write(folder, archive, ABOUT, KEY.to_public(), ["spill"])


def _content(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode & 0o777 if path.is_file() else 0,
            path.read_bytes() if path.is_file() else None,
        )
        for path in folder.rglob("*")
    }


def test_a_folder_comes_back_as_it_was_and_a_second_name_is_no_second_copy(folder, tmp_path):
    archive = tmp_path / "a.age"
    assert _write(folder, archive) == 3
    assert archive.stat().st_size < 400_000
    assert archive.stat().st_mode & 0o777 == 0o600
    assert vault.is_encrypted(archive)
    assert vault.read_about(archive, KEY) == ABOUT
    assert vault.unpack(archive, tmp_path / "back", KEY) == 3
    expected = {k: v for k, v in _content(folder).items() if not k.startswith("spill")}
    back = _content(tmp_path / "back")
    with closing(sqlite3.connect(tmp_path / "back/mlflow.db")) as connection:
        assert connection.execute("SELECT run FROM runs").fetchall() == [(1,)]
    for each in (expected, back):
        del each["mlflow.db"]  # SQLite's own copy counts its changes
    assert back == expected
    assert (tmp_path / "back/marts.duckdb").samefile(tmp_path / "back/published/1/marts.duckdb")
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_database_that_is_being_written_comes_back_as_of_one_moment(folder, tmp_path):
    with closing(sqlite3.connect(folder / "mlflow.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("INSERT INTO runs VALUES (2)")  # in the write-ahead log only
        other.execute("BEGIN")
        other.execute("INSERT INTO runs VALUES (3)")  # not committed
        _write(folder, tmp_path / "a.age")
    vault.unpack(tmp_path / "a.age", tmp_path / "back", KEY)
    with closing(sqlite3.connect(tmp_path / "back/mlflow.db")) as connection:
        assert connection.execute("SELECT run FROM runs ORDER BY 1").fetchall() == [(1,), (2,)]


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_no_damaged_archive_is_taken_for_a_whole_one(folder, tmp_path, encrypted):
    archive = tmp_path / "a"
    vault.write(folder, archive, ABOUT, KEY.to_public() if encrypted else None)
    whole = archive.read_bytes()
    damaged = tmp_path / "damaged"

    @settings(max_examples=25, deadline=None)
    @given(at=st.integers(0, len(whole) - 1), cut=st.booleans())
    def check(at: int, cut: bool) -> None:
        damaged.write_bytes(
            whole[:at] if cut else whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        )
        into = tmp_path / f"into-{os.urandom(8).hex()}"
        try:
            vault.unpack(damaged, into, KEY if encrypted else None)
        except VaultError:
            return
        # zstd and tar have bytes that mean nothing: then every file has to be as it was
        assert not encrypted
        back, expected = _content(into), _content(folder)
        del back["mlflow.db"], expected["mlflow.db"]
        assert {k: v[1] for k, v in back.items()} == {k: v[1] for k, v in expected.items()}

    check()


def test_another_key_opens_nothing(folder, tmp_path):
    _write(folder, tmp_path / "a.age")
    with pytest.raises(VaultError, match="cannot be opened with this key"):
        vault.read_about(tmp_path / "a.age", pyrage.x25519.Identity.generate())


def test_keys_come_from_the_environment(monkeypatch):
    monkeypatch.delenv(vault.VARIABLE, raising=False)
    assert vault.recipient() is None
    monkeypatch.setenv(vault.VARIABLE, str(KEY))
    assert str(vault.recipient()) == str(KEY.to_public())
    assert str(vault.identity()) == str(KEY)
    monkeypatch.setenv(vault.VARIABLE, str(KEY.to_public()))
    assert str(vault.recipient()) == str(KEY.to_public())
    with pytest.raises(VaultError, match="secret key"):
        vault.identity()
    monkeypatch.setenv(vault.VARIABLE, "a password")
    with pytest.raises(VaultError, match="no age key"):
        vault.recipient()


def test_a_link_to_a_place_outside_is_refused(folder, tmp_path):
    (folder / "landing/elsewhere").symlink_to(tmp_path)
    with pytest.raises(VaultError, match="a link to a place outside"):
        _write(folder, tmp_path / "a.age")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


FULL = """
import resource, signal, sys
from pathlib import Path
from core import vault
key = None if sys.argv[3] == "plain" else vault.recipient()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    vault.write(Path(sys.argv[1]), Path(sys.argv[2]), {}, key)
except vault.VaultError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.mark.parametrize("how", ["encrypted", "plain"])
def test_a_disk_that_is_full_half_way_leaves_the_backup_before_and_no_half_one(
    folder, tmp_path, how
):
    archive = tmp_path / "a.age"
    archive.write_bytes(b"the backup before")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder), str(archive), how],
        cwd=ROOT,
        env={**os.environ, vault.VARIABLE: str(KEY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "refused: no backup was written" in done.stderr
    assert archive.read_bytes() == b"the backup before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.age", "home"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".backup")]


MEMORY = """
import resource, sys
from pathlib import Path
from core import vault
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
vault.write(Path(sys.argv[1]), Path(sys.argv[2]), {}, vault.recipient())
vault.unpack(Path(sys.argv[2]), Path(sys.argv[3]), vault.identity())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_the_folder(folder, tmp_path):
    with (folder / "big").open("wb") as file:
        file.truncate(120_000_000)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder), str(tmp_path / "a"), str(tmp_path / "b")],
        cwd=ROOT,
        env={**os.environ, vault.VARIABLE: str(KEY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert int(done.stdout) < 48, done.stderr
