"""What a recommender must beat to be worth anything; each ranks all items.

Each function takes the events before the cutoff and gives a Scorer (`ml.evaluate`).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from ml.evaluate import Scorer
from ml.sequences import Events, distinct_pairs

POPULAR_DAYS = 28
"""The window of `popularity`: long enough to count, short enough to follow a season."""
KNN_RECENT = 50
"""How many of a user's last distinct items `item_knn` looks at."""


def popularity_counts(targets: Events, cutoff_day: int, days: int = POPULAR_DAYS) -> np.ndarray:
    """Target events per item in the last `days` before the cutoff, int64 [items]."""
    recent = targets.between(cutoff_day - days, cutoff_day)
    return np.bincount(recent.item, minlength=len(targets.items))


def popularity(targets: Events, cutoff_day: int) -> Scorer:
    """One ranking for everyone: what was bought most often lately; all-time counts break ties."""
    recent = popularity_counts(targets, cutoff_day)
    ever = popularity_counts(targets, cutoff_day, days=100_000)
    scores = torch.from_numpy((recent + ever / (ever.max(initial=0) + 1)).astype(np.float32))
    return lambda users: scores.expand(len(users), -1).clone()


def text_similarity(history: Events, text: np.ndarray) -> Scorer:
    """Cosine between an item's text and that of the last item the user met.

    `text`: float32 [items, d], L2-normalised.
    """
    vectors = torch.from_numpy(text)
    last = _last_item(history)

    def score(users: np.ndarray) -> torch.Tensor:
        return vectors[last[users]] @ vectors.T

    return score


def item_knn(history: Events, recent: int = KNN_RECENT) -> Scorer:
    """Sum of the cosines of co-occurrence between an item and the user's last distinct items.

    Two items are alike when the same users met both. An item is most like itself, so that what a
    shopper keeps coming back to is ranked too.
    """
    n_users, n_items = len(history.users), len(history.items)
    pairs = distinct_pairs(history.user, history.item, n_items)
    ones = np.ones(len(pairs), np.float32)
    met = sparse.csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(n_users, n_items))
    norm = np.sqrt(np.maximum(np.bincount(pairs[:, 1], minlength=n_items), 1)).astype(np.float32)
    normed = met @ sparse.diags_array(1 / norm)
    alike = (normed.T @ normed).tocsr()
    last = recent_positions(history, recent)
    profile = sparse.csr_matrix(
        (np.ones(len(last), np.float32), (history.user[last], history.item[last])),
        shape=(n_users, n_items),
    )

    def score(users: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((profile[users] @ alike).toarray().astype(np.float32))

    return score


def recent_positions(history: Events, recent: int) -> np.ndarray:
    """Each user's last `recent` distinct items, as indices of their latest events: int64 [m].

    Ordered by user, latest first.
    """
    # Events are ordered by user and time, so the last of each (user, item) is the first in reverse.
    key = (history.user * len(history.items) + history.item)[::-1]
    _, first = np.unique(key, return_index=True)
    position = np.sort(len(key) - 1 - first)[::-1]
    user = history.user[position]
    order = np.argsort(user, kind="stable")
    position, user = position[order], user[order]
    place = np.arange(len(user)) - np.searchsorted(user, user)
    return position[place < recent]


def _last_item(history: Events) -> np.ndarray:
    """The item of each user's last event, int64 [users]; 0 for a user without events."""
    last = np.zeros(len(history.users), np.int64)
    last[history.user] = history.item  # later events overwrite earlier ones: the run is ordered
    return last
