"""The softmax over all items and its gradient, in pieces: no matrix of moments x items is kept.

For each piece of moments the exponentials of the scores are made and multiplied back into the
gradients of what made them, all in the forward pass. So memory is one piece, however many moments
and items there are, and nothing is computed twice (Hsu et al. 2024, "Liger Kernel", do the same for
language models).

What else adds to a score (the prior of an item, the score of the truth that is subtracted so that
nothing overflows) is folded into the product as further columns of its two factors, and the sum of
the exponentials into the gradient's factors, so a piece is touched by two products and little else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ml.device import multiplies_bfloat16

_NEVER = -1e4
"""A score whose exponential is 0 in every precision."""
_ABOVE = 70.0
"""exp of it, summed over every item of any shop, is still a number in float32 and bfloat16."""


@dataclass(frozen=True)
class Run:
    """Moments `start:stop` that know the same statistics of the items."""

    start: int
    stop: int
    snapshot: int
    """the row of the statistics"""
    until: int
    """the latest day among the moments"""
    late: Tensor
    """items that came into the catalogue between the earliest and the latest of the moments"""


@dataclass(frozen=True)
class Scoring:
    """What makes the scores [N, I] of N moments and I items: the sum of three parts.

    query [N, d] @ items [I, d].T, one row of prior [S, I] for each moment, and bonus [N, T] at the
    items `column` [N, T]. Before the end of `first_day` [I] an item scores -inf at a moment `asof`.
    """

    query: Tensor
    items: Tensor
    prior: Tensor
    snapshot: Tensor
    """[N] row of `prior`"""
    bonus: Tensor
    column: Tensor
    asof: Tensor
    """[N]"""
    first_day: Tensor
    runs: tuple[Run, ...]
    """the moments, all of them, in order"""

    def scores(self) -> Tensor:
        """All of them, float32 [N, I]."""
        scores = self.query @ self.items.T
        scores = scores.add_(self.prior[self.snapshot])
        scores = scores.scatter_add_(1, self.column, self.bonus)
        return scores.masked_fill_(self.first_day >= self.asof[:, None], -torch.inf)

    def at(self, item: Tensor) -> Tensor:
        """The scores at some items [N, M] of each moment, without the ban of items to come."""
        product = torch.einsum("nd,nmd->nm", self.query, self.items[item])
        same = self.column[:, :, None] == item[:, None]
        bonus = torch.einsum("nt,ntm->nm", self.bonus, same.to(self.bonus))
        return product + self.prior[self.snapshot[:, None], item] + bonus


@dataclass(frozen=True)
class Sample:
    """Some items in place of all, for a loss that costs less."""

    item: Tensor
    """[M] their numbers"""
    stands_for: Tensor
    """[M] log of how many items of the catalogue each stands for"""
    place: Tensor
    """[items] the number of an item among them, -1 where it is left out"""


def sample(needed: Tensor, negatives: int) -> Sample:
    """All items that are needed (bool [items]), and of the rest `negatives` drawn at random.

    Each of those stands for several: with its prior raised by the log of how many, the sum of the
    exponentials is the whole sum in the mean (importance sampling of the softmax, Bengio and
    Senecal 2003). All items, each for itself, when the rest is no more than that.
    """
    rest = torch.nonzero(~needed)[:, 0]
    drawn = rest[torch.randperm(len(rest), device=rest.device)[:negatives]]
    item = torch.cat([torch.nonzero(needed)[:, 0], drawn])
    stands_for = torch.zeros(len(item), device=item.device)
    if len(drawn):
        stands_for[-len(drawn) :] = math.log(len(rest) / len(drawn))
    place = torch.full_like(needed, -1, dtype=torch.int64)
    place[item] = torch.arange(len(item), device=item.device)
    return Sample(item, stands_for, place)


def cross_entropy(
    scoring: Scoring,
    truth: Tensor,
    weight: Tensor,
    max_scores: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean over moments of -sum(weight * log softmax at truth); differentiable.

    truth int64 [N, M], weight float32 [N, M] with rows that add up to 1 (0 in an empty place).
    `max_scores`: scores in memory at once, in `dtype`. An item that is more than `_ABOVE` better
    than all truths of a moment counts as that much better, so that no exponential overflows.
    """
    learn = torch.is_grad_enabled()
    return _CrossEntropy.apply(  # type: ignore[no-any-return]
        *(scoring.query, scoring.items, scoring.prior, scoring.bonus),
        *(scoring, truth, weight, max_scores, dtype, learn),
    )


def precision(at: torch.device) -> torch.dtype:
    """What the largest products are computed in: bfloat16 where the processor multiplies in it."""
    return torch.bfloat16 if multiplies_bfloat16(at) else torch.float32


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        items: Tensor,
        prior: Tensor,
        bonus: Tensor,
        scoring: Scoring,
        truth: Tensor,
        weight: Tensor,
        max_scores: int,
        dtype: torch.dtype,
        learn: bool,
    ) -> Tensor:
        own = scoring.at(truth)
        shift = own.masked_fill(weight == 0, -torch.inf).amax(1)
        one = torch.ones_like(shift)[:, None]
        left = torch.cat([query, one, one, *_halves(-shift, dtype)], 1).to(dtype)
        ones = torch.ones(len(items), 4, device=items.device)
        right = torch.cat([items, ones], 1).to(dtype)

        mass = torch.empty_like(shift)
        d_left = torch.zeros(left.shape, device=left.device)
        d_right = torch.zeros(right.shape, device=right.device)
        d_prior, d_bonus = torch.zeros_like(prior), torch.zeros_like(bonus)
        dim, size = query.shape[1], max(1, max_scores // len(items))
        for run in scoring.runs:
            known = prior[run.snapshot].masked_fill(scoring.first_day >= run.until, _NEVER)
            right[:, dim : dim + 2] = torch.cat(_halves(known, dtype), 1).to(dtype)
            for start in range(run.start, run.stop, size):
                rows = slice(start, min(start + size, run.stop))
                piece = _exponentials(scoring, left[rows] @ right.T, rows, run)
                mass[rows] = piece.sum(1, dtype=torch.float32)
                if learn:
                    scale = 1 / mass[rows, None]
                    d_left[rows] = (piece @ right).float() * scale
                    part = (piece.T @ (left[rows] * scale).to(dtype)).float()
                    d_right += part
                    d_prior[run.snapshot] += part[:, dim]
                    d_bonus[rows] = piece.gather(1, scoring.column[rows]).float() * scale
        if learn:
            d_query, d_items = d_left[:, :dim], d_right[:, :dim]
            _subtract_truth(scoring, truth, weight, d_query, d_items, d_prior, d_bonus)
            ctx.save_for_backward(d_query, d_items, d_prior, d_bonus)
        ctx.moments = len(query)
        return (mass.log() + shift - (own * weight).sum(1)).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0] / ctx.moments
        return (*(each * scale for each in ctx.saved_tensors), *[None] * 6)


def _exponentials(scoring: Scoring, scores: Tensor, rows: slice, run: Run) -> Tensor:
    """exp of a piece of scores, in place, with the bonus; 0 where an item was not there yet."""
    scores.scatter_add_(1, scoring.column[rows], scoring.bonus[rows].to(scores.dtype))
    scores.clamp_(max=_ABOVE).exp_()
    if len(run.late):
        ahead = scoring.first_day[run.late] >= scoring.asof[rows, None]
        scores[:, run.late] = scores[:, run.late].masked_fill(ahead, 0)
    return scores


def _subtract_truth(
    scoring: Scoring,
    truth: Tensor,
    weight: Tensor,
    d_query: Tensor,
    d_items: Tensor,
    d_prior: Tensor,
    d_bonus: Tensor,
) -> None:
    """The part of the gradient that comes from the truths' own scores."""
    d_query -= torch.einsum("nm,nmd->nd", weight, scoring.items[truth])
    pull = weight[:, :, None] * scoring.query[:, None]
    d_items.index_add_(0, truth.flatten(), pull.flatten(0, 1), alpha=-1)
    snapshot = scoring.snapshot[:, None].expand_as(truth)
    d_prior.index_put_((snapshot, truth), -weight, accumulate=True)
    same = scoring.column[:, :, None] == truth[:, None]
    d_bonus -= torch.einsum("nm,ntm->nt", weight, same.to(weight))


def _halves(value: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Two columns [n, 1]: what `dtype` keeps of the value [n], and what it loses."""
    high = value.to(dtype).to(value)
    return [high[:, None], (value - high)[:, None]]
