"""Online Retail: bringing the archive over a bad line, and the counts of the real two years."""

import io
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import duckdb
import pyarrow.parquet as pq
import pytest

from core.shop import ROOT, load_shop
from ingest.raw import find_files, open_view
from shops.online_retail import source

REAL = ROOT.parent / "shared" / "data" / "online_retail"
NIGHT = date(2011, 12, 9)
HEADER = [*source.COLUMNS.names]
# Excel keeps a number where a code looks like one, and the days since 1899-12-30 for a time.
SOLD = [489434, 85048, "GLASS BALL", 12, 40148.5, 6.95, 13085, "United Kingdom"]
CANCELLED = ["C489449", "79323P", "nan", -1, 40148.75, 2.1, None, "France"]


def workbook(sheets: dict[str, list[list[Any]]]) -> bytes:
    """The bytes of a minimal .xlsx; the fifth column is formatted as a time."""

    def cell(value: Any, column: int) -> str:
        if value is None:
            return "<c/>"
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>'
        return f'<c s="{1 if column == 4 else 0}"><v>{value}</v></c>'

    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    names = "".join(
        f'<sheet name="{name}" sheetId="{i}" r:id="r{i}"/>' for i, name in enumerate(sheets, 1)
    )
    targets = "".join(
        f'<Relationship Id="r{i}" Type="{office}/worksheet" Target="sheet{i}.xml"/>'
        for i in range(1, len(sheets) + 1)
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as parts:
        parts.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}"><Relationship Id="r0" '
            f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        parts.writestr(
            "xl/workbook.xml",
            f'<workbook {main} xmlns:r="{office}"><sheets>{names}</sheets></workbook>',
        )
        parts.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}">{targets}'
            f'<Relationship Id="s" Type="{office}/styles" Target="styles.xml"/></Relationships>',
        )
        parts.writestr(
            "xl/styles.xml",
            f'<styleSheet {main}><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="22"/>'
            "</cellXfs></styleSheet>",
        )
        for i, rows in enumerate(sheets.values(), 1):
            cells = "".join(
                f"<row>{''.join(cell(v, c) for c, v in enumerate(row))}</row>" for row in rows
            )
            parts.writestr(
                f"xl/sheet{i}.xml",
                f"<worksheet {main}><sheetData>{cells}</sheetData></worksheet>",
            )
    return file.getvalue()


def archive() -> bytes:
    """The archive as the library serves it: a zip (stored, so that a cut is a cut in the data)."""
    sheets = {
        "Year 2009-2010": [HEADER, SOLD, CANCELLED],
        "Year 2010-2011": [HEADER, SOLD],
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        content.writestr("online_retail_II.xlsx", workbook(sheets))
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `content` with ranges; the answers listed in `cuts` end after so many bytes."""

    content: bytes
    cuts: list[int]
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        found = re.match(r"bytes=(\d+)-", wanted or "")
        start = int(found.group(1)) if found else 0
        total = len(self.server.content)
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.end_headers()
            return
        body = self.server.content[start:]
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serve(content: bytes, cuts: list[int]) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.content, server.cuts, server.asked = content, cuts, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def from_server(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(server: Server) -> None:
        url = f"http://127.0.0.1:{server.server_port}/online+retail+ii.zip"
        monkeypatch.setenv("PERENNIAL_ONLINE_RETAIL_URL", url)

    return use


def test_the_archive_becomes_two_files(
    tmp_path: Path, from_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(archive(), []) as server:
        from_server(server)
        summary = source.fetch(tmp_path, NIGHT, "default")
        assert summary and "3 rows" in summary
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "2009-2010.parquet",
            "2010-2011.parquet",
        ]
        shown = capsys.readouterr().out
        assert re.search(r"sha256 .* [0-9a-f]{64}", shown) and "downloaded" in shown
        sold, cancelled = pq.read_table(tmp_path / "2009-2010.parquet").to_pylist()
        assert (sold["Invoice"], sold["StockCode"]) == ("489434", "85048"), "no 489434.0"
        assert sold["InvoiceDate"] == datetime(2009, 12, 1, 12)
        assert cancelled["Customer ID"] is None and cancelled["Quantity"] == -1
        # Once the files are there, the archive is not asked again.
        asked = len(server.asked)
        assert source.fetch(tmp_path, NIGHT, "default") is None
        assert len(server.asked) == asked


def test_the_selects_read_files_made_from_the_archive(tmp_path: Path, from_server: Any) -> None:
    with serve(archive(), []) as server:
        from_server(server)
        source.fetch(tmp_path, NIGHT, "default")
    with events_of(tmp_path) as connection:
        rows = connection.execute(
            "SELECT event_type, user_id, item_id, _exclude FROM events ORDER BY _file, _row"
        ).fetchall()
    assert rows == [
        ("purchase", "13085", "85048", None),
        ("refund", None, "79323P", None),
        ("purchase", "13085", "85048", "overlap: kept from the earlier file"),
    ]


def test_a_lost_connection_is_taken_up_where_it_broke(tmp_path: Path, from_server: Any) -> None:
    content = archive()
    half, third = len(content) // 2, len(content) // 3
    with serve(content, [half, third - 10]) as server:
        from_server(server)
        source.fetch(tmp_path, NIGHT, "default")
        assert server.asked == [None, f"bytes={half}-", f"bytes={half + third - 10}-"]
    assert pq.read_metadata(tmp_path / "2009-2010.parquet").num_rows == 2


def test_a_second_run_goes_on_after_a_failed_one(tmp_path: Path, from_server: Any) -> None:
    content = archive()
    with serve(content, [1000, 0]) as server:
        from_server(server)
        with pytest.raises(RuntimeError, match="no more data"):
            source.fetch(tmp_path, NIGHT, "default")
        assert not list(tmp_path.glob("*.parquet"))
        source.fetch(tmp_path, NIGHT, "default")
        assert server.asked[-1] == "bytes=1000-"
    assert pq.read_metadata(tmp_path / "2010-2011.parquet").num_rows == 1


def test_a_download_that_was_complete_is_not_repeated(tmp_path: Path, from_server: Any) -> None:
    content = archive()
    (tmp_path / "online_retail_II.zip.part").write_bytes(content)
    with serve(content, []) as server:
        from_server(server)
        source.fetch(tmp_path, NIGHT, "default")
        assert server.asked == [f"bytes={len(content)}-"]
    assert len(list(tmp_path.glob("*.parquet"))) == 2


def test_a_damaged_archive_is_removed_and_nothing_is_half_there(
    tmp_path: Path, from_server: Any
) -> None:
    content = bytearray(archive())
    content[len(content) // 2] ^= 0xFF
    with serve(bytes(content), []) as server:
        from_server(server)
        with pytest.raises(RuntimeError, match="run again"):
            source.fetch(tmp_path, NIGHT, "default")
    assert not list(tmp_path.iterdir())


def test_without_a_network_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(b"", []) as server:
        port = server.server_port  # nobody listens there any more
    monkeypatch.setenv("PERENNIAL_ONLINE_RETAIL_URL", f"http://127.0.0.1:{port}/x.zip")
    with pytest.raises(RuntimeError, match="by hand") as failed:
        source.fetch(tmp_path, NIGHT, "default")
    assert "DATA=" in str(failed.value) and str(tmp_path) in str(failed.value)
    assert not list(tmp_path.glob("*.parquet"))


@contextmanager
def events_of(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the table `events`, and `raw.sales`."""
    shop = load_shop("online_retail")
    files = find_files(shop, folder)["sales"]
    with duckdb.connect(config={"memory_limit": "2GB", "threads": 2}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        assert not open_view(connection, "sales", shop.raw["sales"], folder, files, files)
        connection.execute(f"CREATE TABLE events AS {shop.select('events')}")
        yield connection


@pytest.fixture(scope="module")
def real() -> Iterator[duckdb.DuckDBPyConnection]:
    if not REAL.exists():
        pytest.skip("needs the real files in ../shared/data/online_retail")
    with events_of(REAL) as connection:
        yield connection


def test_every_raw_row_comes_out_once_with_its_own_id(real: duckdb.DuckDBPyConnection) -> None:
    rows, places, events, ids = real.execute(
        "SELECT count(*), count(DISTINCT (_file, _row)), count(*) FILTER (_exclude IS NULL),"
        " count(DISTINCT event_id) FILTER (_exclude IS NULL) FROM events"
    ).fetchall()[0]
    assert rows == places == 525_461 + 541_909
    assert ids == events


def test_the_readme_has_the_real_counts(real: duckdb.DuckDBPyConnection) -> None:
    """The table of README.md, counted again from the files."""
    counted = dict(
        real.execute(
            "SELECT CASE WHEN _exclude IS NULL THEN event_type"
            " ELSE regexp_extract(_exclude, '^[^:]*') END, count(*) FROM events GROUP BY 1"
        ).fetchall()
    )
    readme = (load_shop("online_retail").folder / "README.md").read_text()
    written = {
        name: int(number.replace(",", ""))
        for name, number in re.findall(r"^\| `([^`]+)` \|.*\| ([\d,]+) \|$", readme, re.MULTILINE)
    }
    assert written == counted


def test_the_earlier_file_confirms_the_codes_found_by_description(
    real: duckdb.DuckDBPyConnection,
) -> None:
    """In the overlap the earlier file still has the codes that the later one lost."""
    both, same = real.execute("""
        WITH guessed AS (
            SELECT s.*, e.item_id FROM events AS e JOIN raw.sales AS s USING (_file, _row)
            WHERE e._exclude LIKE 'overlap%' AND s.StockCode IS NULL AND e.item_id IS NOT NULL
        )
        SELECT count(*), count(*) FILTER (upper(trim(k.StockCode)) = g.item_id)
        FROM guessed AS g JOIN raw.sales AS k
            ON k._file <> g._file AND k.InvoiceDate = g.InvoiceDate AND k.Quantity = g.Quantity
            AND k.Description = g.Description AND k.Price = g.UnitPrice
            AND k."Customer ID" IS NOT DISTINCT FROM g.CustomerID
    """).fetchall()[0]
    assert both > 300
    assert same == both


def test_the_order_of_80995_pieces_is_cancelled_by_its_refund(
    real: duckdb.DuckDBPyConnection,
) -> None:
    rows = real.execute(
        "SELECT event_type, order_id FROM events WHERE quantity = 80995 ORDER BY event_ts"
    ).fetchall()
    assert rows == [("purchase", "581483"), ("refund", "581483")]
