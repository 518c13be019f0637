"""Every model against the same held-out days, ranking all items of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from ml.metrics import (
    Estimate,
    coverage_at,
    hits,
    mean_with_interval,
    ndcg_at,
    recall_at,
    top_k,
)
from ml.sequences import Events, distinct_pairs

KS = (10, 20)
CHUNK = 1024

Scorer = Callable[[np.ndarray], torch.Tensor]
"""From user numbers int64 [n] to scores of all items, float32 [n, items]; higher is better."""

SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("metric", pa.string()),
        ("k", pa.int64()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n_users", pa.int64()),
    ]
)


@dataclass(frozen=True)
class HeldOut:
    """What is to be foreseen: the distinct items in each user's target events of the held-out days.

    Only users with history before the cutoff and something to foresee count, and only items that
    the catalogue had at the cutoff; `unreachable` is the share of items that it had not.
    """

    users: np.ndarray
    """int64 [n]"""
    truth: np.ndarray
    """(row in `users`, item), int64 [m, 2]"""
    seen: np.ndarray
    """(row in `users`, item) of all events before the cutoff, int64 [s, 2]"""
    candidates: np.ndarray
    """bool [items]: in the catalogue at the cutoff"""
    is_new: np.ndarray
    """bool [items]: in the catalogue, without any event before the cutoff"""
    unreachable: float


def held_out(history: Events, targets: Events, candidates: np.ndarray) -> HeldOut:
    """`history`: events before the cutoff; `targets`: target events of the held-out days."""
    n_items = len(history.items)
    pairs = distinct_pairs(targets.user, targets.item, n_items)
    pairs = pairs[np.isin(pairs[:, 0], history.user)]
    reachable = pairs[candidates[pairs[:, 1]]]
    users = np.unique(reachable[:, 0])
    past = distinct_pairs(history.user, history.item, n_items)
    past = past[np.isin(past[:, 0], users)]
    return HeldOut(
        users=users,
        truth=np.stack([np.searchsorted(users, reachable[:, 0]), reachable[:, 1]], 1),
        seen=np.stack([np.searchsorted(users, past[:, 0]), past[:, 1]], 1),
        candidates=candidates,
        is_new=candidates & (np.bincount(history.item, minlength=n_items) == 0),
        unreachable=1 - len(reachable) / len(pairs) if len(pairs) else 0.0,
    )


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one model, and NDCG@10 per user for a paired comparison."""

    table: pa.Table
    ndcg: np.ndarray


def evaluate(model: str, score: Scorer, data: HeldOut, ks: tuple[int, ...] = KS) -> Evaluation:
    """Recall, NDCG and coverage at each of `ks`, over all items and over items new to the user.

    Columns of `metric`: recall, ndcg (all held-out items, repeats included), recall_unseen,
    ndcg_unseen (ranking and truth without items the user has met before), coverage, and
    new_item_recall (held-out items that had no event from anybody before the cutoff).
    """
    per_user: dict[tuple[str, int], list[np.ndarray]] = {}
    rankings = []
    for start in range(0, len(data.users), CHUNK):
        rows = slice(start, min(start + CHUNK, len(data.users)))
        truth = _dense(data.truth, rows, len(data.candidates))
        seen = _dense(data.seen, rows, len(data.candidates))
        scores = score(data.users[rows]).float().cpu()
        scores[:, torch.from_numpy(~data.candidates)] = -torch.inf
        ranking = top_k(scores, max(ks)).numpy()
        rankings.append(ranking)
        unseen = top_k(scores.masked_fill(torch.from_numpy(seen), -torch.inf), max(ks)).numpy()
        for name, ranked, wanted in (
            ("", ranking, truth),
            ("_unseen", unseen, truth & ~seen),
            ("new_item_", ranking, truth & data.is_new),
        ):
            n_true = wanted.sum(axis=1)
            some = n_true > 0
            hit = hits(ranked[some], wanted[some])
            for k in ks:
                recall = recall_at(hit, n_true[some], k)
                if name == "new_item_":
                    per_user.setdefault(("new_item_recall", k), []).append(recall)
                    continue
                per_user.setdefault((f"recall{name}", k), []).append(recall)
                per_user.setdefault((f"ndcg{name}", k), []).append(ndcg_at(hit, n_true[some], k))
    values = {key: np.concatenate(parts) for key, parts in per_user.items()}
    rows_out = [(*key, mean_with_interval(value)) for key, value in values.items()]
    n_candidates = int(data.candidates.sum())
    shown = np.concatenate(rankings) if rankings else np.zeros((0, max(ks)), np.int64)
    none = float("nan")
    for k in ks:
        share = coverage_at(shown, k, n_candidates)
        rows_out.append(("coverage", k, Estimate(share, none, none, len(shown))))
    table = pa.Table.from_pylist(
        [
            {
                "model": model,
                "metric": metric,
                "k": k,
                "value": _null(e.value),
                "low": _null(e.low),
                "high": _null(e.high),
                "n_users": e.n,
            }
            for metric, k, e in sorted(rows_out, key=lambda row: row[:2])
        ],
        schema=SCHEMA,
    )
    return Evaluation(table, values.get(("ndcg", 10), np.zeros(0)))


def _dense(pairs: np.ndarray, rows: slice, n_items: int) -> np.ndarray:
    """The pairs whose first number lies in `rows` as bool [rows, items]."""
    first, last = np.searchsorted(pairs[:, 0], [rows.start, rows.stop])
    part = pairs[first:last]
    matrix = np.zeros((rows.stop - rows.start, n_items), bool)
    matrix[part[:, 0] - rows.start, part[:, 1]] = True
    return matrix


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value
