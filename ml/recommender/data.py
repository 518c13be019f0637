"""From events to examples: what the network reads, and what it is to foresee at which moment.

A moment is the beginning of a day at which a shopper's next days are foreseen, as at the nightly
scoring: everything before it may be read, nothing after it. Its truth is the target events of the
`horizon` days that follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ml.recommender.loss import Run
from ml.recommender.tower import GAP_BUCKETS, Batch, bucket
from ml.sequences import DAY, Events

MAX_TRUTH = 16
"""Truths drawn per moment; a shopper who buys more is drawn from at random."""
VALID_EVERY = 50
_KEY_SPAN = 1 << 20  # days since 1970 fit below this: user * span + day orders by user, then day


@dataclass(frozen=True)
class ItemFacts:
    """What is known of the items besides the events, aligned to item numbers."""

    text: np.ndarray
    """float32 [items, d]: what the text encoder says; zeros where an item has no text"""
    words: np.ndarray
    """float32 [items, w]: what words it has (`ml.words`); zeros where it has no text"""
    stats: np.ndarray
    """float32 [snapshots + 1, items, s], standardised; row 0 is `nothing known yet`"""
    snapshot_days: np.ndarray
    """int64 [snapshots], ascending: snapshot i holds from the beginning of this day on"""
    first_day: np.ndarray
    """int64 [items]: the day the item came into the catalogue or was first met"""

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Texts with their words, statistics and first days, as the network takes them."""
        text = np.concatenate([self.text, self.words], axis=1)
        return tuple(torch.from_numpy(each) for each in (text, self.stats, self.first_day))

    def snapshot(self, asof: np.ndarray) -> np.ndarray:
        """The row of `stats` known at the beginning of each day."""
        return np.searchsorted(self.snapshot_days, asof, side="right")


@dataclass(frozen=True)
class Examples:
    """The input events before a cutoff, and the target events to foresee among them."""

    events: Events
    gap: np.ndarray
    """int64 [n] bucket of the seconds since the same user's event before"""
    day: np.ndarray
    """int64 [n]"""
    until: np.ndarray
    """int64 [n] last day at whose beginning this event is the user's latest; -1: never is"""
    target_key: np.ndarray
    """int64 [m] user and day of each distinct target event, ascending"""
    target_item: np.ndarray
    """int64 [m]"""
    horizon: int


def examples(inputs: Events, targets: Events, cutoff_day: int, horizon: int) -> Examples:
    """Examples from events before `cutoff_day`; later ones are dropped, whoever passes them."""
    inputs, targets = inputs.between(None, cutoff_day), targets.between(None, cutoff_day)
    day = inputs.day
    same = inputs.user[1:] == inputs.user[:-1]
    seconds = np.where(np.r_[False, same], np.diff(inputs.time, prepend=0), 0)
    next_day = np.where(np.r_[same, False], np.append(day[1:], 0), cutoff_day - 1)
    n_items = len(inputs.items)
    per_day = (targets.user * _KEY_SPAN + targets.day) * n_items + targets.item
    distinct = np.unique(per_day)
    return Examples(
        events=inputs,
        gap=bucket(torch.from_numpy(seconds), GAP_BUCKETS).numpy(),
        day=day,
        until=np.where(next_day > day, next_day, -1),
        target_key=distinct // n_items,
        target_item=distinct % n_items,
        horizon=horizon,
    )


@dataclass(frozen=True)
class Moments:
    """N moments to learn from: the event that is the latest then, the day, and up to M truths."""

    last: np.ndarray
    """int64 [N] index of the event, ascending"""
    asof: np.ndarray
    """int64 [N]"""
    truth: np.ndarray
    """int64 [N, M]"""
    weight: np.ndarray
    """float32 [N, M]: adds up to 1 over the truths of a moment, 0 for an empty place"""


def draw_moments(
    data: Examples, facts: ItemFacts, rng: np.random.Generator, fade: float = 1.0
) -> Moments:
    """One moment for each visited day of each user, where something follows within the horizon.

    The day is drawn from those between this visit and the next one (at most `horizon` before it),
    so that the network learns what a pause means. Truths not yet in the catalogue are left out; one
    a day later than another weighs `fade` times as much.
    """
    last = np.flatnonzero(data.until >= 0)
    until = data.until[last]
    first = np.maximum(data.day[last] + 1, until - data.horizon + 1)
    asof = first + (rng.random(len(last)) * (until - first + 1)).astype(np.int64)
    key = data.events.user[last] * _KEY_SPAN + asof
    low = np.searchsorted(data.target_key, key)
    high = np.searchsorted(data.target_key, key + data.horizon)
    keep = high > low
    last, asof, low, high, key = (each[keep] for each in (last, asof, low, high, key))

    count = (high - low)[:, None]
    step = np.arange(MAX_TRUTH)
    drawn = (rng.random((len(low), MAX_TRUTH)) * count).astype(np.int64)
    offset = np.where(count > MAX_TRUTH, drawn, np.minimum(step, count - 1))
    # no place that is empty everywhere: the loss looks at each of them
    step, offset = (each[..., : count.max(initial=1)] for each in (step, offset))
    truth = data.target_item[low[:, None] + offset]
    there = (step < count) & (facts.first_day[truth] < asof[:, None])
    weight = there * fade ** (data.target_key[low[:, None] + offset] - key[:, None])
    some = there.any(axis=1)
    weight = weight / np.where(some, weight.sum(axis=1), 1)[:, None]
    return Moments(last[some], asof[some], truth[some], weight[some].astype(np.float32))


def windows(
    data: Examples, max_length: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Each user's events in windows of `max_length`, cut elsewhere each time: start, stop [w]."""
    offsets = data.events.offsets
    size = np.diff(offsets)
    shift = rng.integers(0, max_length, len(size))
    pieces = np.where(size > 0, -(-(size + shift) // max_length), 0)
    user = np.repeat(np.arange(len(size)), pieces)
    piece = np.arange(len(user)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin = piece * max_length - shift[user]
    start = offsets[user] + np.maximum(begin, 0)
    stop = offsets[user] + np.minimum(begin + max_length, size[user])
    return start[stop > start], stop[stop > start]


def epoch(
    data: Examples,
    facts: ItemFacts,
    max_length: int,
    batch_size: int,
    rng: np.random.Generator,
    valid: bool = False,
    fade: float = 1.0,
) -> Iterator[tuple[Batch, torch.Tensor, torch.Tensor]]:
    """All windows with something to learn, once, in random batches of windows of similar length.

    One user in `VALID_EVERY` is never trained on; `valid` gives the windows of those instead.
    Yields the batch, its truths int64 [N, M] and their weights float32 [N, M].
    """
    moments = draw_moments(data, facts, rng, fade)
    start, stop = windows(data, max_length, rng)
    first = np.searchsorted(moments.last, start)
    final = np.searchsorted(moments.last, stop)
    spared = data.events.user[start] % VALID_EVERY == VALID_EVERY - 1
    keep = np.flatnonzero((final > first) & (spared == valid))
    keep = keep[rng.permutation(len(keep))]
    # Sorting within large groups keeps padding low and batches random.
    group = np.arange(len(keep)) // (16 * batch_size)
    keep = keep[np.lexsort(((stop - start)[keep], group))]
    for number in rng.permutation(-(-len(keep) // batch_size)):
        rows = keep[number * batch_size : (number + 1) * batch_size]
        count = final[rows] - first[rows]
        which = np.repeat(first[rows], count) + _within(count)
        row = np.repeat(np.arange(len(rows)), count)
        in_time = np.argsort(moments.asof[which], kind="stable")  # few runs of one snapshot
        which, row = which[in_time], row[in_time]
        yield (
            make_batch(
                data, facts, start[rows], stop[rows], row, moments.last[which], moments.asof[which]
            ),
            torch.from_numpy(moments.truth[which]),
            torch.from_numpy(moments.weight[which]),
        )


def latest_batch(
    data: Examples, facts: ItemFacts, users: np.ndarray, asof_day: int, max_length: int
) -> Batch:
    """One moment for each user, the beginning of `asof_day`; every user must have an event."""
    offsets = data.events.offsets
    stop = offsets[users + 1]
    start = np.maximum(offsets[users], stop - max_length)
    asof = np.full(len(users), asof_day)
    return make_batch(data, facts, start, stop, np.arange(len(users)), stop - 1, asof)


def make_batch(
    data: Examples,
    facts: ItemFacts,
    start: np.ndarray,
    stop: np.ndarray,
    row: np.ndarray,
    last: np.ndarray,
    asof: np.ndarray,
) -> Batch:
    """Windows `start:stop` [B] of the run of events, with moments (window, last event, day) [N]."""
    place = np.arange((stop - start).max(initial=1))
    index = np.minimum(start[:, None] + place, stop[:, None] - 1)
    # A user's earliest event in a window still has its own gap: the pause before it is known.
    fields = {
        "item": data.events.item[index],
        "kind": data.events.kind[index],
        "gap": data.gap[index],
        "day": data.day[index],
        "row": row,
        "place": last - start[row],
        "asof": asof,
        "snapshot": facts.snapshot(asof),
    }
    tensors = {name: torch.from_numpy(value) for name, value in fields.items()}
    return Batch(**tensors, runs=runs(fields["snapshot"], asof, facts.first_day))


def runs(snapshot: np.ndarray, asof: np.ndarray, first_day: np.ndarray) -> tuple[Run, ...]:
    """Neighbouring moments of one snapshot, with the items that came while they lasted."""
    starts = np.flatnonzero(np.diff(snapshot, prepend=-1))
    found = []
    for start, stop in zip(starts, np.append(starts[1:], len(snapshot)), strict=True):
        early, until = asof[start:stop].min(), asof[start:stop].max()
        late = np.flatnonzero((first_day >= early) & (first_day < until))
        found.append(
            Run(int(start), int(stop), int(snapshot[start]), int(until), torch.from_numpy(late))
        )
    return tuple(found)


def _within(count: np.ndarray) -> np.ndarray:
    """0, 1, .. count[0] - 1, 0, 1, .. count[1] - 1, ..."""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)


def stats_from_events(
    inputs: Events, targets: Events, days: np.ndarray, first_day: np.ndarray
) -> np.ndarray:
    """Popularity of each item at the beginning of each of `days`, from events alone.

    log(1 + target events of the last 7, 28 and all days), log(1 + input events of the last 7 days),
    log(1 + days in the catalogue), and 1 while nobody has met the item, lest it be taken for one
    that nobody wants: float32 [days, items, 6].
    """
    columns = []
    for events, window in ((targets, 7), (targets, 28), (targets, None), (inputs, 7)):
        counted = [
            np.bincount(
                events.between(None if window is None else day - window, day).item,
                minlength=len(events.items),
            )
            for day in days
        ]
        columns.append(np.stack(counted))
    columns.append(np.maximum(days[:, None] - first_day[None], 0))
    first_met = np.full(len(inputs.items), np.iinfo(np.int64).max)
    np.minimum.at(first_met, inputs.item, inputs.day)
    known = np.log1p(np.stack(columns, axis=-1))
    unmet = first_met[None] >= days[:, None]
    return np.concatenate([known, unmet[:, :, None]], axis=-1).astype(np.float32)


__all__ = ["DAY", "Examples", "ItemFacts", "Moments"]
