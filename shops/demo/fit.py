"""How near the demo shop comes to Online Retail II: four curves of each, and their distances.

A wholesaler over two years and a shop of 180 days are compared where both can be seen: every new
customer for the 120 days from the first order on, and the sales of 180 days. In Online Retail a
customer is new who has not ordered in the 365 days that the data goes back before; in the demo shop
everybody is. Orders of one customer on one day count as one.

`fit.csv` keeps the curves; `python benchmarks/simulator.py --fit` looks for better `Habits`.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shops.demo.life import HABITS, Habits
from shops.demo.simulate import SCALES, Scale, World

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]
Curves = dict[str, Floats]

TABLE = Path(__file__).with_name("fit.csv")
WATCHED = 120  # days from a customer's first order
SALES = 180  # days of sales in which items are counted
NEW = 60  # of the demo shop's days may bring a first order, so that all are watched to the end
MONTH = 30
KNOWN = 365  # days before which Online Retail's customers are not told from earlier ones
OR_START = "2009-12-01"
MOST_ORDERS = 20


def curves(customer: Ints, day: Ints, lines: Ints, first: int, last: int) -> Curves:
    """The four curves.

    `customer` and `day` are of orders, from the data's beginning; new customers are those whose
    first order lies on the days `first` to `last`. `lines` is how often each item was sold.
    """
    customer, day = np.unique(np.stack([customer, day]), axis=1)
    begins = np.full(customer.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(begins, customer, day)
    age = day - begins[customer]
    chosen = (begins[customer] >= first) & (begins[customer] <= last) & (age < WATCHED)
    customer, age = customer[chosen], age[chosen]
    orders = np.bincount(customer)
    orders = orders[orders > 0]
    month = np.unique(np.stack([age // MONTH, customer]), axis=1)[0]
    gaps = np.diff(age)[customer[1:] == customer[:-1]]
    ranked = np.sort(lines[lines > 0])[::-1]
    part = np.arange(1, len(ranked) + 1) / len(ranked)
    percent = np.arange(1, 101) / 100
    return {
        # of the new customers, those who order again in the nth month after the first order
        "retention": np.bincount(month, minlength=WATCHED // MONTH)[1:] / len(orders),
        # those who order at most n times
        "orders": _up_to(orders, MOST_ORDERS),
        # of the pauses between two orders, those of at most n days
        "gaps": _up_to(gaps, WATCHED - 1),
        # of the sales, those of the n percent of items sold most
        "popularity": np.interp(percent, part, np.cumsum(ranked) / ranked.sum()),
    }


def _up_to(values: Ints, most: int) -> Floats:
    """The share of values that are at most 1, 2, ... `most`."""
    return np.searchsorted(np.sort(values), np.arange(1, most + 1), side="right") / len(values)


def distances(one: Curves, other: Curves) -> dict[str, float]:
    """The largest gap between two curves; of distributions, that is Kolmogorov and Smirnov's."""
    return {name: float(np.abs(one[name] - other[name]).max()) for name in one}


def demo_curves(habits: Habits = HABITS, scale: Scale = SCALES["default"]) -> Curves:
    """The curves of the demo shop's first 180 days, before anything is spoilt on the way."""
    world = World(scale, habits=habits)
    customer, day, item = [], [], []
    for number in range(SALES):
        events = world.day(number).events
        paid = events.filter(pc.equal(events["action"].cast(pa.string()), "paid"))
        who = numbers(paid["customer"].drop_null())  # without guests
        customer.append(who)
        day.append(np.full(len(who), number))
        item.append(numbers(paid["sku"]))
    lines = np.bincount(np.concatenate(item))
    return curves(np.concatenate(customer), np.concatenate(day), lines, first=0, last=NEW - 1)


def numbers(names: pa.ChunkedArray) -> Ints:
    """Those of customers or items, from names like C000123."""
    return pc.utf8_slice_codeunits(names.cast(pa.string()), 1).cast(pa.int64()).to_numpy()


def online_retail_curves(folder: Path) -> Curves:
    """The curves of Online Retail II from its two parquet files, by the rules of that shop."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        connection.execute("CREATE SCHEMA raw")
        files = sorted(str(path) for path in folder.glob("*.parquet"))
        connection.execute(
            "CREATE VIEW raw.sales AS SELECT *, filename AS _file, file_row_number AS _row FROM "
            f"read_parquet({files}, union_by_name = true, filename = true, file_row_number = true)"
        )
        rules = (TABLE.parent.parent / "online_retail" / "events.sql").read_text()
        connection.execute(
            f"CREATE TABLE sale AS SELECT user_id, item_id, event_ts::DATE - DATE '{OR_START}' AS "
            f"day FROM ({rules}) WHERE _exclude IS NULL AND event_type = 'purchase'"
        )
        orders = connection.execute(
            "SELECT user_id::BIGINT AS customer, day FROM sale WHERE user_id IS NOT NULL "
            "GROUP BY ALL"
        ).fetchnumpy()
        lines = connection.execute(
            "SELECT count(*) AS lines FROM sale WHERE day >= $first AND day < $first + $days "
            "GROUP BY item_id",
            {"first": KNOWN, "days": SALES},
        ).fetchnumpy()
    last = int(orders["day"].max()) - WATCHED + 1
    columns = [np.asarray(column) for column in (orders["customer"], orders["day"], lines["lines"])]
    return curves(*columns, first=KNOWN, last=last)


def read_table() -> dict[str, Curves]:
    """The committed curves, by shop."""
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    return {
        shop: {
            name: np.array([float(row[shop]) for row in rows if row["curve"] == name])
            for name in dict.fromkeys(row["curve"] for row in rows)
        }
        for shop in ("online_retail", "demo")
    }


def write_table(online_retail: Curves, demo: Curves) -> None:
    """Keep the curves of both shops."""
    with TABLE.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["curve", "n", "online_retail", "demo"])
        for name in online_retail:
            pairs = zip(online_retail[name], demo[name], strict=True)
            out.writerows(
                [name, n, f"{left:.4f}", f"{right:.4f}"] for n, (left, right) in enumerate(pairs, 1)
            )
