"""Analysts in other processes query the published file while nights are run, good and bad."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.tiny import NEXT, TONIGHT, WITHOUT_EVENTS, YESTERDAY, Nights

pytestmark = pytest.mark.faults

# One reader opens the file anew each time, the other keeps its connection to what it opened first.
READER = """
import json, sys, time
from pathlib import Path
import duckdb

file, stop, keeps = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "keeps"
MANIFEST = "SELECT DISTINCT night::VARCHAR FROM marts.run_manifest"
LISTS = "SELECT DISTINCT night::VARCHAR FROM marts.recommendations"
DAYS = "SELECT max(event_date)::VARCHAR FROM marts.fct_events"
EVENTS = "SELECT count(*) FROM marts.fct_events"
LANDED = "SELECT value::BIGINT FROM marts.run_manifest WHERE name = 'events/landed'"
BOUGHT = "SELECT sum(gross_revenue) FROM marts.fct_orders"
LINES = "SELECT sum(revenue) FROM marts.fct_order_lines WHERE line_type = 'purchase'"
USERS = "SELECT count(*) FROM marts.dim_users"
LISTED = "SELECT count(DISTINCT user_id) FROM marts.recommendations"

def read(marts):
    (night,), = marts.execute(MANIFEST).fetchall()
    for query in (LISTS, DAYS):
        assert marts.execute(query).fetchall() == [(night,)], (night, query)
    for one, other in ((EVENTS, LANDED), (BOUGHT, LINES), (USERS, LISTED)):
        seen = marts.execute(one).fetchall(), marts.execute(other).fetchall()
        assert seen[0] == seen[1], (night, one, seen)
    return night

nights, reads = [], 0
held = duckdb.connect(file, read_only=True) if keeps else None
while not stop.exists():
    if held:
        night = read(held)
    else:
        with duckdb.connect(file, read_only=True) as fresh:
            night = read(fresh)
    if night not in nights:
        nights.append(night)
    reads += 1
    time.sleep(0.1)
print(json.dumps([nights, reads]))
"""


def test_readers_see_no_error_and_only_whole_nights(nights: Nights, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    readers = {
        kind: subprocess.Popen(
            [sys.executable, "-c", READER, str(nights.marts), str(stop), kind],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for kind in ("opens", "keeps")
    }
    try:
        good = nights.run(TONIGHT)
        bad = nights.run(WITHOUT_EVENTS)
        late = nights.run(NEXT)
    finally:
        stop.touch()
    said = {kind: reader.communicate()[0] for kind, reader in readers.items()}
    assert (good.code, bad.code, late.code) == (0, 1, 0), good.out + bad.out + late.out
    assert "night_has_events" in bad.out
    assert {kind: reader.returncode for kind, reader in readers.items()} == {
        "opens": 0,
        "keeps": 0,
    }, said
    seen, reads = json.loads(said["opens"])
    assert seen == [str(YESTERDAY), str(TONIGHT), str(NEXT)]
    assert reads > 20
    seen, reads = json.loads(said["keeps"])
    assert seen == [str(YESTERDAY)]
    assert reads > 20
