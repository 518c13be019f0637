"""docs/connect-your-shop.md, followed to the letter: a new shop touches nothing but its folder."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.conftest import ROOMS, ROOT


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rooms of the repository, and the files that the page says to write."""
    folder = tmp_path_factory.mktemp("clone")
    ignored = shutil.ignore_patterns("__pycache__", "target", "logs")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=ignored)
    (folder / "shops").mkdir()
    for file in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(ROOT / file, folder / file)
    page = (ROOT / "docs" / "connect-your-shop.md").read_text()
    for name, text in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", page, re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _python(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=clone,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_check_shop_finds_the_row_that_the_page_promises(clone: Path) -> None:
    done = _python(clone, "ingest.check_shop", "corner", "--data", "raw")
    assert "quantity" in done.stdout
    assert "many" in done.stdout


def test_the_broken_row_is_kept_apart_and_the_rest_is_published(clone: Path) -> None:
    run = ("orchestration", "run", "--shop", "corner", "--data", "raw", "--night", "2026-03-01")
    done = _python(clone, *run)
    assert done.returncode == 0, done.stdout
    assert "1 quarantined" in done.stdout and "1 excluded" in done.stdout
    assert "none yet: the lists hold what is popular now" in done.stdout
    with duckdb.connect(str(clone / "var" / "corner" / "marts.duckdb"), read_only=True) as marts:
        orders = marts.execute(
            "SELECT order_id, net_revenue::DOUBLE, user_id IS NULL FROM marts.fct_orders ORDER BY 1"
        ).fetchall()
        detail = marts.execute(
            "SELECT detail FROM marts.run_manifest WHERE name = 'events/quarantined'"
        ).fetchall()
        lists = marts.execute("SELECT DISTINCT reason FROM marts.recommendations").fetchall()
    assert orders == [("A1", 9.0, False), ("A2", 4.5, True)]
    assert json.loads(detail[0][0]) == {"reasons": {"quantity_not_bigint": 1}}
    assert lists == [("popular now",)]


def test_a_mended_file_mends_the_night(clone: Path) -> None:
    sales = clone / "raw" / "sales" / "2026-03-01.csv"
    sales.write_text(sales.read_text().replace(",many,", ",1,"))
    run = ("orchestration", "run", "--shop", "corner", "--data", "raw", "--night", "2026-03-01")
    done = _python(clone, *run)
    assert done.returncode == 0, done.stdout
    assert "0 quarantined" in done.stdout
    with duckdb.connect(str(clone / "var" / "corner" / "marts.duckdb"), read_only=True) as marts:
        orders = marts.execute(
            "SELECT order_id, net_revenue::DOUBLE FROM marts.fct_orders ORDER BY 1"
        ).fetchall()
    assert orders == [("A1", 9.0), ("A2", 4.5), ("A4", 9.0)]
