"""Events as arrays: what every recommender and baseline here reads.

Users and items become numbers (their place in the sorted list of ids), time becomes seconds and
days since 1970, and all events lie in one run ordered by user and time. No row loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DAY = 86_400


@dataclass(frozen=True)
class Events:
    """n events ordered by user, time, kind, item; numbers refer to `users`, `items`, `kinds`."""

    users: pa.Array
    items: pa.Array
    kinds: tuple[str, ...]
    user: np.ndarray
    """int64 [n]"""
    item: np.ndarray
    """int64 [n]"""
    kind: np.ndarray
    """int64 [n]"""
    time: np.ndarray
    """int64 [n], seconds since 1970 UTC"""

    @property
    def day(self) -> np.ndarray:
        """Days since 1970 UTC, int64 [n]."""
        return self.time // DAY

    @property
    def offsets(self) -> np.ndarray:
        """Events of user u are `offsets[u]:offsets[u + 1]`; int64 [users + 1]."""
        return np.searchsorted(self.user, np.arange(len(self.users) + 1))

    def where(self, mask: np.ndarray) -> Events:
        """The events where `mask` is true, with the same users and items."""
        return replace(
            self,
            user=self.user[mask],
            item=self.item[mask],
            kind=self.kind[mask],
            time=self.time[mask],
        )

    def between(self, start_day: int | None, end_day: int) -> Events:
        """The events of days in [start_day, end_day)."""
        mask = self.time < end_day * DAY
        if start_day is not None:
            mask &= self.time >= start_day * DAY
        return self.where(mask)

    def of_kinds(self, names: Sequence[str]) -> Events:
        """The events of these types."""
        wanted = [i for i, name in enumerate(self.kinds) if name in names]
        return self.where(np.isin(self.kind, wanted))


def from_arrow(events: pa.Table, users: pa.Array, items: pa.Array, kinds: Sequence[str]) -> Events:
    """Events (user_id, item_id, event_type, event_ts) of known users, items and kinds as arrays.

    `users` and `items` are distinct ids in ascending order. Rows without a user or an item, or of
    another kind, are left out: a guest has no history to learn from.
    """
    kind_names = tuple(sorted(kinds))
    codes = [
        pc.index_in(events["user_id"].cast(pa.string()), users),
        pc.index_in(events["item_id"].cast(pa.string()), items),
        pc.index_in(events["event_type"].cast(pa.string()), pa.array(kind_names, pa.string())),
    ]
    user, item, kind = (pc.fill_null(code, -1).to_numpy().astype(np.int64) for code in codes)
    time = events["event_ts"].cast(pa.timestamp("s"), safe=False).cast(pa.int64()).to_numpy()
    keep = (user >= 0) & (item >= 0) & (kind >= 0)
    user, item, kind, time = user[keep], item[keep], kind[keep], time[keep]
    order = np.lexsort((item, kind, time, user))
    return Events(users, items, kind_names, user[order], item[order], kind[order], time[order])


def sorted_ids(*columns: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The distinct ids of the columns in ascending order; NULL is no id."""
    chunks = [c for column in columns for c in _chunks(column.cast(pa.string()))]
    ids = pc.drop_null(pc.unique(pa.chunked_array(chunks, pa.string())))
    return ids.take(pc.sort_indices(ids))


def _chunks(column: pa.ChunkedArray | pa.Array) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def distinct_pairs(user: np.ndarray, item: np.ndarray, n_items: int) -> np.ndarray:
    """The distinct (user, item) of events, in that order: int64 [m, 2]."""
    key = np.unique(user * n_items + item)
    return np.stack([key // n_items, key % n_items], axis=1)


def vectors(table: pa.Table, ids: pa.Array, key: str, column: str) -> np.ndarray:
    """A list column aligned to `ids`: float32 [len(ids), d], zeros where there is none.

    `key` must be unique in the table; a ValueError says so when it is not.
    """
    lists = table[column].combine_chunks()
    present = table.filter(pc.is_valid(lists))
    position = pc.fill_null(pc.index_in(present[key].cast(pa.string()), ids), -1).to_numpy()
    if len(np.unique(position[position >= 0])) < (position >= 0).sum():
        raise ValueError(f"{key} occurs more than once; give one row per {key}")
    flat = pc.list_flatten(present[column]).to_numpy().astype(np.float32)
    width = len(flat) // max(present.num_rows, 1)
    result = np.zeros((len(ids), width), np.float32)
    result[position[position >= 0]] = flat.reshape(-1, width)[position >= 0] if width else 0
    return result
