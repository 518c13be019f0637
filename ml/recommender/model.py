"""The recommender: some towers that learn apart and are asked together.

A tower that knows items by what shoppers did with them alone, and one that is given their texts
too, err in different places, so the mean of their scores ranks better than either. The mean of
scores is one product of longer vectors: asking them together costs no more passes over the
catalogue than asking one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ml import ModelError
from ml.recommender.loss import Sample, Scoring
from ml.recommender.tower import Batch, Shape, Tower

_RIDGE = 1.0
"""Penalty of the regression from texts to id vectors, as a share of the numbers of a text."""


class Recommender(nn.Module):
    """Given, not learned: `text` [items, d], `stats` [snapshots, items, s], `first_day` [items].

    `first_day`: the day from whose end on an item can be recommended. `mean` [d] and `whiten`
    [d, d] were fitted to the texts of the training (`fit_texts`) and are kept with the weights.
    """

    text: Tensor
    stats: Tensor
    first_day: Tensor
    mean: Tensor
    whiten: Tensor
    white: Tensor

    def __init__(self, shape: Shape, text: Tensor, stats: Tensor, first_day: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("stats", stats, persistent=False)
        self.register_buffer("first_day", first_day, persistent=False)
        self.register_buffer("mean", torch.zeros(shape.text_dim))
        self.register_buffer("whiten", torch.eye(shape.text_dim))
        self.register_buffer("white", torch.zeros(0), persistent=False)
        self.towers = nn.ModuleList(Tower(shape, kind) for kind in shape.towers)

    def texts(self) -> Tensor:
        """The texts with mean 0, every direction as wide and every text as long as the others.

        Each number is about 1; 0 without a text.
        """
        if not len(self.white):  # only once: it is the dearest part of a step on a CPU
            there = self.text.any(dim=1, keepdim=True)
            white = (self.text - self.mean) @ self.whiten
            self.white = F.normalize(white, dim=1) * white.shape[1] ** 0.5 * there
        return self.white

    def fit_texts(self) -> None:
        """Fit the whitening to the present texts (Su et al. 2021, "Whitening Sentence ...").

        Raises ModelError for texts that are no numbers.
        """
        there = self.text[self.text.any(dim=1)]
        broken = int((~torch.isfinite(there)).any(dim=1).sum())
        if broken:
            raise ModelError(
                f"the text vectors of {broken} items hold NaN or infinite numbers: embed them anew"
            )
        if len(there) < 2:
            return
        self.mean = there.mean(0)
        moved = (there - self.mean).double()
        spread, axes = torch.linalg.eigh(moved.T @ moved / len(there))
        # directions without any spread, as in a shop of fewer texts than numbers, stay without
        width = spread.clamp(min=0).sqrt()
        scale = torch.where(width > 1e-3 * width.max(), 1 / width, 0.0)
        self.whiten = (axes * scale).float()

    def item_vectors(self, id_dropout: float = 0.0, some: Sample | None = None) -> list[Tensor]:
        """[items, dim] of each tower; with `some` in training, of those items alone."""
        text = self.texts()
        if some is None:
            return [tower.item_vectors(text, id_dropout) for tower in self.towers]
        # whoever knows items by ids alone has no use for a copy of the texts
        text = text[some.item] if any(tower.by_text for tower in self.towers) else text
        return [tower.item_vectors(text, id_dropout, some.item) for tower in self.towers]

    def scorings(
        self, batch: Batch, items: list[Tensor], some: Sample | None = None
    ) -> list[Scoring]:
        """What makes the scores of each tower: each learns from its own."""
        stats, first_day, stands_for = self.stats, self.first_day, torch.zeros(())
        if some is not None:
            batch, stands_for = batch.among(some.place), some.stands_for
            stats, first_day = stats[:, some.item], first_day[some.item]
        return [
            tower.scoring(batch, vectors, stats, first_day, stands_for)
            for tower, vectors in zip(self.towers, items, strict=True)
        ]

    def forward(self, batch: Batch, items: list[Tensor]) -> Tensor:
        """Scores of all items at each moment, [N, items]; -inf before one is in the catalogue."""
        return mean_of(self.scorings(batch, items)).scores()

    def alone(self, tower: int) -> Recommender:
        """A recommender of one of the towers."""
        shape = replace(self.shape, towers=(self.shape.towers[tower],))
        single = Recommender(shape, self.text, self.stats, self.first_day)
        single.mean, single.whiten = self.mean, self.whiten
        single.towers[0] = self.towers[tower]
        return single

    @torch.no_grad()
    def settle(self, met: Tensor) -> None:
        """After training: give items that were not met (bool [items]) what their texts suggest.

        All that the id vector of such an item has learned is that nobody chose it. Instead it gets
        the ridge regression of the vectors of met items on their texts.
        """
        text = self.texts()
        known = met & text.any(dim=1)
        x = text[known]
        gram = x.T @ x + _RIDGE * x.shape[1] * torch.eye(x.shape[1], device=x.device)
        for tower in self.towers:
            if tower.by_id:
                tower.met = met.clone()
                if not tower.by_text:
                    tower.guess = torch.linalg.solve(gram, x.T @ tower.item.weight[known])
                tower.item.weight[~met] = 0


def mean_of(scorings: list[Scoring]) -> Scoring:
    """The mean of scores as one scoring over joined vectors."""
    first, n = scorings[0], len(scorings)
    return Scoring(
        query=torch.cat([each.query for each in scorings], 1) / n,
        items=torch.cat([each.items for each in scorings], 1),
        prior=torch.stack([each.prior for each in scorings]).mean(0),
        bonus=torch.stack([each.bonus for each in scorings]).mean(0),
        snapshot=first.snapshot,
        column=first.column,
        asof=first.asof,
        first_day=first.first_day,
        runs=first.runs,
    )
