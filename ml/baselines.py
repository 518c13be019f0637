"""What a recommender must beat to be worth anything; each ranks all items.

Each function takes the events before the cutoff and gives a Scorer (`ml.evaluate`). Those that
learn likenesses of items take `profile` as well: what a user is known by, where that is more than
what is learned from.
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


def popularity(targets: Events, cutoff_day: int, days: int = POPULAR_DAYS) -> Scorer:
    """One ranking for everyone: what was bought most often lately; all-time counts break ties."""
    recent = popularity_counts(targets, cutoff_day, days)
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


def item_knn(history: Events, recent: int = KNN_RECENT, profile: Events | None = None) -> Scorer:
    """Sum of the cosines of co-occurrence between an item and the user's last distinct items.

    Two items are alike when the same users met both. An item is most like itself, so that what a
    shopper keeps coming back to is ranked too.
    """
    met = met_items(history)
    norm = np.sqrt(np.maximum(np.bincount(met.indices, minlength=met.shape[1]), 1))
    normed = met @ sparse.diags_array(1 / norm.astype(np.float32))
    alike = (normed.T @ normed).tocsr()
    profile = profile or history
    last = recent_positions(profile, recent)
    recently = sparse.csr_matrix(
        (np.ones(len(last), np.float32), (profile.user[last], profile.item[last])), shape=met.shape
    )

    def score(users: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((recently[users] @ alike).toarray().astype(np.float32))

    return score


def ease(history: Events, penalty: float, profile: Events | None = None) -> Scorer:
    """EASE: the linear model of a user's items on their other items, in closed form.

    Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data", formula 8. `penalty` is its
    lambda. Takes items^2 floats several times over, and time that grows with items^3.
    """
    met = met_items(history)
    gram = torch.from_numpy((met.T @ met).toarray())
    gram.diagonal().add_(penalty)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weights = inverse.div_(-inverse.diagonal().clone()).fill_diagonal_(0)
    known = met_items(profile or history)

    def score(users: np.ndarray) -> torch.Tensor:
        rows = known[users]
        return torch.from_numpy(rows @ weights.numpy())

    return score


def met_items(history: Events) -> sparse.csr_matrix:
    """Which user met which item, as 1 in float32 [users, items]."""
    n_users, n_items = len(history.users), len(history.items)
    pairs = distinct_pairs(history.user, history.item, n_items)
    ones = np.ones(len(pairs), np.float32)
    return sparse.csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(n_users, n_items))


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
