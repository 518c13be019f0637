"""The fast search finds what a sort of all scores finds, whatever is hidden, lifted or tied."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.recommender import topk
from ml.recommender.topk import Catalogue, Pairs


def by_sorting(query, items, k, prior, candidates, pairs):
    """Items by the plain definition, -1 where none is left."""
    scores = (query.double() @ items.double().T + prior.double()).float()
    scores[:, ~candidates] = -torch.inf
    scores[pairs.query, pairs.item] += pairs.bonus
    found = np.full((len(query), k), -1)
    for row, score in enumerate(scores.numpy()):
        order = np.lexsort((np.arange(len(score)), -score))[:k]
        found[row, : len(order)] = np.where(score[order] > -np.inf, order, -1)
    return found


def drawn_pairs(rng, n, n_items, count):
    """Some pairs, half of them never to be found."""
    flat = rng.permutation(n * n_items)[:count]
    bonus = rng.integers(-30, 31, len(flat)).astype(np.float32)
    bonus[rng.random(len(flat)) < 0.5] = -np.inf
    return Pairs(*map(torch.from_numpy, (flat // n_items, flat % n_items, bonus)))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 40),
    n_items=st.one_of(st.integers(1, 50), st.integers(1500, 6000)),
    dim=st.integers(1, 20),
    k=st.integers(1, 30),
    share=st.floats(0, 1),
    flat=st.sampled_from([0, 1]),
    rounded=st.booleans(),
    max_scores=st.sampled_from([1, 5_000, 1 << 20]),
)
def test_the_search_is_a_sort_of_all_scores(
    seed, n, n_items, dim, k, share, flat, rounded, max_scores
):
    rng = np.random.default_rng(seed)
    # whole numbers, so that float32 is exact and ties are many
    query, items = (
        torch.from_numpy(rng.integers(-4, 5, (m, dim)).astype(np.float32)) for m in (n, n_items)
    )
    query[: n // 4] = 0  # all items alike but for the prior
    prior = torch.from_numpy(rng.integers(-20, 21, n_items).astype(np.float32))
    prior *= flat
    candidates = torch.from_numpy(rng.random(n_items) < share)
    pairs = drawn_pairs(rng, n, n_items, int(rng.integers(0, n * min(n_items, 50) + 1)))
    catalogue = Catalogue(items, prior, candidates, max_scores, rounded)
    item, score = catalogue.best(query, k, pairs)
    assert np.array_equal(item.numpy(), by_sorting(query, items, k, prior, candidates, pairs))
    bonus = torch.zeros(n, n_items)
    bonus[pairs.query, pairs.item] = pairs.bonus
    for row in range(n):
        there = item[row] >= 0
        found = item[row][there]
        own = items[found] @ query[row] + prior[found] + bonus[row, found]
        assert torch.equal(score[row][there], own)
        assert (score[row][~there] == -torch.inf).all()


@pytest.mark.parametrize("rounded", [False, True])
def test_a_catalogue_that_misleads_is_still_ranked_right(rounded, monkeypatch):
    """All that is good stands where the sample does not look, or is lost by rounding."""
    draw = torch.Generator().manual_seed(3)
    items = torch.randn(5000, 16, generator=draw) * 0.01
    items[:, 0] = 50  # rounding to steps of this size leaves nothing of the others
    query = torch.randn(30, 16, generator=draw)
    best = (query @ items.T).topk(20).values
    for deviations in (3, -2):  # and a mark that is far too high
        monkeypatch.setattr(topk, "_DEVIATIONS", deviations)
        item, score = Catalogue(items, rounded=rounded).best(query, 20)
        assert torch.allclose(score, best, atol=1e-4)
        assert torch.allclose((query @ items.T).gather(1, item), best, atol=1e-4)


def test_real_numbers_scanned_in_bytes_give_the_list_of_floats():
    draw = torch.Generator().manual_seed(1)
    items, query = torch.randn(4000, 64, generator=draw), torch.randn(200, 64, generator=draw)
    seen = torch.stack([torch.randperm(4000, generator=draw)[:30] for _ in range(200)])
    who = torch.arange(200).repeat_interleave(30)
    pairs = Pairs(who, seen.flatten(), torch.full((6000,), -torch.inf))
    scores = query @ items.T
    scores[who, seen.flatten()] = -torch.inf
    value, item = scores.topk(50)
    for rounded in (False, True):
        found, score = Catalogue(items, rounded=rounded).best(query, 50, pairs)
        assert torch.allclose(score, value, atol=1e-4)
        assert (found == item).float().mean() > 0.999  # neighbours within rounding may change


def test_memory_is_bounded_by_the_setting():
    """Scores in memory at once, whatever the number of users."""
    items, query = torch.randn(20_000, 8), torch.randn(3000, 8)
    made = []
    real = torch.empty

    def watched(*args, **kwargs):
        made.append(int(np.prod(args)))
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk.torch, "empty", watched)
        Catalogue(items, max_scores=200_000).best(query, 5)
    assert made and max(made) * torch.get_num_threads() <= 200_000
