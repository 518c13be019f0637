"""How fast does everybody get the best items of a whole catalogue, without those already seen?

The search of the nightly (`ml/recommender/topk.py`) against the bare product of the same vectors
in float32, whose scores nobody looks at, and against other libraries, on random vectors. All take
turns in one process, and the fastest turn of each counts. Faiss cannot leave out what a user has
seen: it is asked for so many more. Recall is the share of the true best (float64) that was found.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lib.page import publish, quiet, table
from ml.recommender.topk import Catalogue, Pairs, rounding_pays

AT_ONCE = 1024
"""users in one product of the peers"""
JUDGED = 500
"""users by whom recall is measured"""


@dataclass(frozen=True)
class Case:
    """Random users and items; each user has seen some."""

    query: torch.Tensor
    items: torch.Tensor
    seen: torch.Tensor
    """[users, some] items"""
    k: int

    @classmethod
    def drawn(cls, users: int, items: int, dim: int, seen: int, k: int) -> Case:
        """The same ones each time."""
        draw = torch.Generator().manual_seed(0)
        return cls(
            torch.randn(users, dim, generator=draw),
            torch.randn(items, dim, generator=draw) / dim**0.5,
            torch.stack([torch.randperm(items, generator=draw)[:seen] for _ in range(users)]),
            k,
        )

    def pairs(self) -> Pairs:
        """What has been seen, never to be found."""
        user = torch.arange(len(self.query)).repeat_interleave(self.seen.shape[1])
        return Pairs(user, self.seen.flatten(), torch.full((len(user),), -torch.inf))


Way = Callable[[], np.ndarray | None]
"""Answers all users: item numbers [users, k]; None from the bare product."""


def bare(case: Case) -> Way:
    """The product alone, to memory that is there already."""
    out = torch.empty(AT_ONCE, len(case.items))

    def run() -> None:
        for part in case.query.split(AT_ONCE):
            torch.mm(part, case.items.T, out=out[: len(part)])

    return run


def ours(case: Case, rounded: bool) -> Way:
    """The search of the nightly."""
    catalogue, pairs = Catalogue(case.items, rounded=rounded), case.pairs()
    return lambda: catalogue.best(case.query, case.k, pairs)[0].numpy()


def by_torch(case: Case) -> Way:
    """All scores, then torch.topk."""

    def run() -> np.ndarray:
        found = []
        for part, seen in zip(case.query.split(AT_ONCE), case.seen.split(AT_ONCE), strict=True):
            scores = (part @ case.items.T).scatter_(1, seen, -torch.inf)
            found.append(scores.topk(case.k, dim=1).indices)
        return torch.cat(found).numpy()

    return run


def by_faiss(case: Case) -> Way:
    """IndexFlatIP; what has been seen is dropped from a longer list."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(case.items.shape[1])
    index.add(case.items.numpy())
    more = case.k + case.seen.shape[1]

    def run() -> np.ndarray:
        _, found = index.search(case.query.numpy(), more)
        span = len(case.items)
        user = np.arange(len(found))[:, None] * span
        fresh = ~np.isin(user + found, user + case.seen.numpy())
        first = np.argsort(~fresh, axis=1, kind="stable")[:, : case.k]
        return np.take_along_axis(found, first, 1)

    return run


def by_implicit(case: Case) -> Way:
    """What `recommend` of its factor models does for a batch of users."""
    from implicit.cpu.topk import topk
    from scipy.sparse import csr_matrix

    users, seen = case.seen.shape
    offsets = np.arange(0, users * seen + 1, seen)
    known = csr_matrix(
        (np.ones(users * seen, np.float32), case.seen.flatten().numpy(), offsets),
        shape=(users, len(case.items)),
    )
    items, query = case.items.numpy(), case.query.numpy()
    threads = torch.get_num_threads()

    def run() -> np.ndarray:
        found, _ = topk(items, query, case.k, filter_query_items=known, num_threads=threads)
        return np.asarray(found)

    return run


WAYS: dict[str, Callable[[Case], Way]] = {
    "product alone, float32": bare,
    "ours, scanned in 8 bits": lambda case: ours(case, True),
    "ours, scanned in float32": lambda case: ours(case, False),
    "torch: product and topk": by_torch,
    "faiss: flat, inner product": by_faiss,
    "implicit: topk": by_implicit,
}


def recall(case: Case, found: np.ndarray) -> float:
    """The share of the true best k that was found."""
    hits = true_best(case)[:, :, None] == found[:JUDGED][:, None]
    return float(hits.any(axis=2).mean())


def true_best(case: Case) -> np.ndarray:
    """In float64, for some users."""
    scores = case.query[:JUDGED].double() @ case.items.double().T
    return scores.scatter_(1, case.seen[:JUDGED], -torch.inf).topk(case.k).indices.numpy()


def unchecked(case: Case) -> float:
    """Recall of 8-bit scores that nothing is scored anew by: what rounding alone would lose."""
    catalogue = Catalogue(case.items, rounded=True)
    assert catalogue.rounded
    some = case.query[:JUDGED]
    rows = catalogue.rounded.scan(some).product(
        0, len(case.items), torch.empty(len(case.items), len(some), dtype=torch.int32)
    )
    scores = rows[catalogue.row].T.double()
    best = scores.scatter_(1, case.seen[:JUDGED], -torch.inf).topk(case.k).indices
    return recall(case, best.numpy())


def compared(case: Case, rounds: int) -> str:
    """A row each: users a second, as a share of the bare product, and recall."""
    ways, missing = {}, []
    for name, way in WAYS.items():
        try:
            ways[name] = way(case)
        except ImportError as error:
            missing.append(f"{name}: not installed ({error.name})")
    best = dict.fromkeys(ways, float("inf"))
    found: dict[str, np.ndarray | None] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            found[name] = way()
            best[name] = min(best[name], time.perf_counter() - began)
    floor = best["product alone, float32"]
    rows = []
    for name, seconds in best.items():
        lists = found[name]
        share = "-" if lists is None else f"{recall(case, lists):.4f}"
        rows.append([name, f"{len(case.query) / seconds:,.0f}", f"{floor / seconds:.0%}", share])
    rows.append(["8-bit scores, nothing scored anew", "-", "-", f"{unchecked(case):.4f}"])
    head = ["", "users a second", "of the product alone", f"recall@{case.k}"]
    told = f"## {len(case.items):,} items x {case.items.shape[1]} dimensions\n\n"
    return told + table(head, rows) + "".join(f"\n\n{line}" for line in missing)


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 12_000])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--users", type=int, default=8192)
    parser.add_argument("--seen", type=int, default=20, help="items that each user has seen")
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    parts = [
        f"{asked.users:,} users, {asked.seen} items seen by each, the best {asked.k} of the rest; "
        f"{torch.get_num_threads()} threads, the fastest of {asked.rounds} turns. Fast products of "
        f"8-bit numbers: {'yes' if rounding_pays() else 'no'}."
    ]
    for items in asked.items:
        parts.append(
            compared(Case.drawn(asked.users, items, asked.dim, asked.seen, asked.k), asked.rounds)
        )
    publish("Scoring everybody", parts, ["torch", "numpy"], asked.write)


if __name__ == "__main__":
    main()
