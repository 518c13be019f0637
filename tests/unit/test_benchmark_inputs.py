"""Folders and files that the benchmark of published tables is given: read right, or refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import ablations
from benchmarks.lib import leave_one_out as loo
from core.shop import ROOT
from ml.baselines import popularity
from ml.evaluate import evaluate

USERS, LENGTH, ITEMS = 6, 12, 40


def write(folder: Path, rows: list[tuple[Any, Any, Any]], items: Any = None) -> Path:
    table = pa.table([[row[at] for row in rows] for at in range(3)], names=list(loo.COLUMNS))
    pq.write_table(table, folder / "sequences.parquet")
    if items is not None:
        pq.write_table(pa.table(items), folder / "items.parquet")
    return folder


def walks(length: int = LENGTH) -> list[tuple[Any, Any, Any]]:
    return [(u, p, (5 * u + 3 * p) % ITEMS) for u in range(USERS) for p in range(length)]


def refused(folder: Path) -> str:
    with pytest.raises(loo.BadFolder) as told:
        loo.read(folder)
    return str(told.value)


def test_positions_written_as_text_are_numbers_all_the_same(tmp_path: Path) -> None:
    right = loo.read(write(tmp_path, walks())).events
    found = loo.read(write(tmp_path, [(u, str(p), i) for u, p, i in walks()])).events
    assert (found.item == right.item).all() and (found.time == right.time).all()
    assert "position 'last' is no number" in refused(write(tmp_path, [("a", "last", "x")]))
    assert "position is BOOLEAN" in refused(write(tmp_path, [("a", True, "x")]))
    assert "1 rows lack" in refused(write(tmp_path, [*walks(), (9, float("nan"), 1)]))


@pytest.mark.parametrize("file", ["sequences.parquet", "items.parquet"])
def test_a_file_that_is_not_whole_is_named(tmp_path: Path, file: str) -> None:
    write(tmp_path, walks(), {"item_id": [0], "title": ["a"]})
    for content in (b"", b"hello", (tmp_path / file).read_bytes()[:-20]):
        (tmp_path / file).write_bytes(content)
        assert f"{file} is no whole parquet file, write it anew" in refused(tmp_path)


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ({"item_id": ["x1", "x2"], "title": ["a", "b"]}, r"none of its item_ids .* 'x1', there"),
        ({"id": [1], "title": ["a"]}, "has no column item_id: name it so"),
        ({"item_id": [1, None], "title": ["a", "b"]}, "1 rows lack an item_id"),
        ({"item_id": pa.array([], pa.int64()), "title": []}, "items.parquet holds no rows"),
    ],
)
def test_items_that_do_not_belong_to_the_sequences(tmp_path: Path, items: Any, said: str) -> None:
    write(tmp_path, walks(), items)
    with pytest.raises(loo.BadFolder, match=said):
        loo.read(tmp_path)


def test_items_without_words_are_known_by_their_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert loo.read(write(tmp_path, walks(), {"item_id": [0], "year": [1999]})).texts is None
    assert "holds no text" in capsys.readouterr().out
    odd = {"item_id": ["0"], 'the "title"': ["mug"]}
    texts = loo.read(write(tmp_path, walks(), odd)).texts
    assert texts is not None and texts[0].as_py() == "mug"


def test_too_short_histories_and_a_single_item(tmp_path: Path) -> None:
    for length in (1, 2, 3):
        said = refused(write(tmp_path, walks(length)))
        assert f"no user has more than {length} items" in said and "bring users with 4" in said
    assert "one item alone" in refused(write(tmp_path, [(u, p, 0) for u, p, _ in walks()]))
    mixed = [*walks(), (91, 0, 1), (91, 1, 2), (92, 0, 1)]
    split = loo.read(write(tmp_path, mixed))
    assert len(split.truth(loo.LAST).users) == USERS + 1  # who has two items is asked


def test_whose_item_was_met_before_stays_in_as_a_miss(tmp_path: Path) -> None:
    rows = [(u, p, 10 * u + p) for u in range(2) for p in range(4)]
    rows += [(0, 4, 99), (1, 4, 10)]  # one ends on something new, one on the first again
    split = loo.read(write(tmp_path, rows))
    truth = split.truth(loo.LAST)
    found = evaluate("", popularity(split.known, loo.LAST, days=loo.LAST), truth, loo.KS)
    assert loo.repeated(truth) == 1 and len(truth.users) == 2
    assert loo.metric(found, "recall", 20) == 0.5  # one of two, not one of one
    assert loo.metric(found, "recall", 20, masked=False) == 1
    write(tmp_path, [(u, p, i if p < 4 else 10 * u) for u, p, i in rows])
    split = loo.read(tmp_path)
    found = evaluate("", popularity(split.known, loo.LAST), split.truth(loo.LAST), loo.KS)
    assert loo.metric(found, "recall", 20) == 0


def test_the_command_ends_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "recommender.py"), "--data", str(tmp_path)]
    none = subprocess.run([*command, "--seeds", "0"], capture_output=True, text=True, check=False)
    assert none.returncode == 2 and "--seeds: must be a whole number from 1 on" in none.stderr
    write(tmp_path, walks(3))
    short = subprocess.run(command, capture_output=True, text=True, check=False)
    assert short.returncode == 1 and "bring users with 4" in short.stderr
    assert "Traceback" not in short.stderr


def test_a_finished_line_is_of_its_data_and_settings_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, done = write(tmp_path, walks()), tmp_path / "done"
    of = ablations.made_of(data, "ids alone", 8, 0)
    row = ["ids alone", "0.1", "0.2", "0.3", "0.4"]
    done.write_bytes(b'hello\n\xff\n{"a": 1}\n[["x", 8, 0], ["ids alone", "1"]]\n\n{"of": ')
    ablations.keep(done, of, row)
    assert ablations.finished(done) == [(of, row)]
    said = capsys.readouterr().out
    assert said.count("is no finished line and is left out") == 6 and "line 6" in said
    assert ablations.made_of(data, "ids alone", 8, 0) == of
    assert ablations.made_of(data, "ids alone", 8, 1) != of
    assert ablations.made_of(data, "texts alone", 8, 0) != of
    write(tmp_path, walks(LENGTH - 1))  # other content, same folder
    assert ablations.made_of(data, "ids alone", 8, 0) != of
