"""One network: what a shopper did -> a score for every item of the catalogue.

Three sources are fused in one softmax over all items:

- a causal Transformer over the last events (item, event type, time since the event before), whose
  items are learned id vectors, or their texts, the same on the way in and on the way out;
- repeats: each past event lifts its own item, by its type, its age and its fit to the moment; an
  item that was met and is not lifted sinks by a learned floor, where shoppers want what is new;
- a prior: a linear function of what was known of the item at the time (popularity, age, price).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ml.recommender.loss import Run, Scoring, precision

GAP_BUCKETS = 24
AGE_BUCKETS = 12
SPEEDS = 8
"""Groups of channels that smooth the past, each at its own speed."""
IDS, TEXT, BOTH = "ids", "text", "both"
KINDS = (IDS, TEXT, BOTH)
"""What a tower knows an item by: a learned vector, its text, or the sum of the two."""


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
    towers: tuple[str, ...]
    """one of KINDS each"""


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
    runs: tuple[Run, ...]
    """the moments by row of the statistics; known beforehand so that no device is waited for"""

    def among(self, place: Tensor) -> Batch:
        """The same batch with items numbered anew by `place` [items]: -1 for those left out."""
        late = [place[run.late] for run in self.runs]
        runs = [replace(r, late=x[x >= 0]) for r, x in zip(self.runs, late, strict=True)]
        return replace(self, item=place[self.item], runs=tuple(runs))

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved = {name: x.to(device) for name, x in vars(self).items() if name != "runs"}
        return Batch(**moved, runs=tuple(replace(r, late=r.late.to(device)) for r in self.runs))


def bucket(value: Tensor, n: int) -> Tensor:
    """0 for 0, then one bucket per doubling, at most n - 1."""
    return (torch.log2(value.clamp(min=0).float() + 1).ceil()).long().clamp(max=n - 1)


class Tower(nn.Module):
    """`guess` [text_dim, dim] and `met` [items] are set after training: see `item_vectors`."""

    guess: Tensor
    met: Tensor

    def __init__(self, shape: Shape, kind: str) -> None:
        super().__init__()
        d = shape.dim
        self.dim, self.by_id, self.by_text = d, kind != TEXT, kind != IDS
        if self.by_id:
            self.item = nn.Embedding(shape.n_items, d)
            self.register_buffer("met", torch.ones(shape.n_items, dtype=torch.bool))
            self.register_buffer("guess", torch.zeros(shape.text_dim, d))
        if self.by_text:
            self.project = nn.Linear(shape.text_dim, d, bias=False)
        self.kind = nn.Embedding(shape.n_kinds, d)
        self.gap = nn.Embedding(GAP_BUCKETS, d)
        self.place = nn.Embedding(shape.max_length, d)
        self.wait = nn.Embedding(AGE_BUCKETS, d)
        self.enter = nn.LayerNorm(d)
        self.drop = Dropout(shape.dropout)
        self.blocks = nn.ModuleList(
            Block(d, shape.heads, shape.dropout) for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(d)
        self.repeat_kind = nn.Embedding(shape.n_kinds, 1)
        self.repeat_age = nn.Embedding(AGE_BUCKETS, 1)
        self.repeat_query = nn.Linear(d, d + 1)
        self.repeat_floor = nn.Parameter(torch.zeros(()))
        self.prior = nn.Linear(shape.n_stats, 1, bias=False)
        self.reset()

    def reset(self) -> None:
        """Starting values: everything small, no repeats, no prior."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=(3 * module.in_features) ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.by_text:
            nn.init.normal_(self.project.weight, std=0.2 * self.project.in_features**-0.5)
        for part in (self.repeat_query, self.prior, self.repeat_kind, self.repeat_age):
            nn.init.zeros_(part.weight)

    def item_vectors(
        self, text: Tensor, id_dropout: float = 0.0, item: Tensor | None = None
    ) -> Tensor:
        """[items, dim] from whitened texts [items, text_dim]; `item`: the items' numbers, if some.

        An item that training has not met has the id vector that its text suggests (`guess`). In
        training the id vector of a random share of items is left out where texts are known too.
        """
        if not self.by_id:
            return self._from_text(text)
        ids = self.item.weight
        if not self.training:
            ids = torch.where(self.met[:, None], ids, text @ self.guess)
        if item is not None:
            ids = F.embedding(item, ids)
        if not self.by_text:
            return ids
        if id_dropout:
            ids = ids * (torch.rand(len(ids), 1, device=ids.device) >= id_dropout)
        return ids + self._from_text(text)

    def _from_text(self, text: Tensor) -> Tensor:
        kind = precision(text.device) if self.training else torch.float32
        return F.linear(text.to(kind), self.project.weight.to(kind)).float()

    def encode(self, batch: Batch, items: Tensor) -> Tensor:
        """The Transformer's state after each event, [B, T, dim]."""
        place = torch.arange(batch.item.shape[1], device=batch.item.device)
        x = F.embedding(batch.item, items) + self.kind(batch.kind)
        x = self.drop(self.enter(x + self.gap(batch.gap) + self.place(place)))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]

    def scoring(
        self,
        batch: Batch,
        items: Tensor,
        stats: Tensor,
        first_day: Tensor,
        stands_for: Tensor,
    ) -> Scoring:
        """What the scores of all items at each moment are made of; `stands_for`: see `Sample`."""
        states = self.encode(batch, items)
        day = batch.day[batch.row]
        wait = batch.asof - day.gather(1, batch.place[:, None])[:, 0]
        return Scoring(
            query=self.after(states[batch.row, batch.place], wait),
            items=items,
            prior=self.prior(stats).squeeze(-1) + stands_for,
            snapshot=batch.snapshot,
            bonus=self._repeats(batch, items, states, batch.asof[:, None] - day),
            column=batch.item[batch.row],
            asof=batch.asof,
            first_day=first_day,
            runs=batch.runs,
        )

    def after(self, state: Tensor, wait: Tensor) -> Tensor:
        """The shopper's vector [N, dim]: the state after the last event, so many days later."""
        return state + self.wait(bucket(wait, AGE_BUCKETS))  # type: ignore[no-any-return]

    def _repeats(self, batch: Batch, items: Tensor, states: Tensor, age: Tensor) -> Tensor:
        """log(floor + sum over the known events with an item of exp(strength)), [N, T].

        It stands at the first event with the item; 0 stands at the others. `states` [B, T, dim].
        """
        query = self.repeat_query(states)
        # of each event with every event of its window: far less than a copy for each moment
        fit = query[..., :-1] @ F.embedding(batch.item, items).transpose(1, 2) * self.dim**-0.5
        fit = fit + query[..., -1:] + self.repeat_kind(batch.kind).transpose(1, 2)
        strength = fit[batch.row, batch.place]
        strength = strength + self.repeat_age(bucket(age, AGE_BUCKETS))[..., 0]
        place = torch.arange(batch.item.shape[1], device=batch.item.device)
        known = place <= batch.place[:, None]
        lift = strength.float().clamp(max=12).exp() * known
        first = (batch.item[:, :, None] == batch.item[:, None]).float().argmax(2)
        lift = torch.zeros_like(lift).scatter_add(1, first[batch.row], lift)
        stands = known & (first == place)[batch.row]
        return torch.log(self.repeat_floor.exp() + lift) * stands


class Dropout(nn.Module):
    """Each number is zero with a probability, in steps of 1 / 256: one random byte for each."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.cut = round(share * 256)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; as it is when not training."""
        if not self.training or not self.cut:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        drawn = words.random_(-(2**63), None).view(torch.uint8)[: x.numel()].view(x.shape)
        return x * ((drawn >= self.cut).to(x.dtype) * (256 / (256 - self.cut)))


class Smoothing(nn.Module):
    """Beside attention: each channel's mean of the past, the latest counting most.

    The channels are in groups, each with a learned decay per event, from nearly the last event
    alone to the whole window: a bias for the recent and against noise that attention has to learn
    from data (Shin et al. 2024, "BSARec", take low frequencies for it; a moving average knows
    nothing of later events).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.linspace(-1.5, 2.5, math.gcd(dim, SPEEDS)))
        self.merge = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] -> [B, T, dim]."""
        b, t, d = x.shape
        place = torch.arange(t, device=x.device)
        lag = (place[:, None] - place).float()
        share = torch.sigmoid(self.decay)[:, None, None] ** lag.clamp(min=0) * (lag >= 0)
        share = share / share.sum(-1, keepdim=True)
        groups = x.view(b, t, len(self.decay), -1)
        mean = torch.einsum("gts,bsgc->btgc", share, groups).reshape(b, t, d)
        return self.merge(mean)  # type: ignore[no-any-return]


class Block(nn.Module):
    """One pre-norm Transformer block with causal attention and smoothing, and their balance."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.merge = nn.Linear(dim, dim)
        self.smooth = Smoothing(dim)
        self.balance = nn.Parameter(torch.zeros(()))
        self.wide = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] -> [B, T, dim]."""
        b, t, d = x.shape
        known = self.norm1(x)
        q, k, v = self.qkv(known).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        attended = self.merge(mixed.transpose(1, 2).reshape(b, t, d))
        x = x + self.drop(torch.lerp(attended, self.smooth(known), self.balance.sigmoid()))
        return x + self.drop(self.narrow(self.drop(F.gelu(self.wide(self.norm2(x))))))
