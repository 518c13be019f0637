"""What an event carries, held against captum and against a shopper who never did it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pyarrow as pa
import pytest
import torch

from ml.nightly import Ranker
from ml.recommender.data import Examples, ItemFacts, examples
from ml.recommender.model import Recommender
from ml.recommender.rank import scorer
from ml.recommender.train import Config, build
from ml.sequences import DAY, Events
from ml.why import carried, explain

USERS, ITEMS, END, LENGTH = 5, 12, 40, 6


@pytest.fixture(scope="module")
def asked() -> tuple[Recommender, Examples, ItemFacts]:
    """A network of random weights over shoppers with up to nine events; it reads six."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(USERS), [9, 6, 3, 1, 2])
    events = Events(
        users=[f"u{i}" for i in range(USERS)],
        items=[f"i{i:02}" for i in range(ITEMS)],
        kinds=("purchase", "view"),
        user=user,
        item=rng.integers(0, ITEMS, len(user)),
        kind=rng.integers(0, 2, len(user)),
        time=np.sort(rng.integers(0, END * DAY, len(user))),
    )
    text = rng.normal(size=(ITEMS, 8)).astype(np.float32)
    facts = ItemFacts(
        text / np.linalg.norm(text, axis=1, keepdims=True),
        np.zeros((ITEMS, 0), np.float32),
        np.zeros((2, ITEMS, 1), np.float32),
        np.zeros(1, np.int64),
        np.full(ITEMS, -1),
    )
    data = examples(events, events.where(np.zeros(0, np.int64)), END, 1)
    torch.manual_seed(0)
    model = build(data, facts, Config(dim=8, heads=2, max_length=LENGTH))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval(), data, facts


def without(data: Examples, gone: list[int]) -> Examples:
    """The same shop where some events never happened."""
    keep = np.setdiff1d(np.arange(len(data.events.user)), gone)
    return examples(data.events.where(keep), data.events.where(keep[:0]), END, 1)


def log_probability(model, data, facts, user: int) -> torch.Tensor:
    return scorer(model, data, facts, END)(np.array([user])).log_softmax(1)[0]


@pytest.mark.parametrize("user", [0, 1, 2])
def test_the_fall_is_that_of_a_shopper_who_never_did_it(asked, user: int) -> None:
    model, data, facts = asked
    event, fall = carried(model, data, facts, END, user, np.arange(ITEMS))
    own = np.flatnonzero(data.events.user == user)
    assert event.tolist() == own[::-1][:LENGTH].tolist()
    full = log_probability(model, data, facts, user)
    for at, each in enumerate(event):
        less = full - log_probability(model, without(data, [each]), facts, user)
        assert fall[at].tolist() == pytest.approx(less.tolist(), abs=1e-4)


def test_without_the_only_event_nothing_is_known(asked) -> None:
    event, fall = carried(*asked, END, 3, np.array([4]))
    assert len(event) == 1 and np.isnan(fall).all()


def test_captum_finds_the_same_events(asked) -> None:
    attribution = pytest.importorskip("captum.attr", reason="captum comes with the dev extra")
    model, data, facts = asked
    user, items = 1, np.arange(ITEMS)
    event, fall = carried(model, data, facts, END, user, items)

    @cache
    def of(gone: tuple[int, ...]) -> torch.Tensor:
        if len(gone) == len(event):
            return torch.full((ITEMS,), -float(np.log(ITEMS)))  # nothing is known of nobody
        return log_probability(model, without(data, list(gone)), facts, user)

    def scores(there: torch.Tensor) -> torch.Tensor:
        return torch.stack([of(tuple(event[row.numpy() == 0].tolist())) for row in there])

    everything = torch.ones(1, len(event))
    alike = []
    for item in items:
        forward = partial(lambda there, item: scores(there)[:, item], item=item)
        ablated = attribution.FeatureAblation(forward).attribute(everything)[0]
        assert fall[:, item].tolist() == pytest.approx(ablated.tolist(), abs=1e-4)
        # Shapley values also count what events do together: alike in order, not equal
        torch.manual_seed(0)
        shapley = attribution.ShapleyValueSampling(forward).attribute(everything, n_samples=40)[0]
        ranks = [np.argsort(np.argsort(each)) for each in (fall[:, item], shapley.numpy())]
        alike.append(np.corrcoef(ranks)[0, 1])
    assert np.mean(alike) > 0.5


def test_an_explanation_names_what_carries_most(asked) -> None:

    model, data, facts = asked
    named = replace(data.events, items=pa.array(data.events.items))
    by = Ranker("v", model, named, replace(data, events=named), facts, named, END)
    event, fall = carried(model, data, facts, END, 0, np.array([2, 5]))
    rows = explain(by, 0, [2, 5], most=2).to_pylist()
    assert [row["item_id"] for row in rows] == ["i02", "i02", "i05", "i05"]
    best = event[np.argsort(-fall[:, 0])[:2]]
    assert [row["because"] for row in rows[:2]] == [f"i{data.events.item[e]:02}" for e in best]
    assert rows[0]["fall"] >= rows[1]["fall"]
    with pytest.raises(ValueError, match="no champion"):
        explain(replace(by, model=None), 0, [2])
