"""How near the lists come to what the simulated shoppers truly like, which no shop could know.

The demo shop's simulator gives every shopper a taste and every item a place among tastes; their
product, the match, is about N(0, 1) for items at random and decides with price and need what is
opened. Asked is the mean match of the first ten items of a list.
"""

from __future__ import annotations

import numpy as np

from benchmarks.lib.page import table
from core.duck import connect
from core.paths import Paths
from ingest.pseudonym import load_key, pseudonyms

FIRST = 10


def closeness(paths: Paths) -> str:
    """A table of the published lists, the popular items, and the best there are."""
    users, taste, items, vectors, lists = _truth_and_lists(paths)
    match = taste @ vectors.T
    counts = np.bincount(lists[lists >= 0], minlength=len(items))
    popular = np.argsort(-counts, kind="stable")[:FIRST]
    best = -np.sort(-match, axis=1)[:, :FIRST]
    listed = np.take_along_axis(match, np.maximum(lists, 0), axis=1)
    rows = {
        "items at random": match.mean(axis=1),
        "the ten items that are on most lists": match[:, popular].mean(axis=1),
        "the published lists": np.where(lists >= 0, listed, 0).sum(1) / (lists >= 0).sum(1),
        "the ten items that match best": best.mean(axis=1),
    }
    top, bottom = rows["the ten items that match best"].mean(), match.mean()
    body = [
        [name, _with_interval(each), f"{(each.mean() - bottom) / (top - bottom) + 0.0:.0%}"]
        for name, each in rows.items()
    ]
    return (
        f"The match of {len(users):,} shoppers' true tastes of that night with ten items, by the "
        "simulator's own numbers (items at random are 0 %, the best ten 100 %). Price, need and "
        "repeats decide beside taste what is bought, so the best match is no aim, but a ruler:\n\n"
        + table(["", "mean match", "of the way"], body)
    )


def _truth_and_lists(
    paths: Paths,
) -> tuple[list[str], np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Users with a list of the model, their tastes, items, their places, and lists [users, 10]."""
    with connect(paths.marts, read_only=True) as marts:
        users = f"read_parquet('{paths.raw}/truth/users.parquet')"
        marts.execute(f"CREATE TEMP TABLE known AS SELECT * FROM {users}")
        names = [name for (name,) in marts.execute("SELECT customer FROM known").fetchall()]
        who = pseudonyms(load_key(paths), names)  # noqa: F841  DuckDB reads it by its name
        marts.execute("CREATE TEMP TABLE who AS SELECT * FROM who")
        shoppers = marts.execute(
            """
            WITH lists AS (
                SELECT user_id, any_value(night) AS night,
                    list(item_id ORDER BY rank) AS list
                FROM marts.recommendations
                WHERE rank <= ? AND model_version <> 'popularity'
                GROUP BY user_id
            )
            SELECT user_id, list, taste, later_taste, date_diff('day', arrived, night) AS days
            FROM lists JOIN who ON pseudonym = user_id JOIN known ON customer = identity
            ORDER BY user_id
            """,
            [FIRST],
        ).fetchnumpy()
        things = marts.execute(
            f"""
            SELECT sku, vector FROM read_parquet('{paths.raw}/truth/items.parquet')
            JOIN marts.dim_items ON item_id = sku AND is_catalogued ORDER BY sku
            """
        ).fetchnumpy()
    items = list(things["sku"])
    number = {sku: place for place, sku in enumerate(items)}
    lists = np.full((len(shoppers["user_id"]), FIRST), -1)
    for row, each in enumerate(shoppers["list"]):
        lists[row, : len(each)] = [number.get(sku, -1) for sku in each]
    # as the simulator turns a taste towards the later one (shops/demo/simulate.py, `_taste`)
    angle = 1.2 * np.minimum(shoppers["days"] / 240, 1)[:, None]
    taste = np.cos(angle) * np.stack(shoppers["taste"]) + np.sin(angle) * np.stack(
        shoppers["later_taste"]
    )
    return list(shoppers["user_id"]), taste, items, np.stack(things["vector"]), lists


def _with_interval(values: np.ndarray) -> str:
    return f"{values.mean():.3f} ± {1.96 * values.std(ddof=1) / len(values) ** 0.5:.3f}"
