"""A full disk and folders that may not be written: a plain message, and nothing is lost."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from tests.faults.state import state
from tests.faults.tiny import TONIGHT, Calm, Nights

pytestmark = pytest.mark.faults

MEBIBYTE = 1 << 20


@contextmanager
def _mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount something at `folder`; skips where that is not permitted."""
    done = subprocess.run(
        ["mount", *options, str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """A folder that nobody can write to, not even root, whom modes do not stop."""
    with _mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield


# how far a night gets: Dagster's own record, dbt's files, the warehouse, the models
@pytest.mark.parametrize("free", [0, 1, 4, 10])
def test_a_full_disk_stops_the_night_and_costs_nothing(
    free: int, published: Nights, undisturbed: Calm, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with _mounted(disk, "-t", "tmpfs", "-o", "size=400m", "tmpfs"):
        nights = published.copy(disk / "var")
        before = nights.marts.read_bytes()
        left = shutil.disk_usage(disk).free - free * MEBIBYTE
        (disk / "filler").write_bytes(b"\0" * left)
        ran = nights.run(TONIGHT)
        assert ran.code == 1, ran.out
        assert "no space is left on the disk" in ran.out, ran.out
        assert "free some and run the night again" in ran.out.splitlines()[-1], ran.out
        assert nights.marts.read_bytes() == before
        with duckdb.connect(str(nights.marts), read_only=True) as marts:
            assert marts.execute("SELECT count(*) FROM marts.fct_orders").fetchall()[0][0]
        (disk / "filler").unlink()
        again = nights.run(TONIGHT)
        assert again.code == 0, again.out
        assert state(nights) == undisturbed.state


@pytest.mark.parametrize("part", ["tiny", "tiny/features/item_stats_v1", "tiny/models", "dagster"])
def test_a_read_only_folder_stops_the_night_and_is_named(
    part: str, nights: Nights, undisturbed: Calm
) -> None:
    before = nights.marts.read_bytes()
    with _read_only(nights.var / part):
        ran = nights.run(TONIGHT)
    assert ran.code == 1, ran.out
    assert f"may not write to {nights.var / part}:" in ran.out.splitlines()[-1], ran.out
    assert ran.out.count('  File "') < 5, ran.out
    assert nights.marts.read_bytes() == before
    again = nights.run(TONIGHT)
    assert again.code == 0, again.out
    assert state(nights) == undisturbed.state
