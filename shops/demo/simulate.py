"""The simulated shop: who comes, what they want, what they do. Day by day, from one seed.

A shopper has a taste (a direction in a space in which every attribute of an item has a place), a
price level, habits of hour and weekday, a mission (the kind of product wanted now, which moves on
to what goes with it once bought) and a lifetime. Every day draws from its own generator, keyed by
seed and day; what a day leaves for later ones (missions, refunds to come) is the state of `World`.
So the days up to a night are the same whatever night is simulated.

All work is done on whole arrays, one day at a time. Nothing here is a forecast of a real shop: the
numbers are chosen so that habits, tastes and returns can be found again in the data.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from numpy.random import Generator
from numpy.typing import NDArray

from shops.demo import words

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]
Columns = dict[str, Any]
T = TypeVar("T", "Users", "Items")

START = date(2026, 1, 1)
ZONE = ZoneInfo("Europe/Berlin")
SEED = 7

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

DIMENSIONS = 16  # of the space of tastes
PERSONAS = 12  # groups of shoppers with similar tastes
CANDIDATES = 16  # items a shopper looks over before opening one
SLOTS = 6  # items in a list of recommendations

# What a generator is for: it is keyed by (seed, purpose, day).
WORLD, DAY, FAULTS, FORMS = range(4)

ACTIONS = (
    "page_view", "item_click", "search", "basket_add", "basket_remove", "checkout_start", "paid",
    "returned", "list_shown",
)  # fmt: skip
VIEW, CLICK, SEARCH, ADD, REMOVE, CHECKOUT, PAID, RETURNED, SHOWN = range(len(ACTIONS))
SOURCES = ("direct", "search", "mail", "social", "ads")
COUNTRIES = ("DE", "AT", "CH", "NL", "FR")
DEVICES = ("mobile", "desktop", "tablet")


@dataclass(frozen=True)
class Scale:
    """How many shoppers and items there have been after 180 days, about."""

    users: int
    items: int


SCALES = {
    "small": Scale(1_200, 300),
    "default": Scale(8_000, 1_500),
    "large": Scale(100_000, 10_000),
}


@dataclass
class Users:
    """One row per shopper, in the order of arrival."""

    name: words.Words
    taste: Floats  # (n, DIMENSIONS), length about 1
    later_taste: Floats  # where the taste drifts to
    price_level: Floats  # 0: buys at the usual price, +1: at about twice that
    rate: Floats  # visits a day
    arrived: Ints
    leaves: Floats
    weekend: Bools  # shops at the weekend rather than on workdays
    hour: Floats  # favourite hour of the day
    source: Ints
    country: Ints
    device: Ints
    favourites: Ints  # (n, 4) kinds
    mission: Ints  # the kind wanted now
    last_item: Ints  # viewed last, -1 before the first view


@dataclass
class Items:
    """One row per item, in the order of arrival."""

    sku: words.Words
    title: words.Words
    text: words.Words
    queries: words.Words  # (n, 4)
    maker: Ints
    vector: Floats  # (n, DIMENSIONS), about one unit of variance along any taste
    cents: Ints
    dearness: Floats  # log of the price over the usual one of its kind
    quality: Floats
    arrived: Ints
    kind: Ints
    colour: Ints
    material: Ints
    style: Ints
    use: Ints

    def attributes(self, index: Ints) -> words.Attributes:
        """The attributes of the items at `index`."""
        return words.Attributes(
            *(getattr(self, field.name)[index] for field in fields(words.Attributes))
        )


def _append(old: T, new: T) -> T:
    columns = {
        field.name: np.concatenate([getattr(old, field.name), getattr(new, field.name)])
        for field in fields(old)
    }
    return type(old)(**columns)


class Shelves:
    """Items in groups, to draw from with a weight: all draws of a day in one binary search."""

    def __init__(self, group: Ints, weight: Floats, groups: int) -> None:
        self.order = np.argsort(group, kind="stable")
        self.reach = np.concatenate([[0.0], np.cumsum(weight[self.order])])
        self.first = np.searchsorted(group[self.order], np.arange(groups + 1))
        self.weight, self.group = weight, group

    def draw(self, group: Ints, dice: Floats) -> Ints:
        """An item of each `group`; `dice` in [0, 1) of the same shape decides which."""
        low, high = self.reach[self.first[group]], self.reach[self.first[group + 1]]
        at = np.searchsorted(self.reach, low + dice * (high - low), side="right") - 1
        return self.order[np.clip(at, self.first[group], self.first[group + 1] - 1)]

    def probability(self, item: Ints) -> Floats:
        """With which `draw` finds the item in its group."""
        group = self.group[item]
        total = self.reach[self.first[group + 1]] - self.reach[self.first[group]]
        return self.weight[item] / total


@dataclass
class Visits:
    """One row per visit of a day."""

    user: Ints  # for a guest: a shopper of the same taste
    guest: Bools
    start: Ints  # milliseconds since midnight in the shop's zone
    source: Ints
    refill: Ints  # the item to buy again, or -1

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Day:
    """What a day brings, as the shop writes it down; an empty table when there is nothing."""

    events: pa.Table
    catalogue: pa.Table
    reviews: pa.Table
    messages: pa.Table


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def _unit(x: Floats) -> Floats:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _pair(left: Ints, right: Ints) -> Ints:
    """One number for two; `right` below a thousand million."""
    return left * 1_000_000_000 + right


def _pick(rng: Generator, shares: list[float], size: int) -> Ints:
    return np.searchsorted(np.cumsum(shares)[:-1], rng.random(size), side="right")


class World:
    """The shop and its shoppers; `day` must be called for day 0, 1, 2, ... in turn."""

    def __init__(self, scale: Scale, seed: int = SEED) -> None:
        self.scale, self.seed = scale, seed
        rng = np.random.default_rng([seed, WORLD, 0])
        self.places = _attribute_places(rng)
        self.personas = _unit(rng.normal(size=(PERSONAS, DIMENSIONS)))
        # Which kinds a persona likes: a few of them strongly.
        self.kind_taste = rng.gumbel(size=(PERSONAS, len(words.KINDS))) * 1.2
        self.users: Users  # from day 0 on
        self.items: Items
        self.owned = np.zeros(0, dtype=np.int64)  # pairs of shopper and lasting thing bought
        # What happens on a later day because of an earlier one, by day.
        self.refills: dict[int, list[Columns]] = defaultdict(list)
        self.returns: dict[int, list[Columns]] = defaultdict(list)
        self.opinions: dict[int, list[Columns]] = defaultdict(list)
        self.troubles: dict[int, list[Columns]] = defaultdict(list)

    # -- a day -------------------------------------------------------------------------------------

    def day(self, day: int) -> Day:
        """Everything that happens on one day; changes the state."""
        rng = np.random.default_rng([self.seed, DAY, day])
        catalogue = self._renew_catalogue(rng, day)
        self._arrive(rng, day)
        visits = self._visits(rng, day)
        events = [*self._events(rng, day, visits), self._returned(rng, day)]
        return Day(
            self._event_table(day, visits, events),
            catalogue,
            self._review_table(rng, day),
            self._message_table(rng, day),
        )

    # -- items -------------------------------------------------------------------------------------

    def _renew_catalogue(self, rng: Generator, day: int) -> pa.Table:
        """New items, new prices and rewritten texts: on the first day, Mondays and Thursdays."""
        if day == 0:
            changed = self._new_items(rng, day, int(self.scale.items * 0.6))
        elif (START + timedelta(day)).weekday() in (0, 3):
            new = self._new_items(rng, day, rng.poisson(self.scale.items * 0.4 / 180 * 3.5))
            old = np.arange(new[0] if len(new) else len(self.items.sku))
            repriced = old[rng.random(len(old)) < 0.01]
            factor = rng.uniform(0.8, 1.2, len(repriced))
            cents = (self.items.cents[repriced] * factor / 10).astype(np.int64) * 10
            self.items.cents[repriced] = np.maximum(cents, 100)
            rewritten = old[rng.random(len(old)) < 0.002]
            self.items.text[rewritten] += " Now with better packaging."
            changed = np.union1d(np.union1d(repriced, rewritten), new)
        else:
            changed = np.zeros(0, dtype=np.int64)
        return self._catalogue_table(day, changed)

    def _new_items(self, rng: Generator, day: int, count: int) -> Ints:
        """Add items and return their indices."""
        known = len(self.items.sku) if day else 0
        kind = (known + rng.permutation(count)) % len(words.KINDS)  # every kind gets its share
        item = words.Attributes(
            kind=kind,
            colour=rng.integers(len(words.COLOURS), size=count),
            material=rng.integers(words.MATERIALS.shape[1], size=count),
            style=rng.integers(len(words.STYLES), size=count),
            use=rng.integers(len(words.USES), size=count),
        )
        usual = np.array([kind.price for kind in words.KINDS])[kind]
        dearness = rng.normal(0, 0.35, count)
        # A maker works in few styles, so the brand says something about taste, too.
        maker = (item.style * 2 + rng.integers(3, size=count)) % len(words.MAKERS)
        index = np.arange(known, known + count)
        new = Items(
            sku=np.char.mod("P%05d", index + 1).astype(object),
            title=words.titles(item),
            text=words.descriptions(item),
            queries=words.queries(item),
            maker=maker,
            vector=self._vectors(item),
            cents=(usual * np.exp(dearness) * 10).astype(np.int64) * 10 + 90,
            dearness=dearness,
            quality=rng.normal(size=count),
            arrived=np.full(count, day),
            **vars(item),
        )
        self.items = _append(self.items, new) if day else new
        return index

    def _vectors(self, item: words.Attributes) -> Floats:
        weights = {"style": 1.0, "colour": 0.9, "material": 0.7, "use": 0.6}
        total = sum(
            weight * self.places[name][getattr(item, name)] for name, weight in weights.items()
        )
        return (total / np.sqrt(sum(w**2 for w in weights.values()))).astype(np.float32)

    def _weights(self, day: int) -> Floats:
        """How much attention an item gets: its quality, and more while it is new."""
        age = day - self.items.arrived
        fresh = np.where(self.items.arrived > 0, 4 * np.exp(-age / 14), 0)
        return np.exp(0.8 * self.items.quality) * (1 + fresh)

    # -- shoppers ----------------------------------------------------------------------------------

    def _arrive(self, rng: Generator, day: int) -> None:
        """New shoppers: many when the shop opens, then a steady stream."""
        expected = self.scale.users * (0.75 / 180 + 0.25 * np.exp(-day / 12) / 12)
        count = int(rng.poisson(expected)) + (day == 0)
        known = len(self.users.name) if day else 0
        persona = rng.integers(PERSONAS, size=count)
        spread = rng.normal(size=(2, count, DIMENSIONS)) * 0.6 / np.sqrt(DIMENSIONS)
        wish = self.kind_taste[persona] + rng.gumbel(size=(count, len(words.KINDS)))
        favourites = np.argsort(-wish, axis=1)[:, :4]
        # Most look round for two weeks, some stay for months, a few for good.
        stay = np.array([14.0, 90.0, 500.0])[_pick(rng, [0.5, 0.32, 0.18], count)]
        new = Users(
            name=np.char.mod("C%06d", np.arange(known, known + count) + 1).astype(object),
            taste=_unit(self.personas[persona] + spread[0]).astype(np.float32),
            later_taste=_unit(self.personas[rng.integers(PERSONAS, size=count)] + spread[1]).astype(
                np.float32
            ),
            price_level=rng.normal(0, 0.35, count),
            rate=rng.gamma(1.5, 0.2, count),
            arrived=np.full(count, day),
            leaves=day + rng.exponential(stay),
            weekend=rng.random(count) < 0.4,
            hour=np.array([8.5, 12.7, 20.4])[_pick(rng, [0.2, 0.25, 0.55], count)],
            source=_pick(rng, [0.35, 0.25, 0.15, 0.15, 0.1], count),
            country=_pick(rng, [0.68, 0.12, 0.08, 0.07, 0.05], count),
            device=_pick(rng, [0.62, 0.32, 0.06], count),
            favourites=favourites,
            mission=favourites[:, 0],
            last_item=np.full(count, -1),
        )
        self.users = _append(self.users, new) if day else new

    def _visits(self, rng: Generator, day: int) -> Visits:
        """Who comes today: by habit, for the first time, to buy again, or as a guest."""
        users = self.users
        workday = (START + timedelta(day)).weekday() < 5
        habit = np.where(users.weekend == workday, 0.6, 1.5)
        present = (users.leaves > day) * users.rate * habit
        count = rng.poisson(present) + (users.arrived == day)
        regular = np.repeat(np.arange(len(count)), count)
        due = _concatenate(self.refills.pop(day, []), ["user", "item"])
        still = (users.leaves[due["user"]] > day) & (rng.random(len(due["user"])) < 0.8)
        guests = rng.choice(regular, size=rng.binomial(len(regular), 0.09))
        user = np.concatenate([regular, due["user"][still], guests])
        refill = np.full(len(user), -1)
        refill[len(regular) : len(regular) + still.sum()] = due["item"][still]
        hour = np.clip(rng.normal(users.hour[user], 1.6), 5, 23.2)
        source = np.where(
            rng.random(len(user)) < 0.7, users.source[user], rng.integers(5, size=len(user))
        )
        guest = np.arange(len(user)) >= len(user) - len(guests)
        return Visits(user, guest, (hour * 3_600_000).astype(np.int64), source, refill)

    def _taste(self, user: Ints, day: int) -> Floats:
        """(n, DIMENSIONS): today's taste, which turns slowly towards the later one."""
        angle = np.minimum((day - self.users.arrived[user]) / 240, 1)[:, None] * np.float32(1.2)
        return np.cos(angle) * self.users.taste[user] + np.sin(angle) * self.users.later_taste[user]

    def _match(self, user: Ints, item: Ints, day: int) -> Floats:
        """How well items suit shoppers, about N(0, 1) for items at random."""
        return np.einsum("nd,nd->n", self._taste(user, day), self.items.vector[item])

    # -- what a visit is made of -------------------------------------------------------------------

    def _events(self, rng: Generator, day: int, visits: Visits) -> list[Columns]:
        """All events of the day's visits, in blocks of one action each."""
        weights = self._weights(day)
        mission = self._missions(rng, visits)
        lists, list_views = self._recommendations(rng, day, visits, weights)
        views = self._views(rng, day, visits, mission, weights)
        searches = self._searches(rng, views)
        views = _concatenate([list_views, views], ["visit", "step", "item", "match", "back"])
        size = len(views["visit"])
        dwell = np.clip(np.exp(rng.normal(9.7 + 0.4 * views["match"], 0.8)), 900, 600_000)
        dwell = dwell.astype(np.int64)
        pages = _block(VIEW, views, stay=dwell + rng.integers(500, 2500, size), dwell=dwell)
        bought = self._basket(rng, day, visits, views)
        user = visits.user[~visits.guest]
        last = np.full(len(visits), -1)
        last[views["visit"]] = views["item"]
        self.users.last_item[user] = last[~visits.guest]
        return [*lists, *searches, pages, *bought]

    def _missions(self, rng: Generator, visits: Visits) -> Ints:
        """The kind each visit is about: mostly still the last one, else a favourite or any."""
        users, size = self.users, len(visits)
        favourite = users.favourites[visits.user, rng.integers(4, size=size)]
        anything = rng.integers(len(words.KINDS), size=size)
        moved = np.where(rng.random(size) < 0.8, favourite, anything)
        mission = np.where(rng.random(size) < 0.7, users.mission[visits.user], moved)
        mission = np.where(visits.refill >= 0, self.items.kind[visits.refill], mission)
        users.mission[visits.user[~visits.guest]] = mission[~visits.guest]
        return mission

    def _views(
        self, rng: Generator, day: int, visits: Visits, mission: Ints, weights: Floats
    ) -> Columns:
        """The items opened: of those looked over, the one that suits taste and purse best."""
        count = np.minimum(rng.geometric(0.26, len(visits)), 20)
        visit = np.repeat(np.arange(len(visits)), count)
        step = np.arange(len(visit)) - np.repeat(np.cumsum(count) - count, count)
        user, size = visits.user[visit], len(visit)
        aside = self.users.favourites[user, rng.integers(4, size=size)]
        kind = np.where(rng.random(size) < 0.2, aside, mission[visit])
        shelves = Shelves(self.items.kind, weights, len(words.KINDS))
        seen = shelves.draw(
            np.repeat(kind[:, None], CANDIDATES, axis=1), rng.random((size, CANDIDATES))
        )
        match = np.einsum("nd,ncd->nc", self._taste(user, day), self.items.vector[seen])
        purse = self.items.dearness[seen] - self.users.price_level[user][:, None]
        appeal = 1.6 * match - 1.5 * purse**2 + rng.gumbel(size=seen.shape)
        item = seen[np.arange(size), appeal.argmax(axis=1)]
        # The first page is often the last one of the visit before, or the item to buy again.
        last = np.where(visits.guest, -1, self.users.last_item[visits.user])[visit]
        back = (step == 0) & (last >= 0) & (rng.random(size) < 0.25)
        item = np.where(back, last, item)
        refill = (step == 0) & (visits.refill[visit] >= 0)
        item = np.where(refill, visits.refill[visit], item)
        return {
            "visit": visit,
            "step": step.astype(np.float64),
            "item": item,
            "match": self._match(user, item, day),
            "back": back + 3.0 * refill,
        }

    def _searches(self, rng: Generator, views: Columns) -> list[Columns]:
        """Some pages are found by a search for words of the item, and a click in its results."""
        size = len(views["visit"])
        chance = np.where(views["step"] == 0, 0.35, 0.08)
        found = (rng.random(size) < chance) & (views["back"] != 1)
        hit = {name: values[found] for name, values in views.items()}
        size = int(found.sum())
        query = hit["item"] * words.QUERIES + rng.integers(words.QUERIES, size=size)
        ask = {"visit": hit["visit"], "step": hit["step"] - 0.6, "query": query}
        click = {"visit": hit["visit"], "step": hit["step"] - 0.5, "item": hit["item"]}
        return [
            _block(SEARCH, ask, stay=rng.integers(3_000, 15_000, size)),
            _block(CLICK, click, stay=rng.integers(200, 900, size)),
        ]

    def _recommendations(
        self, rng: Generator, day: int, visits: Visits, weights: Floats
    ) -> tuple[list[Columns], Columns]:
        """Lists shown at the start of some visits, the clicks in them, and the pages they open.

        Slot s shows items whose number leaves s when divided by SLOTS, drawn half by attention and
        half evenly: no list shows an item twice, and the propensity is exact.
        """
        shown = np.flatnonzero(rng.random(len(visits)) < 0.2)
        slot = np.tile(np.arange(SLOTS), len(shown))
        visit = np.repeat(shown, SLOTS)
        group = np.arange(len(weights)) % SLOTS
        shelves = Shelves(group, weights / weights.sum() + 1 / len(weights), SLOTS)
        item = shelves.draw(slot, rng.random(len(slot)))
        match = self._match(visits.user[visit], item, day)
        step = slot / 100 - 20
        place = {"visit": visit, "step": step, "item": item}
        lists = _block(
            SHOWN, place, stay=np.full(len(slot), 600), slot=slot,
            propensity=np.round(shelves.probability(item), 6),
        )  # fmt: skip
        clicked = rng.random(len(slot)) < _sigmoid(-2.8 + 1.2 * match - 0.25 * slot)
        hit = {name: values[clicked] for name, values in place.items()}
        click = _block(CLICK, hit | {"step": hit["step"] + 10}, stay=np.full(clicked.sum(), 400))
        opened = hit | {"step": hit["step"] + 10.005, "match": match[clicked]}
        return [lists, click], opened | {"back": np.zeros(clicked.sum())}

    def _basket(self, rng: Generator, day: int, visits: Visits, views: Columns) -> list[Columns]:
        """From pages to baskets, checkouts and orders; what comes of the orders is set down."""
        # One line per item: the first page of it in the visit that could be added.
        pair = _pair(views["visit"], views["item"])
        first = np.zeros(len(pair), dtype=bool)
        first[np.unique(pair, return_index=True)[1]] = True
        # Some come to buy and others to look.
        mood = rng.normal(0, 1.4, len(visits))[views["visit"]]
        # Nobody needs the same lamp twice.
        owned = np.isin(_pair(visits.user[views["visit"]], views["item"]), self.owned)
        longing = -4.2 + mood + 1.1 * views["match"] + 1.6 * views["back"] - 3 * owned
        added = first & (rng.random(len(pair)) < _sigmoid(longing))
        line = {name: values[added] for name, values in views.items()}
        size = int(added.sum())
        consumed = np.array([kind.consumed for kind in words.KINDS])[self.items.kind[line["item"]]]
        line |= {
            "quantity": 1 + rng.poisson(np.where(consumed, 0.6, 0.12)),
            "cents": self.items.cents[line["item"]],
        }
        removed = rng.random(size) < 0.12
        adds = _block(
            ADD, line | {"step": line["step"] + 0.1}, stay=rng.integers(2_000, 9_000, size)
        )
        gone = {name: values[removed] for name, values in line.items()}
        removes = _block(
            REMOVE,
            gone | {"step": gone["step"] + 0.3},
            stay=rng.integers(1_000, 5_000, removed.sum()),
        )
        keen = rng.random(len(visits)) < 0.68
        kept = ~removed & keen[line["visit"]]
        at_till = np.unique(line["visit"][kept])
        order = np.full(len(visits), -1)
        order[at_till] = (day + 1) * 1_000_000 + np.arange(len(at_till))
        till = {"visit": at_till, "step": np.full(len(at_till), 1e3), "order": order[at_till]}
        checkout = _block(CHECKOUT, till, stay=rng.integers(30_000, 150_000, len(at_till)))
        pays = rng.random(len(visits)) < 0.88
        paid = kept & pays[line["visit"]]
        sold = {name: values[paid] for name, values in line.items()}
        sold |= {"step": 2e3 + sold["step"], "order": order[sold["visit"]]}
        self._aftermath(rng, day, visits, sold, consumed[paid])
        return [adds, removes, checkout, _block(PAID, sold, stay=np.zeros(paid.sum(), np.int64))]

    # -- what comes of an order --------------------------------------------------------------------

    def _aftermath(
        self, rng: Generator, day: int, visits: Visits, sold: Columns, consumed: Bools
    ) -> None:
        """Delivery, satisfaction, and from them refills, returns, reviews and complaints."""
        visit, size = sold["visit"], len(sold["visit"])
        guest = visits.guest[visit]
        late = (rng.random(len(visits)) < 0.08)[visit]
        defect = rng.random(size) < 0.03
        joy = (
            3.3 + 0.55 * sold["match"] + 0.25 * self.items.quality[sold["item"]]
            - 1.5 * late - 2.2 * defect + rng.normal(0, 0.6, size)
        )  # fmt: skip
        line = {
            "user": np.where(guest, -1, visits.user[visit]), "item": sold["item"],
            "order": sold["order"], "quantity": sold["quantity"], "cents": sold["cents"],
            "country": self.users.country[visits.user[visit]], "late": late, "defect": defect,
            "stars": np.clip(np.rint(joy), 1, 5).astype(np.int64),
        }  # fmt: skip
        _plan(self.returns, day + rng.integers(3, 21, size), line,
              rng.random(size) < _sigmoid(-1.2 * (joy - 1.1)))  # fmt: skip
        _plan(self.opinions, day + rng.integers(4, 26, size), line,
              ~guest & (rng.random(size) < 0.1 + 0.05 * np.abs(joy - 3.3)))  # fmt: skip
        trouble = np.where(defect, 0.5, np.where(late, 0.35, 0.015))
        _plan(self.troubles, day + rng.integers(1, 9, size), line,
              ~guest & (rng.random(size) < trouble))  # fmt: skip
        # Consumables run out after about four weeks (two items last longer).
        lasts = 28 * np.exp(rng.normal(0, 0.2, size)) * np.sqrt(sold["quantity"])
        _plan(self.refills, day + np.maximum(lasts.astype(np.int64), 5), line,
              ~guest & consumed & (joy > 2.5))  # fmt: skip
        buyer = ~guest
        lasting = _pair(visits.user[visit], sold["item"])[buyer & ~consumed]
        self.owned = np.concatenate([self.owned, lasting])
        # Who has bought turns to what goes with it.
        next_kind = words.GOES_WITH[
            self.items.kind[sold["item"]], _pick(rng, [0.6, 0.25, 0.15], size)
        ]
        moved = buyer & (rng.random(size) < 0.75)
        self.users.mission[visits.user[visit][moved]] = next_kind[moved]

    def _returned(self, rng: Generator, day: int) -> Columns:
        """Today's refunds: no visit, in office hours."""
        names = ["user", "item", "order", "quantity", "cents", "country"]
        due = _concatenate(self.returns.pop(day, []), names)
        start = rng.integers(8 * 3_600_000, 18 * 3_600_000, len(due["user"]))
        return _block(RETURNED, due, stay=start * 0) | {"start": start}

    # -- tables, as the shop writes them -----------------------------------------------------------

    def _event_table(self, day: int, visits: Visits, blocks: list[Columns]) -> pa.Table:
        """All events of the day in the order of time."""
        *browsing, returned = blocks
        names = [*_DEFAULTS, "visit", "step", "stay"]
        rows = _concatenate([_filled(block) for block in browsing], names)
        by_visit = np.lexsort((rows["step"], rows["visit"]))
        rows = {name: values[by_visit] for name, values in rows.items()}
        visit = rows["visit"]
        # An event starts when what came before it in the visit is over.
        over = np.cumsum(rows["stay"])
        before = over - rows["stay"]
        first = np.searchsorted(visit, visit)
        rows["start"] = visits.start[visit] + before - before[first]
        rows["user"] = np.where(visits.guest, -1, visits.user)[visit]
        shopper = visits.user[visit]
        rows |= {
            "source": visits.source[visit],
            "country": self.users.country[shopper],
            "device": self.users.device[shopper],
            "visit": (day + 1) * 1_000_000 + visit,
        }
        office = _filled(returned | {"visit": np.full(len(returned["user"]), -1)})
        names = [*_DEFAULTS, "visit", "start"]
        rows = _concatenate([{name: r[name] for name in names} for r in (rows, office)], names)
        order = np.argsort(rows["start"], kind="stable")
        rows = {name: values[order] for name, values in rows.items()}
        return self._as_table(day, rows)

    def _as_table(self, day: int, rows: Columns) -> pa.Table:
        item, size = rows["item"], len(rows["item"])
        return pa.table(
            {
                "id": (day + 1) * 10_000_000 + np.arange(size),
                "ts_ms": _midnight_ms(day) + rows["start"],
                "customer": _coded(rows["user"], self.users.name),
                "visit": _or_null(rows["visit"]),
                "action": _coded(rows["action"], ACTIONS),
                "sku": _coded(item, self.items.sku),
                "order_no": _or_null(rows["order"]),
                "pieces": _or_null(rows["quantity"]),
                "price_cents": _or_null(rows["cents"]),
                "on_page_ms": _or_null(rows["dwell"]),
                "search_words": pa.array(
                    self.items.queries.ravel()[rows["query"]], pa.string(), mask=rows["query"] < 0
                ),
                "source": _coded(rows["source"], SOURCES),
                "slot": _or_null(rows["slot"]),
                "propensity": pa.array(rows["propensity"], mask=rows["slot"] < 0),
                "country": _coded(rows["country"], COUNTRIES),
                "device": _coded(rows["device"], DEVICES),
            }
        )

    def _catalogue_table(self, day: int, index: Ints) -> pa.Table:
        items = self.items
        return pa.table(
            {
                "sku": items.sku[index],
                "name": items.title[index],
                "text": items.text[index],
                "department": words.DEPARTMENT[items.kind[index]],
                "kind": words.KIND[items.kind[index]],
                "maker": words.MAKERS[items.maker[index]],
                "price_eur": [f"{cents / 100:.2f}" for cents in items.cents[index]],
                "changed_at": _local_time(day, np.full(len(index), 4 * 3_600_000)),
            },
            schema=CATALOGUE,
        )

    def _review_table(self, rng: Generator, day: int) -> pa.Table:
        names = ["user", "item", "order", "stars", "late", "defect"]
        due = _concatenate(self.opinions.pop(day, []), names)
        size = len(due["user"])
        start = rng.integers(6 * 3_600_000, 23 * 3_600_000, size)
        text = words.review_texts(
            self.items.attributes(due["item"]), due["stars"], due["late"], due["defect"],
            rng.integers(6, size=size),
        )  # fmt: skip
        return pa.table(
            {
                "review_no": (day + 1) * 100_000 + np.arange(size),
                "written_at": _local_time(day, start),
                "customer": self.users.name[due["user"]],
                "sku": self.items.sku[due["item"]],
                "stars": due["stars"],
                "words": text,
            },
            schema=REVIEWS,
        )

    def _message_table(self, rng: Generator, day: int) -> pa.Table:
        names = ["user", "item", "order", "stars", "late", "defect"]
        due = _concatenate(self.troubles.pop(day, []), names)
        size = len(due["user"])
        topic = np.where(due["defect"], 1, np.where(due["late"], 0, 2))
        order = np.char.mod("%d", due["order"]).astype(object)
        kind = self.items.kind[due["item"]]
        texts = words.message_texts(topic, kind, order, due["stars"] >= 3)
        start = rng.integers(8 * 3_600_000, 18 * 3_600_000, size)
        # The agent answers within two hours, the customer closes within another.
        answer = start + rng.integers(60_000, 7_200_000, size)
        close = answer + rng.integers(60_000, 3_600_000, size)
        ticket = (day + 1) * 100_000 + np.arange(size)
        return pa.table(
            {
                "ticket": np.tile(ticket, 3),
                "part": np.repeat(np.arange(1, 4), size),
                "sent_at": _local_time(day, np.concatenate([start, answer, close])),
                "customer": np.tile(self.users.name[due["user"]], 3),
                "from": np.repeat(np.array(["customer", "agent", "customer"], object), size),
                "sku": np.tile(self.items.sku[due["item"]], 3),
                "order_no": np.tile(due["order"], 3),
                "body": np.concatenate(texts),
            },
            schema=MESSAGES,
        )


# -- small helpers over columns --------------------------------------------------------------------

# What a column holds where an action has nothing to say in it.
_DEFAULTS: dict[str, int | float] = {
    "user": -1, "action": -1, "item": -1, "order": -1, "quantity": -1, "cents": -1, "dwell": -1,
    "query": -1, "slot": -1, "propensity": 0.0, "source": -1, "country": -1, "device": -1,
}  # fmt: skip


def _attribute_places(rng: Generator) -> dict[str, Floats]:
    """Where each word of each attribute lies in the space of tastes; colours lie in groups."""
    groups = np.repeat(rng.normal(size=(len(words.COLOURS) // 2, DIMENSIONS)), 2, axis=0)
    return {
        "style": rng.normal(size=(len(words.STYLES), DIMENSIONS)),
        "colour": 0.9 * groups + 0.43 * rng.normal(size=groups.shape),
        "material": rng.normal(size=(words.MATERIALS.shape[1], DIMENSIONS)),
        "use": rng.normal(size=(len(words.USES), DIMENSIONS)),
    }


def _block(action: int, rows: Columns, stay: Ints, **more: Ints | Floats) -> Columns:
    """Events of one action; `stay` is how long until the visit goes on, in milliseconds."""
    return rows | {"action": np.full(len(stay), action), "stay": stay.astype(np.int64)} | more


def _filled(block: Columns) -> Columns:
    size = len(block["action"])
    return {name: np.full(size, empty) for name, empty in _DEFAULTS.items()} | block


def _concatenate(blocks: list[Columns], names: list[str]) -> Columns:
    if not blocks:
        return {name: np.zeros(0, dtype=np.int64) for name in names}
    return {name: np.concatenate([block[name] for block in blocks]) for name in names}


def _plan(agenda: dict[int, list[Columns]], when: Ints, rows: Columns, chosen: Bools) -> None:
    """Put the chosen rows down for their day."""
    at = np.flatnonzero(chosen)
    for day in np.unique(when[at]):
        today = at[when[at] == day]
        agenda[int(day)].append({name: values[today] for name, values in rows.items()})


def _or_null(values: Ints) -> pa.Array:
    return pa.array(values, mask=values < 0)


def _coded(codes: Ints, names: Any) -> pa.Array:
    """Strings by their code, NULL for a code below zero."""
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32), mask=codes < 0), pa.array(names, pa.string())
    )


def _midnight_ms(day: int) -> int:
    """Midnight in the shop's zone, as UTC milliseconds since 1970."""
    local = datetime.combine(START + timedelta(day), datetime.min.time(), ZONE)
    return int(local.timestamp()) * 1000


def _local_time(day: int, ms: Ints) -> list[str]:
    """ISO local times with their offset, as in `2026-03-29T05:00:00+02:00`."""
    noon = datetime.combine(START + timedelta(day), datetime.min.time(), ZONE).replace(hour=12)
    offset = noon.utcoffset() or timedelta(0)
    utc = np.array(_midnight_ms(day) + ms, dtype="datetime64[ms]")
    local = (utc + np.timedelta64(offset)).astype("datetime64[s]")
    sign = noon.isoformat()[19:]
    return np.char.add(np.datetime_as_string(local), sign).tolist()
