"""What is true about the simulated shop after its last day, for tests and benchmarks only.

Tastes, sensitivities, the day of leaving, what the next 90 days bring: nothing of it is in the
shop's files, and no part of the platform reads it. The spend of the next 90 days is told twice: as
it comes to pass (the world lives on, unwritten) and as it was to be expected, by the odds on the
last night. The expectation follows each shopper's mean: pages are drawn from the shop as it stands,
and the chances of leaving, coming back and being sated move on day by day. What is left out of it:
the scatter of moods, prices and items to come.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shops.demo import life, words
from shops.demo.life import EXPERIMENT
from shops.demo.simulate import HERE, SEED, START, Visits, World

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

HORIZON = 90  # days
DRAWN = 24  # visits of each shopper, from which the worth of a visit is known
CHUNK = 2_000  # shoppers at a time
PAYS = 0.88**2  # a line is not taken out of the basket, and the payment goes through
OUTLOOK = 9  # purpose of a generator, beside those of simulate.py


def tables(world: World, last: int) -> dict[str, pa.Table]:
    """The truth by name, `last` being the last day; lets the world live on for HORIZON days."""
    expected, before = expected_spend(world, last), world.users.spent.copy()
    found = {"users": _users(world), "items": _items(world), "experiment": _experiment(world)}
    for day in range(last + 1, last + 1 + HORIZON):
        world.let_pass(day)
    spent = world.users.spent[: len(before)] - before
    users = found["users"].append_column("expected_spend_90d", pa.array(expected.round(2)))
    return found | {"users": users.append_column("spend_90d", pa.array(spent / 100))}


def _users(world: World) -> pa.Table:
    users = world.users
    left = pa.array(_dates(users.left), mask=users.left == HERE)
    columns = {
        "customer": users.name, "persona": users.persona, "taste": list(users.taste),
        "later_taste": list(users.later_taste), "price_level": users.price_level,
        "cares_price": users.cares[:, 0], "cares_delivery": users.cares[:, 1],
        "cares_service": users.cares[:, 2], "visits_a_day": users.rate, "stay_days": users.stay,
        "arrived": _dates(users.arrived), "left": left, "mood": users.mood.copy(),
        "orders": users.orders.astype(np.int64), "bot": users.bot,
        "arm": np.array(life.ARMS, object)[users.treated.astype(int)],
        "tested": users.tested.copy(),
    }  # fmt: skip
    return pa.table(columns)


def _items(world: World) -> pa.Table:
    """`wanted` is the true demand: pieces put into baskets, or missed while out of stock."""
    items = world.items
    chosen = ("sku", "quality", "dearness", "wanted", "missed", "sold")
    columns = {name: getattr(items, name).copy() for name in chosen}
    return pa.table(columns | {"vector": list(items.vector), "arrived": _dates(items.arrived)})


def _experiment(world: World) -> pa.Table:
    """One row: the test, and what its treatment truly does from a shopper's first list on."""
    told = {field.name: getattr(EXPERIMENT, field.name) for field in fields(EXPERIMENT)}
    for name in ("first_day", "last_day"):
        told[name] = _dates(np.array(told[name])).item()
    tested, treated = world.users.tested, world.users.treated
    told["tested_control"] = int((tested & ~treated).sum())
    told["tested_treatment"] = int((tested & treated).sum())
    return pa.Table.from_pylist([told])


def _dates(day: Ints) -> NDArray[np.datetime64]:
    return np.datetime64(START) + np.minimum(day, 100_000)


# -- what is to be expected ------------------------------------------------------------------------


def expected_spend(world: World, last: int) -> Floats:
    """Euros that each shopper is expected to spend in the HORIZON days after `last`."""
    users = world.users
    shoppers = np.concatenate([world.present, world.away])
    shoppers = shoppers[~users.bot[shoppers]]
    spend = np.zeros(len(users.name))
    rng = np.random.default_rng([SEED, OUTLOOK, last])
    for begin in range(0, len(shoppers), CHUNK):
        chunk = shoppers[begin : begin + CHUNK]
        spend[chunk] = _follow(world, chunk, last, *_worth(world, rng, chunk, last))
    return spend


def _worth(
    world: World, rng: np.random.Generator, shopper: Ints, last: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Of a visit that pays: its cents, its odds of a basket, its change of mood, its refills."""
    user = np.repeat(shopper, DRAWN)
    size, nothing = len(user), np.zeros(len(user), dtype=np.int64)
    favourite = world.users.favourites[user, rng.integers(4, size=size)]
    anything = rng.integers(len(words.KINDS), size=size)
    mission = np.where(rng.random(size) < 0.8, favourite, anything)
    mission = np.where(rng.random(size) < 0.5, world.users.mission[user], mission)
    visits = Visits(
        user, nothing > 0, np.full(size, -np.inf), nothing, nothing, nothing - 1, nothing > 0,
        world._taste(user, last + HORIZON // 2),
    )  # fmt: skip
    views = world._views(rng, last, visits, mission)
    item, owner = views["item"], views["visit"] // DRAWN
    odds = 1 / (1 + np.exp(-world._longing(rng, visits, views)))
    odds = odds * (world.items.back[item] <= last)
    consumed = np.array([kind.consumed for kind in words.KINDS])[world.items.kind[item]]
    cents = world.items.cents[item] * np.where(consumed, 1.6, 1.12)
    dear = np.maximum(world.items.dearness[item] - world.users.price_level[shopper][owner], 0)
    cares = world.users.cares[shopper][owner]
    felt = (
        (0.08 * life.LATE + 0.03 * life.BROKEN) * cares[:, 1]
        + life.DEAR * dear * cares[:, 0] + life.TASTE * (views["match"] - 1.7)
    )  # fmt: skip

    def a_visit(each_page: Floats) -> Floats:
        return np.bincount(owner, each_page, minlength=len(shopper)) / DRAWN

    empty = np.exp(np.bincount(views["visit"], np.log1p(-odds * 0.88), minlength=size))
    basket = (1 - empty).reshape(-1, DRAWN).mean(axis=1)
    return (
        a_visit(odds * cents) * PAYS, basket * 0.88, a_visit(odds * felt) * PAYS,
        a_visit(odds * consumed * cents) * PAYS,
    )  # fmt: skip


def _follow(
    world: World, shopper: Ints, last: int, cents: Floats, basket: Floats, felt: Floats,
    refills: Floats,
) -> Floats:  # fmt: skip
    """Let the means of presence, mood and satiation move on for HORIZON days; euros spent."""
    users, habits = world.users, world.habits
    here = (users.left[shopper] == HERE).astype(float)
    # Who is away weighs the less the longer ago; what leaves on the way joins them.
    away = (1 - here) * np.exp(-np.maximum(last + 1 - users.left[shopper], 0) / life.FORGETS)
    mood, orders = users.mood[shopper].copy(), users.orders[shopper].copy()
    fresh = np.exp(-(last + 1 - users.last_order[shopper]) / habits.rest)
    visits = users.rate[shopper] * np.where(users.weekend[shopper], 6.0, 8.7) / 7
    spend, again = np.zeros(len(shopper)), np.zeros((HORIZON, len(shopper)))
    treated = users.tested[shopper] & users.treated[shopper]
    for ahead in range(HORIZON):
        effect = treated & (last + 1 + ahead <= EXPERIMENT.last_day)
        gone = here * life.leaving(
            users.stay[shopper], mood, orders, np.where(effect, EXPERIMENT.log_hazard, 0)
        )
        back = np.minimum(away * life.returning(np.zeros(1), mood), 1)
        here = np.clip(here - gone + back, 0, 1)
        away = (away - back + gone) * np.exp(-1 / life.FORGETS)
        keen = life.keenness(habits, fresh, np.where(effect, EXPERIMENT.log_odds, 0))
        came = (visits * here + back) * keen
        today = came * cents
        if ahead >= 28:  # what was used up is bought again in a visit of its own
            today = today + 0.7 * keen * here * again[ahead - 28]
        again[ahead] = came * refills
        spend += today
        mood = np.clip(mood * life.FADES + came * felt, life.WORST, life.BEST)
        chance = np.minimum(came * basket, 1)
        orders += chance
        fresh = (fresh + (1 - fresh) * chance) * np.exp(-1 / habits.rest)
    return spend / 100
