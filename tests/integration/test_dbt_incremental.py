"""Whatever the order of deliveries and of nights, the warehouse is that of a full refresh.

Days of the simulated shop, their events dealt anew: shuffled, some delivered twice, some days late,
and the files arrive in any order. Nights are run on them in any order too, by the steps of a real
night: landing, the first day to build again, dbt. At the end every table must be, row for row, what
one build from nothing makes of the same landing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from core.paths import Paths
from core.shop import load_shop
from ingest.landing import land
from orchestration.lib import dbt
from orchestration.lib.night import Night
from shops.demo.source import fetch
from tests.integration.test_dbt_nights import differing_tables

pytestmark = pytest.mark.faults

SHOP = load_shop("demo")
DAYS = [SHOP.start + timedelta(days=offset) for offset in range(17)]  # two Sundays and more

# An event stays in the file of its day, comes up to `late` days later, or comes twice.
DEAL = """
COPY (
    SELECT * EXCLUDE (filename, day, arrival) FROM (
        SELECT *, day + to_days((hash(id, $seed) % ($late + 1))::INTEGER
            * (hash(id, $seed, 'late') % 8 = 0)::INTEGER) AS arrival FROM {events}
        UNION ALL
        SELECT *, day + to_days((hash(id, $seed, 'again') % 5)::INTEGER) FROM {events}
        WHERE hash(id, $seed, 'twice') % 20 = 0
    ) WHERE arrival = $day
    ORDER BY hash(id, $seed, 'order')
) TO '{file}' (FORMAT parquet)
"""
EVENTS = """(
    SELECT *, parse_filename(filename, true)::DATE AS day FROM read_parquet($files, filename = true)
)"""


class Incremental:
    """The simulated shop's home, its nights, and dbt run on it in this process."""

    def __init__(self, var: Path) -> None:
        self.paths = Paths("demo")
        self.source = var / "source"
        fetch(self.source, DAYS[-1], "small")
        self.log = str(var / "dbt")
        parsed = dbtRunner().invoke(["parse", *self._options(DAYS[0], None)])
        assert isinstance(parsed.result, Manifest), parsed.exception
        self.runner = dbtRunner(manifest=parsed.result)

    def _options(self, night: date, first: date | None) -> list[str]:
        variables = json.loads(dbt.variables(SHOP))
        variables |= {"night": str(night), "reprocess_from": str(first or SHOP.start)}
        variables["feature_weeks"] = 1  # so that snapshots grow too old within the days of the test
        folders = {"project-dir": dbt.PROJECT, "profiles-dir": dbt.PROJECT}
        folders |= {"target-path": Path(self.log), "log-path": Path(self.log)}
        options = [part for name, at in folders.items() for part in (f"--{name}", str(at))]
        return ["--quiet", "--no-write-json", *options, "--vars", json.dumps(variables)]

    def deal(self, seed: int, late: int, folder: Path) -> None:
        """The raw files of all days, dealt anew; only the events are."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.source, folder)
        files = f"{self.source}/events/*.parquet"
        with duckdb.connect() as duck:
            for day in DAYS:
                file = folder / "events" / f"{day}.parquet"
                query = DEAL.format(events=EVENTS, file=file)
                duck.execute(query, {"seed": seed, "late": late, "day": day, "files": files})

    def begin(self) -> None:
        shutil.rmtree(self.paths.home, ignore_errors=True)
        self.paths.raw.mkdir(parents=True)

    def arrive(self, folder: Path, days: list[date]) -> None:
        for day in days:
            for file in folder.glob(f"*/{day}.*"):
                to = self.paths.raw / file.parent.name / file.name
                to.parent.mkdir(exist_ok=True)
                shutil.copy2(file, to)

    def night(self, night: date) -> None:
        tonight = Night(SHOP, self.paths, night)
        land(SHOP, self.paths, night)
        landed = dbt.landing_digests(self.paths)
        self._run(night, dbt.reprocess_from(tonight, landed))
        dbt.remember_build(tonight, landed)

    def refreshed(self, night: date) -> Path:
        """The tables of a full refresh of the landing as it is; the warehouse stays as it is."""
        kept = shutil.move(self.paths.warehouse, self.paths.home / "kept.duckdb")
        self._run(night, None)
        full = shutil.move(self.paths.warehouse, self.paths.home / "full.duckdb")
        shutil.move(kept, self.paths.warehouse)
        return full

    def _run(self, night: date, first: date | None) -> None:
        refresh = [] if first else ["--full-refresh"]
        done = self.runner.invoke(["run", *refresh, *self._options(night, first)])
        DuckDBConnectionManager.close_all_connections()
        assert done.success, done.exception or [one.message for one in done.result]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Incremental]:
    var = tmp_path_factory.mktemp("var")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_VAR", str(var))
        patch.setenv("PERENNIAL_SHOP_HOME", str(var / "demo"))
        yield Incremental(var)


@given(
    seed=st.integers(0, 2**31),
    late=st.integers(0, 6),
    arrivals=st.permutations(DAYS),
    nights=st.lists(st.sampled_from(DAYS[3:]), min_size=3, max_size=5, unique=True),
    in_order=st.booleans(),
)
@settings(
    max_examples=int(os.environ.get("PERENNIAL_EXAMPLES", "6")),
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # an example takes half a minute: none is made smaller
    suppress_health_check=list(HealthCheck),
)
def test_any_order_of_files_and_nights_equals_a_full_refresh(
    shop: Incremental,
    seed: int,
    late: int,
    arrivals: list[date],
    nights: list[date],
    in_order: bool,
) -> None:
    """Day by day where `in_order`, else a backfill: night 9, then 4, then 12."""
    dealt = shop.source.with_name("dealt")
    shop.deal(seed, late, dealt)
    shop.begin()
    nights = sorted(nights) if in_order else nights
    share = -(-len(DAYS) // len(nights))
    for step, night in enumerate(nights):
        shop.arrive(dealt, arrivals[step * share : (step + 1) * share])
        shop.night(night)
    note(f"nights {[str(night) for night in nights]}")
    with duckdb.connect(str(shop.paths.warehouse), read_only=True) as built:
        [[events]] = built.execute("SELECT count(*) FROM marts.fct_events").fetchall()
    note(f"{events} events")
    assert differing_tables(shop.paths.warehouse, shop.refreshed(nights[-1])) == {}
