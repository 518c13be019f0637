"""Whatever is wrong with the raw files: what becomes of it, and does the night go on?

In the order of the table "What stops a night, and what does not" in docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit.catalogue import CATALOGUE
from audit.source import setup
from audit.suites import _bad_rows
from core.paths import Paths
from core.shop import RawFiles, Shop
from ingest import staging
from ingest.landing import Counts, land
from tests.unit.test_ingest_landing import EVENTS, HEADER, contents, line, make_shop, put, query

NIGHT = date(2026, 1, 5)
GOOD = [line(no, f"2026-01-0{no % 5 + 1} 12:00:00") for no in range(100, 200)]
UNREADABLE = ["landing.quarantine.files_readable"]


def stops(shop: Shop, paths: Paths, counts: dict[str, Counts]) -> list[str]:
    """The blocking checks of the landing audit that fail."""
    with duckdb.connect() as connection:
        accounts = {name: vars(table) for name, table in counts.items()}
        for statement in setup("landing", shop, paths, NIGHT, accounts):
            connection.execute(statement)
        return [
            spec.name
            for spec in CATALOGUE["landing"]
            if spec.blocking
            and connection.execute(_bad_rows(spec, connection, spec.table)).fetchall()
        ]


def aside(paths: Paths) -> list[tuple]:
    return query(paths, "SELECT kind, row, reason FROM $quarantine ORDER BY file, row")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Shop, Paths]:
    shop, paths = make_shop(tmp_path, monkeypatch)
    put(paths, "good.csv", *GOOD)
    return shop, paths


@dataclass(frozen=True)
class Case:
    """A delivery `text` beside a hundred good rows, and what comes of it."""

    what: str
    text: str | bytes
    landed: int = 0
    aside: list[tuple] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    deduplicated: int = 0
    later: int = 0


def csv(*lines: str, header: str = HEADER) -> str:
    return "\n".join([header, *lines]) + "\n"


def broken(row: int | None, reason: str) -> tuple:
    return ("broken", row, reason)


def paid(pieces: str, price: str) -> str:
    return f"1,2026-01-01,ann@shop,refund,mug,{pieces},{price},"


CASES = [
    Case("empty file", "", aside=[("empty", None, "file is empty")]),
    Case("header only", csv()),
    Case(
        "missing column",
        csv("1,2026-01-01,ann@shop,view,1,,", header=HEADER.replace("sku,", "")),
        aside=[broken(None, "column sku missing")],
        stops=UNREADABLE,
    ),
    Case("extra column", csv(line(1, "2026-01-01") + ",42", header=f"{HEADER},colour"), landed=1),
    Case(
        "renamed column",
        csv(line(1, "2026-01-01"), header=HEADER.replace("sku", "sku_code")),
        aside=[broken(None, "column sku missing (is it now sku_code?)")],
        stops=UNREADABLE,
    ),
    Case(
        "wrong type of a value",
        csv("1,2026-01-01,ann@shop,view,mug,many,,", line(2, "2026-01-01")),
        landed=1,
        aside=[broken(1, "quantity_not_bigint")],
    ),
    Case(
        "CSV with a quote that is never closed",
        csv(
            line(1, "2026-01-01"),
            '2,2026-01-01,"ann@shop,view,mug,,,',
            line(3, "2026-01-01"),
            '4,2026-01-01,"bob@shop",view,"a\nmug",,,',
            line(5, "2026-01-01"),
        ),
        landed=4,
        aside=[broken(2, "line unreadable: unquoted value")],
    ),
    Case(
        "CSV with two stray quotes that make one long value",
        csv(
            '1,2026-01-01,"ann@shop,view,mug,,,',
            line(2, "2026-01-01"),
            '3,2026-01-01,bob@shop",view,mug,,,',
            line(4, "2026-01-01"),
        ),
        landed=3,
        aside=[broken(1, "line unreadable: unquoted value")],
    ),
    Case(
        "CSV with mixed line ends",
        (csv(line(1, "2026-01-01"), '2,2026-01-01,"ann@shop",view,"a\nmug",,,')).encode()
        + csv(line(3, "2026-01-01"), line(4, "2026-01-01"))[len(HEADER) + 1 :]
        .replace("\n", "\r\n")
        .encode(),
        landed=4,
    ),
    Case(
        "CSV in another encoding",
        csv(line(1, "2026-01-01", sku="caf\u00e9"), line(2, "2026-01-01")).encode("latin-1"),
        landed=1,
        aside=[broken(1, "line unreadable: invalid encoding")],
    ),
    Case(
        "the same event again",
        csv(line(1, "2026-01-01"), line(1, "2026-01-01"), GOOD[0]),
        landed=1,
        deduplicated=2,
    ),
    Case(
        "the same event with another payload",
        csv(line(1, "2026-01-02", sku="cup"), line(1, "2026-01-01", sku="mug")),
        landed=1,
        deduplicated=1,
    ),
    Case(
        "future timestamp",
        csv(line(1, "2099-01-01")),
        aside=[broken(1, "timestamp_in_the_future")],
    ),
    Case("clock skew", csv(line(1, "2026-01-06 02:00:00")), later=1),
    Case(
        "negative and absurd prices",
        csv(paid("1", "-0.01"), paid("1", "1000001"), paid("1", "1e300"), paid("1000001", "1")),
        aside=[
            broken(1, "price_negative"),
            broken(2, "price_absurd"),
            broken(3, "unit_price_not_decimal"),
            broken(4, "quantity_absurd"),
        ],
    ),
    Case(
        "unknown event type",
        csv(line(1, "2026-01-01", what="gaze")),
        aside=[broken(1, "unknown_event_type")],
    ),
    Case("unknown item", csv(line(1, "2026-01-01", sku="never-heard-of")), landed=1),
    Case("null user", csv(line(1, "2026-01-01", who="")), landed=1),
]


@pytest.mark.parametrize("case", CASES, ids=[case.what.replace(" ", "-") for case in CASES])
def test_what_is_wrong_with_one_file_costs_no_other_row(
    case: Case, tiny: tuple[Shop, Paths]
) -> None:
    shop, paths = tiny
    text = case.text if isinstance(case.text, bytes) else case.text.encode()
    (paths.raw / "log" / "odd.csv").write_bytes(text)
    tables = land(shop, paths, NIGHT).tables
    counts = tables["events"]
    assert counts.landed == len(GOOD) + case.landed
    assert (counts.deduplicated, counts.later) == (case.deduplicated, case.later)
    assert aside(paths) == case.aside
    assert counts.quarantined == sum(kind != "empty" for kind, *_ in case.aside)
    others = counts.deduplicated + counts.quarantined + counts.excluded + counts.later
    assert counts.mapped == counts.landed + others
    assert stops(shop, paths, tables) == case.stops


@pytest.mark.parametrize("odd", ['4711,2026-01-01,"ann@shop,view,mug,,,', "4711,ann@shop", "\xff"])
def test_a_line_that_cannot_be_read_is_noted_without_its_text(
    odd: str, tiny: tuple[Shop, Paths]
) -> None:
    shop, paths = tiny
    (paths.raw / "log" / "odd.csv").write_bytes(csv(line(1, "2026-01-01"), odd).encode("latin-1"))
    land(shop, paths, NIGHT)
    ((file, row, payload),) = query(paths, "SELECT file, row, payload FROM $quarantine")
    assert (file, row, payload) == ("log/odd.csv", 2, None)
    assert "4711" not in str(aside(paths)) and "ann" not in str(aside(paths))


def test_of_two_payloads_the_earlier_one_is_kept(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    put(paths, "odd.csv", line(1, "2026-01-02", sku="cup"), line(1, "2026-01-01", sku="mug"))
    land(shop, paths, NIGHT)
    assert query(paths, "SELECT item_id FROM $events WHERE event_id = 'e1'") == [("mug",)]


def test_too_many_broken_rows_stop_the_night(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    put(paths, "odd.csv", *(line(no, "2026-01-01", what="gaze") for no in range(10)))
    assert stops(shop, paths, land(shop, paths, NIGHT).tables) == ["landing.quarantine.share"]


def test_a_message_counts_files_where_it_is_about_files(tiny: tuple[Shop, Paths]) -> None:
    from audit import suites

    shop, paths = tiny
    for name in "abc":
        (paths.raw / "log" / f"{name}.csv").write_text("no,moment\n1,2026-01-01\n")
    tables = {name: vars(counts) for name, counts in land(shop, paths, NIGHT).tables.items()}
    found = {check.name: check for check in suites.run("landing", shop, paths, NIGHT, tables)}
    message = found["landing.quarantine.files_readable"].message
    listed = "; ".join(f"file log/{name}.csv, reason column who missing" for name in "abc")
    assert message.endswith(f"can be read, but 3 files say otherwise; first: {listed}")
    page = (paths.audit(NIGHT) / "data_docs" / "index.html").read_text()
    assert " ".join(page.split()).count("3 of 3 files") == 1


def test_wrong_type_where_the_select_itself_casts_costs_the_rows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    select = EVENTS.replace("pieces AS", "pieces::INTEGER AS")
    shop, paths = make_shop(tmp_path, monkeypatch, events=select)
    put(paths, "good.csv", *GOOD)
    put(
        paths,
        "odd.csv",
        line(1, "2026-01-01"),
        "2,2026-01-01,ann@shop,view,mug,secret,,",
        "3,2026-01-01,ann@shop,view,mug,1,,",
        "4,2026-01-01,ann@shop,view,mug,99999999999,,",
    )
    tables = land(shop, paths, NIGHT).tables
    assert tables["events"] == Counts(mapped=104, landed=102, quarantined=2)
    assert [(kind, row) for kind, row, _ in aside(paths)] == [("broken", 2), ("broken", 4)]
    reasons = str(aside(paths))
    assert "does not convert" in reasons and "secret" not in reasons and "9999" not in reasons
    assert stops(shop, paths, tables) == []
    # a file with many such rows is put aside whole, and that stops the night
    put(paths, "odd.csv", *(f"{no},2026-01-01,ann@shop,view,mug,x,," for no in range(60)))
    tables = land(shop, paths, NIGHT).tables
    assert tables["events"] == Counts(mapped=101, landed=100, quarantined=1)
    assert "more than 50 of its rows" in str(aside(paths))
    assert stops(shop, paths, tables) == UNREADABLE


# ---- parquet

ROWS = 5000


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Shop, Paths, pa.Table]:
    """A shop whose price is in cents, a good file of it, and that file's rows."""
    select = EVENTS.replace("price AS", "price * 2 AS")
    shop, paths = make_shop(tmp_path, monkeypatch, events=select)
    files = RawFiles(files="log/*.parquet", format="parquet", columns=HEADER.split(","))
    shop = shop.model_copy(update={"raw": {"log": files}})
    moments = [datetime(2026, 1, 1) + timedelta(seconds=no) for no in range(ROWS)]
    rows = pa.table(
        {
            "no": [str(no) for no in range(ROWS)],
            "moment": moments,
            "who": ["ann@shop"] * ROWS,
            "what": ["view"] * ROWS,
            "sku": ["mug"] * ROWS,
            "pieces": pa.nulls(ROWS, pa.int64()),
            "price": pa.array([1] * ROWS, pa.int64()),
            "note": pa.nulls(ROWS, pa.string()),
        }
    )
    for name in ("a", "b"):
        pq.write_table(rows, paths.raw / "log" / f"{name}.parquet")
    return shop, paths, rows


def test_wrong_type_of_a_parquet_column_costs_that_file_only(
    parquet: tuple[Shop, Paths, pa.Table],
) -> None:
    shop, paths, rows = parquet
    place = rows.column_names.index("price")
    text = rows.set_column(place, "price", pa.array(["dear"] * ROWS))
    pq.write_table(text, paths.raw / "log" / "c.parquet")
    tables = land(shop, paths, NIGHT).tables
    assert tables["events"] == Counts(
        mapped=2 * ROWS + 1, landed=ROWS, deduplicated=ROWS, quarantined=1
    )
    assert aside(paths) == [broken(None, "type of price is string, not int64 as elsewhere")]
    assert stops(shop, paths, tables) == UNREADABLE
    (paths.raw / "log" / "c.parquet").unlink()
    assert stops(shop, paths, land(shop, paths, NIGHT).tables) == []


@pytest.mark.parametrize("odd", [1, True, {"a": 1}, ["x"]], ids=["int64", "bool", "struct", "list"])
def test_wrong_type_that_only_fails_when_rows_come_costs_that_file_only(
    parquet: tuple[Shop, Paths, pa.Table], odd: object
) -> None:
    shop, paths, rows = parquet
    other = rows.set_column(1, "moment", pa.array([odd] * ROWS))
    place = rows.column_names.index("pieces")  # another width is no fault
    other = other.set_column(place, "pieces", pa.nulls(ROWS, pa.int32()))
    pq.write_table(other, paths.raw / "log" / "a.parquet")
    pq.write_table(rows, paths.raw / "log" / "c.parquet")
    tables = land(shop, paths, NIGHT).tables
    assert tables["events"] == Counts(
        mapped=2 * ROWS + 1, landed=ROWS, deduplicated=ROWS, quarantined=1
    )
    kind = pq.read_schema(paths.raw / "log" / "a.parquet").field("moment").type
    reason = f"type of moment is {kind}, not timestamp[us] as elsewhere"
    assert query(paths, "SELECT kind, file, row, reason FROM $quarantine") == [
        ("broken", "log/a.parquet", None, reason)
    ]
    assert stops(shop, paths, tables) == UNREADABLE


def test_truncated_parquet_stops_the_night_until_it_is_whole(
    parquet: tuple[Shop, Paths, pa.Table],
) -> None:
    shop, paths, _ = parquet
    file = paths.raw / "log" / "b.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    tables = land(shop, paths, NIGHT).tables
    assert tables["events"] == Counts(mapped=ROWS + 1, landed=ROWS, quarantined=1)
    assert aside(paths)[0][2].startswith("file unreadable: ")
    assert stops(shop, paths, tables) == UNREADABLE
    file.write_bytes(whole)
    assert stops(shop, paths, land(shop, paths, NIGHT).tables) == []


# ---- late rows


def test_ten_percent_late_rows_have_their_days_built_again(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    first = land(shop, paths, date(2026, 1, 4))
    assert first.tables["events"].later == 20
    today = [line(no, "2026-01-05 13:00:00") for no in range(90)]
    put(paths, "tonight.csv", *today, *(line(no, "2026-01-02") for no in range(90, 100)))
    landed = land(shop, paths, NIGHT)
    assert landed.touched_days == [date(2026, 1, 2), NIGHT]
    assert landed.tables["events"] == Counts(mapped=200, landed=200)
    assert stops(shop, paths, landed.tables) == []


def test_a_row_later_than_the_lookback_is_kept_aside_and_stops_nothing(
    tiny: tuple[Shop, Paths],
) -> None:
    shop, paths = tiny
    shop = shop.model_copy(update={"lookback_days": 2})
    land(shop, paths, NIGHT)
    put(paths, "late.csv", *(line(no, "2026-01-02") for no in range(40)), line(41, "2026-01-03"))
    landed = land(shop, paths, NIGHT)
    assert landed.touched_days == [date(2026, 1, 3)]
    assert landed.tables["events"] == Counts(mapped=141, landed=101, quarantined=40, late=40)
    assert str(landed.tables["events"]) == (
        "141 rows read, 101 landed, 0 duplicates, 40 quarantined (40 of them too late), "
        "0 excluded by the shop's rules, 0 after the night"
    )
    assert stops(shop, paths, landed.tables) == []


# ---- files that move


def meanwhile(patch: pytest.MonkeyPatch, *happens: Callable[[], object]) -> None:
    """Let something happen to the raw files each time they have been read, once for each."""
    waiting, read = list(happens), staging.select_rows

    def interrupted(*given: object) -> object:
        found = read(*given)  # type: ignore[arg-type]
        if waiting:
            waiting.pop(0)()
        return found

    patch.setattr(staging, "select_rows", interrupted)


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    tiny: tuple[Shop, Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, paths = tiny
    put(paths, "odd.csv", line(1, "2026-01-01"))
    meanwhile(
        monkeypatch, lambda: put(paths, "odd.csv", line(2, "2026-01-01"), line(3, "2026-01-01"))
    )
    assert land(shop, paths, NIGHT).tables["events"] == Counts(mapped=102, landed=102)
    assert not land(shop, paths, NIGHT).changed


def test_a_file_that_grows_all_the_time_is_taken_as_read_and_completed_next_time(
    tiny: tuple[Shop, Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, paths = tiny
    file = paths.raw / "log" / "odd.csv"
    file.write_text(HEADER + "\n" + line(1, "2026-01-01")[:-9])

    def grow() -> None:
        file.write_text(file.read_text() + "\n" + line(2, "2026-01-02")[:-4])

    meanwhile(monkeypatch, grow, grow)
    tables = land(shop, paths, NIGHT).tables
    assert tables["events"].landed == 100 and tables["events"].quarantined == 2
    assert stops(shop, paths, tables) == []
    put(paths, "odd.csv", line(1, "2026-01-01"), line(2, "2026-01-02"), line(3, "2026-01-03"))
    assert land(shop, paths, NIGHT).tables["events"] == Counts(mapped=103, landed=103)


def test_a_file_taken_away_while_it_is_read_counts_as_gone(
    tiny: tuple[Shop, Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, paths = tiny
    put(paths, "odd.csv", line(1, "2026-01-01"))
    meanwhile(monkeypatch, lambda: (paths.raw / "log" / "odd.csv").unlink())
    assert land(shop, paths, NIGHT).tables["events"] == Counts(mapped=100, landed=100)


def test_a_file_changed_after_ingestion_is_landed_again(tiny: tuple[Shop, Paths]) -> None:
    shop, paths = tiny
    land(shop, paths, NIGHT)
    put(paths, "good.csv", *GOOD[:-1], line(1, "2026-01-02", sku="cup"))
    put(paths, "same.csv", *GOOD[:-1])  # and the rest comes once more under another name
    changed = land(shop, paths, NIGHT)
    assert changed.changed_files == ["log/good.csv", "log/same.csv"]
    assert changed.tables["events"] == Counts(mapped=199, landed=100, deduplicated=99)
    # the row that went was of the 5th, the row that came is of the 2nd
    assert changed.touched_days == [date(2026, 1, 2), date(2026, 1, 5)]
    assert stops(shop, paths, changed.tables) == []


def test_a_deleted_file_takes_its_rows_with_it_and_brings_them_back(
    tiny: tuple[Shop, Paths],
) -> None:
    shop, paths = tiny
    land(shop, paths, NIGHT)
    put(paths, "odd.csv", line(1, "2026-01-02"))
    land(shop, paths, NIGHT)
    before = contents(paths)
    (paths.raw / "log" / "odd.csv").unlink()
    gone = land(shop, paths, NIGHT)
    assert gone.touched_days == [date(2026, 1, 2)]
    assert gone.tables["events"] == Counts(mapped=100, landed=100)
    assert stops(shop, paths, gone.tables) == []
    put(paths, "odd.csv", line(1, "2026-01-02"))
    land(shop, paths, NIGHT)
    assert contents(paths) == before
