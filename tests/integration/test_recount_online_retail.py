"""The marts of Online Retail against a second count that starts from the raw files.

`recount_online_retail.sql` is plain SQL over the two parquet files, written from the shop's README
and not from its mapping: customers, orders, revenue, repeat rate and monthly cohorts must agree.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from core.paths import Paths
from core.shop import ROOT, load_shop
from ingest.landing import land

RECOUNT = Path(__file__).with_name("recount_online_retail.sql")
DATA = ROOT.parent / "shared" / "data" / "online_retail"
NIGHT = date(2011, 12, 9)

Cohorts = dict[tuple[date, int], tuple[int, int]]  # (cohort, months later): (size, returned)

FIGURES = """
SELECT 'users', count(*)::DECIMAL(18, 4) FROM marts.dim_users
UNION ALL SELECT 'customers', count(*) FROM marts.dim_users WHERE is_customer
UNION ALL SELECT 'customers who came back', count(*) FROM marts.dim_users WHERE orders > 1
UNION ALL SELECT 'orders', count(*) FROM marts.fct_orders
UNION ALL SELECT 'orders of guests', count(*) FROM marts.fct_orders WHERE user_id IS NULL
UNION ALL SELECT 'valid orders', count(*) FROM marts.fct_orders WHERE is_valid
UNION ALL SELECT 'gross revenue', sum(gross_revenue) FROM marts.fct_orders
UNION ALL SELECT 'refunded', -sum(revenue) FROM marts.fct_order_lines WHERE line_type = 'refund'
UNION ALL SELECT 'net revenue', sum(revenue) FROM marts.fct_order_lines
UNION ALL SELECT 'net revenue of known users', sum(net_revenue) FROM marts.dim_users
UNION ALL SELECT 'refunds that name an order', count(*) FROM marts.fct_order_lines
    WHERE line_type = 'refund' AND order_id IS NOT NULL
"""

COHORTS = """
SELECT cohort, period, eligible, returned FROM marts.retention_cohorts
WHERE cohort_grain = 'month' AND kind = 'n_day'
"""


def figures_of(marts: Path) -> tuple[dict[str, Decimal], Cohorts]:
    """The figures in a file with a schema `marts`: the warehouse, or what was published."""
    with duckdb.connect(str(marts), read_only=True) as built:
        figures = dict(built.execute(FIGURES).fetchall())
        return figures, cohorts(built, COHORTS)


def recount(folder: Path, night: date) -> tuple[dict[str, Decimal], Cohorts]:
    """The same figures from the raw files in `folder`."""
    with duckdb.connect() as fresh:
        fresh.execute(RECOUNT.read_text().format(folder=folder, night=night))
        figures = dict(fresh.execute("FROM figure").fetchall())
        return figures, cohorts(fresh, "FROM cohort WHERE months_later <= 24")


def cohorts(connection: duckdb.DuckDBPyConnection, query: str) -> Cohorts:
    rows = connection.execute(query).fetchall()
    return {(cohort, later): (size, returned) for cohort, later, size, returned in rows}


@pytest.fixture(scope="module")
def marts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Landing and warehouse of the whole archive, made for this test."""
    if not DATA.is_dir():
        pytest.skip(f"the Online Retail files are not at {DATA}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_VAR", str(tmp_path_factory.mktemp("var")))
        shop, paths = load_shop("online_retail"), Paths("online_retail")
        paths.home.mkdir()
        paths.raw.symlink_to(DATA)
        land(shop, paths, NIGHT)
        patch.setenv("PERENNIAL_SHOP_HOME", str(paths.home))
        patch.setenv("DBT_TARGET_PATH", str(paths.home / "dbt"))
        patch.setenv("DBT_LOG_PATH", str(paths.home / "dbt"))
        variables = {
            "night": NIGHT.isoformat(),
            "reprocess_from": shop.start.isoformat(),
            "start": shop.start.isoformat(),
            "currency": shop.currency,
        }
        project = str(ROOT / "dbt_project")
        command = [str(Path(sys.executable).with_name("dbt")), "run"]
        command += ["--project-dir", project, "--profiles-dir", project]
        command += ["--select", "+dim_users", "+retention_cohorts"]
        command += ["--vars", json.dumps(variables)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        yield paths.warehouse


def test_the_marts_agree_with_a_count_of_the_raw_files(marts: Path) -> None:
    figures, by_cohort = figures_of(marts)
    expected, expected_by_cohort = recount(DATA, NIGHT)
    assert figures == expected
    assert by_cohort == expected_by_cohort
    # 24 months are over by the night: as many cohorts, and a triangle of periods
    assert len(by_cohort) == 24 * 25 // 2
