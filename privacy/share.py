"""Aggregates for people outside the house, with noise that hides whether any one user is in them.

OpenDP draws the noise (discrete Laplace, from its secure generator): the one place where the same
input does not give the same bytes. Each aggregate is charged to the ledger before noise is drawn.
One that was released for the night with the same settings is given out again as it is and is free.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

import duckdb

from core.duck import connect
from core.paths import Paths
from core.shop import Shop, ShopError
from privacy import PrivacyError
from privacy.aggregates import Aggregate, Cells, Measure, catalogue, exact
from privacy.budget import Grant, Ledger, opened

_SMALLEST = Decimal("0.000001")
"""Epsilon is counted in steps of this, so that sums are exact."""


@dataclass(frozen=True)
class Released:
    """One aggregate's files, and whether they were there before."""

    name: str
    csv: Path
    about: dict[str, Any]
    before: bool


@dataclass(frozen=True)
class Asked:
    """One aggregate of one night with all that its release depends on."""

    aggregate: Aggregate
    night: date
    epsilon: Decimal
    delta: float
    min_cell: int

    @property
    def settings(self) -> str:
        """A hash of it, but for the words that describe it."""
        named = replace(self, aggregate=replace(self.aggregate, about=""))
        text = json.dumps(asdict(named), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def file(self, paths: Paths, kind: str) -> Path:
        """`share/<night>/<aggregate>-<settings>.csv` and `.json`."""
        folder = paths.share / self.night.isoformat()
        return folder / f"{self.aggregate.name}-{self.settings[:8]}.{kind}"


def share(
    shop: Shop, paths: Paths, now: datetime, epsilon: float | None = None
) -> tuple[list[Released], Decimal]:
    """Release every aggregate of the published night; what was released, and the budget left.

    `epsilon` is that of all of them together. Raises ShopError when there is nothing to release or
    epsilon cannot be, BudgetSpent when it is not left, PrivacyError when the ledger cannot be read.
    """
    if not paths.marts.exists():
        raise ShopError(
            f"{paths.marts} is missing: publish a night first (make run SHOP={shop.name})"
        )
    cost = _decimal(shop.share.epsilon if epsilon is None else epsilon)
    budget = _decimal(shop.share.budget)
    with connect(paths.marts, read_only=True) as marts, opened(paths) as ledger:
        asked = _asked(shop, _night(marts), cost)
        there = {each.aggregate.name: _released(paths, ledger, each) for each in asked}
        missing = [each for each in asked if there[each.aggregate.name] is None]
        ledger.check(sum((each.epsilon for each in missing), Decimal(0)), budget, shop.name)
        for each in missing:
            # what may fail is done before it costs anything; noise is drawn after
            cells = exact(marts, each.aggregate, shop.start, each.night)
            mechanism = Mechanism.of(each)
            grant = ledger.charge(
                each.night, each.aggregate.name, each.settings, each.epsilon, each.delta, now
            )
            told = mechanism.draw(cells)
            there[each.aggregate.name] = _write(shop, paths, each, mechanism, grant, told)
        return [released for released in there.values() if released], budget - ledger.spent


def _asked(shop: Shop, night: date, cost: Decimal) -> list[Asked]:
    aggregates = catalogue(shop)
    each = (cost / len(aggregates)).quantize(_SMALLEST, ROUND_DOWN)
    if each <= 0:
        raise ShopError(f"EPSILON must be at least {len(aggregates) * _SMALLEST:f}")
    delta = shop.share.delta * float(each)
    return [
        Asked(aggregate, night, each, 0 if aggregate.every_cell else delta, shop.share.min_cell)
        for aggregate in aggregates
    ]


def _decimal(number: float) -> Decimal:
    if not 0 < number < math.inf:
        raise ShopError(f"EPSILON must be a number above 0, not {number}")
    return Decimal(str(number))


def _night(marts: duckdb.DuckDBPyConnection) -> date:
    found: list[tuple[date]] = marts.execute("SELECT max(night) FROM run_manifest").fetchall()
    return found[0][0]


# ---- the mechanism


@dataclass(frozen=True)
class Mechanism:
    """How noise is added to one aggregate: nothing here depends on data."""

    aggregate: Aggregate
    epsilon: float
    """of each measure"""
    scales: list[float]
    """of the noise, by measure, in its smallest unit"""
    errors: list[float]
    """95 % of the noise is no larger"""
    least: int
    """cells with fewer users, counted with noise, are left out"""
    add_noise: list[Any]
    """OpenDP's measurements, by measure"""

    @classmethod
    def of(cls, asked: Asked) -> Mechanism:
        """OpenDP chooses the scales: of no larger loss than epsilon, its measures together."""
        dp = _opendp()
        aggregate = asked.aggregate
        epsilon = float(asked.epsilon) / len(aggregate.measures)
        made = [laplace(aggregate.cells * m.smallest_units, epsilon) for m in aggregate.measures]
        scales = [scale for _, scale in made]
        errors = [dp.discrete_laplacian_scale_to_accuracy(scale=s, alpha=0.05) for s in scales]
        # a cell that nobody is in has as many users, now and then, as noise alone makes
        least = max(asked.min_cell, math.ceil(errors[0]))
        add_noise = [measurement for measurement, _ in made]
        if aggregate.every_cell is None:
            add_noise[0], least = laplace_above(
                aggregate.cells, scales[0], epsilon, asked.delta, least
            )
        return cls(aggregate, epsilon, scales, errors, least, add_noise)

    def draw(self, cells: Cells) -> Cells:
        """The cells that may be told, with noise."""
        if self.aggregate.every_cell is None:
            counts = {json.dumps(key): users for key, (users,) in cells.items()}
            told = self.add_noise[0](counts)
            return {tuple(json.loads(key)): [users] for key, users in told.items()}
        columns = zip(*cells.values(), strict=True)
        noisy = [add([*column]) for add, column in zip(self.add_noise, columns, strict=True)]
        rows = zip(cells, zip(*noisy, strict=True), strict=True)
        return {key: [*values] for key, values in rows if values[0] >= self.least}

    def about(self) -> list[dict[str, Any]]:
        """What is to be said of each measure."""
        return [
            {
                "measure": measure.name,
                "epsilon": self.epsilon,
                "bound_of_a_user_in_a_cell": measure.bound,
                "sensitivity": self.aggregate.cells * measure.bound,
                "mechanism": "discrete Laplace",
                "scale": scale / 10**measure.decimals,
                "error_95": error / 10**measure.decimals,
            }
            for measure, scale, error in zip(
                self.aggregate.measures, self.scales, self.errors, strict=True
            )
        ]


def laplace(sensitivity: int, epsilon: float) -> tuple[Any, float]:
    """Adds noise to a list of integers; and its scale.

    `sensitivity` is how far one user can move all of them together (the sum of absolute changes).
    """
    dp = _opendp()

    def make(scale: float) -> Any:
        integers = dp.vector_domain(dp.atom_domain(T="i64"))
        return dp.m.make_laplace(integers, dp.l1_distance(T="i64"), scale=scale)

    scale = dp.binary_search_param(make, d_in=sensitivity, d_out=epsilon)
    return make(scale), scale


def laplace_above(
    cells: int, scale: float, epsilon: float, delta: float, least: int
) -> tuple[Any, int]:
    """Adds noise to counts of users by cell and keeps the large ones; and how large that is.

    For cells that are there only because somebody is in them: one user is in `cells` at most, and
    that noise lifts a cell of theirs alone over the threshold has at most the chance `delta`.
    """
    dp = _opendp()
    by_cell = dp.map_domain(dp.atom_domain(T=str), dp.atom_domain(T="i64"))
    metric = dp.l01inf_distance(dp.absolute_distance(T="i64"))
    one_user = (cells, cells, 1)  # cells; users, in all of them together and in one
    least = max(least, math.floor(scale * math.log(cells / (2 * delta))))
    while True:
        made = dp.m.make_laplace_threshold(by_cell, metric, scale=scale, threshold=least)
        if made.check(one_user, (epsilon, delta)):
            return made, least
        least += 1


def _opendp() -> Any:
    try:
        import opendp.prelude as dp
    except ImportError as error:
        raise PrivacyError(
            "make share needs OpenDP: .venv/bin/pip install -r requirements.lock"
        ) from error
    dp.enable_features("contrib")
    return dp


# ---- the files


def _released(paths: Paths, ledger: Ledger, asked: Asked) -> Released | None:
    """What was released before; the description is written last, so it is there with its data."""
    csv, about = asked.file(paths, "csv"), asked.file(paths, "json")
    if not about.exists():
        return None
    said = json.loads(about.read_text())
    if said["grant"] not in {grant.id for grant in ledger.grants}:
        raise PrivacyError(
            f"{about} was released, but {ledger.file} does not know of it: the ledger is older "
            "or was deleted; bring it back from a backup"
        )
    if not csv.exists() or hashlib.sha256(csv.read_bytes()).hexdigest() != said["sha256"]:
        raise PrivacyError(
            f"{csv} is not what was released: bring it back from a backup, or delete "
            f"{about} to draw anew, which is charged again"
        )
    return Released(asked.aggregate.name, csv, said, before=True)


def _write(
    shop: Shop, paths: Paths, asked: Asked, mechanism: Mechanism, grant: Grant, cells: Cells
) -> Released:
    aggregate = asked.aggregate
    text = _csv(aggregate, cells)
    about = {
        "shop": shop.title,
        "simulated": shop.simulated,
        "night": asked.night.isoformat(),
        "aggregate": aggregate.name,
        "about": aggregate.about,
        "meaning": _meaning(asked),
        "epsilon": float(asked.epsilon),
        "delta": asked.delta,
        "unit_of_privacy": "a user with all they ever did; guests do not count",
        "cells_a_user_counts_in": aggregate.cells,
        "users_in_a_cell_at_least": mechanism.least,
        "measures": mechanism.about(),
        "cells": len(cells),
        "grant": grant.id,
        "granted_at": grant.granted_at,
        "sha256": hashlib.sha256(text).hexdigest(),
    }
    csv = asked.file(paths, "csv")
    csv.parent.mkdir(exist_ok=True)
    _put(csv, text)
    _put(asked.file(paths, "json"), json.dumps(about, indent=1, ensure_ascii=False).encode())
    return Released(aggregate.name, csv, about, before=False)


def _csv(aggregate: Aggregate, cells: Cells) -> bytes:
    import csv

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*aggregate.keys, *(measure.name for measure in aggregate.measures)])
    for key in sorted(cells):
        amounts = zip(aggregate.measures, cells[key], strict=True)
        writer.writerow([*key, *(_amount(measure, value) for measure, value in amounts)])
    return out.getvalue().encode()


def _amount(measure: Measure, value: int) -> str:
    # fewer than none is noise, and money that was paid back is not
    return str(Decimal(value).scaleb(-measure.decimals)) if measure.decimals else str(max(value, 0))


def _meaning(asked: Asked) -> str:
    chance = f", but for a chance of {asked.delta:.1g}" if asked.delta else ""
    return (
        "Whether any one user is in the shop's data or not makes any content of this file at most "
        f"{asked.epsilon.exp():.3g} times as likely{chance}. A user counts in at most "
        f"{asked.aggregate.cells} cells and in each up to the bounds below, so that totals are too "
        "low where users did more. Each number has noise: in 19 of 20 cases it is off by no more "
        "than error_95. Cells with too few users, counted with noise, are left out. What other "
        "files of this shop tell adds up: the ledger keeps the sum."
    )


def _put(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.next")
    new.write_bytes(content)
    new.replace(path)


def table(released: list[Released], left: Decimal) -> str:
    """One line for each aggregate, and what is left of the budget."""
    lines = [f"{'aggregate':22} {'cells':>5} {'epsilon':>8}  95 % error of users  file"]
    for each in released:
        about = each.about
        again = " (as released before, not charged)" if each.before else ""
        lines.append(
            f"{each.name:22} {about['cells']:5} {about['epsilon']:8g}  "
            f"{about['measures'][0]['error_95']:19,.0f}  {each.csv}{again}"
        )
    return "\n".join([*lines, f"Left of the privacy budget: epsilon {left.normalize():f}"])
