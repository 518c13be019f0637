"""Why an item stands where it does: which past events carry its score.

Leave one event out: the model is asked again as if one event had never happened, and the fall of
the score (the logarithm of the item's probability) is what the event carried. Exact on the real
model, gaps and windows included, and dear: as many passes as there are events, which is why the
nightly lists name the nearest item instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from ml.nightly import Ranker
from ml.recommender.data import Examples, ItemFacts, examples
from ml.recommender.model import Recommender
from ml.recommender.rank import scorer
from ml.sequences import Events


def carried(
    model: Recommender,
    data: Examples,
    facts: ItemFacts,
    asof_day: int,
    user: int,
    items: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """What each of a user's latest events carries of the scores of `items` [m].

    Returns the events as indices of `data.events`, latest first, at most as many as the model
    reads, int64 [e], and by how much the score falls without each, float32 [e, m]. Events
    older than the model reads carry nothing; without the only event nothing is known: NaN.
    """
    offsets = data.events.offsets
    first, last = int(offsets[user]), int(offsets[user + 1])
    own = np.arange(first, last)
    event = own[::-1][: model.shape.max_length]
    scores = _scores(model, data, facts, asof_day, own, [None, *event])[:, items]
    return event, (scores[:1] - scores[1:]).numpy()


def _scores(
    model: Recommender,
    data: Examples,
    facts: ItemFacts,
    asof_day: int,
    own: np.ndarray,
    missing: list[int | None],
) -> torch.Tensor:
    """Log-probability of all items for shoppers who did `own`, each without one event: [n, items].

    Each is a shopper of their own, so that examples are made as they are for everybody.
    """
    kept = [own if each is None else own[own != each] for each in missing]
    size = np.array([len(each) for each in kept])
    some = np.flatnonzero(size > 0)  # without the only event there is nobody to score
    index = np.concatenate(kept)
    events = data.events.where(index)
    who = np.repeat(np.arange(len(missing)), size)
    people = pa.array([f"{number:09}" for number in range(len(missing))])
    crowd = examples(
        replace(events, users=people, user=who), _none(events, people), asof_day, data.horizon
    )
    found = scorer(model, crowd, facts, asof_day)(some)
    scores = torch.full((len(missing), found.shape[1]), torch.nan)
    scores[some] = found.log_softmax(1)
    return scores


def _none(events: Events, people: pa.Array) -> Events:
    return replace(events.where(np.zeros(0, np.int64)), users=people)


def explain(by: Ranker, user: int, items: Sequence[int], most: int = 3) -> pa.Table:
    """The events that carry the scores of `items` most: item_id, because, event_type, day, fall.

    Without the event the item would be exp(-fall) times as probable.
    """
    if by.model is None:
        raise ValueError("there is no champion: the lists are what is popular")
    event, fall = carried(by.model, by.data, by.facts, by.end, user, np.asarray(items))
    events = by.data.events
    rows = []
    for column, item in enumerate(items):
        best = np.argsort(-np.nan_to_num(fall[:, column]), kind="stable")[:most]
        rows += [
            {
                "item_id": events.items[int(item)].as_py(),
                "because": events.items[int(events.item[event[at]])].as_py(),
                "event_type": events.kinds[int(events.kind[event[at]])],
                "day": str(np.datetime64(int(events.day[event[at]]), "D")),
                "fall": float(fall[at, column]),
            }
            for at in best
        ]
    return pa.Table.from_pylist(rows)
