"""The network: what a shopper did -> a score for every item of the catalogue.

Four sources are fused in one softmax over all items:

- a causal Transformer over the last events (item, event type, time since the event before);
- an item's vector is a learned id vector plus a projection of its text, the same on the way in and
  on the way out, so that an item nobody has met yet is ranked by its text;
- repeats: each past event lifts its own item, by its type, its age and its fit to the moment;
- a prior: a linear function of what was known of the item at the time (popularity, age, price).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ml.recommender.loss import Scoring

GAP_BUCKETS = 24
AGE_BUCKETS = 12


@dataclass(frozen=True)
class Shape:
    """The sizes of a network; everything needed to rebuild it around saved weights."""

    n_items: int
    n_kinds: int
    text_dim: int
    n_stats: int
    max_length: int
    dim: int
    layers: int
    heads: int
    dropout: float


@dataclass
class Batch:
    """B windows of up to T events, and N moments at which items are to be ranked."""

    item: Tensor
    """[B, T] item numbers; places after a window's end hold any number"""
    kind: Tensor
    """[B, T]"""
    gap: Tensor
    """[B, T] bucket of the seconds since the event before"""
    day: Tensor
    """[B, T]"""
    row: Tensor
    """[N] the window of the moment"""
    place: Tensor
    """[N] the last event known at the moment"""
    asof: Tensor
    """[N] the moment: day whose beginning it is"""
    snapshot: Tensor
    """[N] row of the item statistics known then"""

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def bucket(value: Tensor, n: int) -> Tensor:
    """0 for 0, then one bucket per doubling, at most n - 1."""
    return (torch.log2(value.clamp(min=0).float() + 1).ceil()).long().clamp(max=n - 1)


class Recommender(nn.Module):
    """Given, not learned: `text` [items, d], `stats` [snapshots, items, s], `first_day` [items].

    `first_day`: the day from whose end on an item can be recommended.
    """

    text: Tensor
    stats: Tensor
    first_day: Tensor

    def __init__(self, shape: Shape, text: Tensor, stats: Tensor, first_day: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("stats", stats, persistent=False)
        self.register_buffer("first_day", first_day, persistent=False)
        d = shape.dim
        self.item = nn.Embedding(shape.n_items, d)
        self.project = nn.Linear(shape.text_dim, d, bias=False)
        self.kind = nn.Embedding(shape.n_kinds, d)
        self.gap = nn.Embedding(GAP_BUCKETS, d)
        self.place = nn.Embedding(shape.max_length, d)
        self.wait = nn.Embedding(AGE_BUCKETS, d)
        self.drop = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(
            Block(d, shape.heads, shape.dropout) for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(d)
        self.out = nn.Linear(d, d)
        self.repeat_kind = nn.Embedding(shape.n_kinds, 1)
        self.repeat_age = nn.Embedding(AGE_BUCKETS, 1)
        self.repeat_query = nn.Linear(d, d + 1)
        self.prior = nn.Linear(shape.n_stats, 1, bias=False)
        self.reset()

    def reset(self) -> None:
        """Starting values: everything small, texts on the scale of ids, no repeats, no prior."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.1)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.project.weight, std=0.3)
        for part in (self.repeat_query, self.prior):
            nn.init.zeros_(part.weight)
        nn.init.zeros_(self.repeat_age.weight)
        nn.init.zeros_(self.repeat_kind.weight)

    def item_vectors(self, id_dropout: float = 0.0) -> Tensor:
        """[items, dim]; in training the id vector of a random share of items is left out."""
        ids = self.item.weight
        if id_dropout:
            ids = ids * (torch.rand(len(ids), 1, device=ids.device) >= id_dropout)
        return ids + self.project(self.text)

    def encode(self, batch: Batch, items: Tensor) -> Tensor:
        """The Transformer's state after each event, [B, T, dim]."""
        place = torch.arange(batch.item.shape[1], device=batch.item.device)
        x = F.embedding(batch.item, items) + self.kind(batch.kind)
        x = self.drop(x + self.gap(batch.gap) + self.place(place))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, batch: Batch, items: Tensor) -> Tensor:
        """Scores of all items at each moment, [N, items]."""
        return self.scores(batch, self.encode(batch, items), items)

    def scores(self, batch: Batch, states: Tensor, items: Tensor) -> Tensor:
        """The same from the Transformer's states; -inf before an item is in the catalogue."""
        return self.scoring(batch, states, items).scores()

    def scoring(self, batch: Batch, states: Tensor, items: Tensor) -> Scoring:
        """What the scores are made of, for a loss that does not keep them."""
        state = states[batch.row, batch.place]
        day = batch.day[batch.row]
        wait = batch.asof - day.gather(1, batch.place[:, None])[:, 0]
        query = self.out(state + self.wait(bucket(wait, AGE_BUCKETS)))
        return Scoring(
            query=query * self.shape.dim**-0.5,
            items=items,
            prior=self.prior(self.stats).squeeze(-1),
            snapshot=batch.snapshot,
            bonus=self._repeats(batch, items, state, batch.asof[:, None] - day),
            column=batch.item[batch.row],
            asof=batch.asof,
            first_day=self.first_day,
        )

    def _repeats(self, batch: Batch, items: Tensor, state: Tensor, age: Tensor) -> Tensor:
        """log(1 + sum over the events with an item of exp(strength)), [N, T].

        It stands at the first event with the item; 0 stands at the others.
        """
        item, kind = batch.item[batch.row], batch.kind[batch.row]
        query = self.repeat_query(state)
        fit = torch.einsum("nd,ntd->nt", query[:, :-1], F.embedding(item, items))
        strength = fit * self.shape.dim**-0.5 + query[:, -1:]
        strength = strength + self.repeat_kind(kind)[..., 0]
        strength = strength + self.repeat_age(bucket(age, AGE_BUCKETS))[..., 0]
        place = torch.arange(item.shape[1], device=item.device)
        known = place <= batch.place[:, None]
        lift = strength.float().clamp(max=12).exp() * known
        first = (batch.item[:, :, None] == batch.item[:, None]).float().argmax(2)
        return torch.zeros_like(lift).scatter_add(1, first[batch.row], lift).log1p()


class Block(nn.Module):
    """One pre-norm Transformer block with causal attention."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.merge = nn.Linear(dim, dim)
        self.wide = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] -> [B, T, dim]."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.merge(mixed.transpose(1, 2).reshape(b, t, d)))
        return x + self.drop(self.narrow(F.gelu(self.wide(self.norm2(x)))))
