"""The simulated shop: who comes, what they want, what they do. Day by day, from one seed.

A shopper has a taste (a direction in a space in which every attribute of an item has a place), a
price level, sensitivities, habits of hour and weekday, and a mission (the kind of product wanted
now, which moves on to what goes with it once bought). Whether a shopper stays depends on what
happens on the way (`life.py`). Every day draws from its own generator, keyed by seed and day; what
a day leaves for later ones (moods, missions, parcels, refunds to come) is the state of `World`. So
the days up to a night are the same whatever night is simulated.

All work is done on whole arrays, one day at a time, and the state grows with shoppers and items
but not with events. Nothing here is a forecast of a real shop: the numbers are chosen so that
habits, tastes and returns can be found again in the data.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.random import Generator
from numpy.typing import NDArray

from shops.demo import life, tables, words
from shops.demo.life import EXPERIMENT, HABITS, Habits
from shops.demo.tables import COUNTRIES, DEVICES, SOURCES, START, Columns, block

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]
T = TypeVar("T", "Users", "Items")

SEED = 7
DIMENSIONS = 16  # of the space of tastes
PERSONAS = 12  # groups of shoppers with similar tastes
CANDIDATES = 16  # items a shopper looks over before opening one
PLACES = 512  # in the shop window of a kind, handed out anew every day
SLOTS = 6  # items in a list of recommendations
BOTS = 0.004  # of the accounts are programs that copy the catalogue
HERE = 2**30  # the day of leaving of somebody who has not left

# What a generator is for: it is keyed by (seed, purpose, day).
WORLD, DAY, FAULTS, FORMS = range(4)


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
    persona: Ints
    taste: Floats  # (n, DIMENSIONS), length about 1
    later_taste: Floats  # where the taste drifts to
    price_level: Floats  # 0: buys at the usual price, +1: at about twice that
    cares: Floats  # (n, 3) for price, delivery and service, about 1 each
    rate: Floats  # visits a day
    stay: Floats  # days, were the mood even
    arrived: Ints
    left: Ints  # the day, HERE while the shopper comes
    mood: Floats
    orders: Floats
    last_order: Ints  # the day, -1000 before the first
    spent: Ints  # cents, what was returned included
    treated: Bools  # the arm of the experiment
    tested: Bools  # was shown a list of the experiment
    bot: Bools
    weekend: Bools  # shops at the weekend rather than on workdays
    hour: Floats  # favourite hour of the day
    source: Ints
    country: Ints
    device: Ints
    favourites: Ints  # (n, 4) kinds
    mission: Ints  # the kind wanted now
    last_item: Ints  # viewed last, -1 before the first view


PRICE, DELIVERY, SERVICE = range(3)  # columns of `cares`


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
    back: Ints  # the day from which on it is in stock
    wanted: Ints  # pieces that went into baskets or would have, so far
    missed: Ints  # those of them that were not in stock
    sold: Ints  # pieces paid
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


def _extend(old: T | None, new: T) -> T:
    """The rows of `new` behind those of `old`; room is kept, so that a day costs what it brings."""
    columns = {}
    for field in fields(new):
        more = getattr(new, field.name)
        column = more[:0].copy() if old is None else getattr(old, field.name)
        size = len(column) + len(more)
        room = column.base
        if room is None or len(room) < size:
            room = np.empty((size * 3 // 2 + 1, *column.shape[1:]), column.dtype)
            room[: len(column)] = column
        room[len(column) : size] = more
        columns[field.name] = room[:size]
    return type(new)(**columns)


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
    """One row per visit of a day; those of bots come last."""

    user: Ints  # for a guest: a shopper of the same taste
    guest: Bools
    login: Floats  # the step of the visit from which on the shopper is known
    start: Ints  # milliseconds since midnight in the shop's zone
    source: Ints
    refill: Ints  # the item to buy again, or -1
    bot: Bools
    taste: Floats  # (n, DIMENSIONS), of today

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Day:
    """What a day brings, as the shop writes it down; an empty table when there is nothing."""

    events: pa.Table
    catalogue: pa.Table
    reviews: pa.Table
    messages: pa.Table
    policy: pa.Table  # no file of the shop's: with which odds each slot showed each item


@dataclass
class Happened:
    """What a day brings, before it is written down."""

    changed: Ints  # items that are new or have another price or text
    visits: Visits
    lists: Shelves  # what recommendations are drawn from
    blocks: list[Columns]  # events of the visits, one action each
    returned: Columns  # refunds
    tickets: Columns  # conversations with support


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def _unit(x: Floats) -> Floats:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _pair(left: Ints, right: Ints) -> Ints:
    """One number for two; `right` below a thousand million."""
    return left.astype(np.int64) * 1_000_000_000 + right


def _pick(rng: Generator, shares: list[float], size: int) -> Ints:
    return np.searchsorted(np.cumsum(shares)[:-1], rng.random(size), side="right")


class World:
    """The shop and its shoppers; `day` must be called for day 0, 1, 2, ... in turn."""

    def __init__(self, scale: Scale, seed: int = SEED, habits: Habits = HABITS) -> None:
        self.scale, self.seed, self.habits = scale, seed, habits
        rng = np.random.default_rng([seed, WORLD, 0])
        self.places = _attribute_places(rng)
        self.personas = _unit(rng.normal(size=(PERSONAS, DIMENSIONS)))
        # Which kinds a persona likes: a few of them strongly.
        self.kind_taste = rng.gumbel(size=(PERSONAS, len(words.KINDS))) * 1.2
        self.users: Users  # from day 0 on
        self.items: Items
        self.present = np.zeros(0, dtype=np.int64)  # the shoppers who come
        self.away = np.zeros(0, dtype=np.int64)  # those who have left and may come back
        self.owned = np.zeros(0, dtype=np.int64)  # pairs of shopper and lasting thing, sorted
        # What happens on a later day because of an earlier one, by day.
        self.parcels: dict[int, list[Columns]] = defaultdict(list)
        self.refills: dict[int, list[Columns]] = defaultdict(list)
        self.returns: dict[int, list[Columns]] = defaultdict(list)
        self.opinions: dict[int, list[Columns]] = defaultdict(list)
        self.troubles: dict[int, list[Columns]] = defaultdict(list)

    # -- a day -------------------------------------------------------------------------------------

    def day(self, day: int) -> Day:
        """Everything that happens on one day; changes the state."""
        rng = np.random.default_rng([self.seed, DAY, day])
        happened = self._happen(rng, day)
        return Day(
            self._event_table(day, happened),
            self._catalogue_table(day, happened.changed),
            self._review_table(rng, day),
            self._message_table(rng, day, happened.tickets),
            self._policy_table(day, happened.lists),
        )

    def let_pass(self, day: int) -> None:
        """The same day, but nobody writes it down."""
        self._happen(np.random.default_rng([self.seed, DAY, day]), day)

    def _happen(self, rng: Generator, day: int) -> Happened:
        changed = self._renew_catalogue(rng, day)
        self._run_out(rng, day)
        came_back = self._live(rng, day) if day else self.away
        self._arrive(rng, day)
        visits = self._visits(rng, day, came_back)
        lists = self._lists(day)
        blocks = self._events(rng, day, visits, lists)
        tickets = self._complaints(day)
        return Happened(changed, visits, lists, blocks, self._returned(rng, day), tickets)

    # -- items -------------------------------------------------------------------------------------

    def _renew_catalogue(self, rng: Generator, day: int) -> Ints:
        """New items, new prices and rewritten texts: on the first day, Mondays and Thursdays."""
        if day == 0:
            return self._new_items(rng, day, int(self.scale.items * 0.6))
        if (START + timedelta(day)).weekday() in (0, 3):
            new = self._new_items(rng, day, rng.poisson(self.scale.items * 0.4 / 180 * 3.5))
            old = np.arange(new[0] if len(new) else len(self.items.sku))
            repriced = old[rng.random(len(old)) < 0.01]
            factor = rng.uniform(0.8, 1.2, len(repriced))
            cents = (self.items.cents[repriced] * factor / 10).astype(np.int64) * 10
            self.items.cents[repriced] = np.maximum(cents, 100)
            rewritten = old[rng.random(len(old)) < 0.002]
            self.items.text[rewritten] += " Now with better packaging."
            return np.union1d(np.union1d(repriced, rewritten), new)
        return np.zeros(0, dtype=np.int64)

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
        none = np.zeros(count, dtype=np.int64)
        new = Items(
            sku=np.char.mod("P%05d", index + 1).astype(object),
            title=words.titles(item),
            text=words.descriptions(item),
            queries=words.queries(item),
            maker=maker,
            vector=self._vectors(item),
            cents=(usual * np.exp(dearness) * 10).astype(np.int64) * 10 + 90,
            dearness=dearness.astype(np.float32),
            quality=rng.normal(size=count),
            arrived=np.full(count, day),
            back=none,
            wanted=none,
            missed=none,
            sold=none,
            **vars(item),
        )
        self.items = _extend(self.items if day else None, new)
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
        return np.exp(self.habits.attention * self.items.quality) * (1 + fresh)

    def _run_out(self, rng: Generator, day: int) -> None:
        """What draws eyes runs out more often; a new delivery takes two days to three weeks."""
        items, size = self.items, len(self.items.sku)
        draw = self._weights(day)
        odds = 0.003 * np.clip(draw / draw.mean(), 0.3, 4)
        out = (items.back <= day) & (items.arrived < day) & (rng.random(size) < odds)
        days = np.minimum(1 + rng.geometric(0.15, size), 21)
        items.back[out] = day + days[out]

    # -- shoppers ----------------------------------------------------------------------------------

    def _live(self, rng: Generator, day: int) -> Ints:
        """Parcels come, moods fade, some leave; returns who comes back today."""
        users, here = self.users, self.present
        for felt in self.parcels.pop(day, []):
            np.add.at(users.mood, felt["user"], felt["change"])
        users.mood *= life.FADES
        np.clip(users.mood, life.WORST, life.BEST, out=users.mood)
        hazard = np.where(self._under_treatment(here, day), EXPERIMENT.log_hazard, 0)
        gone = rng.random(len(here)) < life.leaving(
            users.stay[here], users.mood[here], users.orders[here], hazard
        )
        since = day - users.left[self.away]
        back = rng.random(len(self.away)) < life.returning(since, users.mood[self.away])
        back &= ~users.bot[self.away]
        came_back = self.away[back]
        users.left[here[gone]] = day
        users.left[came_back] = HERE
        self.present = np.concatenate([here[~gone], came_back])
        self.away = np.concatenate([self.away[~back & (since < life.GONE)], here[gone]])
        if day % 30 == 0:  # what those who left own is forgotten
            self.owned = self.owned[users.left[self.owned // 1_000_000_000] == HERE]
        return came_back

    def _under_treatment(self, user: Ints, day: int) -> Bools:
        if day > EXPERIMENT.last_day:
            return np.zeros(len(user), dtype=bool)
        return self.users.tested[user] & self.users.treated[user]

    def _arrive(self, rng: Generator, day: int) -> None:
        """New shoppers: many when the shop opens, then a steady stream."""
        habits = self.habits
        expected = self.scale.users * (0.75 / 180 + 0.25 * np.exp(-day / 12) / 12)
        count = int(rng.poisson(expected)) + (day == 0)
        known = len(self.users.name) if day else 0
        name = np.char.mod("C%06d", np.arange(known, known + count) + 1).astype(object)
        persona = rng.integers(PERSONAS, size=count)
        spread = rng.normal(size=(2, count, DIMENSIONS)) * 0.6 / np.sqrt(DIMENSIONS)
        later = rng.integers(PERSONAS, size=count)
        wish = self.kind_taste[persona] + rng.gumbel(size=(count, len(words.KINDS)))
        favourites = np.argsort(-wish, axis=1)[:, :4]
        # Some look round for a few days, some stay for months, a few for good.
        stay = np.array(habits.stay)[_pick(rng, list(habits.share), count)]
        rate = rng.gamma(1.5, habits.rate, count)
        bot = rng.random(count) < BOTS
        new = Users(
            name=name,
            persona=persona,
            taste=_unit(self.personas[persona] + spread[0]).astype(np.float32),
            later_taste=_unit(self.personas[later] + spread[1]).astype(np.float32),
            price_level=rng.normal(0, 0.35, count).astype(np.float32),
            cares=np.exp(rng.normal(-0.08, 0.4, (count, 3))).astype(np.float32),
            rate=np.where(bot, 0.7, rate),
            stay=np.where(bot, 60.0, stay),
            arrived=np.full(count, day),
            left=np.full(count, HERE),
            mood=np.zeros(count),
            orders=np.zeros(count),
            last_order=np.full(count, -1000),
            spent=np.zeros(count, dtype=np.int64),
            treated=EXPERIMENT.treated(name),
            tested=np.zeros(count, dtype=bool),
            bot=bot,
            weekend=rng.random(count) < 0.4,
            hour=np.array([8.5, 12.7, 20.4])[_pick(rng, [0.2, 0.25, 0.55], count)],
            source=_pick(rng, [0.35, 0.25, 0.15, 0.15, 0.1], count),
            country=_pick(rng, [0.68, 0.12, 0.08, 0.07, 0.05], count),
            device=_pick(rng, [0.62, 0.32, 0.06], count),
            favourites=favourites,
            mission=favourites[:, 0],
            last_item=np.full(count, -1),
        )
        self.users = _extend(self.users if day else None, new)
        self.present = np.concatenate([self.present, np.arange(known, known + count)])

    def _visits(self, rng: Generator, day: int, came_back: Ints) -> Visits:
        """Who comes today: by habit, for the first time, again, to refill, as a guest, a bot."""
        users, here = self.users, self.present
        people = here[~users.bot[here]]
        workday = (START + timedelta(day)).weekday() < 5
        habit = np.where(users.weekend[people] == workday, 0.6, 1.5)
        count = rng.poisson(users.rate[people] * habit) + (users.arrived[people] == day)
        regular = np.concatenate([np.repeat(people, count), came_back])
        due = _concatenate(self.refills.pop(day, []), ["user", "item"])
        still = (users.left[due["user"]] == HERE) & (rng.random(len(due["user"])) < 0.8)
        guests = rng.choice(regular, size=rng.binomial(len(regular), 0.09))
        bots = here[users.bot[here]]
        bots = bots[rng.random(len(bots)) < users.rate[bots]]
        parts = [regular, due["user"][still], guests, bots]
        user = np.concatenate(parts)
        size, part = len(user), np.repeat(np.arange(len(parts)), [len(each) for each in parts])
        refill = np.full(size, -1)
        refill[part == 1] = due["item"][still]
        # Nobody is up before five, but for the bots.
        hour = np.clip(rng.normal(users.hour[user], 1.6), 5, 23.2)
        hour = np.where(part == 3, rng.uniform(2.1, 22, size), hour)
        source = np.where(rng.random(size) < 0.7, users.source[user], rng.integers(5, size=size))
        # Some log in only after a few pages, and every other bot does not.
        login = np.where(rng.random(size) < 0.08, rng.geometric(0.5, size) - 0.5, -np.inf)
        unseen = (part == 2) | (part == 3) & (rng.random(size) < 0.5)
        return Visits(
            user, unseen, np.where(unseen, np.inf, np.where(part == 3, -np.inf, login)),
            (hour * 3_600_000).astype(np.int64), source, refill, part == 3, self._taste(user, day),
        )  # fmt: skip

    def _taste(self, user: Ints, day: int) -> Floats:
        """(n, DIMENSIONS): today's taste, which turns slowly towards the later one."""
        angle = np.minimum((day - self.users.arrived[user]) / 240, 1)[:, None].astype(np.float32)
        angle *= np.float32(1.2)
        return np.cos(angle) * self.users.taste[user] + np.sin(angle) * self.users.later_taste[user]

    def _match(self, user: Ints, item: Ints, day: int) -> Floats:
        """How well items suit shoppers, about N(0, 1) for items at random."""
        return np.einsum("nd,nd->n", self._taste(user, day), self.items.vector[item])

    # -- what a visit is made of -------------------------------------------------------------------

    def _events(self, rng: Generator, day: int, visits: Visits, lists: Shelves) -> list[Columns]:
        """All events of the day's visits, in blocks of one action each."""
        mission = self._missions(rng, visits)
        shown, list_views = self._recommendations(rng, day, visits, lists)
        views = self._views(rng, day, visits, mission)
        searches = self._searches(rng, views)
        views = _concatenate([list_views, views], ["visit", "step", "item", "match", "back"])
        size = len(views["visit"])
        views["in_stock"] = self.items.back[views["item"]] <= day
        dwell = np.clip(np.exp(rng.normal(9.7 + 0.4 * views["match"], 0.8)), 900, 600_000)
        dwell = dwell.astype(np.int64)
        pages = block(tables.VIEW, views, stay=dwell + rng.integers(500, 2500, size), dwell=dwell)
        bought = self._basket(rng, day, visits, views)
        known = ~visits.guest & ~visits.bot
        last = np.full(len(visits), -1)
        last[views["visit"]] = views["item"]
        self.users.last_item[visits.user[known]] = last[known]
        return [*shown, *searches, pages, *bought, self._crawl(rng, day, visits)]

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

    def _windows(self, rng: Generator, day: int) -> Ints:
        """(kinds, PLACES) items: places by attention; what is out of stock gets fewer."""
        weights = np.where(self.items.back <= day, 1, 0.3) * self._weights(day)
        kinds = len(words.KINDS)
        shelves = Shelves(self.items.kind, weights, kinds)
        # The grid shifts from day to day, so that over time everything gets its share.
        dice = (np.arange(PLACES) + rng.random((kinds, 1))) / PLACES
        return shelves.draw(np.repeat(np.arange(kinds)[:, None], PLACES, axis=1), dice)

    def _views(self, rng: Generator, day: int, visits: Visits, mission: Ints) -> Columns:
        """The items opened: of those looked over, the one that suits taste and purse best."""
        count = np.where(visits.bot, 0, np.minimum(rng.geometric(0.26, len(visits)), 20))
        visit = np.repeat(np.arange(len(visits)), count)
        step = np.arange(len(visit)) - np.repeat(np.cumsum(count) - count, count)
        user, size = visits.user[visit], len(visit)
        aside = self.users.favourites[user, rng.integers(4, size=size)]
        kind = np.where(rng.random(size) < 0.2, aside, mission[visit])
        place = rng.integers(PLACES, size=(size, CANDIDATES), dtype=np.uint16)
        seen = self._windows(rng, day)[kind[:, None], place]
        match = np.matmul(self.items.vector[seen], visits.taste[visit][:, :, None])[:, :, 0]
        purse = self.items.dearness[seen] - self.users.price_level[user][:, None]
        stingy = (1.5 * self.users.cares[user, PRICE])[:, None]
        # The smallest of exponential clocks rings first: a draw with odds exp(appeal).
        clocks = rng.standard_exponential((size, CANDIDATES), dtype=np.float32)
        choice = np.argmin(clocks * np.exp(stingy * purse**2 - 2.0 * match), axis=1)
        rows = np.arange(size)
        item, match = seen[rows, choice], match[rows, choice]
        # The first page is often the last one of the visit before, or the item to buy again.
        first = np.flatnonzero(step == 0)
        came = visit[first]
        last = np.where(visits.guest, -1, self.users.last_item[visits.user])[came]
        back = (last >= 0) & (rng.random(len(first)) < 0.25)
        refill = visits.refill[came] >= 0
        item[first] = np.where(refill, visits.refill[came], np.where(back, last, item[first]))
        match[first] = np.einsum("nd,nd->n", visits.taste[came], self.items.vector[item[first]])
        again = np.zeros(size)
        again[first] = back + 3.0 * refill
        return {
            "visit": visit, "step": step.astype(np.float64), "item": item, "match": match,
            "back": again,
        }  # fmt: skip

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
            block(tables.SEARCH, ask, stay=rng.integers(3_000, 15_000, size)),
            block(tables.CLICK, click, stay=rng.integers(200, 900, size)),
        ]

    def _lists(self, day: int) -> Shelves:
        """What lists are drawn from: slot s shows items whose number leaves s divided by SLOTS.

        Half by attention and half evenly, and only what is in stock: no list shows an item twice,
        and the propensity is exact.
        """
        weights, in_stock = self._weights(day), self.items.back <= day
        odds = (weights / weights.sum() + 1 / len(weights)) * in_stock
        return Shelves(np.arange(len(weights)) % SLOTS, odds, SLOTS)

    def _recommendations(
        self, rng: Generator, day: int, visits: Visits, lists: Shelves
    ) -> tuple[list[Columns], Columns]:
        """Lists shown at the start of some visits, the clicks in them, and the pages they open."""
        shown = np.flatnonzero((rng.random(len(visits)) < 0.2) & ~visits.bot)
        slot = np.tile(np.arange(SLOTS), len(shown))
        visit = np.repeat(shown, SLOTS)
        item = lists.draw(slot, rng.random(len(slot)))
        match = np.einsum("nd,nd->n", visits.taste[visit], self.items.vector[item])
        step = slot / 100 - 20
        user, known = visits.user[shown], visits.login[shown] < -20
        arm = np.full(len(shown), -1)
        if EXPERIMENT.runs(day):
            self.users.tested[user[known]] = True
            arm[known] = self.users.treated[user[known]]
        place = {"visit": visit, "step": step, "item": item}
        rows = block(
            tables.SHOWN, place, stay=np.full(len(slot), 600), slot=slot, arm=np.repeat(arm, SLOTS),
            propensity=np.round(lists.probability(item), 6),
        )  # fmt: skip
        clicked = rng.random(len(slot)) < _sigmoid(-2.8 + 1.2 * match - 0.25 * slot)
        hit = {name: values[clicked] for name, values in place.items()}
        click = block(
            tables.CLICK, hit | {"step": hit["step"] + 10}, stay=np.full(clicked.sum(), 400)
        )
        opened = hit | {"step": hit["step"] + 10.005, "match": match[clicked]}
        return [rows, click], opened | {"back": np.zeros(clicked.sum())}

    def _crawl(self, rng: Generator, day: int, visits: Visits) -> Columns:
        """A bot goes through the catalogue, item after item, faster than anybody reads."""
        bots = np.flatnonzero(visits.bot)
        count = rng.integers(15, 45, len(bots))
        visit = np.repeat(bots, count)
        step = np.arange(len(visit)) - np.repeat(np.cumsum(count) - count, count)
        begin = rng.integers(len(self.items.sku), size=len(bots))
        item = (np.repeat(begin, count) + step) % len(self.items.sku)
        dwell = rng.integers(120, 800, len(visit))
        pages = {"visit": visit, "step": step.astype(np.float64), "item": item, "dwell": dwell}
        return block(tables.VIEW, pages, stay=dwell + 50, in_stock=self.items.back[item] <= day)

    def _basket(self, rng: Generator, day: int, visits: Visits, views: Columns) -> list[Columns]:
        """From pages to baskets, checkouts and orders; what comes of the orders is set down."""
        items, users = self.items, self.users
        longing = self._longing(rng, visits, views)
        longed = np.flatnonzero(rng.random(len(longing)) < _sigmoid(longing))
        # One line per item: the first page of it in the visit that could be added.
        pair = _pair(views["visit"][longed], views["item"][longed])
        longed = longed[np.sort(np.unique(pair, return_index=True)[1])]
        line = {name: values[longed] for name, values in views.items()}
        consumed = np.array([kind.consumed for kind in words.KINDS])[items.kind[line["item"]]]
        line |= {
            "consumed": consumed,
            "quantity": 1 + rng.poisson(np.where(consumed, 0.6, 0.12)),
            "cents": items.cents[line["item"]],
        }
        out = ~line["in_stock"]
        np.add.at(items.wanted, line["item"], line["quantity"])
        np.add.at(items.missed, line["item"][out], line["quantity"][out])
        let_down = line["visit"][out]
        np.add.at(users.mood, visits.user[let_down[~visits.guest[let_down]]], life.SOLD_OUT)
        line = {name: values[~out] for name, values in line.items() if name != "in_stock"}
        size = len(line["visit"])
        removed = rng.random(size) < 0.12
        adds = block(
            tables.ADD, line | {"step": line["step"] + 0.1}, stay=rng.integers(2_000, 9_000, size)
        )
        gone = {name: values[removed] for name, values in line.items()}
        removes = block(
            tables.REMOVE,
            gone | {"step": gone["step"] + 0.3},
            stay=rng.integers(1_000, 5_000, removed.sum()),
        )
        keen = rng.random(len(visits)) < self._keenness(visits, day)
        kept = ~removed & keen[line["visit"]]
        at_till = np.unique(line["visit"][kept])
        order = np.full(len(visits), -1)
        order[at_till] = (day + 1) * 1_000_000 + np.arange(len(at_till))
        till = {"visit": at_till, "step": np.full(len(at_till), 1e3), "order": order[at_till]}
        checkout = block(tables.CHECKOUT, till, stay=rng.integers(30_000, 150_000, len(at_till)))
        pays = rng.random(len(visits)) < 0.88
        paid = kept & pays[line["visit"]]
        sold = {name: values[paid] for name, values in line.items()}
        sold |= {"step": 2e3 + sold["step"], "order": order[sold["visit"]]}
        np.add.at(items.sold, sold["item"], sold["quantity"])
        self._aftermath(rng, day, visits, sold)
        return [
            adds,
            removes,
            checkout,
            block(tables.PAID, sold, stay=np.zeros(paid.sum(), np.int64)),
        ]

    def _longing(self, rng: Generator, visits: Visits, views: Columns) -> Floats:
        """The log odds that a page leads to the basket: some come to buy and others to look."""
        mood = rng.normal(0, 1.4, len(visits))[views["visit"]]
        # Nobody needs the same lamp twice.
        owned = self._owns(visits.user[views["visit"]], views["item"])
        return -4.0 + mood + 1.3 * views["match"] + 1.6 * views["back"] - 3 * owned

    def _owns(self, user: Ints, item: Ints) -> Bools:
        """Whether shoppers have bought these lasting things."""
        pair = _pair(user, item)
        at = np.searchsorted(self.owned, pair)
        return np.append(self.owned, -1)[at] == pair

    def _keenness(self, visits: Visits, day: int) -> Floats:
        since = day - self.users.last_order[visits.user]
        fresh = np.where(visits.guest, 0, np.exp(-since / self.habits.rest))
        treated = self._under_treatment(visits.user, day) & ~visits.guest
        return life.keenness(self.habits, fresh, np.where(treated, EXPERIMENT.log_odds, 0))

    # -- what comes of an order --------------------------------------------------------------------

    def _aftermath(self, rng: Generator, day: int, visits: Visits, sold: Columns) -> None:
        """Delivery, satisfaction, and from them moods, refills, returns, reviews, complaints."""
        users, visit, size = self.users, sold["visit"], len(sold["visit"])
        user, buyer = visits.user[visit], ~visits.guest[visit]
        late = (rng.random(len(visits)) < 0.08)[visit]
        defect = rng.random(size) < 0.03
        joy = (
            3.3 + 0.55 * sold["match"] + 0.25 * self.items.quality[sold["item"]]
            - 1.5 * late - 2.2 * defect + rng.normal(0, 0.6, size)
        )  # fmt: skip
        line = {
            "user": np.where(buyer, user, -1), "item": sold["item"],
            "order": sold["order"], "quantity": sold["quantity"], "cents": sold["cents"],
            "country": users.country[user], "late": late, "defect": defect,
            "stars": np.clip(np.rint(joy), 1, 5).astype(np.int64),
            "answered": rng.random(size) < 0.7,
        }  # fmt: skip
        dear = self.items.dearness[sold["item"]] - users.price_level[user]
        cares = users.cares[user]
        change = (
            life.LATE * late * cares[:, DELIVERY] + life.BROKEN * defect * cares[:, DELIVERY]
            + life.DEAR * np.maximum(dear, 0) * cares[:, PRICE]
            + life.TASTE * (sold["match"] - 1.7)
        )  # fmt: skip
        arrives = day + np.where(late, rng.integers(6, 11, size), rng.integers(2, 5, size))
        _plan(self.parcels, arrives, {"user": user, "change": change}, buyer)
        _plan(self.returns, day + rng.integers(3, 21, size), line,
              rng.random(size) < _sigmoid(-1.2 * (joy - 1.1)))  # fmt: skip
        _plan(self.opinions, day + rng.integers(4, 26, size), line,
              buyer & (rng.random(size) < 0.16 + 0.08 * np.abs(joy - 3.3)))  # fmt: skip
        trouble = np.where(defect, 0.6, np.where(late, 0.45, 0.025))
        _plan(self.troubles, day + rng.integers(1, 9, size), line,
              buyer & (rng.random(size) < trouble))  # fmt: skip
        # Consumables run out after about four weeks (two items last longer).
        lasts = 28 * np.exp(rng.normal(0, 0.2, size)) * np.sqrt(sold["quantity"])
        _plan(self.refills, day + np.maximum(lasts.astype(np.int64), 5), line,
              buyer & sold["consumed"] & (joy > 2.5))  # fmt: skip
        lasting = buyer & ~sold["consumed"]
        self.owned = np.concatenate([self.owned, _pair(user[lasting], sold["item"][lasting])])
        self.owned.sort(kind="stable")
        np.add.at(users.spent, user[buyer], (sold["cents"] * sold["quantity"])[buyer])
        came = np.unique(visit[buyer])
        np.add.at(users.orders, visits.user[came], 1)
        users.last_order[visits.user[came]] = day
        # Who has bought turns to what goes with it.
        next_kind = words.GOES_WITH[
            self.items.kind[sold["item"]], _pick(rng, [0.6, 0.25, 0.15], size)
        ]
        moved = buyer & (rng.random(size) < 0.75)
        users.mission[user[moved]] = next_kind[moved]

    def _returned(self, rng: Generator, day: int) -> Columns:
        """Today's refunds: no visit, in office hours."""
        names = ["user", "item", "order", "quantity", "cents", "country"]
        due = _concatenate(self.returns.pop(day, []), names)
        start = rng.integers(8 * 3_600_000, 18 * 3_600_000, len(due["user"]))
        return block(tables.RETURNED, due, stay=start * 0) | {"start": start}

    def _complaints(self, day: int) -> Columns:
        """Today's conversations with support, and what they do to the mood."""
        names = ["user", "item", "order", "late", "defect", "answered"]
        due = _concatenate(self.troubles.pop(day, []), names)
        answer = np.where(due["answered"], life.ANSWERED, life.IGNORED)
        np.add.at(self.users.mood, due["user"], answer * self.users.cares[due["user"], SERVICE])
        return due

    # -- tables, as the shop writes them -----------------------------------------------------------

    def _event_table(self, day: int, happened: Happened) -> pa.Table:
        """All events of the day in the order of time."""
        visits, returned = happened.visits, happened.returned
        rows = tables.stack([*happened.blocks, returned])
        browsing = len(rows["visit"]) - len(returned["user"])
        in_visit, start = tables.in_time(
            rows["visit"][:browsing], rows["step"][:browsing], rows["stay"][:browsing], visits.start
        )
        start = np.concatenate([start, returned["start"]])
        start = np.minimum(start, tables.latest_first_ms(day))
        size = len(start)
        by_time = np.argsort(start * 2**24 + np.arange(size))  # whole, and no two are equal
        order = np.concatenate([in_visit, np.arange(browsing, size)])[by_time]
        rows = {name: values[order] for name, values in rows.items()} | {"start": start[by_time]}
        visit, office = rows["visit"], rows["visit"] < 0
        shopper = visits.user[visit]
        known = rows["step"] >= visits.login[visit]
        nothing = np.full(size, -1)
        rows |= {
            "user": np.where(office, rows["user"], np.where(known, shopper, -1)),
            "source": np.where(office, -1, visits.source[visit]),
            "country": np.where(office, nothing, self.users.country[shopper]),
            "device": np.where(office, -1, self.users.device[shopper]),
        }
        rows["country"][office] = returned["country"][order[office] - browsing]
        rows["visit"] = np.where(office, -1, (day + 1) * 1_000_000 + visit.astype(np.int64))
        return self._as_table(day, rows)

    def _as_table(self, day: int, rows: Columns) -> pa.Table:
        coded, or_null, size = tables.coded, tables.or_null, len(rows["item"])
        in_test = rows["arm"] >= 0
        return pa.table(
            {
                "id": (day + 1) * 10_000_000 + np.arange(size),
                "ts_ms": tables.midnight_ms(day) + rows["start"],
                "customer": coded(rows["user"], self.users.name),
                "visit": or_null(rows["visit"]),
                "action": coded(rows["action"], tables.ACTIONS),
                "sku": coded(rows["item"], self.items.sku),
                "order_no": or_null(rows["order"]),
                "pieces": or_null(rows["quantity"]),
                "price_cents": or_null(rows["cents"]),
                "on_page_ms": or_null(rows["dwell"]),
                "search_words": coded(rows["query"], self.items.queries.ravel()),
                "source": coded(rows["source"], SOURCES),
                "slot": or_null(rows["slot"]),
                "propensity": pa.array(rows["propensity"], mask=rows["slot"] < 0),
                "experiment": coded(np.where(in_test, 0, -1), [EXPERIMENT.name]),
                "arm": coded(rows["arm"], life.ARMS),
                "in_stock": pa.array(rows["in_stock"] > 0, mask=rows["in_stock"] < 0),
                "country": coded(rows["country"], COUNTRIES),
                "device": coded(rows["device"], DEVICES),
            }
        )

    def _policy_table(self, day: int, lists: Shelves) -> pa.Table:
        item = np.flatnonzero(self.items.back <= day)
        return pa.table(
            {
                "day": pa.array(np.full(len(item), np.datetime64(START) + day)),
                "slot": pa.array(item % SLOTS, pa.int8()),
                "sku": tables.coded(item, self.items.sku),
                "propensity": lists.probability(item),
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
                "changed_at": tables.local_time(day, np.full(len(index), 4 * 3_600_000)),
            },
            schema=tables.CATALOGUE,
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
                "written_at": tables.local_time(day, start),
                "customer": self.users.name[due["user"]],
                "sku": self.items.sku[due["item"]],
                "stars": due["stars"],
                "words": text,
            },
            schema=tables.REVIEWS,
        )

    def _message_table(self, rng: Generator, day: int, due: Columns) -> pa.Table:
        size, well = len(due["user"]), due["answered"].astype(bool)
        topic = np.where(due["defect"], 1, np.where(due["late"], 0, 2))
        order = np.char.mod("%d", due["order"]).astype(object)
        kind = self.items.kind[due["item"]]
        texts = words.message_texts(topic, kind, order, well)
        start = rng.integers(8 * 3_600_000, 18 * 3_600_000, size)
        # The agent answers within two hours, the customer closes within another.
        answer = start + rng.integers(60_000, 7_200_000, size)
        close = answer + rng.integers(60_000, 3_600_000, size)
        ticket = (day + 1) * 100_000 + np.arange(size)
        return pa.table(
            {
                "ticket": np.tile(ticket, 3),
                "part": np.repeat(np.arange(1, 4), size),
                "sent_at": tables.local_time(day, np.concatenate([start, answer, close])),
                "customer": np.tile(self.users.name[due["user"]], 3),
                "from": np.repeat(np.array(["customer", "agent", "customer"], object), size),
                "sku": np.tile(self.items.sku[due["item"]], 3),
                "order_no": np.tile(due["order"], 3),
                "body": np.concatenate(texts),
            },
            schema=tables.MESSAGES,
        )


# -- small helpers over columns --------------------------------------------------------------------


def _attribute_places(rng: Generator) -> dict[str, Floats]:
    """Where each word of each attribute lies in the space of tastes; colours lie in groups."""
    groups = np.repeat(rng.normal(size=(len(words.COLOURS) // 2, DIMENSIONS)), 2, axis=0)
    return {
        "style": rng.normal(size=(len(words.STYLES), DIMENSIONS)),
        "colour": 0.9 * groups + 0.43 * rng.normal(size=groups.shape),
        "material": rng.normal(size=(words.MATERIALS.shape[1], DIMENSIONS)),
        "use": rng.normal(size=(len(words.USES), DIMENSIONS)),
    }


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
