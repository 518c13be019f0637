"""What does each part of the recommender give?

What a recommender of several towers is made of; then, from one network of ids and texts, one part
at a time is taken away or changed. Seed and number of epochs stay as they are. The protocol is that
of `recommender.py --data`: NDCG@10 and Recall@10 of each user's last item among all items that the
user has not met.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.lib import leave_one_out as loo
from benchmarks.lib.page import publish, quiet, table
from ml.evaluate import evaluate
from ml.recommender import data as sequences
from ml.recommender.data import Examples
from ml.recommender.model import Recommender
from ml.recommender.tower import BOTH, IDS, TEXT, Smoothing
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


def measure(
    split: loo.Split, text: np.ndarray | None, name: str, epochs: int, seed: int
) -> list[str]:
    """A line of the table."""
    settings = {"towers": (BOTH,)} | PARTS.get(name, {})
    config = replace(loo.RECIPE, max_epochs=epochs, seed=seed, **settings)
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


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with sequences.parquet")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", nargs="+", choices=[*PARTS, *WITHOUT], help="only these lines")
    parser.add_argument("--done", help="file of finished lines: they are not measured again")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    done = Path(asked.done) if asked.done else None
    told = done.read_text().splitlines() if done and done.exists() else []
    settings = [asked.data.name, asked.epochs, asked.seed]
    known = {row[0]: row for of, row in map(json.loads, told) if of == settings}
    names = asked.part or [*PARTS, *WITHOUT]
    left = [name for name in names if name not in known]
    if left:
        split = loo.read(asked.data)
        text = loo.embedded(split)
    for name in left:
        known[name] = measure(split, text, name, asked.epochs, asked.seed)
        if done:
            with done.open("a") as file:
                file.write(json.dumps([settings, known[name]]) + "\n")
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
