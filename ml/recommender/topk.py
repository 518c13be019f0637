"""The best k of a whole catalogue for many queries, exact, at about the speed of the products.

Scores are query @ items.T + prior, with something added at a few pairs of query and item (-inf:
never). They are made block by block and only what can matter is looked at: a random part of the
catalogue tells about where the k-th best of a query lies, and in all blocks only those groups of
items are opened whose highest score reaches this mark. Where the processor multiplies 8-bit numbers
faster, the blocks are products of rounded vectors, and what they find is scored anew in float32.

Neither can change a result. A query whose k-th best does not lie above all that may have been
missed, by the mark and by a bound on what rounding can do, is ranked again from all its scores.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ml.metrics import best_places, top_k

MAX_SCORES = 1 << 22
_BLOCK = 2048
"""items whose scores are made at once, so that they stay in the processor's cache"""
_AT_ONCE = 512
"""most queries that a thread answers together"""
_SAMPLE = 8192
"""most items that tell about where the k-th best lies; no more than one in 8"""
_GROUP = 8
_DEVIATIONS = 3
"""what is allowed for chance among these"""
_CROWD = 16
"""times as many items above the mark as chance would have there: such a query is given up"""
_PRIORS = 4
"""columns among which the prior is divided, as rounding wants numbers of one size"""


warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")


@dataclass(frozen=True)
class Pairs:
    """Queries and items to whose score something is added; no pair is named twice."""

    query: Tensor
    item: Tensor
    bonus: Tensor

    @classmethod
    def none(cls) -> Pairs:
        """No pairs."""
        empty = torch.zeros(0, dtype=torch.int64)
        return cls(empty, empty, empty.float())

    def those(self, which: Tensor) -> Pairs:
        """Some of them."""
        return Pairs(self.query[which], self.item[which], self.bonus[which])


def rounding_pays() -> bool:
    """Whether this processor multiplies 8-bit numbers several times as fast as floats."""
    return bool(torch.cpu._is_vnni_supported())


class Catalogue:
    """Items [I, d] made ready to be searched.

    `prior` [I] is added to every score; only `candidates` (bool [I]) are ever found. `max_scores`
    bounds the scores in memory at once. `rounded`: scan by 8-bit numbers; None: where that pays.
    """

    def __init__(
        self,
        items: Tensor,
        prior: Tensor | None = None,
        candidates: Tensor | None = None,
        max_scores: int = MAX_SCORES,
        rounded: bool | None = None,
    ) -> None:
        there = torch.arange(len(items)) if candidates is None else candidates.nonzero()[:, 0]
        mixed = torch.randperm(len(there), generator=torch.Generator().manual_seed(0))
        self.item = there[mixed]
        """the number of the item of each row"""
        self.row = torch.full((len(items),), -1)
        self.row[self.item] = torch.arange(len(there))
        self.priors = 0 if prior is None else _PRIORS
        if prior is not None:
            items = torch.cat([items, (prior / _PRIORS)[:, None].expand(-1, _PRIORS)], 1)
        self.vectors = items.float()[self.item]
        self.max_scores = max_scores
        self.sample = min(_SAMPLE, len(there) // 8) // _GROUP * _GROUP
        pays = rounding_pays() if rounded is None else rounded
        self.rounded = _Rounded(self.vectors) if pays and self.sample else None

    def best(self, query: Tensor, k: int, pairs: Pairs | None = None) -> tuple[Tensor, Tensor]:
        """The k best items of each query [N, d] and their scores, best first.

        int64 [N, k] and float32 [N, k], -1 and -inf where nothing is left; ties by the lower item.
        """
        n, threads = len(query), torch.get_num_threads()
        query = torch.cat([query.float(), torch.ones(n, self.priors)], 1)
        pairs = pairs or Pairs.none()
        pairs = Pairs(pairs.query, self.row[pairs.item], pairs.bonus)
        pairs = pairs.those(pairs.item >= 0)
        pairs = pairs.those(torch.argsort(pairs.query, stable=True))
        item, score = torch.full((n, k), -1), torch.full((n, k), -torch.inf)
        most = self.max_scores // (threads * max(self.sample, _BLOCK))
        size = max(1, min(most, -(-n // threads), _AT_ONCE))
        starts = torch.arange(0, n + size, size)
        ends = torch.searchsorted(pairs.query, starts).tolist()
        unsure = torch.zeros(n, dtype=torch.bool)

        def answer(part: int) -> None:
            rows = slice(part * size, (part + 1) * size)
            own = pairs.those(torch.arange(ends[part], ends[part + 1]))
            own = Pairs(own.query - rows.start, own.item, own.bonus)
            item[rows], score[rows], missed = self._marked(query[rows], k, rank, own)
            unsure[rows] = ~(score[rows, -1] >= missed)

        def one() -> None:
            torch.set_num_threads(1)

        share = self.sample * k / max(1, len(self.item))
        rank = math.ceil(share + _DEVIATIONS * math.sqrt(share)) + 1
        if 2 * rank * _GROUP > self.sample:
            unsure[:] = True
        else:
            # a thread for each part is faster than all threads for each small operation
            with ThreadPoolExecutor(threads, initializer=one) as pool:
                list(pool.map(answer, range(len(starts) - 1)))
            torch.set_num_threads(threads)
        if unsure.any():
            number = torch.cumsum(unsure, 0) - 1
            own = pairs.those(unsure[pairs.query])
            own = Pairs(number[own.query], own.item, own.bonus)
            item[unsure], score[unsure] = self._plain(query[unsure], k, own)
        return item, score

    def _marked(
        self, query: Tensor, k: int, rank: int, pairs: Pairs
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The k best of the items above a mark, and what no item below it can score."""
        scan = (self.rounded or _Exact(self.vectors)).scan(query)
        who, row, score = _find(scan, len(query), len(self.item), self.sample, rank, pairs)
        if self.rounded:
            score = self._scores(query, who, row)
        lifted = pairs.those(pairs.bonus > -torch.inf)
        bonus = self._scores(query, lifted.query, lifted.item) + lifted.bonus
        found = ((who, row, score), (lifted.query, lifted.item, bonus))
        return *self._merged(len(query), k, found), scan.missed

    def _scores(self, query: Tensor, who: Tensor, row: Tensor) -> Tensor:
        """The scores of some pairs, those of one query together, in the order of queries."""
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), _counts(who, len(query)).cumsum(0)])
        size = (len(query), len(self.item))
        wanted = torch.sparse_csr_tensor(
            ends, row, torch.zeros(len(row)), size, check_invariants=False
        )
        return torch.sparse.sampled_addmm(wanted, query, self.vectors.T, beta=0.0).values()

    def _merged(
        self, n: int, k: int, parts: tuple[tuple[Tensor, Tensor, Tensor], ...]
    ) -> tuple[Tensor, Tensor]:
        """The k best of what was found: (query in order, row, score) in each part."""
        counts = [_counts(who, n) for who, _, _ in parts]
        width = max(k, int(torch.stack(counts).sum(0).max()))
        score = torch.full((n, width), -torch.inf)
        item = torch.full((n, width), -1)
        before = torch.zeros(n, dtype=torch.int64)
        for (who, row, value), count in zip(parts, counts, strict=True):
            # place in the table: those of this query in this part, after those of earlier parts
            shift = torch.arange(n) * width + before - (count.cumsum(0) - count)
            place = torch.arange(len(who)) + shift[who]
            score.view(-1)[place] = value
            item.view(-1)[place] = self.item[row]
            before += count
        best = best_places(score, item, k, len(self.row) + 1)
        return item.gather(1, best), score.gather(1, best)

    def _plain(self, query: Tensor, k: int, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """From all scores, some queries at a time."""
        n_items = len(self.row)
        size = max(1, self.max_scores // (2 * max(1, n_items)))
        found = []
        for start in range(0, len(query), size):
            part = query[start : start + size]
            scores = torch.full((len(part), n_items), -torch.inf)
            scores[:, self.item] = part @ self.vectors.T
            own = pairs.those((pairs.query >= start) & (pairs.query < start + size))
            scores[own.query - start, self.item[own.item]] += own.bonus
            item = top_k(scores, k)
            value = scores.gather(1, item.clamp(min=0)).masked_fill(item < 0, -torch.inf)
            fill = (0, k - item.shape[1])
            found.append((F.pad(item, fill, value=-1), F.pad(value, fill, value=-torch.inf)))
        return torch.cat([item for item, _ in found]), torch.cat([value for _, value in found])


def _counts(who: Tensor, n: int) -> Tensor:
    return torch.bincount(who, minlength=n)


@dataclass
class _Scan:
    """Scores [items, queries] of some rows at a time, as they are made fastest."""

    product: Callable[[int, int, Tensor], Tensor]
    """of rows from .. to, written to the tensor given"""
    dtype: torch.dtype
    lowest: float
    slack: Tensor
    """[queries] how far rounding can move a score, in the units of the products"""
    unit: Tensor
    """[queries]"""
    mark: Tensor = field(default_factory=lambda: torch.zeros(0))
    """[queries] products from here on are looked at"""
    missed: Tensor = field(default_factory=lambda: torch.zeros(0))
    """[queries] no item below the mark has a score that high"""

    def set_mark(self, products: Tensor, rank: int) -> None:
        """So that at least `rank` of the products [n, queries] reach it, however they are off."""
        limit = products.T.contiguous().topk(rank, dim=1, sorted=False).values.amin(1)
        self.missed = limit * self.unit
        self.mark = limit - self.slack
        self.give_up(limit == self.lowest)

    def give_up(self, which: Tensor) -> None:
        """Look at nothing more of these queries, whose lists are not to be relied on."""
        self.mark[which] = -self.lowest if self.dtype.is_floating_point else 2**31 - 1
        self.missed[which] = torch.inf


class _Exact:
    """Scores as they are."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors

    def scan(self, query: Tensor) -> _Scan:
        """The scores of the queries."""
        return _Scan(
            lambda low, high, out: torch.mm(self.vectors[low:high], query.T, out=out),
            torch.float32,
            -torch.inf,
            torch.zeros(len(query)),
            torch.ones(len(query), dtype=torch.float64),
        )


class _Rounded:
    """Vectors of 8-bit numbers, and how far they are from those that they stand for.

    Each direction of the space is stretched by the root of its widest item, in queries the other
    way, so that one step of rounding suits all directions.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.stretch = vectors.abs().amax(0).sqrt()
        narrow = vectors / self.stretch.where(self.stretch > 0, 1)
        self.step = (narrow.abs().max() / 127).clamp(min=1e-30)
        self.bytes = (narrow / self.step).round().to(torch.int8)
        kept = self.bytes * self.step
        self.lost = (narrow - kept).norm(dim=1).max()
        self.length = kept.norm(dim=1).max()

    def scan(self, query: Tensor) -> _Scan:
        """The scores of the queries in whole numbers; the bound is by Cauchy and Schwarz."""
        wide = query * self.stretch
        step = (wide.abs().amax(1) / 127).clamp(min=1e-30)
        numbers = (wide / step[:, None]).round().to(torch.int8)
        off = (wide - numbers * step[:, None]).norm(dim=1)
        unit = step.double() * self.step
        slack = (wide.norm(dim=1) * self.lost + off * self.length) / unit
        return _Scan(
            lambda low, high, out: torch._int_mm(self.bytes[low:high], numbers.T, out=out),
            torch.int32,
            -(2**31),
            (slack * 1.001).ceil().int() + 1,  # float32 rounds too
            unit,
        )


def _find(
    scan: _Scan, n: int, n_rows: int, sample: int, rank: int, pairs: Pairs
) -> tuple[Tensor, Tensor, Tensor]:
    """All items of n queries above their mark, the rank-th best of the sample: query, row, score.

    In the order of queries; `pairs` are passed over. What has far more than is to be expected, as
    when all items score alike, is given up.
    """
    order = torch.argsort(pairs.item)
    apart = Pairs(pairs.query[order], pairs.item[order], pairs.bonus)
    bounds = [0, *range(sample, n_rows, _BLOCK), n_rows]
    cuts = torch.searchsorted(apart.item, torch.tensor(bounds)).tolist()
    memory = torch.empty(max(sample, _BLOCK) * n, dtype=scan.dtype)
    whos, rows, scores = [], [], []
    most = _CROWD * rank * n_rows // sample
    count = np.zeros(n, np.int64)
    mark = np.zeros(0)
    for block, (low, high) in enumerate(pairwise(bounds)):
        size = -(-(high - low) // _GROUP)  # items i, i + size, i + 2 size ... are a group
        table = memory[: _GROUP * size * n].view(_GROUP * size, n)
        table[high - low :] = scan.lowest
        scan.product(low, high, table[: high - low])
        those = slice(cuts[block], cuts[block + 1])
        table.view(-1)[(apart.item[those] - low) * n + apart.query[those]] = scan.lowest
        highest = table.view(_GROUP, size, n).amax(0)
        if not block:
            scan.set_mark(highest, rank)
            mark = scan.mark.numpy()  # the same memory
        # numpy finds the few that are true much faster than torch does
        group = np.flatnonzero(highest.numpy() >= mark)
        inside = np.take(table.view(_GROUP, -1).numpy(), group, axis=1)
        who = group % n
        above = np.flatnonzero(inside >= mark[who])
        member, place = np.divmod(above, max(1, len(group)))
        who = who[place]
        count += np.bincount(who, minlength=n)
        if count.max() > most:
            crowded = count > most
            scan.give_up(torch.from_numpy(crowded))
            keep = ~crowded[who]
            who, member, place, above = who[keep], member[keep], place[keep], above[keep]
        whos.append(who.astype(np.uint16))  # a type whose sort is linear
        rows.append(member * size + group[place] // n + low)
        scores.append(inside.reshape(-1)[above])
    who = np.concatenate(whos)
    by_query = np.argsort(who, kind="stable")
    return (
        torch.from_numpy(who[by_query].astype(np.int64)),
        torch.from_numpy(np.concatenate(rows)[by_query]),
        torch.from_numpy(np.concatenate(scores)[by_query]),
    )
