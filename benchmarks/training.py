"""How fast does the recommender learn, beside RecTools' SASRec?

Both learn the training events of the leave-one-out protocol (benchmarks/recommender.py) on the
same device: as many blocks, dimensions, heads and events read, the same batches and learning rate;
ours knows items by their ids alone, as SASRec does. After each epoch NDCG@10 of the validation
items of the same users is taken, outside of the time that counts. RecTools runs in an environment
of its own (peers/requirements.txt tells how to make it) and is left out where there is none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib.leave_one_out import (
    AHEAD,
    JUDGED,
    KS,
    RECIPE,
    VALID,
    Split,
    item_facts,
    metric,
    read,
    some,
)
from benchmarks.lib.night import real_data
from benchmarks.lib.page import publish, quiet, table
from core.shop import ROOT
from ml.evaluate import HeldOut, evaluate
from ml.recommender.data import Examples, ItemFacts, examples
from ml.recommender.model import Recommender
from ml.recommender.rank import scorer
from ml.recommender.tower import IDS
from ml.recommender.train import Config, train

PEER = ROOT / "benchmarks" / "peers" / "rectools_sasrec.py"
PYTHON = ROOT / "benchmarks" / "peers" / ".venv" / "bin" / "python"
COUNTED = 3
"""steps whose operations are counted"""


@dataclass
class Course:
    """Seconds of training until the end of each epoch, and NDCG@10 there."""

    seconds: list[float]
    ndcg: list[float]

    def until(self, wanted: float) -> str:
        """Seconds until the first epoch that reaches it."""
        pairs = zip(self.seconds, self.ndcg, strict=True)
        return next((f"{seconds:,.0f}" for seconds, got in pairs if got >= wanted), "never")


def ours(data: Examples, facts: ItemFacts, truth: HeldOut, config: Config) -> Course:
    """The nightly's own training."""
    course, judging = Course([], []), 0.0
    began = time.perf_counter()

    def judge(model: Recommender) -> float:
        nonlocal judging
        asked = time.perf_counter()
        course.seconds.append(asked - began - judging)
        found = evaluate("", scorer(model, data, facts, VALID), truth, KS)
        course.ndcg.append(metric(found, "ndcg", 10))
        judging += time.perf_counter() - asked
        print(f"ours: {course.seconds[-1]:.0f} s, NDCG@10 {course.ndcg[-1]:.4f}", file=sys.stderr)
        return course.ndcg[-1]

    train(data, facts, config, log=lambda _: None, judge=judge)
    return course


def theirs(python: Path, split: Split, truth: HeldOut, config: Config, epochs: int) -> Course:
    """RecTools, in a process of its own."""
    learn = split.training
    wanted = truth.truth[np.unique(truth.truth[:, 0], return_index=True)[1]]
    settings = {
        "epochs": epochs,
        "n_blocks": config.layers,
        "n_heads": config.heads,
        "n_factors": config.dim,
        "dropout_rate": config.dropout,
        "session_max_len": config.max_length,
        "lr": config.learning_rate,
        "batch_size": config.batch_size,
    }
    course = Course([], [])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "events.npz"
        np.savez(
            file,
            user=learn.user,
            item=learn.item,
            day=learn.day,
            judged=truth.users[wanted[:, 0]],
            truth=wanted[:, 1],
        )
        command = [str(python), str(PEER), str(file), json.dumps(settings)]
        complaints = Path(folder) / "complaints.txt"
        with (
            complaints.open("w") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            assert process.stdout
            for line in process.stdout:
                if line.startswith("{"):
                    said = json.loads(line)
                    course.seconds.append(said["seconds"])
                    course.ndcg.append(said["ndcg"])
                    print(f"RecTools: {said}", file=sys.stderr)
        if process.returncode:
            raise SystemExit(complaints.read_text())
    return course


def compared(courses: dict[str, Course], sequences: int) -> str:
    """A row each; `sequences` are those of one epoch."""
    rows = []
    for name, course in courses.items():
        best = [f"{max(course.ndcg):.4f}"]
        reached = [course.until(0.99 * max(each.ndcg)) for each in courses.values()]
        speed = f"{sequences * len(course.seconds) / course.seconds[-1]:,.0f}"
        rows.append([name, speed, f"{course.seconds[-1]:,.0f}", *best, *reached])
    heads = [f"s to 99 % of the best of {name}" for name in courses]
    return table(["", "sequences/s", "s in all", "best NDCG@10", *heads], rows)


def peak(dtype: torch.dtype) -> float:
    """Operations a second of a large product."""
    a = torch.randn(2048, 2048).to(dtype)
    took = []
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        took.append(time.perf_counter() - began)
    return float(2 * 2048**3 / min(took))


def utilisation(data: Examples, facts: ItemFacts, config: Config) -> str:
    """What share of the machine's products the training reaches, over some hundred steps."""
    few = replace(config, max_steps=COUNTED)
    with FlopCounterMode(display=False) as counter:
        train(data, facts, few, log=lambda _: None)
    each = counter.get_total_flops() / COUNTED
    stamps: list[float] = []
    steps = 60
    some_steps = replace(config, max_steps=steps, log_every=20)
    train(data, facts, some_steps, log=lambda _: stamps.append(time.perf_counter()))
    per_step = (stamps[-1] - stamps[1]) / (steps - 20)  # without the start
    rate = each / per_step
    rows = [
        [
            str(dtype).removeprefix("torch."),
            f"{peak(dtype) / 1e9:,.0f}",
            f"{rate / peak(dtype):.0%}",
        ]
        for dtype in (torch.float32, torch.bfloat16)
    ]
    told = f"A step of ours: {each / 1e9:,.1f} billion operations in {1000 * per_step:,.0f} ms.\n\n"
    return told + table(["products in", "billion operations/s", "of it in training"], rows)


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of sequences.parquet")
    parser.add_argument("--epochs", type=int, default=RECIPE.max_epochs)
    parser.add_argument("--length", type=int, default=RECIPE.max_length, help="events read")
    parser.add_argument("--peer-epochs", type=int, help="of RecTools, if it takes too long")
    parser.add_argument("--peer", type=Path, default=PYTHON, help="python that has RecTools")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    folder = asked.data or real_data("amazon_beauty", None)
    if folder is None:
        raise SystemExit("Amazon Beauty is not beside the repository: name a folder with --data")
    split = read(folder)
    learn = split.training
    facts = item_facts(split, learn, None)[0]
    data = examples(learn, learn, VALID, AHEAD)
    truth = some(split.truth(VALID), JUDGED)
    config = replace(RECIPE, towers=(IDS,), max_epochs=asked.epochs, max_length=asked.length)
    peer_epochs = asked.peer_epochs or asked.epochs
    courses = {"ours": ours(data, facts, truth, config)}
    parts = [
        f"{asked.epochs} epochs of {folder.name}; {config.layers} blocks of {config.dim} "
        f"dimensions, {config.heads} heads, dropout {config.dropout}, {config.max_length} events "
        f"read, batches of {config.batch_size} sequences; threads: {torch.get_num_threads()}."
    ]
    if asked.peer.exists():
        courses["RecTools"] = theirs(asked.peer, split, truth, config, peer_epochs)
        if peer_epochs < asked.epochs:
            parts.append(
                f"RecTools was stopped after {peer_epochs} epochs, before its best: compare the "
                "seconds to what it had reached by then."
            )
    else:
        parts.append("RecTools left out: benchmarks/peers/requirements.txt tells how to add it.")
    sequences = int((np.bincount(learn.user) > 1).sum())
    parts += [compared(courses, sequences), utilisation(data, facts, config)]
    publish("Training", parts, ["torch"], asked.write)


if __name__ == "__main__":
    main()
