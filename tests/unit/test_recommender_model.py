"""Towers that are asked together, texts that stand in for what nobody met, floors of repeats."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ml import ModelError
from ml.recommender.data import ItemFacts, examples, latest_batch
from ml.recommender.loss import sample
from ml.recommender.model import Recommender
from ml.recommender.tower import BOTH, IDS, TEXT, Block, Dropout
from ml.recommender.train import Config, build, train
from ml.sequences import DAY, Events

USERS, ITEMS, DAYS = 40, 24, 30


def shop(seed: int = 0) -> tuple[Events, ItemFacts]:
    """Everybody meets one item a day, of the half of the items that is theirs, never one twice."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(USERS), 8)
    item = np.concatenate(
        [2 * rng.permutation(ITEMS // 2)[:8] + number % 2 for number in range(USERS)]
    )
    day = np.tile(np.arange(8) + 10, USERS)
    events = Events(
        users=[f"u{i:02d}" for i in range(USERS)],
        items=[f"i{i:02d}" for i in range(ITEMS)],
        kinds=("met",),
        user=user,
        item=item,
        kind=np.zeros(len(user), np.int64),
        time=day * DAY,
    )
    text = np.eye(8, dtype=np.float32)[np.arange(ITEMS) % 2] + rng.normal(0, 0.1, (ITEMS, 8))
    facts = ItemFacts(
        text=text.astype(np.float32),
        words=np.zeros((ITEMS, 0), np.float32),
        stats=np.zeros((2, ITEMS, 1), np.float32),
        snapshot_days=np.zeros(1, np.int64),
        first_day=np.full(ITEMS, -1),
    )
    return events, facts


def network(towers: tuple[str, ...], **more: object) -> Config:
    settings = {"max_steps": 30, "max_epochs": 60, "dim": 16, "dropout": 0.1, "batch_size": 16}
    return Config(**(settings | {"towers": towers, "learning_rate": 1e-2, "max_length": 8} | more))


def asked(model: Recommender, events: Events, facts: ItemFacts) -> torch.Tensor:
    data = examples(events, events, DAYS, 1)
    batch = latest_batch(data, facts, np.arange(USERS), DAYS, 8)
    with torch.no_grad():
        return model.eval()(batch, model.item_vectors())


def test_asked_together_is_the_mean_of_each_alone() -> None:
    events, facts = shop()
    model = build(examples(events, events, DAYS, 1), facts, network((IDS, TEXT, BOTH)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    alone = [asked(model.alone(number), events, facts) for number in range(3)]
    together = asked(model, events, facts)
    torch.testing.assert_close(together, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-5)


def test_a_sample_of_the_items_has_the_scores_that_it_has_among_all() -> None:
    events, facts = shop()
    data = examples(events, events, DAYS, 1)
    model = build(data, facts, network((IDS, TEXT, BOTH), dropout=0.0))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    batch = latest_batch(data, facts, np.arange(3), DAYS, 8)
    needed = torch.zeros(ITEMS, dtype=torch.bool)
    needed[batch.item] = True
    some = sample(needed, 2)
    assert len(some.item) == int(needed.sum()) + 2 < ITEMS
    model.train()
    whole = model.scorings(batch, model.item_vectors())
    part = model.scorings(batch, model.item_vectors(some=some), some)
    for all_items, few in zip(whole, part, strict=True):
        expected = all_items.scores()[:, some.item] + some.stands_for
        torch.testing.assert_close(few.scores(), expected, rtol=1e-4, atol=1e-5)


def test_a_tower_learns_the_same_in_company() -> None:
    events, facts = shop()
    data = examples(events, events, DAYS, 1)
    quiet = {"dropout": 0.0, "clip": 1e9, "max_steps": 3}
    pair = train(data, facts, network((TEXT, TEXT), **quiet), log=lambda _: None).model
    other = train(data, facts, network((TEXT, IDS), **quiet), log=lambda _: None).model
    torch.testing.assert_close(
        asked(pair.alone(0), events, facts), asked(other.alone(0), events, facts)
    )


def test_items_that_nobody_met_are_placed_by_their_texts() -> None:
    events, facts = shop()
    met = np.arange(ITEMS) < ITEMS - 4
    facts = ItemFacts(**vars(facts) | {"first_day": np.where(met, -1, DAYS + 1)})
    events = events.where(met[events.item])
    data = examples(events, events, DAYS, 1)
    for towers in ((IDS,), (TEXT,), (IDS, TEXT)):
        model = train(data, facts, network(towers), log=lambda _: None).model
        model.first_day = torch.full((ITEMS,), -1)
        scores = asked(model, events, facts)[:, ~met]  # two items of each half
        own = torch.arange(USERS)[:, None] % 2 == torch.arange(4) % 2
        right = (scores.argmax(1) % 2 == torch.arange(USERS) % 2).float().mean()
        assert right > 0.85, (towers, right, scores[own].mean(), scores[~own].mean())


def test_where_nobody_takes_an_item_twice_the_ones_met_sink() -> None:
    events, facts = shop()
    data = examples(events, events, DAYS, 1)
    model = train(
        data, facts, network((IDS,), max_steps=120, learning_rate=3e-2), log=lambda _: None
    ).model
    probability = asked(model, events, facts).softmax(1)
    met = np.zeros((USERS, ITEMS), bool)
    met[events.user, events.item] = True
    own = np.arange(USERS)[:, None] % 2 == np.arange(ITEMS) % 2
    assert (
        probability[torch.from_numpy(met)].mean()
        < 0.5 * probability[torch.from_numpy(own & ~met)].mean()
    )


def test_the_judge_chooses_the_epoch() -> None:
    events, facts = shop()
    data = examples(events, events, DAYS, 1)
    seen: list[torch.Tensor] = []

    def judge(model: Recommender) -> float:
        seen.append(model.towers[0].item.weight.detach().clone())
        return -abs(len(seen) - 2.0)  # the second epoch is the best

    config = network((IDS,), max_epochs=4, max_steps=1000)
    trained = train(data, facts, config, log=lambda _: None, judge=judge)
    assert trained.curves.judged == [-1, 0, -1, -2]
    torch.testing.assert_close(trained.model.towers[0].item.weight, seen[1])


def test_a_state_knows_nothing_of_later_events() -> None:
    torch.manual_seed(0)
    block = Block(16, 2, 0.0)
    x = torch.randn(3, 9, 16)
    later = x.clone()
    later[:, 5:] = torch.randn(3, 4, 16)
    torch.testing.assert_close(block(x)[:, :5], block(later)[:, :5])
    assert not torch.allclose(block(x)[:, 5:], block(later)[:, 5:])


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer, x = Dropout(0.4), torch.ones(100, 101)
    dropped = layer(x)
    assert abs((dropped == 0).float().mean() - 0.4) < 0.02
    assert abs(dropped.mean() - 1) < 0.02
    assert torch.equal(layer.eval()(x), x)


def test_towers_must_be_known() -> None:
    with pytest.raises(ModelError, match="towers must be some of ids, text, both"):
        Config(towers=("images",)).check()
