"""From a trained network to rankings: for judging it, and for everybody's list of the night."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ml.evaluate import Scorer
from ml.metrics import top_k
from ml.recommender.data import Examples, ItemFacts, latest_batch
from ml.recommender.model import Recommender

CHUNK = 1024
ALIKE = 256
"""Users of histories alike in length who are read together: little of it is padding."""
MAX_SCORES = 1 << 25


@dataclass(frozen=True)
class Ranked:
    """The lists of n users; `ranking` int64 [n, k] of item numbers, -1 after the last."""

    users: np.ndarray
    ranking: np.ndarray
    score: np.ndarray
    """float32 [n, k]"""
    by_model: bool
    """False: the popular items, because there is nothing to go by"""


def scorer(model: Recommender, data: Examples, facts: ItemFacts, asof_day: int) -> Scorer:
    """Scores of all items for users as of the beginning of a day; every user must have an event."""
    model = model.eval()
    at = next(model.parameters()).device
    length = np.diff(data.events.offsets)
    with torch.no_grad():
        items = model.item_vectors()

    def score(users: np.ndarray) -> torch.Tensor:
        scores = torch.empty(len(users), len(facts.first_day))
        order = np.argsort(length[users], kind="stable")
        for start in range(0, len(users), ALIKE):
            some = order[start : start + ALIKE]
            batch = latest_batch(data, facts, users[some], asof_day, model.shape.max_length)
            with torch.no_grad():
                scores[torch.from_numpy(some)] = model(batch.to(at), items).cpu()
        return scores

    return score


def best(
    model: Recommender | None,
    data: Examples,
    facts: ItemFacts,
    asof_day: int,
    candidates: np.ndarray,
    popular: np.ndarray,
    k: int,
) -> Iterator[Ranked]:
    """The `k` best of the candidates (bool [items]) for every user, some users at a time.

    Users without an event, and everybody when there is no model, get the most popular items
    (`popular`: counts [items]), scored by their share of all counts.
    """
    length = np.diff(data.events.offsets)
    by_model = np.flatnonzero(length > 0) if model is not None else np.zeros(0, np.int64)
    by_model = by_model[np.argsort(-length[by_model], kind="stable")]
    size = max(1, min(CHUNK, MAX_SCORES // max(1, len(candidates))))
    hidden = torch.from_numpy(~candidates)
    if model is not None:
        score = scorer(model, data, facts, asof_day)
        for start in range(0, len(by_model), size):
            users = by_model[start : start + size]
            scores = score(users).masked_fill(hidden, -torch.inf)
            ranking = top_k(scores, k)
            total = scores.logsumexp(dim=1, keepdim=True)
            value = (scores.gather(1, ranking.clamp(min=0)) - total).exp()
            yield Ranked(users, ranking.numpy(), value.numpy(), True)

    rest = np.setdiff1d(np.arange(len(length)), by_model)
    share = torch.from_numpy((popular / max(1, popular.sum())).astype(np.float32))
    ranking = top_k(share.masked_fill(hidden, -torch.inf)[None], k)
    value = share[ranking.clamp(min=0)]
    for start in range(0, len(rest), size):
        users = rest[start : start + size]
        shape = (len(users), -1)
        yield Ranked(users, ranking.expand(shape).numpy(), value.expand(shape).numpy(), False)
