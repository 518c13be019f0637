"""What becomes of a line of Online Retail: the rules of its SELECTs, one small file at a time."""

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.shop import load_shop
from ingest.raw import find_files, open_view

COMMON = ["StockCode", "Description", "Quantity", "InvoiceDate"]
FIRST = ["Invoice", *COMMON, "Price", "Customer ID", "Country"]
SECOND = ["InvoiceNo", *COMMON, "UnitPrice", "CustomerID", "Country"]
CUP = ("85123A", "RED CUP")
JAN, FEB = datetime(2011, 1, 10, 9), datetime(2011, 2, 10, 9)


def line(
    invoice: str | None = "1",
    code: str | None = CUP[0],
    description: str | None = CUP[1],
    quantity: int = 1,
    at: datetime = JAN,
    price: float = 2.5,
    customer: float | None = 13085.0,
) -> tuple[Any, ...]:
    return (invoice, code, description, quantity, at, price, customer, "France")


def deliver(folder: Path, name: str, names: list[str], *lines: tuple[Any, ...]) -> None:
    types = [pa.string()] * 3 + [pa.int64(), pa.timestamp("us"), pa.float64(), pa.float64()]
    columns = [
        pa.array(values, kind)
        for values, kind in zip(zip(*lines, strict=True), [*types, pa.string()], strict=True)
    ]
    pq.write_table(pa.table(columns, names=names), folder / name)


def select(folder: Path, table: str = "events") -> list[dict[str, Any]]:
    """The rows of the shop's SELECT over the files in `folder`, by file and row."""
    shop = load_shop("online_retail")
    files = find_files(shop, folder)["sales"]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        assert not open_view(connection, "sales", shop.raw["sales"], folder, files, files)
        query = f"SELECT * FROM ({shop.select(table)}) ORDER BY _file, _row"
        found = connection.execute(query)
        names = [name for name, *_ in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def test_a_line_becomes_a_purchase_in_utc(tmp_path: Path) -> None:
    summer = datetime(2011, 7, 1, 12, 30)
    deliver(tmp_path, "a.parquet", FIRST, line(at=summer), line(at=JAN, customer=None))
    bought, by_guest = select(tmp_path)
    assert bought["event_ts"] == datetime(2011, 7, 1, 11, 30), "London is an hour ahead in summer"
    assert by_guest["event_ts"] == JAN
    assert (bought["event_type"], bought["order_id"], bought["quantity"]) == ("purchase", "1", 1)
    assert bought["unit_price"] == Decimal("2.5") and bought["item_id"] == "85123A"
    assert bought["user_id"] == "13085" and by_guest["user_id"] is None
    assert bought["_exclude"] is None


@pytest.mark.parametrize("names", [FIRST, SECOND])
def test_both_ways_of_naming_columns_give_the_same_events(tmp_path: Path, names: list[str]) -> None:
    deliver(tmp_path, "a.parquet", names, line(), line(quantity=-1, at=FEB, invoice="C2"))
    rows = [{k: v for k, v in row.items() if k != "event_id"} for row in select(tmp_path)]
    assert [row["event_type"] for row in rows] == ["purchase", "refund"]
    assert [row["order_id"] for row in rows] == ["1", "1"]


@pytest.mark.parametrize(
    ("dropped", "reason"),
    [
        (line(code="POST", description="POSTAGE"), "not a product: POST"),
        (line(code="m", description="Manual"), "not a product: M"),
        (line(code="gift_0001_30", description="Voucher"), "not a product: GIFT_0001_30"),
        (line(None, None, "CRUK Commission", -1), "not a product: CRUK COMMISSION"),
        (line(None, None, None, -1), "not a product: no code, no description"),
        (line(code="85123A", description="damaged", quantity=-9, price=0, customer=None),
         "stock movement: no price, no customer"),
        (line(description="?", quantity=9, price=0, customer=None),
         "stock movement: no price, no customer"),
    ],
)  # fmt: skip
def test_rows_that_are_no_event_say_why(
    tmp_path: Path, dropped: tuple[Any, ...], reason: str
) -> None:
    deliver(tmp_path, "a.parquet", FIRST, line(), dropped)
    kept, excluded = select(tmp_path)
    assert kept["_exclude"] is None
    assert excluded["_exclude"] == reason


def test_goods_given_to_a_customer_for_nothing_are_a_purchase(tmp_path: Path) -> None:
    deliver(tmp_path, "a.parquet", FIRST, line(price=0))
    assert [row["_exclude"] for row in select(tmp_path)] == [None]


def test_the_days_both_files_hold_are_kept_from_the_earlier(tmp_path: Path) -> None:
    deliver(tmp_path, "2009-2010.parquet", FIRST, line(), line("C2", quantity=-1))
    later = [line(), line(None, None, quantity=-1), line("3", at=FEB)]
    deliver(tmp_path, "2010-2011.parquet", SECOND, *later)
    rows = select(tmp_path)
    assert [row["_exclude"] is None for row in rows] == [True, True, False, False, True]
    # Alone, the later file is all there is.
    (tmp_path / "2009-2010.parquet").unlink()
    assert [row["_exclude"] for row in select(tmp_path)] == [None] * 3


def test_a_cancellation_without_a_code_is_known_by_its_description(tmp_path: Path) -> None:
    other = line("0", code="11111", description="RED CUP", customer=None)
    lines = [other, line(), line(), line(None, None, " red  cup ", -1, FEB)]
    deliver(tmp_path, "b.parquet", SECOND, *lines)
    *_, refund = select(tmp_path)
    assert refund["event_type"] == "refund" and refund["quantity"] == 1
    assert refund["item_id"] == "85123A", "the code most often sold under that description"
    assert refund["order_id"] == "1"


def test_a_refund_names_the_latest_purchase_that_is_large_enough(tmp_path: Path) -> None:
    lines = [
        line("1", quantity=12, at=datetime(2011, 1, 1)),
        line("2", quantity=12, at=datetime(2011, 1, 2)),
        line("3", quantity=5, at=datetime(2011, 1, 3)),
        line("4", quantity=12, at=datetime(2011, 1, 4), price=9),
        line("5", quantity=12, at=datetime(2011, 1, 5), customer=1.0),
        line("C6", quantity=-10, at=datetime(2011, 1, 6)),
        line("7", quantity=12, at=datetime(2011, 1, 7)),
        line("C8", quantity=-99, at=datetime(2011, 1, 8)),
    ]
    deliver(tmp_path, "a.parquet", FIRST, *lines)
    refunds = [row for row in select(tmp_path) if row["event_type"] == "refund"]
    assert [row["order_id"] for row in refunds] == ["2", None]
    assert '"invoice":"C8"' in refunds[1]["properties"], "its own number is not lost"


def test_event_ids_hold_when_the_file_is_delivered_again(tmp_path: Path) -> None:
    lines = [line(), line(), line(price=3), line(code="85123a"), line(None, None, None, -1)]
    deliver(tmp_path, "a.parquet", FIRST, *lines)
    before = [row["event_id"] for row in select(tmp_path)]
    assert len(set(before)) == len(lines), "every line has its own id, equal ones too"
    deliver(tmp_path, "a.parquet", FIRST, *lines[::-1])
    (tmp_path / "a.parquet").rename(tmp_path / "renamed.parquet")
    assert sorted(row["event_id"] for row in select(tmp_path)) == sorted(before)


def test_a_product_is_called_what_it_is_called_most_often(tmp_path: Path) -> None:
    lines = [
        line(description="RED  CUP "),
        line(code="85123a", description="RED CUP", at=FEB, price=4),
        line(description="A CUP"),
        line(description="damaged", price=0, customer=None),
        line(description="damaged", price=0, customer=None),
        line(description="damaged", price=0, customer=None),
        line(code="POST", description="POSTAGE"),
        line(code="22222", description="lost", quantity=-1),
    ]
    deliver(tmp_path, "a.parquet", FIRST, *lines)
    (item,) = select(tmp_path, "items")
    assert (item["item_id"], item["title"]) == ("85123A", "RED CUP")
    assert item["price"] == Decimal("2.5"), "the price of the first day"
    assert item["valid_from"] == datetime(2011, 1, 10)


def test_of_two_equally_frequent_titles_the_first_in_the_alphabet(tmp_path: Path) -> None:
    deliver(tmp_path, "a.parquet", FIRST, line(description="B"), line(description="A"))
    assert [item["title"] for item in select(tmp_path, "items")] == ["A"]
