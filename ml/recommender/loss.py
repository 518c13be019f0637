"""The softmax over all items and its gradient, in pieces: no matrix of moments x items is kept.

For each piece of moments the scores are made, turned into the gradient of the loss in place, and
multiplied back into the gradients of what made them, all in the forward pass. So memory is one
piece, however many moments and items there are, and nothing is computed twice (Hsu et al. 2024,
"Liger Kernel", do the same for language models).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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

    def scores(self, rows: slice = slice(None), dtype: torch.dtype = torch.float32) -> Tensor:
        """[N, I] of these moments; the product is computed, and the result kept, in `dtype`."""
        scores = self.query[rows].to(dtype) @ self.items.to(dtype).T
        scores = scores.add_(self.prior.to(dtype)[self.snapshot[rows]])
        scores = scores.scatter_add_(1, self.column[rows], self.bonus[rows].to(dtype))
        return scores.masked_fill_(self.first_day >= self.asof[rows, None], -torch.inf)


def cross_entropy(
    scoring: Scoring,
    truth: Tensor,
    weight: Tensor,
    max_scores: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean over moments of -sum(weight * log softmax at truth); differentiable.

    truth int64 [N, M], weight float32 [N, M] with rows that add up to 1 (0 in an empty place).
    `max_scores`: scores in memory at once, in `dtype`.
    """
    return _CrossEntropy.apply(  # type: ignore[no-any-return]
        scoring.query,
        scoring.items,
        scoring.prior,
        scoring.bonus,
        scoring,
        truth,
        weight,
        max_scores,
        dtype,
    )


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
    ) -> Tensor:
        d_query, d_bonus = torch.empty_like(query), torch.empty_like(bonus)
        d_items = torch.zeros(items.shape, device=items.device)
        d_prior = torch.zeros(prior.shape, device=prior.device)
        total = torch.zeros((), device=query.device)
        size = max(1, max_scores // len(items))
        flat_items, flat_query = items.to(dtype), query.to(dtype)
        for start in range(0, len(query), size):
            rows = slice(start, start + size)
            scores = scoring.scores(rows, dtype)
            own = scores.gather(1, truth[rows]).float().masked_fill(weight[rows] == 0, 0.0)
            highest = scores.amax(1, keepdim=True)
            scores.sub_(highest).exp_()
            mass = scores.sum(1, keepdim=True, dtype=torch.float32)
            total += (mass.log() + highest.float()).sum() - (own * weight[rows]).sum()
            # from here on `scores` is the gradient: softmax - truth
            scores.div_(mass.to(dtype)).scatter_add_(1, truth[rows], -weight[rows].to(dtype))
            d_query[rows] = (scores @ flat_items).float()
            d_items += (scores.T @ flat_query[rows]).float()
            d_bonus[rows] = scores.gather(1, scoring.column[rows]).float()
            d_prior.index_add_(0, scoring.snapshot[rows], scores.float())
        ctx.save_for_backward(d_query, d_items, d_prior, d_bonus)
        ctx.moments = len(query)
        return total / len(query)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0] / ctx.moments
        return (*(each * scale for each in ctx.saved_tensors), None, None, None, None, None)
