"""A shop that starts from another shop's model, by what both have: texts and kinds of events.

What a network learned of another shop's items by their ids means nothing here, so only its towers
that know items by text are carried over; one that knows them by both leaves its ids behind. They
rank a catalogue they never saw (zero-shot), or are where a training begins (warm start).
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import torch

from ml import ModelError
from ml.recommender.files import Learned
from ml.recommender.model import Recommender
from ml.recommender.tower import IDS, TEXT
from ml.recommender.train import Config

_OF_KINDS = (".kind.weight", ".repeat_kind.weight")
"""How the names of weights end that have one row a type of event."""
_OF_ITEMS = (".item.weight", ".met", ".guess")
"""The weights of a tower that are about the items of its own shop."""


def carry(learned: Learned, kinds: tuple[str, ...], input_events: tuple[str, ...]) -> Learned:
    """The text towers of a network, for a shop of these event types that reads some of them.

    A type that the other shop has not is taken for the mean of those it has. Raises ModelError for
    a network without a text tower.
    """
    towers = [number for number, kind in enumerate(learned.shape.towers) if kind != IDS]
    if not towers:
        raise ModelError("the model knows items by their ids alone: nothing of it can be carried")
    weights = {name: learned.weights[name] for name in ("mean", "whiten")}
    for new, old in enumerate(towers):
        for name, value in learned.weights.items():
            if not name.startswith(f"towers.{old}.") or name.endswith(_OF_ITEMS):
                continue
            if name.endswith(_OF_KINDS):
                known = dict(zip(learned.kinds, value, strict=True))
                value = torch.stack([known.get(kind, value.mean(0)) for kind in kinds])
            weights[f"towers.{new}." + name.split(".", 2)[2]] = value
    return replace(
        learned,
        shape=replace(learned.shape, towers=(TEXT,) * len(towers), n_kinds=len(kinds)),
        weights=weights,
        items=pa.array([], pa.string()),
        kinds=kinds,
        input_events=input_events,
    )


def like(config: Config, carried: Learned) -> Config:
    """The settings with the sizes of a network, so that its weights fit."""
    of = carried.shape
    return replace(config, dim=of.dim, layers=of.layers, heads=of.heads, max_length=of.max_length)


def begin(model: Recommender, carried: Learned) -> None:
    """Give the towers that know texts the carried weights; ids, and other towers, start anew.

    Raises ModelError where the two do not read the same texts.
    """
    if model.shape.text_dim != carried.shape.text_dim:
        raise ModelError(
            f"the other shop's model reads texts of {carried.shape.text_dim} numbers, not "
            f"{model.shape.text_dim}: give both shops the same text_encoder"
        )
    state = dict(model.state_dict())
    state |= {name: carried.weights[name] for name in ("mean", "whiten")}
    places = [number for number, kind in enumerate(model.shape.towers) if kind != IDS]
    for name, value in carried.weights.items():
        if name.startswith("towers."):
            number, rest = name.split(".", 2)[1:]
            if int(number) < len(places):
                state[f"towers.{places[int(number)]}.{rest}"] = value
    model.load_state_dict(state)
