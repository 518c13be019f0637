"""A shop so small that a night is start-up only, and copies of a published night to harm.

`make_clone` gives a copy of the code with this one shop in it, as docs/connect-your-shop.md says.
Its raw files hold 100 shoppers who walk along a ring of 60 items, so that a recommender of a few
steps has something to learn. The nights are YESTERDAY, which is published, and TONIGHT.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb

from tests.conftest import ROOMS, ROOT, Ran

YESTERDAY, TONIGHT, NEXT = date(2026, 3, 29), date(2026, 3, 30), date(2026, 3, 31)
WITHOUT_EVENTS = date(2026, 4, 1)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "PERENNIAL_THREADS": "1"}  # there is nothing to share out
SETTINGS = """
name: {name}
title: The tiny shop
simulated: true
time_zone: Europe/Berlin
currency: EUR
language: en
start: 2026-03-01
raw:
  events:
    files: "events/*.csv"
    format: csv
    columns: [id, happened, customer, visit, action, sku, order_no, pieces, price]
  catalogue:
    files: "catalogue.csv"
    format: csv
    columns: [sku, name, department, price, since]
recommender:
  input_events: [view, purchase]
  target_events: [purchase]
  holdout_days: 7
  max_steps: 30
"""
SELECTS = {
    "events": "SELECT id AS event_id, happened AS event_ts, customer AS user_id, "
    "visit AS session_id, action AS event_type, sku AS item_id, order_no AS order_id, "
    "pieces AS quantity, price AS unit_price, 'EUR' AS currency, _file, _row FROM raw.events\n",
    "items": "SELECT sku AS item_id, name AS title, department AS category_path, price, "
    "since AS valid_from, _file, _row FROM raw.catalogue\n",
}
# 20 visits a day of two views and a purchase; a shopper goes on where the last visit ended
_EVENTS = """
    SELECT format('{}-{}-{}', d, s, k) AS id,
           TIMESTAMP '2026-03-01' + to_days(d) + to_hours(6 + s % 12)
             + to_seconds((hash(d, s) % 1800 + 60 * k)::BIGINT) AS happened,
           format('shopper{}', (d * 20 + s) % 100) AS customer, format('v{}-{}', d, s) AS visit,
           ['view', 'view', 'purchase'][k + 1] AS action,
           format('item{}', (3 * ((d * 20 + s) // 100) + 7 * ((d * 20 + s) % 100) + k) % 60) AS sku,
           CASE k WHEN 2 THEN format('o{}-{}', d, s) END AS order_no,
           CASE k WHEN 2 THEN 1 + s % 2 END AS pieces, CASE k WHEN 2 THEN 5 + s % 7 END AS price
    FROM range(0, 31) days(d), range(0, 20) visits(s), range(0, 3) steps(k)"""
_ITEMS = """
    SELECT format('item{}', i) AS sku, 'Mug ' || md5(i::VARCHAR) AS name,
           'Home > Mugs' AS department, 5 AS price, DATE '2026-03-01' AS since
    FROM range(0, 60) items(i)"""


def write_raw(folder: Path) -> None:
    """All raw files up to NEXT, one a day; a night leaves what lies after it."""
    (folder / "events").mkdir(parents=True)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS {_EVENTS}")
        for (day,) in connection.execute("SELECT DISTINCT happened::DATE FROM t").fetchall():
            connection.execute(
                f"COPY (FROM t WHERE happened::DATE = DATE '{day}' ORDER BY happened, id) "
                f"TO '{folder}/events/{day}.csv' (HEADER)"
            )
        connection.execute(f"COPY ({_ITEMS}) TO '{folder}/catalogue.csv' (HEADER)")


def write_shop(shops: Path, name: str) -> None:
    """`shops/<name>`: its settings and SELECTs."""
    (shops / name).mkdir(parents=True)
    (shops / name / "shop.yml").write_text(SETTINGS.format(name=name))
    for table, select in SELECTS.items():
        (shops / name / f"{table}.sql").write_text(select)


def make_clone(folder: Path, *shops: str) -> Path:
    """A copy of the code that knows only these shops."""
    ignored = shutil.ignore_patterns("__pycache__", "target", "logs")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=ignored)
    for file in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(ROOT / file, folder / file)
    for shop in shops:
        write_shop(folder / "shops", shop)
    return folder


@dataclass(frozen=True)
class Nights:
    """The command line of a clone, working on a folder that plays `var/`."""

    clone: Path
    var: Path

    @property
    def home(self) -> Path:
        """The folder of the shop `tiny`."""
        return self.var / "tiny"

    @property
    def marts(self) -> Path:
        """Its published file."""
        return self.home / "marts.duckdb"

    def start(self, *arguments: str, log: Path | None = None) -> subprocess.Popen[str]:
        """`python -m orchestration ...` as the leader of a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestration", *arguments],
            cwd=self.clone,
            env={**os.environ, "PERENNIAL_VAR": str(self.var), **ONE_THREAD},
            stdout=log.open("a") if log else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, night: date, *arguments: str, shop: str = "tiny") -> Ran:
        """`make run SHOP=tiny NIGHT=...`, to its end."""
        process = self.start("run", "--shop", shop, "--night", str(night), *arguments)
        out = process.communicate()[0]
        return Ran(process.returncode, out)

    def copy(self, var: Path) -> Nights:
        """The same nights in another folder."""
        shutil.copytree(self.var, var, symlinks=True)
        nights = Nights(self.clone, var)
        # the record that this very file was audited and published, which goes by the file's number
        record = nights.home / "audited.json"
        stat = nights.marts.stat()
        known = json.loads(record.read_text())
        known["published"] = [stat.st_ino, stat.st_size, stat.st_mtime_ns]
        record.write_text(json.dumps(known))
        return nights


@dataclass(frozen=True)
class Calm:
    """TONIGHT as it ends undisturbed, and the seconds it takes."""

    nights: Nights
    state: dict[str, str]
    seconds: float


def kill(process: subprocess.Popen[str]) -> str:
    """`kill -9` for the process and all it started; what it had said."""
    with suppress(ProcessLookupError):  # it may have come to its end
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0]
