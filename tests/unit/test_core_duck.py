"""Encryption at rest: what this DuckDB can do, and that nothing is written plainly in its place."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import duckdb
import pytest

from audit import nights
from audit.publish import content_hash
from core import duck
from core.paths import Paths
from core.shop import KeepNights

KEY = "a key for tests only"


def _can_encrypt() -> bool:
    try:
        duckdb.connect().execute("LOAD httpfs")
    except duckdb.Error:
        return False
    return True


def _write(file: Path) -> None:
    with duck.connect() as connection:
        duck.attach_to_write(connection, file, "published")
        connection.execute("CREATE TABLE published.dim_users AS SELECT 'somebody' AS user_id")
        connection.execute("CREATE TABLE published.run_manifest AS SELECT DATE '2026-03-01' night")
        connection.execute("DETACH published")


@pytest.mark.skipif(_can_encrypt(), reason="DuckDB's httpfs extension is installed here")
def test_without_httpfs_a_key_is_refused_with_what_to_do_and_no_file_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.setenv(duck.ENCRYPTION_KEY, KEY)
    with pytest.raises(duck.EncryptionError, match=r"httpfs.*encrypted volume"):
        _write(tmp_path / "marts.duckdb")
    with pytest.raises(duck.EncryptionError):
        duck.check_encryption()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv(duck.ENCRYPTION_KEY)
    duck.check_encryption()


@pytest.fixture
def encrypting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where httpfs is not installed, DuckDB's own cipher for tests, which it calls unsafe."""
    monkeypatch.setenv(duck.ENCRYPTION_KEY, KEY)
    if not _can_encrypt():
        usual = duck.settings()
        monkeypatch.setattr(duck, "settings", lambda: {**usual, "force_mbedtls_unsafe": "true"})


def test_an_encrypted_file_is_read_like_any_other_and_shows_nothing_without_its_key(
    tmp_path, encrypting, monkeypatch
):
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths = Paths("small")
    paths.home.mkdir()
    _write(paths.marts)
    assert duck.is_encrypted(paths.marts)
    assert b"somebody" not in paths.marts.read_bytes()
    with duck.connect(paths.marts, read_only=True) as connection:
        assert connection.execute("SELECT user_id FROM marts.dim_users").fetchall() == [
            ("somebody",)
        ]
        assert connection.execute("SELECT count(*) FROM dim_users").fetchall() == [(1,)]
    assert set(content_hash(paths.marts)) == {"dim_users", "run_manifest"}
    nights.keep(paths, date(2026, 3, 1), {"night": "2026-03-01"}, KeepNights())
    nights.restore(paths, date(2026, 3, 1))
    for key in ("", "another key for tests"):
        monkeypatch.setenv(duck.ENCRYPTION_KEY, key)
        with pytest.raises(duckdb.Error), duck.connect(paths.marts, read_only=True):
            pass
