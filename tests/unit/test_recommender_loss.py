"""The loss in pieces is the plain cross-entropy: its value, its gradients, and less memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ml.recommender.data import runs
from ml.recommender.loss import Scoring, cross_entropy

N, ITEMS, DIM, PAST, TRUTHS = 37, 53, 8, 6, 3


def problem(seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Leaves to learn, and the rest of a random problem."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    def whole(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=draw)

    leaves = {
        "query": normal(N, DIM),
        "items": normal(ITEMS, DIM),
        "prior": normal(4, ITEMS),
        "bonus": normal(N, PAST),
    }
    truth = whole(ITEMS, N, TRUTHS)
    weight = torch.rand(N, TRUTHS, generator=draw)
    weight[:, -1] *= whole(2, N)
    first_day = whole(20, ITEMS)
    asof = torch.full((N,), 20) - whole(3, N)
    there = first_day[truth] < asof[:, None]
    weight = weight * there
    weight[:, 0] += 1e-3
    truth[:, 0] = torch.where(there[:, 0], truth[:, 0], first_day.argmin())
    rest = {
        "snapshot": whole(4, N),
        "column": whole(ITEMS, N, PAST),
        "asof": asof,
        "first_day": first_day,
        "truth": truth,
        "weight": weight / weight.sum(1, keepdim=True),
    }
    return leaves, rest


def plain(leaves: dict[str, Tensor], rest: dict[str, Tensor]) -> Tensor:
    """The same loss as its definition says."""
    scores = leaves["query"] @ leaves["items"].T + leaves["prior"][rest["snapshot"]]
    scores = scores.scatter_add(1, rest["column"], leaves["bonus"])
    scores = scores.masked_fill(rest["first_day"] >= rest["asof"][:, None], -torch.inf)
    chosen = scores.gather(1, rest["truth"]).masked_fill(rest["weight"] == 0, 0)
    return (torch.logsumexp(scores, 1) - (chosen * rest["weight"]).sum(1)).mean()


def gradients(loss: Tensor, leaves: dict[str, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(leaves.values())))


def in_pieces(
    leaves: dict[str, Tensor], rest: dict[str, Tensor], max_scores: int, dtype: torch.dtype
) -> Tensor:
    about = {name: rest[name] for name in ("snapshot", "column", "asof", "first_day")}
    known = (rest[name].numpy() for name in ("snapshot", "asof", "first_day"))
    scoring = Scoring(**leaves, **about, runs=runs(*known))
    return cross_entropy(scoring, rest["truth"], rest["weight"], max_scores, dtype)


@pytest.mark.parametrize("max_scores", [1, 5 * ITEMS, 1 << 20])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_in_pieces_is_the_plain_one(seed: int, max_scores: int) -> None:
    leaves, rest = problem(seed)
    leaves = {name: value.double().float().requires_grad_() for name, value in leaves.items()}
    ours, theirs = in_pieces(leaves, rest, max_scores, torch.float32), plain(leaves, rest)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(gradients(ours, leaves), gradients(theirs, leaves), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_in_half_precision_it_is_near() -> None:
    leaves, rest = problem(0)
    leaves = {name: value.requires_grad_() for name, value in leaves.items()}
    ours, theirs = in_pieces(leaves, rest, 1 << 20, torch.bfloat16), plain(leaves, rest)
    assert abs(ours.item() - theirs.item()) < 0.02 * theirs.item()
    for mine, other in zip(gradients(ours, leaves), gradients(theirs, leaves), strict=True):
        assert (mine - other).norm() < 0.03 * other.norm()
