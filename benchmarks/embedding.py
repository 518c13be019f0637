"""How many texts does a second embed, and what does speed cost in their vectors?

`ml.text.embed` against `SentenceTransformer.encode` as it comes, on the same texts: the titles of
Amazon Beauty and the descriptions of UCI Online Retail II, where they are beside the repository.
Both include loading nothing but the texts: the model is loaded before. They take turns, and the
fastest turn of each counts. Cosine is between the vectors of the two for the same text; agreement
is the share of a text's 10 nearest others, by the library's vectors, that ours find too.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib.night import real_data
from benchmarks.lib.page import publish, quiet, table
from ml import text
from ml.device import device

COLUMNS = {"amazon_beauty": ("items.parquet", "title"), "online_retail": ("*.parquet", None)}
NEAREST = 10


def texts_of(name: str, count: int) -> list[str] | None:
    """Distinct texts of a data set in an order of their own; None when it is not there."""
    folder = real_data(name, None)
    if folder is None:
        return None
    pattern, column = COLUMNS[name]
    with duckdb.connect() as connection:
        source = f"read_parquet('{folder / pattern}', union_by_name = true)"
        names = connection.execute(f"SELECT * FROM {source} LIMIT 0").description or []
        column = column or next(n for n, *_ in names if n.lower() == "description")
        rows = connection.execute(
            f'SELECT DISTINCT trim("{column}") AS text FROM {source} '
            "WHERE text <> '' ORDER BY hash(text), text LIMIT ?",
            [count],
        ).fetchall()
    return [row[0] for row in rows]


def nearest(vectors: np.ndarray) -> np.ndarray:
    """The nearest others of each, int64 [n, NEAREST]."""
    near = torch.from_numpy(vectors @ vectors.T).fill_diagonal_(-2)
    return near.topk(NEAREST, dim=1).indices.numpy()


def compared(name: str, texts: list[str], rounds: int) -> list[str]:
    """A row: texts a second of both, and how alike the vectors are."""
    model = text.load(text.DEFAULT_ENCODER, device())
    load, text.load = text.load, lambda *_: model
    ways = {
        "library": lambda: model.encode(texts, normalize_embeddings=True, show_progress_bar=False),
        "ours": lambda: text.embed(texts),
    }
    took = dict.fromkeys(ways, float("inf"))
    made: dict[str, np.ndarray] = {}
    try:
        for _ in range(rounds):
            for way, run in ways.items():
                began = time.perf_counter()
                made[way] = run()
                took[way] = min(took[way], time.perf_counter() - began)
    finally:
        text.load = load
    cosine = (made["library"] * made["ours"]).sum(axis=1)
    there = nearest(made["library"])[:, :, None] == nearest(made["ours"])[:, None]
    tokens = np.mean([len(ids) for ids in model.tokenizer(texts)["input_ids"]])
    return [
        f"{name}, {len(texts):,} texts of {tokens:.0f} tokens",
        *(f"{len(texts) / took[way]:,.0f}" for way in ways),
        f"{took['library'] / took['ours']:.2f}",
        f"{cosine.mean():.5f}",
        f"{cosine.min():.5f}",
        f"{there.any(axis=2).mean():.4f}",
    ]


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=4000, help="of each data set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    rows, parts = [], []
    for name in COLUMNS:
        texts = texts_of(name, asked.texts)
        if texts is None:
            parts.append(f"{name} skipped: it is not beside the repository.")
        else:
            rows.append(compared(name, texts, asked.rounds))
    head = ["", "library, texts/s", "ours, texts/s", "times", "cosine, mean", "lowest"]
    told = (
        f"Encoder {text.DEFAULT_ENCODER}, {torch.get_num_threads()} threads, ours in "
        f"{'bfloat16' if text.half_precision() else 'float32'}."
    )
    parts = [told, table([*head, f"nearest {NEAREST} shared"], rows), *parts]
    publish("Embedding texts", parts, ["torch", "sentence-transformers"], asked.write)


if __name__ == "__main__":
    main()
