"""What does each part of the recommender give?

What a recommender of several towers is made of; then, from one network of ids and texts, one part
at a time is taken away or changed. Seed and number of epochs stay as they are. The protocol is that
of `recommender.py --data`: NDCG@10 and Recall@10 of each user's last item among all items that the
user has not met.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.lib import leave_one_out as loo
from benchmarks.lib.page import at_least_one, publish, quiet, table
from ml import ModelError
from ml.evaluate import evaluate
from ml.recommender import data as sequences
from ml.recommender.data import Examples
from ml.recommender.model import Recommender
from ml.recommender.tower import BOTH, IDS, TEXT, Smoothing
from ml.recommender.train import Config
from ml.text import DEFAULT_ENCODER
from ml.words import NO_WORDS, Lexicon


@contextmanager
def without(owner: Any, name: str, instead: Any) -> Iterator[None]:
    """Something of the code put out of work for a while."""
    kept = owner.__dict__[name]
    setattr(owner, name, instead)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def uncut(data: Examples, max_length: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Each user's latest events, never cut elsewhere."""
    offsets = data.events.offsets
    return np.maximum(offsets[:-1], offsets[1:] - max_length), offsets[1:]


FILES = ("sequences", "items")
BASE = "one network of ids and texts"
PARTS: dict[str, dict[str, Any]] = {
    "towers of ids and of both": {"towers": (IDS, BOTH)},
    "towers of ids and of texts": {"towers": (IDS, TEXT)},
    "towers of ids, of texts and of both": {"towers": (IDS, TEXT, BOTH)},
    "two towers of both": {"towers": (BOTH, BOTH)},
    "ids alone": {"towers": (IDS,)},
    "texts alone": {"towers": (TEXT,)},
    BASE: {},
    "every item a negative in every step": {"negatives": 1 << 30},
    "256 sampled negatives": {"negatives": 256},
    "dropout .2": {"dropout": 0.2},
    "64 dimensions": {"dim": 64},
}
WITHOUT: dict[str, tuple[Any, str, Any]] = {
    "the next item alone is foreseen": (loo, "AHEAD", 1),
    "attention without smoothing": (Smoothing, "forward", lambda self, x: torch.zeros_like(x)),
    "histories not cut at random": (sequences, "windows", uncut),
    "texts without their words": (Lexicon, "fit", lambda texts: NO_WORDS),
    "texts not whitened": (Recommender, "fit_texts", lambda self: None),
}
"""Changes to the base: what is put out of work, and what stands in its place."""


def recipe(name: str, epochs: int, seed: int) -> Config:
    """The settings of a line."""
    settings = {"towers": (BOTH,)} | PARTS.get(name, {})
    return replace(loo.RECIPE, max_epochs=epochs, seed=seed, **settings)


def made_of(folder: Path, name: str, epochs: int, seed: int) -> dict[str, Any]:
    """All that a line follows from: the files' content, what is changed and every setting."""
    files = [file for file in (folder / f"{kind}.parquet" for kind in FILES) if file.exists()]
    data = {}
    for file in files:
        with file.open("rb") as content:
            data[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    more = {"ahead": loo.AHEAD, "judged": loo.JUDGED, "encoder": DEFAULT_ENCODER}
    settings = asdict(recipe(name, epochs, seed)) | more
    of = {"data": data, "part": name, "settings": settings}
    return dict(json.loads(json.dumps(of)))  # as it is when it is read again


def finished(done: Path) -> list[tuple[Any, list[str]]]:
    """The lines of a file: what each was made of, and its row. What is none is told and skipped."""
    if not done.exists():
        return []
    found = []
    for number, line in enumerate(done.read_bytes().splitlines(), 1):
        try:
            told = json.loads(line)
            row = [str(cell) for cell in told["row"]]
            if len(row) != 5 or not np.isfinite([float(cell) for cell in row[1:]]).all():
                raise ValueError("a row is a name and four figures")
            found.append((told["of"], row))
        except (ValueError, KeyError, TypeError) as error:
            loo.tell(f"{done}, line {number} is no finished line and is left out ({error})")
    return found


def keep(done: Path, of: dict[str, Any], row: list[str]) -> None:
    """Add a finished line, on a line of its own also after one that was cut off."""
    torn = done.exists() and not done.read_bytes().endswith(b"\n") and done.stat().st_size
    with done.open("a") as file:
        file.write("\n" * bool(torn) + json.dumps({"of": of, "row": row}) + "\n")


def measure(
    split: loo.Split, text: np.ndarray | None, name: str, epochs: int, seed: int
) -> list[str]:
    """A line of the table."""
    config = recipe(name, epochs, seed)
    if name in WITHOUT:
        with without(*WITHOUT[name]):
            fitted = loo.network(split, text, config)
    else:
        fitted = loo.network(split, text, config)
    cells = []
    for day in (loo.VALID, loo.LAST):
        score = loo.ask(split, fitted.model, fitted.facts, day)
        found = evaluate(name, score, split.truth(day), loo.KS)
        cells += [f"{loo.metric(found, metric, 10):.4f}" for metric in ("ndcg", "recall")]
    print(name, *cells, flush=True)
    return [name, *cells]


def lines(asked: argparse.Namespace) -> dict[str, list[str]]:
    """The rows that are asked for, by name: taken from the file of finished ones, or measured."""
    done = asked.done
    if done and (done.is_dir() or not done.parent.is_dir()):
        raise loo.BadFolder(f"--done {done}: name a file in a folder that is there")
    split = loo.read(asked.data)
    before = finished(done) if done else []
    known: dict[str, list[str]] = {}
    left: dict[str, dict[str, Any]] = {}
    for name in asked.part or [*PARTS, *WITHOUT]:
        of = made_of(asked.data, name, asked.epochs, asked.seed)
        rows = [row for made, row in before if made == of]
        known |= {name: rows[-1]} if rows else {}
        left |= {} if rows else {name: of}
    text = loo.embedded(split) if left else None
    for name, of in left.items():
        known[name] = measure(split, text, name, asked.epochs, asked.seed)
        if done:
            keep(done, of, known[name])
    return known


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with sequences.parquet")
    parser.add_argument("--epochs", type=at_least_one, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", nargs="+", choices=[*PARTS, *WITHOUT], help="only these lines")
    parser.add_argument("--done", type=Path, help="finished lines: not measured again")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    try:
        known = lines(asked)
    except (loo.BadFolder, ModelError) as error:
        raise SystemExit(str(error)) from error
    names = asked.part or [*PARTS, *WITHOUT]
    rows = [known[name] for name in names]
    header = ["", "valid NDCG@10", "valid R@10", "test NDCG@10", "test R@10"]
    parts = [
        f"{asked.data.name}, seed {asked.seed}, {asked.epochs} epochs (fewer than the recipe's "
        f"{loo.RECIPE.max_epochs}: the lines are to be compared with each other). From "
        f"'{BASE}' on, the lines change one thing in it.",
        table(header, rows),
    ]
    publish("What each part of the recommender gives", parts, ["torch"], asked.write)


if __name__ == "__main__":
    main()
