"""The loss in pieces is the plain cross-entropy: its value, its gradients, and less memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ml.recommender.data import runs
from ml.recommender.loss import Scoring, cross_entropy, sample

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


def test_a_sample_of_the_items_gives_the_loss_of_all_in_the_mean() -> None:
    leaves, rest = problem(1)
    leaves = {name: (0.4 * value).requires_grad_() for name, value in leaves.items()}
    # three moments meet few items, so that most are left to be drawn
    few = {name: rest[name][:3] for name in ("snapshot", "column", "asof")}
    truth, weight = rest["truth"][:3], rest["weight"][:3]
    known = (few["snapshot"].numpy(), few["asof"].numpy(), rest["first_day"].numpy())
    scoring = Scoring(
        query=leaves["query"][:3],
        items=leaves["items"],
        prior=leaves["prior"],
        bonus=leaves["bonus"][:3],
        **few,
        first_day=rest["first_day"],
        runs=runs(*known),
    )
    whole = cross_entropy(scoring, truth, weight, 1 << 20)
    whole_gradients = gradients(whole, leaves)
    torch.manual_seed(0)
    mass, sums = [], [torch.zeros_like(value) for value in leaves.values()]
    draws = 400
    for _ in range(draws):
        part, own = among_some(scoring, truth, negatives=10)
        assert len(part.items) < ITEMS
        torch.testing.assert_close(part.at(own), scoring.at(truth))
        loss = cross_entropy(part, own, weight, 1 << 20)
        mass.append(part.scores().exp().sum(1))
        for total, each in zip(sums, gradients(loss, leaves), strict=True):
            total += each / draws
    torch.testing.assert_close(
        torch.stack(mass).mean(0), scoring.scores().exp().sum(1), rtol=0.1, atol=0
    )
    for mine, other in zip(sums, whole_gradients, strict=True):
        assert (mine - other).norm() < 0.15 * other.norm()


def among_some(scoring: Scoring, truth: Tensor, negatives: int) -> tuple[Scoring, Tensor]:
    """The scoring of a sample of the items."""
    needed = torch.zeros(len(scoring.items), dtype=torch.bool)
    needed[truth] = True
    needed[scoring.column] = True
    some = sample(needed, negatives)
    late = [some.place[run.late] for run in scoring.runs]
    part = replace(
        scoring,
        items=scoring.items[some.item],
        prior=scoring.prior[:, some.item] + some.stands_for,
        column=some.place[scoring.column],
        first_day=scoring.first_day[some.item],
        runs=tuple(replace(r, late=x[x >= 0]) for r, x in zip(scoring.runs, late, strict=True)),
    )
    return part, some.place[truth]


def test_a_sample_of_more_than_there_are_is_all_each_for_itself() -> None:
    needed = torch.arange(ITEMS) % 3 == 0
    some = sample(needed, ITEMS)
    assert some.item.sort().values.tolist() == list(range(ITEMS))
    assert some.place[some.item].tolist() == list(range(ITEMS))
    assert not some.stands_for.any()
