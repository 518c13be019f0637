"""The protocol of published tables, on folders small enough to know what must come out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import ablations, recommender
from benchmarks.lib import leave_one_out as loo
from ml.evaluate import evaluate
from ml.recommender.tower import BOTH

USERS, ITEMS, LENGTH, GROUPS = 90, 60, 8, 3
SMALL = replace(
    loo.RECIPE, max_epochs=6, dim=16, batch_size=32, learning_rate=1e-2, dropout=0.1, log_every=500
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loo, "RECIPE", SMALL)
    monkeypatch.setattr(loo, "embedded", lambda split: hashed(split.texts))


def hashed(texts: pa.Array | None) -> np.ndarray | None:
    """In place of the encoder: which group the text names, and noise."""
    if texts is None:
        return None
    group = np.array([int(text.split()[-1]) for text in texts.to_pylist()])
    noise = np.random.default_rng(0).normal(0, 0.1, (len(group), 8))
    return (np.eye(8)[group] + noise).astype(np.float32)


def write(folder: Path, planted: bool = False, texts: bool = True) -> loo.Split:
    """Users stay within their group of items; `planted`: all end on an item nobody met before."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for user in range(USERS):
        own = np.arange(user % GROUPS, ITEMS, GROUPS)
        path = [*rng.permutation(own)[:LENGTH]]
        if planted:
            path[-1] = ITEMS
        rows += [{"user_id": user, "position": at, "item_id": int(i)} for at, i in enumerate(path)]
    order = rng.permutation(len(rows))  # a file need not be in order
    pq.write_table(pa.Table.from_pylist([rows[i] for i in order]), folder / "sequences.parquet")
    if texts:
        about = {
            "item_id": list(range(ITEMS + 1)),
            "title": [f"shade{i % 10} thing {i}" for i in range(ITEMS + 1)],
            "maker": [f"of group {i % GROUPS}" for i in range(ITEMS + 1)],
        }
        pq.write_table(pa.table(about), folder / "items.parquet")
    return loo.read(folder)


def test_the_split_is_the_published_one(tmp_path: Path) -> None:
    split = write(tmp_path)
    assert len(split.events.users) == USERS and len(split.training.item) == USERS * (LENGTH - 2)
    truth = split.truth(loo.LAST)
    assert len(truth.users) == USERS == len(truth.truth) and truth.candidates.all()
    assert len(truth.seen) == USERS * (LENGTH - 1)  # the validation item is known at the test
    assert split.texts is not None and split.texts[0].as_py() == "shade0 thing 0. of group 0"


def test_a_page_of_any_folder(tmp_path: Path) -> None:
    write(tmp_path / "with")
    *_, before, last = recommender.published_protocol(tmp_path / "with", 2)
    page = "\n".join(last)
    assert "\n".join(before) in page  # what was shown on the way stays
    for row in (
        "popularity",
        "EASE",
        "ids alone",
        "texts alone, seed 0",
        "perennial (towers of ids and both)",
        "2 seeds together",
    ):
        assert f"| {row}" in page or f"the same, {row}" in page
    assert "Items that nobody met" in page
    write(tmp_path / "without", texts=False)
    *_, last = recommender.published_protocol(tmp_path / "without", 1)
    page = "\n".join(last)
    assert "| perennial (towers of ids)" in page and "nobody met\n" not in page
    with pytest.raises(loo.BadFolder, match="user_id, position, item_id are needed"):
        next(recommender.published_protocol(tmp_path / "nowhere", 1))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no rows"),
        ([("a", 1, "x"), ("a", 2, None)], "1 rows lack"),
        ([("a", 1, "x"), (None, 2, "y")], "1 rows lack"),
        ([("a", 1, "x"), ("a", 1, "y")], "1 rows repeat a user's position"),
    ],
)
def test_rows_that_no_order_can_be_made_of(tmp_path: Path, rows: list[tuple], said: str) -> None:
    columns = [[row[at] for row in rows] for at in range(3)]
    kinds = (pa.string(), pa.int64(), pa.string())
    arrays = [pa.array(each, kind) for each, kind in zip(columns, kinds, strict=True)]
    table = pa.table(arrays, names=list(loo.COLUMNS))
    pq.write_table(table, tmp_path / "sequences.parquet")
    with pytest.raises(loo.BadFolder, match=said):
        loo.read(tmp_path)


def test_nothing_of_the_future_is_learned(tmp_path: Path) -> None:
    split = write(tmp_path, planted=True)
    text = loo.embedded(split)
    fitted = loo.network(split, text, loo.RECIPE)
    truth = split.truth(loo.LAST)
    scorers = {name: loo.choose(split, tries)[1] for name, tries in loo.BASELINES.items()}
    asked = {name: fit(split.training, split.known) for name, fit in scorers.items()}
    asked["perennial"] = loo.ask(split, fitted.model, fitted.facts)
    for name, score in asked.items():
        # one item in 53 that are left: all users would find it had any of them learned of it
        assert loo.metric(evaluate(name, score, truth, loo.KS), "recall", 10) < 0.5, name


def test_it_learns_what_there_is(tmp_path: Path) -> None:
    split = write(tmp_path)
    fitted = loo.network(split, loo.embedded(split), loo.RECIPE)
    found = evaluate("", loo.ask(split, fitted.model, fitted.facts), split.truth(loo.LAST), loo.KS)
    # 13 items of the own group are left, of 53
    assert loo.metric(found, "recall", 10) > 0.5
    assert loo.metric(found, "recall", 10, masked=False) <= loo.metric(found, "recall", 10)


@pytest.mark.parametrize("part", ablations.WITHOUT)
def test_what_an_ablation_puts_out_of_work_mattered(tmp_path: Path, part: str) -> None:
    split = write(tmp_path)
    text = loo.embedded(split)
    config = replace(SMALL, towers=(BOTH,), max_epochs=1)
    users = split.truth(loo.LAST).users

    def scores() -> torch.Tensor:
        fitted = loo.network(split, text, config)
        return loo.ask(split, fitted.model, fitted.facts)(users)

    whole = scores()
    with ablations.without(*ablations.WITHOUT[part]):
        less = scores()
    assert not torch.allclose(whole, less)
    assert torch.equal(whole, scores())  # and it is at work again
