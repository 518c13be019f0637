"""A finished night's whole state: who may read it, what analysts see of it, and its backup."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyrage
import pytest

from audit.publish import content_hash
from core.access import PUBLISHED
from core.paths import Paths
from orchestration.__main__ import main
from privacy import budget
from tests.conftest import Place, Ran

NIGHT, NEXT = "2026-06-29", "2026-06-30"


# ---- who may read what


def test_a_group_may_read_what_was_published_and_nobody_else_anything(
    demo_night: tuple[Place, Ran],
) -> None:
    place = demo_night[0]
    files = 0
    for path in [place.home(), *place.var.rglob("*")]:
        if path.is_symlink() or path in (place.var, place.home()):
            continue
        if path.name == "partial_parse.msgpack":
            continue  # copied with the mode it had in the project; the folder around it is closed
        mode = path.stat().st_mode & 0o777
        inside = path.is_relative_to(place.home()) and path != place.home()
        top = path.relative_to(place.home()).parts[0] if inside else ""
        open_to_group = top in PUBLISHED
        wanted = (0o750 if open_to_group else 0o700) & (0o777 if path.is_dir() else 0o666)
        assert mode == wanted, f"{path}: {mode:o}"
        files += 1
    assert files > 500
    assert place.home().stat().st_mode & 0o777 == 0o750


ANALYST = """
import os, sys
from pathlib import Path
import duckdb
home, group, user = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
os.setgroups([]); os.setgid(group); os.setuid(user)
with duckdb.connect(str(home / "marts.duckdb"), read_only=True) as marts:
    print("users", marts.execute("SELECT count(*) > 0 FROM marts.dim_users").fetchall()[0][0])
for path in sorted(home.rglob("*")):
    if path.is_file() and os.access(path, os.R_OK):
        print("reads", path.relative_to(home).parts[0])
for name in sorted(os.listdir(home)):
    if not os.access(home / name, os.R_OK):
        print("shut", name)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become an analyst")
def test_an_analyst_of_the_group_opens_the_marts_and_nothing_else(
    demo_night: tuple[Place, Ran],
) -> None:
    group, user = 54_321, 54_322
    place = demo_night[0]
    # the folders above belong to pytest: the analyst gets a way in of his own
    stand = Path("/tmp") / f"perennial-analyst-{os.getpid()}"
    try:
        shutil.copytree(place.home(), stand, symlinks=True)
        for path in [stand, *stand.rglob("*")]:
            os.chown(path, 0, group, follow_symlinks=False)
        done = subprocess.run(
            [sys.executable, "-c", ANALYST, str(stand), str(group), str(user)],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        shutil.rmtree(stand, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    said = {tuple(line.split()) for line in done.stdout.splitlines()}
    assert ("users", "True") in said
    assert {name for what, name in said if what == "reads"} == set(PUBLISHED)
    for name in ("raw", "landing", "warehouse.duckdb", "secrets", "feast", "models", "mlflow"):
        assert ("shut", name) in said


# ---- what an analyst sees


def test_no_value_of_the_published_file_is_a_raw_id_or_what_somebody_typed(
    demo_night: tuple[Place, Ran],
) -> None:
    home = demo_night[0].home()
    with duckdb.connect(str(home / "marts.duckdb"), read_only=True) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns() "
            "WHERE NOT internal AND data_type LIKE 'VARCHAR%'"
        ).fetchall()
        assert not {name for _, name in columns} & {"query", "properties", "text", "body", "words"}
        values = " UNION ".join(
            f'SELECT "{name}"::VARCHAR AS value FROM marts."{table}"' for table, name in columns
        )
        connection.execute(f"CREATE TEMP TABLE seen AS SELECT DISTINCT value FROM ({values})")
        connection.execute(
            f"""
            CREATE TEMP TABLE raw AS
            SELECT customer AS value FROM '{home}/raw/events/*.parquet'
            UNION SELECT visit::VARCHAR FROM '{home}/raw/events/*.parquet'
            UNION SELECT 'v' || visit FROM '{home}/raw/events/*.parquet'
            UNION SELECT 'session:v' || visit FROM '{home}/raw/events/*.parquet'
            UNION SELECT search_words FROM '{home}/raw/events/*.parquet'
            UNION SELECT customer FROM read_json('{home}/raw/reviews/*.jsonl')
            UNION SELECT words FROM read_json('{home}/raw/reviews/*.jsonl')
            UNION SELECT body FROM read_csv('{home}/raw/messages/*.csv', all_varchar = true)
            """
        )
        found = connection.execute(
            "SELECT value FROM raw JOIN seen USING (value) LIMIT 5"
        ).fetchall()
        (raw,) = connection.execute("SELECT count(*) FROM raw").fetchall()[0]
    assert raw > 10_000
    assert found == []


# ---- the backup


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret key for backups."""
    monkeypatch.setenv("PERENNIAL_BACKUP_KEY", str(pyrage.x25519.Identity.generate()))


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """The umask that a command sets in this process ends with the test."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def _here(place: Place, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The same command in this process, which spares the seconds of a new one."""
    monkeypatch.setenv("PERENNIAL_VAR", str(place.var))
    return main(list(arguments))


def _charge(epsilon: int) -> None:
    with budget.opened(Paths("demo")) as ledger:
        ledger.charge(date(2026, 6, 29), "some", "", Decimal(epsilon), 0, datetime(2026, 6, 30))


def _snapshot(place: Place) -> dict[str, int]:
    return {
        str(path.relative_to(place.home())): path.stat().st_ino
        for path in place.home().rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_the_whole_state_comes_back_on_another_machine(
    demo_night: tuple[Place, Ran],
    tmp_path: Path,
    key: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = demo_night[0]
    before = _snapshot(place)
    ran = place("backup", "--to", str(tmp_path), "--secrets")
    assert ran.code == 0, ran.out
    assert "read back and found whole" in ran.out
    archive = tmp_path / f"demo-{NIGHT}.tar.zst.age"
    assert sorted(path.name for path in tmp_path.iterdir()) == [archive.name]
    assert _snapshot(place) == before

    other = Place(tmp_path / "other" / "var")
    with monkeypatch.context() as wrong:
        wrong.setenv("PERENNIAL_BACKUP_KEY", str(pyrage.x25519.Identity.generate()))
        assert _here(other, wrong, "restore", "--from", str(archive)) == 2
    assert "cannot be opened with this key" in capsys.readouterr().err
    assert not other.var.exists()

    ran = other("restore", "--from", str(archive))
    assert ran.code == 0, ran.out
    assert f"Night {NIGHT} is published." in ran.out
    assert set(_snapshot(other)) == {
        name for name in before if not name.startswith((".lock", "dbt/", "spill/"))
    }
    # the raw files, the code and the model are those of the published night: nothing is to be done
    again = other("run", "--scale", "small")
    assert "Nothing has changed" in again.out, again.out


def test_a_backup_is_not_written_openly_unless_asked_to_and_never_with_the_keys(
    demo_night: tuple[Place, Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("PERENNIAL_BACKUP_KEY", raising=False)
    command = ["backup", "--to", str(tmp_path)]
    assert _here(demo_night[0], monkeypatch, *command) == 2
    assert "PLAIN=1" in capsys.readouterr().err
    assert _here(demo_night[0], monkeypatch, *command, "--plain", "--secrets") == 2
    assert "SECRETS=1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_restore_puts_aside_what_was_there_and_a_damaged_backup_changes_nothing(
    demo_night: tuple[Place, Ran],
    tmp_path: Path,
    key: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = Place(tmp_path / "var")
    shutil.copytree(demo_night[0].home(), place.home(), symlinks=True)
    monkeypatch.setenv("PERENNIAL_VAR", str(place.var))
    _charge(1)
    assert _here(place, monkeypatch, "backup", "--to", str(tmp_path)) == 0
    _charge(2)
    archive = tmp_path / f"demo-{NIGHT}.tar.zst.age"
    pseudonyms = (place.home() / "secrets" / "pseudonym.key").read_text()
    (place.home() / "warehouse.duckdb").write_bytes(b"lost")
    before = _snapshot(place)

    damaged = tmp_path / "damaged.age"
    damaged.write_bytes(archive.read_bytes()[:-2_000_000])
    assert _here(place, monkeypatch, "restore", "--from", str(damaged)) == 2
    assert "cannot be read to its end" in capsys.readouterr().err
    assert _snapshot(place) == before
    assert sorted(path.name for path in place.var.iterdir()) == ["demo"]

    assert _here(place, monkeypatch, "restore", "--from", str(archive)) == 0
    assert "demo.replaced: delete it" in capsys.readouterr().out
    with duckdb.connect(str(place.home() / "warehouse.duckdb"), read_only=True) as warehouse:
        assert warehouse.execute("SELECT count(*) FROM marts.fct_events").fetchall()[0][0]
    # the backup has no key: the one that was here stays
    assert (place.home() / "secrets" / "pseudonym.key").read_text() == pseudonyms
    assert (place.var / "demo.replaced" / "warehouse.duckdb").read_bytes() == b"lost"
    # what was shared since the backup is not forgotten: it is with people outside
    with budget.opened(Paths("demo")) as ledger:
        assert [grant.epsilon for grant in ledger.grants] == ["1", "2"]

    assert _here(place, monkeypatch, "restore", "--from", str(archive)) == 2
    assert "left from an earlier restore" in capsys.readouterr().err


def test_a_night_that_is_running_keeps_backup_and_restore_waiting(
    demo_night: tuple[Place, Ran],
    tmp_path: Path,
    key: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = demo_night[0]
    with (place.home() / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (["backup", "--to", str(tmp_path)], ["restore", "--night", NIGHT]):
            assert _here(place, monkeypatch, *command) == 2
            assert "is running already" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
def test_after_a_restore_the_next_night_goes_on_as_if_nothing_had_happened(
    demo_night: tuple[Place, Ran], tmp_path: Path, key: None
) -> None:
    place = Place(tmp_path / "var")
    shutil.copytree(demo_night[0].var, place.var, symlinks=True)
    ran = place("backup", "--to", str(tmp_path), "--secrets")
    assert ran.code == 0, ran.out
    undisturbed = place("run", "--night", NEXT)
    assert undisturbed.code == 0, undisturbed.out

    other = Place(tmp_path / "other")
    ran = other("restore", "--from", str(tmp_path / f"demo-{NIGHT}.tar.zst.age"))
    assert ran.code == 0, ran.out
    ran = other("run", "--night", NEXT)
    assert ran.code == 0, ran.out
    # one more night, not all of them
    assert "from scratch" not in ran.out and " 0 of " in ran.out  # no text is embedded again
    marts = content_hash(place.home() / "marts.duckdb")
    assert content_hash(other.home() / "marts.duckdb") == marts

    # back to the night before, and on again
    yesterday = (demo_night[0].home() / "marts.duckdb").read_bytes()
    report = (place.home() / "reports" / NIGHT / "index.html").read_bytes()
    ran = place("restore", "--night", NIGHT)
    assert ran.code == 0 and f"Night {NIGHT} is published." in ran.out, ran.out
    assert (place.home() / "marts.duckdb").read_bytes() == yesterday
    assert (place.home() / "reports" / NIGHT / "index.html").read_bytes() == report
    ran = place("run", "--night", NEXT)
    assert f"Night {NEXT} is published." in ran.out and "Nothing has changed" not in ran.out
    assert content_hash(place.home() / "marts.duckdb") == marts
