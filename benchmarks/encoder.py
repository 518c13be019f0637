"""What does fine-tuning the text encoder on behaviour gain?

Leave-one-out on a folder of `sequences.parquet` and `items.parquet`: it learns from all but the
last two items of each user; the last item is to be found by the text of the items before it (the
plain baseline "text similarity", all items ranked, those met masked), by the encoder as it came and
as it was fine-tuned. Nothing is chosen on the last items.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.lib.leave_one_out import LAST, MET, VALID, Split, metric, read
from benchmarks.lib.page import publish, quiet, table
from core.shop import ROOT
from ml.baselines import text_similarity
from ml.encoder.pairs import lessons
from ml.encoder.train import FULL, LAST_LAYERS, Config, fine_tune
from ml.evaluate import Evaluation, evaluate
from ml.metrics import mean_with_interval
from ml.text import embed

DATA = ROOT.parent / "shared" / "data" / "amazon_beauty"


def asked(split: Split, vectors: np.ndarray, there: np.ndarray) -> Evaluation:
    """The last items, by the texts of what each user met before."""
    score = text_similarity(split.known, vectors * there[:, None])
    return evaluate("", score, split.truth(LAST))


def row(name: str, found: Evaluation, seconds: float, about: str = "-") -> list[str]:
    """Recall and NDCG at 10."""
    figures = [f"{metric(found, each, 10):.4f}" for each in ("recall", "ndcg")]
    return [name, *figures, about, f"{seconds:.0f}"]


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--mode", choices=[LAST_LAYERS, FULL], default=LAST_LAYERS)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    given = parser.parse_args()
    quiet()
    if not (given.data / "items.parquet").exists():
        print(f"Skipped: {given.data} has no items.parquet; name --data.")
        return
    split = read(given.data)
    texts = split.texts.to_pylist() if split.texts is not None else []
    there = np.array([bool(text) for text in texts])
    began = time.monotonic()
    vectors = embed(texts)
    before = asked(split, vectors, there)
    rows = [row("frozen", before, time.monotonic() - began)]
    found = lessons(split.training, (MET,), VALID, there, Config.reach, 10_000)
    notes = []
    for seed in range(given.seeds):
        config = Config(
            seed=seed,
            mode=given.mode,
            last_layers=given.layers,
            max_steps=given.steps,
            batch_size=given.batch,
            learning_rate=given.rate,
        )
        began = time.monotonic()
        tuned = fine_tune(texts, found, config, log=lambda text: print(text, flush=True))
        seconds = time.monotonic() - began
        after = asked(split, tuned.encoder.all_vectors(), there)
        own = f"{tuned.frozen:.4f} -> {tuned.tuned:.4f}"
        rows.append(row(f"fine-tuned, seed {seed}", after, seconds, own))
        gain = mean_with_interval(after.ndcg - before.ndcg)
        notes.append(
            f"Seed {seed}: {tuned.curves.steps[-1]} steps; NDCG@10 with items met not masked "
            f"{gain.value:+.4f} over frozen, 95 % interval {gain.low:+.4f} to {gain.high:+.4f}; "
            f"the gate says {'use it' if tuned.pays else 'stay frozen'}."
        )
    how = "all layers" if given.mode == FULL else f"the last {given.layers} of the layers"
    parts = [
        f"{given.data.name}: {len(found.learn.user):,} pairs to learn from, {len(texts):,} texts, "
        f"{len(before.ndcg):,} users asked. Trained are {how}, {given.steps} steps of "
        f"{given.batch} pairs at most.",
        table(["", "R@10", "NDCG@10", "judging users' recall@10", "seconds"], rows),
        "The fourth column is the night's own gate: the next item among the ten nearest of the one "
        "before, of users who are never learned from. Seconds are of embedding all texts once, or "
        "of the whole fine-tuning.",
        " ".join(notes),
    ]
    publish("Fine-tuning the text encoder", parts, ["torch", "sentence-transformers"], given.write)


if __name__ == "__main__":
    main()
