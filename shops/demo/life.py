"""A shopper's time with the shop: arrive, form a habit, drift, leave, perhaps come back.

Every day a shopper who is here may leave, and one who has left may come back; the odds depend on
what has happened so far. Experience goes into one number, the mood: what a parcel, a shelf or an
answer does to it is weighed by what this shopper cares about, and it fades. `Habits` was fitted to
Online Retail II (`fit.csv`); the weights of experience were chosen so that each can be found again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Words = NDArray[np.object_]


@dataclass(frozen=True)
class Habits:
    """Who comes and how often they buy; `python benchmarks/simulator.py --fit` looks for these."""

    stay: tuple[float, float, float] = (3.3, 35.0, 497.0)  # days, were the mood even
    share: tuple[float, float, float] = (0.57, 0.15, 0.28)  # of the shoppers, for each stay
    rate: float = 0.225  # visits a day are gamma-distributed, with this scale
    keen: float = 0.46  # with a basket, goes on to the till
    sated: float = 0.925  # less so right after an order, by this share of it
    rest: float = 107.0  # days in which that wears off to a third
    attention: float = 0.82  # how much an item's quality draws eyes to it


HABITS = Habits()

# What an experience adds to the mood, times the shopper's sensitivity.
LATE, BROKEN = -1.2, -1.0  # parcels: sensitivity to delivery
DEAR = -0.5  # paid above the own price level, for each unit: sensitivity to price
TASTE = 0.2  # a thing that suits, for each standard deviation above a usual purchase
SOLD_OUT = -0.2  # wanted and not to be had
ANSWERED, IGNORED = 0.6, -0.9  # by support, well or badly: sensitivity to service
FADES = 0.98  # of the mood is left a day later

MOOD = 0.8  # a mood higher by one divides the hazard of leaving by e**0.8
HABIT = 0.3  # so does a larger number of orders: by (1 + orders)**0.3
WORST, BEST = -2.5, 2.5  # limits of the mood

COMES_BACK = 0.006  # a day, right after leaving in an even mood
FORGETS = 60.0  # days in which that falls to a third
GONE = 240  # days away after which nobody comes back


def leaving(stay: Floats, mood: Floats, orders: Floats, log_hazard: Floats) -> Floats:
    """The chance that a shopper leaves today."""
    hazard = np.exp(log_hazard - MOOD * mood) * (1 + orders) ** -HABIT / stay
    return 1 - np.exp(-hazard)


def returning(days_away: Floats, mood: Floats) -> Floats:
    """The chance that a shopper who has left comes back today."""
    return COMES_BACK * np.exp(MOOD * mood - days_away / FORGETS)


def keenness(habits: Habits, fresh: Floats, log_odds: Floats) -> Floats:
    """The chance that somebody with a basket goes on to the till.

    `fresh` is how much the last order is still felt: 1 on its day, a third after `habits.rest`.
    """
    chance = habits.keen * (1 - habits.sated * fresh)
    return 1 / (1 + (1 - chance) / chance * np.exp(-log_odds))


@dataclass(frozen=True)
class Experiment:
    """Two ways to show a list. Whoever is shown one in the test belongs to it from then on."""

    name: str
    salt: str
    first_day: int
    last_day: int
    log_odds: float  # added by the treatment to the log odds of going to the till with a basket
    log_hazard: float  # and to the log of the hazard of leaving, both until the last day

    def treated(self, customers: Words) -> Bools:
        """The arm of each customer: the lowest bit of a salted hash of the name."""
        texts = (f"{self.salt}:{name}".encode() for name in customers)
        return np.array([hashlib.sha256(text).digest()[-1] & 1 for text in texts], dtype=bool)

    def runs(self, day: int) -> bool:
        """Whether lists of this day belong to the test."""
        return self.first_day <= day <= self.last_day


EXPERIMENT = Experiment("lists_with_reasons", "2026-03", 60, 149, log_odds=0.4, log_hazard=-0.4)
ARMS = ("control", "treatment")
