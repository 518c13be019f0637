"""docs/connect-your-shop.md, followed to the letter: a new shop touches nothing but its folder."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("core", "ingest", "dbt_project", "audit", "feature_repo", "ml", "reports", "orchestration")


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


def test_the_broken_row_blocks_the_night_and_a_mended_one_is_published(clone: Path) -> None:
    run = ("orchestration", "run", "--shop", "corner", "--data", "raw", "--night", "2026-03-01")
    blocked = _python(clone, *run)
    assert blocked.returncode == 1
    assert "quantity_not_bigint" in blocked.stdout
    assert not (clone / "var" / "corner" / "marts.duckdb").exists()
    sales = clone / "raw" / "sales" / "2026-03-01.csv"
    sales.write_text(sales.read_text().replace(",many,", ",1,"))
    done = _python(clone, *run)
    assert done.returncode == 0, done.stdout
    with duckdb.connect(str(clone / "var" / "corner" / "marts.duckdb"), read_only=True) as marts:
        orders = marts.execute(
            "SELECT order_id, net_revenue::DOUBLE, user_id IS NULL FROM marts.fct_orders ORDER BY 1"
        ).fetchall()
    assert orders == [("A1", 9.0, False), ("A2", 4.5, True), ("A4", 9.0, False)]
