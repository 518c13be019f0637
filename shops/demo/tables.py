"""The simulated shop's own tables: which columns its tracker, till and desks write, and how.

Events arrive as blocks of columns, one block per action, and leave as one table in the order of
time. Text columns are codes into a dictionary of the day's own words, so that a table is as large
as its day whatever the shop has seen before.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Columns = dict[str, Any]

START = date(2026, 1, 1)
ZONE = ZoneInfo("Europe/Berlin")

_TEXT, _NUMBER = pa.string(), pa.int64()
CATALOGUE = pa.schema(
    {
        "sku": _TEXT, "name": _TEXT, "text": _TEXT, "department": _TEXT, "kind": _TEXT,
        "maker": _TEXT, "price_eur": _TEXT, "changed_at": _TEXT,
    }
)  # fmt: skip
REVIEWS = pa.schema(
    {
        "review_no": _NUMBER, "written_at": _TEXT, "customer": _TEXT, "sku": _TEXT,
        "stars": _NUMBER, "words": _TEXT,
    }
)  # fmt: skip
MESSAGES = pa.schema(
    {
        "ticket": _NUMBER, "part": _NUMBER, "sent_at": _TEXT, "customer": _TEXT, "from": _TEXT,
        "sku": _TEXT, "order_no": _NUMBER, "body": _TEXT,
    }
)  # fmt: skip

ACTIONS = (
    "page_view", "item_click", "search", "basket_add", "basket_remove", "checkout_start", "paid",
    "returned", "list_shown",
)  # fmt: skip
VIEW, CLICK, SEARCH, ADD, REMOVE, CHECKOUT, PAID, RETURNED, SHOWN = range(len(ACTIONS))
SOURCES = ("direct", "search", "mail", "social", "ads")
COUNTRIES = ("DE", "AT", "CH", "NL", "FR")
DEVICES = ("mobile", "desktop", "tablet")

# The columns of an event, and what one holds where an action has nothing to say in it.
COLUMNS: dict[str, np.generic] = {
    "visit": np.int32(-1), "step": np.float64(0), "stay": np.int32(0), "user": np.int32(-1),
    "action": np.int32(-1), "item": np.int32(-1), "order": np.int64(-1), "quantity": np.int32(-1),
    "cents": np.int64(-1), "dwell": np.int32(-1), "query": np.int32(-1), "slot": np.int32(-1),
    "propensity": np.float64(0), "arm": np.int32(-1), "in_stock": np.int32(-1),
}  # fmt: skip


def block(action: int, rows: Columns, stay: Ints, **more: Any) -> Columns:
    """Events of one action; `stay` is how long until the visit goes on, in milliseconds."""
    return rows | {"action": np.full(len(stay), action, np.int32), "stay": stay} | more


def stack(blocks: list[Columns]) -> Columns:
    """Blocks with different columns as one with all columns."""
    size = sum(len(each["action"]) for each in blocks)
    rows = {name: np.full(size, empty) for name, empty in COLUMNS.items()}
    at = 0
    for each in blocks:
        until = at + len(each["action"])
        for name in COLUMNS.keys() & each.keys():
            rows[name][at:until] = each[name]
        at = until
    return rows


def in_time(visit: Ints, step: Any, stay: Ints, begins: Ints) -> tuple[Ints, Ints]:
    """The order in which the events of visits happen, and when each of them starts.

    An event starts when what came before it in the visit is over.
    """
    order = np.argsort(visit * 65_536.0 + step)  # no two events of a visit have the same step
    visit, stay = visit[order], stay[order].astype(np.int64)
    before = np.cumsum(stay) - stay
    first = np.flatnonzero(np.diff(visit, prepend=-1))
    length = np.diff(first, append=len(visit))
    return order, np.repeat(begins[visit[first]] - before[first], length) + before


def latest_first_ms(day: int) -> int:
    """The last millisecond of the day in UTC, counted from the shop's midnight."""
    utc = datetime.combine(START + timedelta(day + 1), datetime.min.time(), ZoneInfo("UTC"))
    return int(utc.timestamp()) * 1000 - midnight_ms(day) - 1


def or_null(values: Ints) -> pa.Array:
    """Whole numbers; NULL for those below zero."""
    return pa.array(values.astype(np.int64), mask=values < 0)


def coded(codes: Ints, names: Any) -> pa.Array:
    """Strings by their code, NULL for a code below zero; only those in use are kept."""
    missing = codes < 0
    in_use = np.zeros(len(names), dtype=bool)
    in_use[codes[~missing]] = True
    kept = np.flatnonzero(in_use)
    new_code = np.zeros(len(names), dtype=np.int32)
    new_code[kept] = np.arange(len(kept))
    return pa.DictionaryArray.from_arrays(
        pa.array(new_code[codes], mask=missing), pa.array(np.asarray(names)[kept], pa.string())
    )


def midnight_ms(day: int) -> int:
    """Midnight in the shop's zone, as UTC milliseconds since 1970."""
    local = datetime.combine(START + timedelta(day), datetime.min.time(), ZONE)
    return int(local.timestamp()) * 1000


def local_time(day: int, ms: Ints) -> list[str]:
    """ISO local times with their offset, as in `2026-03-29T05:00:00+02:00`."""
    noon = datetime.combine(START + timedelta(day), datetime.min.time(), ZONE).replace(hour=12)
    offset = noon.utcoffset() or timedelta(0)
    utc = np.array(midnight_ms(day) + ms, dtype="datetime64[ms]")
    local = (utc + np.timedelta64(offset)).astype("datetime64[s]")
    sign = noon.isoformat()[19:]
    return np.char.add(np.datetime_as_string(local), sign).tolist()
