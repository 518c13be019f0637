"""Raw files as views: values, places and damaged lines, for each format."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.shop import RawFiles
from ingest.raw import Unreadable, open_view

VALUES = st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0\r")))


def entry(format: str, *optional: str) -> RawFiles:
    return RawFiles.model_validate(
        {"files": "*", "format": format, "columns": ["a", "b"], "optional": list(optional)}
    )


def read(
    folder: Path, what: RawFiles, chosen: list[str], every: list[str] | None = None
) -> tuple[list[tuple], list[Unreadable], list[str]]:
    """Rows in the order of file and row, what was unreadable, and the types of the columns."""
    with duckdb.connect() as connection:
        bad = open_view(connection, "k", what, folder, chosen, every or chosen)
        rows = connection.execute("SELECT * FROM raw.k ORDER BY _file, _row").fetchall()
        types = [row[1] for row in connection.execute("DESCRIBE raw.k").fetchall()]
    return rows, bad, types


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_by_any_delimiter_in_any_column_order(tmp_path: Path, delimiter: str) -> None:
    (tmp_path / "1.csv").write_text(delimiter.join("bxa") + "\n" + delimiter.join("123") + "\n")
    (tmp_path / "2.csv").write_text("\ufeff" + delimiter.join("abc") + "\n", encoding="utf-8")
    with gzip.open(tmp_path / "3.csv.gz", "wt") as file:
        file.write(delimiter.join("ab") + "\n" + delimiter.join("78") + "\n")
    rows, bad, _ = read(tmp_path, entry("csv", "c"), ["1.csv", "2.csv", "3.csv.gz"])
    assert rows == [("3", "1", None, "1.csv", 1), ("7", "8", None, "3.csv.gz", 1)]
    assert bad == []


def test_csv_lines_that_do_not_parse_keep_the_place_of_those_after(tmp_path: Path) -> None:
    lines = ["a,b", "1,x", "2,x,x", "3", '"4\n4",x', '5,"x"y', "6,x", "7,x,x"]
    (tmp_path / "1.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "2.csv").write_bytes(b"a,b\n\xff\xfe,x\n8,x\n")
    rows, bad, _ = read(tmp_path, entry("csv"), ["1.csv", "2.csv"])
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("1", "1.csv", 1),
        ("4\n4", "1.csv", 4),
        ("6", "1.csv", 6),
        ("8", "2.csv", 2),
    ]
    assert [(each.file, each.row) for each in bad] == [
        ("1.csv", 2),
        ("1.csv", 3),
        ("1.csv", 5),
        ("1.csv", 7),
        ("2.csv", 1),
    ]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(files=st.lists(st.lists(st.tuples(VALUES, VALUES)), min_size=1, max_size=3))
def test_csv_values_come_back_as_written(
    files: list[list[tuple]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    expected = []
    for number, rows in enumerate(files):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerows([("a", "b"), *rows])
        (folder / f"{number}.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
        for place, row in enumerate(rows, start=1):
            expected.append((*(value or None for value in row), f"{number}.csv", place))
    found, bad, _ = read(folder, entry("csv"), [f"{n}.csv" for n in range(len(files))])
    assert [(a or None, b or None, *place) for a, b, *place in found] == expected and bad == []


def test_json_values_lines_and_fields(tmp_path: Path) -> None:
    lines = [
        json.dumps({"a": 1, "b": "x", "c": {"d": [1]}}),
        '{"a": 2',
        "[3]",
        "",
        json.dumps({"a": None, "b": "é", "z": 1}),
    ]
    (tmp_path / "1.json").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "2.json").write_text('{"a": 1}\n{"a": 2}\n')
    rows, bad, _ = read(tmp_path, entry("json", "c"), ["1.json", "2.json"])
    assert rows == [
        ("1", "x", '{"d":[1]}', "1.json", 1),
        (None, "é", None, "1.json", 4),
    ]
    assert sorted((each.file, each.row, each.reason) for each in bad if each.row) == [
        ("1.json", 2, "line unreadable: not a JSON object"),
        ("1.json", 3, "line unreadable: not a JSON object"),
    ]
    assert Unreadable("2.json", None, "column b missing") in bad


def test_parquet_types_are_those_of_all_files_whichever_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": [1.5], "b": ["z"], "c": [True]}), tmp_path / "2.parquet")
    every = ["1.parquet", "2.parquet"]
    rows, _, types = read(tmp_path, entry("parquet", "c"), ["1.parquet"], every)
    assert rows == [(1.0, "x", None, "1.parquet", 1), (2.0, "y", None, "1.parquet", 2)]
    assert types == ["DOUBLE", "VARCHAR", "BOOLEAN", "VARCHAR", "BIGINT"]


def test_names_that_look_like_patterns_are_names(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]* 'quoted'"
    folder.mkdir()
    (folder / "x[2]?.csv").write_text("a,b\n1,2\n")
    (folder / "x2y.csv").write_text("a,b\n3,4\n")
    rows, bad, _ = read(folder, entry("csv"), ["x[2]?.csv"])
    assert rows == [("1", "2", "x[2]?.csv", 1)] and bad == []
