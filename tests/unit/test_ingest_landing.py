"""Landing: the same bytes however the files arrive, every row accounted for, nobody named."""

from __future__ import annotations

import contextlib
import json
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import shop as core_shop
from core.paths import Paths
from core.shop import Shop, ShopError
from ingest import landing as landing_module
from ingest import staging as staging_module
from ingest.landing import changed_files, land

FIRST = date(2026, 1, 1)
NIGHT = date(2026, 1, 5)
EVENTS = """
SELECT 'e' || no AS event_id, moment AS event_ts, who AS user_id, what AS event_type,
    sku AS item_id, pieces AS quantity, price AS unit_price, note AS _exclude, _file, _row
FROM raw.log
"""
HEADER = "no,moment,who,what,sku,pieces,price,note"


def make_shop(folder: Path, monkeypatch: pytest.MonkeyPatch, **selects: str) -> tuple[Shop, Paths]:
    """A shop named tiny with CSV logs; `selects` are its SELECTs by table."""
    monkeypatch.setattr(core_shop, "SHOPS", folder / "shops")
    monkeypatch.setenv("PERENNIAL_VAR", str(folder / "var"))
    monkeypatch.setenv("PERENNIAL_PSEUDONYM_KEY", "a key that is only for tests")
    monkeypatch.setenv("PERENNIAL_THREADS", "1")
    home = folder / "shops" / "tiny"
    home.mkdir(parents=True, exist_ok=True)
    for table, select in (selects or {"events": EVENTS}).items():
        (home / f"{table}.sql").write_text(select)
    shop = Shop.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "time_zone": "UTC",
            "currency": "EUR",
            "language": "en",
            "start": FIRST,
            "raw": {
                "log": {
                    "files": "log/*.csv",
                    "format": "csv",
                    "columns": HEADER.split(","),
                }
            },
            "recommender": {
                "input_events": ["view"],
                "target_events": ["view"],
                "holdout_days": 1,
            },
        }
    )
    paths = Paths("tiny")
    (paths.raw / "log").mkdir(parents=True, exist_ok=True)
    return shop, paths


def line(no: int, at: str, who: str = "ann@shop", what: str = "view", sku: str = "mug") -> str:
    return f"{no},{at},{who},{what},{sku},,,"


def put(paths: Paths, name: str, *lines: str) -> None:
    (paths.raw / "log" / name).write_text("\n".join([HEADER, *lines]) + "\n")


def contents(paths: Paths) -> dict[str, bytes]:
    """Every landing and quarantine file, by name; not the ledger, which knows times of files."""
    return {
        file.relative_to(paths.home).as_posix(): file.read_bytes()
        for folder in (paths.landing, paths.quarantine)
        for file in sorted(folder.rglob("*.parquet"))
    }


def all_text(paths: Paths) -> str:
    """What can be read under `var/` beside the raw files: parquet decoded, the rest as bytes."""
    return "".join(
        str(pq.read_table(file).to_pylist() if file.suffix == ".parquet" else file.read_bytes())
        for file in sorted(paths.home.rglob("*"))
        if file.is_file() and paths.raw not in file.parents
    )


def query(paths: Paths, select: str) -> list[tuple]:
    with duckdb.connect() as connection:
        return connection.execute(
            select.replace(
                "$events",
                f"read_parquet('{paths.landing}/events/*/*.parquet', hive_partitioning = true,"
                " hive_types = {'day': DATE})",
            ).replace("$quarantine", f"read_parquet('{paths.quarantine}/*/*.parquet')")
        ).fetchall()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Shop, Paths]:
    return make_shop(tmp_path, monkeypatch)


def test_rows_land_on_their_utc_day_with_file_and_row(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    put(
        paths,
        "a.csv",
        line(1, "2026-01-01T23:30:00Z"),
        line(2, "2026-01-02T00:30:00+02:00"),
        line(3, "2026-01-02 00:30:00"),
    )
    landed = land(shop, paths, NIGHT)
    assert landed.tables["events"].landed == 3
    assert query(paths, "SELECT event_id, day::VARCHAR, _file, _row FROM $events ORDER BY 1") == [
        ("e1", "2026-01-01", "log/a.csv", 1),
        ("e2", "2026-01-01", "log/a.csv", 2),
        ("e3", "2026-01-02", "log/a.csv", 3),
    ]
    assert landed.touched_days == [date(2026, 1, 1), date(2026, 1, 2)]


def test_every_contract_table_can_be_read_even_where_the_shop_has_none(
    tiny: tuple[Shop, Paths],
) -> None:
    shop, paths = tiny
    land(shop, paths, NIGHT)
    for table in ("events", "items", "reviews", "messages"):
        assert query(paths, f"SELECT count(*) FROM '{paths.landing}/{table}/*/*.parquet'") == [(0,)]
    assert query(paths, "SELECT count(*) FROM $quarantine") == [(0,)]


def test_broken_rows_are_put_aside_with_reason_place_and_values(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    put(
        paths,
        "a.csv",
        line(1, "yesterday"),
        line(2, "2026-01-01", what="gaze"),
        line(3, ""),
        "4,2026-01-01,bob@shop,purchase,mug,1.5,2.00,",
        "5,2026-01-01,bob@shop,view,,,,",
        "6,2026-01-01,bob@shop,view,mug,,,a test by the staff",
        line(7, "infinity"),
        "8,2026-01-01",
        line(9, "2026-01-01"),
    )
    counts = land(shop, paths, NIGHT).tables["events"]
    assert (counts.mapped, counts.landed, counts.quarantined, counts.excluded) == (9, 1, 7, 1)
    found = query(paths, "SELECT row, kind, reason FROM $quarantine ORDER BY row")
    assert found == [
        (1, "broken", "event_ts_not_timestamp"),
        (2, "broken", "unknown_event_type"),
        (3, "broken", "event_ts_missing"),
        (4, "broken", "quantity_not_bigint"),
        (5, "broken", "item_missing"),
        (6, "excluded", "a test by the staff"),
        (7, "broken", "event_ts_not_timestamp"),
        (8, "broken", "line unreadable: missing columns"),
    ]
    (payload,) = query(paths, "SELECT payload FROM $quarantine WHERE row = 2")[0]
    assert json.loads(payload)["event_type"] == "gaze"


def test_unreadable_files_are_put_aside_and_do_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, paths = make_shop(tmp_path, monkeypatch)
    shop = shop.model_copy(
        update={
            "raw": {
                "log": core_shop.RawFiles(
                    files="log/*.parquet", format="parquet", columns=HEADER.split(",")
                )
            }
        }
    )
    rows = {name: pa.array(["1"] * 5000) for name in HEADER.split(",")}
    rows |= {
        "no": pa.array([str(n) for n in range(5000)]),
        "moment": pa.array([datetime(2026, 1, 1, 0, n // 60 % 60, n % 60) for n in range(5000)]),
        "what": pa.array(["view"] * 5000),
        "note": pa.nulls(5000, pa.string()),
        "price": pa.nulls(5000, pa.string()),
    }
    log = paths.raw / "log"
    pq.write_table(pa.table(rows), log / "good.parquet")
    whole = (log / "good.parquet").read_bytes()
    (log / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (log / "damaged.parquet").write_bytes(whole[:60] + b"\xff" * 400 + whole[460:])
    (log / "empty.parquet").write_bytes(b"")
    pq.write_table(pa.table(rows).drop_columns(["sku"]), log / "lacking.parquet")
    landed = land(shop, paths, NIGHT)
    assert landed.tables["events"].landed == 5000
    assert landed.tables["events"].quarantined == 3
    found = dict(query(paths, "SELECT file, reason FROM $quarantine"))
    assert found.keys() == {f"log/{n}.parquet" for n in ("cut", "damaged", "empty", "lacking")}
    assert found["log/empty.parquet"] == "file is empty"
    assert found["log/lacking.parquet"] == "column sku missing"
    assert str(tmp_path) not in str(found)
    (log / "cut.parquet").unlink()
    assert land(shop, paths, NIGHT).tables["events"].quarantined == 2


def test_nothing_changed_means_nothing_done(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    put(paths, "a.csv", line(1, "2026-01-01"), line(2, "bad"))
    first = land(shop, paths, NIGHT)
    before = {f: f.stat().st_mtime_ns for f in paths.home.rglob("*") if f.is_file()}
    second = land(shop, paths, NIGHT)
    assert first.changed and not second.changed and second.touched_days == []
    assert second.tables == first.tables and second.worst_reason == first.worst_reason
    assert {f: f.stat().st_mtime_ns for f in paths.home.rglob("*") if f.is_file()} == before


def test_only_days_with_other_content_are_touched(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    put(paths, "a.csv", line(1, "2026-01-01"), line(2, "2026-01-02"))
    put(paths, "b.csv", line(3, "2026-01-02"), line(4, "2026-01-03"))
    land(shop, paths, NIGHT)
    assert changed_files(shop, paths) == []
    put(paths, "b.csv", line(3, "2026-01-02"), line(4, "2026-01-03"), line(5, "2026-01-01"))
    assert changed_files(shop, paths) == ["log/b.csv"]
    late = land(shop, paths, NIGHT)
    assert late.touched_days == [date(2026, 1, 1)] and late.changed_files == ["log/b.csv"]
    (paths.raw / "log" / "b.csv").unlink()
    gone = land(shop, paths, NIGHT)
    assert gone.touched_days == [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]
    assert gone.tables["events"].landed == 2


def test_of_rows_with_one_key_the_earliest_wins_and_the_next_returns_when_it_goes(
    tiny: tuple[Shop, Paths],
) -> None:
    shop, paths = tiny
    put(paths, "b.csv", line(1, "2026-01-02"), line(2, "2026-01-02"))
    land(shop, paths, NIGHT)
    put(paths, "a.csv", line(1, "2026-01-01"))
    counts = land(shop, paths, NIGHT).tables["events"]
    assert (counts.landed, counts.deduplicated) == (2, 1)
    days = "SELECT event_id, day::VARCHAR FROM $events ORDER BY event_id"
    assert query(paths, days) == [("e1", "2026-01-01"), ("e2", "2026-01-02")]
    (paths.raw / "log" / "a.csv").unlink()
    counts = land(shop, paths, NIGHT).tables["events"]
    assert (counts.landed, counts.deduplicated) == (2, 0)
    assert query(paths, days) == [("e1", "2026-01-02"), ("e2", "2026-01-02")]


def test_one_more_day_opens_only_the_days_where_one_of_its_keys_has_landed(
    tiny: tuple[Shop, Paths],
) -> None:
    shop, paths = tiny
    put(paths, "a.csv", line(1, "2026-01-01"), line(2, "2026-01-02"))
    land(shop, paths, NIGHT)
    other = paths.landing / "events" / "day=2026-01-01" / "part.parquet"
    before = other.read_bytes()
    other.write_bytes(b"not to be opened")
    put(paths, "b.csv", line(2, "2026-01-05"), line(3, "2026-01-05"))
    counts = land(shop, paths, NIGHT).tables["events"]
    assert (counts.landed, counts.deduplicated) == (3, 1)
    other.write_bytes(before)
    # a file of keys that was lost costs time, not correctness
    keys = paths.landing / "_keys" / "events" / "2026-01.parquet"
    known = keys.read_bytes()
    keys.unlink()
    put(paths, "c.csv", line(1, "2026-01-05"))
    counts = land(shop, paths, NIGHT).tables["events"]
    assert (counts.landed, counts.deduplicated) == (3, 2)
    assert keys.read_bytes() == known
    days = "SELECT event_id, day::VARCHAR FROM $events ORDER BY event_id"
    assert query(paths, days)[:2] == [("e1", "2026-01-01"), ("e2", "2026-01-02")]


def test_clocks_that_say_1970_make_no_file_the_neighbour_of_another(
    tiny: tuple[Shop, Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, paths = tiny
    for day in (1, 2, 3):
        put(paths, f"{day}.csv", line(day, f"2026-01-0{day}"), line(10 + day, "1970-01-01"))
    land(shop, paths, NIGHT)
    read, chosen = staging_module.select_rows, []

    def watched(*given: object) -> object:
        chosen.append(given[-1])
        return read(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(staging_module, "select_rows", watched)
    put(paths, "4.csv", line(4, "2026-01-04"), line(14, "1970-01-01"))
    counts = land(shop, paths, NIGHT).tables["events"]
    assert (counts.landed, counts.quarantined) == (4, 4)
    assert query(paths, "SELECT count(*) FROM $quarantine WHERE reason = 'before_2000'") == [(4,)]
    assert chosen == [{"log/4.csv"}]


def test_rows_after_the_night_wait_for_their_own_night(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    put(
        paths,
        "a.csv",
        line(1, "2026-01-01"),
        line(2, "2026-01-02"),
        line(3, "2026-01-02", what="?"),
    )
    first = land(shop, paths, FIRST).tables["events"]
    assert (first.landed, first.later, first.quarantined) == (1, 2, 0)
    early = contents(paths)
    second = land(shop, paths, date(2026, 1, 2))
    assert second.touched_days == [date(2026, 1, 2)]
    assert (second.tables["events"].landed, second.tables["events"].quarantined) == (2, 1)
    back = land(shop, paths, FIRST)
    assert back.touched_days == [date(2026, 1, 2)] and back.tables["events"] == first
    assert contents(paths) == early


def test_a_raw_folder_that_was_emptied_stops_the_night(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    put(paths, "a.csv", line(1, "2026-01-01"))
    land(shop, paths, NIGHT)
    before = contents(paths)
    (paths.raw / "log" / "a.csv").unlink()
    with pytest.raises(ShopError, match="no raw files any more, but 1 had landed"):
        land(shop, paths, NIGHT)
    assert contents(paths) == before


def test_a_table_whose_select_is_gone_is_cleared(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    put(paths, "a.csv", line(1, "2026-01-01"), line(1, "2026-01-02"), line(2, "bad"))
    land(shop, paths, NIGHT)
    (shop.folder / "events.sql").unlink()
    assert land(shop, paths, NIGHT).tables["events"].mapped == 0
    assert query(paths, "SELECT count(*) FROM $events") == [(0,)]
    assert "log/a.csv" not in str([query(paths, "FROM $events"), query(paths, "FROM $quarantine")])


def test_another_select_lands_everything_again(
    tiny: tuple[Shop, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, paths = tiny
    put(paths, "a.csv", line(1, "2026-01-01"), line(2, "2026-01-02"))
    before = land(shop, paths, NIGHT)
    make_shop(tmp_path, monkeypatch, events=EVENTS.replace("'e' ||", "'x' ||"))
    after = land(shop, paths, NIGHT)
    assert after.fingerprint != before.fingerprint
    assert after.touched_days == [date(2026, 1, 1), date(2026, 1, 2)]
    assert query(paths, "SELECT event_id FROM $events ORDER BY 1") == [("x1",), ("x2",)]


def test_a_select_that_compares_rows_sees_all_files_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nth = EVENTS.replace("_row\n", "_row, 'nth ' || count(*) OVER (ORDER BY moment) AS channel\n")
    shop, paths = make_shop(tmp_path, monkeypatch, events=nth)
    put(paths, "a.csv", line(1, "2026-01-01"))
    land(shop, paths, NIGHT)
    put(paths, "b.csv", line(2, "2026-01-02"))
    land(shop, paths, NIGHT)
    assert query(paths, "SELECT channel FROM $events ORDER BY 1") == [("nth 1",), ("nth 2",)]


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (EVENTS.replace("AS event_ts", "AS event_time"), "event_time is not in the contract"),
        (EVENTS.replace("moment AS event_ts,", ""), "column event_ts is not returned"),
        (EVENTS.replace("raw.log", "raw.logs"), "shop.yml has only: log"),
        (EVENTS.replace("who AS", "whom AS"), "whom"),
        (EVENTS.replace("SELECT", "SELEKT"), "syntax error"),
        (EVENTS.replace("_file,", "NULL AS _file,"), "rows without _file"),
    ],
)
def test_a_wrong_select_is_named_and_leaves_the_landing_as_it_was(
    select: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, paths = make_shop(tmp_path, monkeypatch)
    put(paths, "a.csv", line(1, "2026-01-01"))
    land(shop, paths, NIGHT)
    before = contents(paths)
    make_shop(tmp_path, monkeypatch, events=select)
    with pytest.raises(ShopError, match=r"shops/tiny/events\.sql") as caught:
        land(shop, paths, NIGHT)
    assert message in str(caught.value)
    assert contents(paths) == before


def test_a_lost_or_damaged_ledger_means_landing_again(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    put(paths, "a.csv", line(1, "2026-01-01"), line(1, "2026-01-02"), line(2, "bad"))
    land(shop, paths, NIGHT)
    before = contents(paths)
    for text in ("", "{", '{"version": 1}', "[]"):
        (paths.landing / "_ledger.json").write_text(text)
        put(paths, "b.csv", line(9, "2026-01-04"))
        land(shop, paths, NIGHT)
        (paths.raw / "log" / "b.csv").unlink()
        (paths.landing / "_ledger.json").write_text(text)
        land(shop, paths, NIGHT)
        assert contents(paths) == before


# ---- whatever arrives, in whatever order

KINDS = st.sampled_from(["view", "view", "view", "gaze", ""])
ROWS = st.tuples(
    st.integers(0, 12),  # event number: collides
    st.one_of(
        st.integers(0, 4 * 24).map(lambda h: str(datetime(2026, 1, 1) + timedelta(hours=h))),
        st.sampled_from(["2026-01-04 12:00:00", "nonsense", ""]),
    ),
    st.sampled_from(["ann@shop", "bob@shop", ""]),
    KINDS,
    st.sampled_from(["", "", "", "staff"]),
)
FILES = st.lists(st.lists(ROWS, max_size=7), min_size=1, max_size=4)
PROPERTY = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def write_file(paths: Paths, number: int, rows: list[tuple[int, str, str, str, str]]) -> None:
    put(paths, f"{number}.csv", *(f"{n},{at},{who},{w},mug,,,{x}" for n, at, who, w, x in rows))


def check_accounts(shop: Shop, paths: Paths, night: date, raw_rows: int) -> None:
    counts = land(shop, paths, night).tables["events"]
    landed = query(paths, "SELECT count(*), count(DISTINCT event_id) FROM $events")[0]
    aside = dict(query(paths, "SELECT kind, count(*) FROM $quarantine GROUP BY kind"))
    assert landed == (counts.landed, counts.landed)
    assert aside.get("broken", 0) == counts.quarantined
    assert aside.get("excluded", 0) == counts.excluded
    others = counts.quarantined + counts.excluded + counts.later
    assert counts.landed + counts.deduplicated + others == counts.mapped == raw_rows


@PROPERTY
@given(files=FILES, nights=st.lists(st.integers(0, 5), max_size=4), order=st.randoms())
def test_file_by_file_is_the_same_as_all_at_once_and_every_row_is_accounted_for(
    files: list, nights: list[int], order: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shop, paths = make_shop(tmp_path_factory.mktemp("steps"), patch)
        arrivals = list(range(len(files)))
        order.shuffle(arrivals)  # type: ignore[attr-defined]
        rows = 0
        for step, number in enumerate(arrivals):
            write_file(paths, number, files[number])
            rows += len(files[number])
            night = FIRST + timedelta(days=nights[step]) if step < len(nights) else NIGHT
            check_accounts(shop, paths, night, rows)
        # a file is corrected, another withdrawn
        write_file(paths, arrivals[0], files[arrivals[0]][1:])
        if len(arrivals) > 1:
            (paths.raw / "log" / f"{arrivals[1]}.csv").unlink()
        land(shop, paths, NIGHT)
        stepwise = contents(paths)
        raw = {f.name: f.read_text() for f in (paths.raw / "log").iterdir()}
        assert "@shop" not in all_text(paths)

        shop, paths = make_shop(tmp_path_factory.mktemp("once"), patch)
        for name, text in raw.items():
            (paths.raw / "log" / name).write_text(text)
        land(shop, paths, NIGHT)
        assert contents(paths) == stepwise


@PROPERTY
@given(before=FILES, after=FILES, breaks=st.integers(0, 8))
def test_a_run_that_was_killed_is_repaired_by_the_next(
    before: list, after: list, breaks: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed after any number of renames (of files, or of the ledger), then run again."""
    with pytest.MonkeyPatch.context() as patch:
        shop, paths = make_shop(tmp_path_factory.mktemp("killed"), patch)
        put(paths, "first.csv", line(99, "2026-01-03"))
        for number, rows in enumerate(before):
            write_file(paths, number, rows)
        land(shop, paths, FIRST + timedelta(days=2))
        for number, rows in enumerate(after):
            write_file(paths, number, rows)
        done = 0
        replace = Path.replace

        def dying_replace(self: Path, target: Path) -> Path:
            nonlocal done
            if "landing.new" not in str(target):  # staging is not yet anybody's data
                if done == breaks:
                    raise KeyboardInterrupt
                done += 1
            return replace(self, target)

        with pytest.MonkeyPatch.context() as dying:
            dying.setattr(Path, "replace", dying_replace)
            with contextlib.suppress(KeyboardInterrupt):
                land(shop, paths, NIGHT)
        (paths.raw / "log" / "0.csv").unlink()  # and meanwhile a file was withdrawn
        again = land(shop, paths, NIGHT)
        repaired = contents(paths)
        assert again.tables == land(shop, paths, NIGHT).tables
        shop, clean = make_shop(tmp_path_factory.mktemp("clean"), patch)
        put(clean, "first.csv", line(99, "2026-01-03"))
        numbers = range(1, max(len(before), len(after)))
        for number in numbers:
            write_file(clean, number, (after if number < len(after) else before)[number])
        fresh = land(shop, clean, NIGHT)
        assert contents(clean) == repaired and fresh.tables == again.tables


def test_days_in_doubt_after_a_kill_are_reported_as_touched(
    tiny: tuple[Shop, Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, paths = tiny
    put(paths, "a.csv", line(1, "2026-01-01"))
    ledger_saves = []
    save = landing_module.save

    def dying_save(path: Path, ledger: object) -> None:
        ledger_saves.append(ledger)
        if len(ledger_saves) == 2:  # the first one names the days in doubt, the second ends the run
            raise KeyboardInterrupt
        save(path, ledger)  # type: ignore[arg-type]

    with monkeypatch.context() as dying:
        dying.setattr(landing_module, "save", dying_save)
        with pytest.raises(KeyboardInterrupt):
            land(shop, paths, NIGHT)
    assert land(shop, paths, NIGHT).touched_days == [date(2026, 1, 1)]
    assert land(shop, paths, NIGHT).touched_days == []
