"""What a night asks of the value models: judge every target's models, and promote a challenger.

A challenger learns from moments whose days were over before the moment it is judged at, and is
judged there on users whose days are over now: nothing that is published has seen what it was judged
on. Where a shop is too young for both, it is judged on users that it has not learned from. What has
no champion is told by BG/NBD and Gamma-Gamma, which need no day to be over (`ml.value.tell`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ml import TooLittleHistory, registry
from ml.gate import Decision, settle
from ml.value import fairness
from ml.value.baselines import Recency, Rfm
from ml.value.buying import Buying
from ml.value.heads import Config, Rows, fit
from ml.value.history import Array
from ml.value.inputs import EPOCH, TEACHING, Cut, Prepared, ValueInputs, cut
from ml.value.judge import BG_NBD, DECILE_TABLE, QUALITY, Judged, Prediction, judge
from ml.value.matrix import Moments
from ml.value.model import Model, champion, fitted_buying, is_due, read
from ml.value.outcomes import Orders, outcome
from ml.value.tables import BACKTEST, FAIRNESS, about, deciles
from ml.value.targets import CHURN, Target, targets
from ml.value.taste import NAMES as TASTES
from ml.value.taste import Taste

CHALLENGER, CHAMPION = "challenger", "champion"
RECENCY, RFM = "recency", "rfm"
NEW_USER_DAYS = 60
"""A user known for fewer is a new one, where quality is compared."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a night found out about one target."""

    target: Target
    decision: str
    promoted: bool
    version: str
    """of the challenger; empty where none was trained"""
    quality: pa.Table
    deciles: pa.Table
    fairness: pa.Table


def train(
    inputs: ValueInputs,
    *,
    models: Path,
    card: dict[str, Any],
    seed: int,
    threads: int,
    every_days: int = 7,
    record: Callable[..., object] | None = None,
    log: Callable[[str], object] = _log.info,
) -> list[Outcome]:
    """Judge every target's champion and baselines; train a challenger where it is time for one.

    A target is trained when its newest version is `every_days` old; judged it is every night.
    `card` must name the `feature_service`; a champion of another one is left out of the comparison
    and goes on until it is beaten by nobody but time: the next challenger that is ahead of the
    baselines takes over. `record(name, version, parameters, metrics)` keeps a version's figures.
    """
    data = Prepared.of(inputs)
    config = Config(seed=seed)
    tastes: dict[int, Taste | None] = {}
    found = []
    for target in targets(inputs.churn_days):
        one = _one(
            target, data, inputs.night, models, card, config, threads, every_days, record, tastes
        )
        log(f"{target.label}: {one.decision}")
        found.append(one)
    return found


def _one(
    target: Target, data: Prepared, night: date, models: Path, card: dict[str, Any],
    config: Config, threads: int, every_days: int, record: Callable[..., object] | None,
    tastes: dict[int, Taste | None],
) -> Outcome:  # fmt: skip
    chosen = cut(target, data)
    if chosen is None:
        return _nothing(target, "no user's days are over yet; told by BG/NBD")
    came = outcome(target, data.orders, chosen.judged.user, chosen.judged.day)
    if len(came) < 50 or not 0 < (came > 0).sum() < len(came) + target.is_amount:
        return _nothing(target, f"{len(came)} users to judge on are too few; told by BG/NBD")
    buying = fitted_buying(data, chosen.day, config.seed)
    told = _baselines(target, data, chosen, buying)
    # as of the night before, so that a night that is run again finds what it found
    before = champion(models, target, night - timedelta(days=1), card["feature_service"])
    if before:
        told[CHAMPION] = before.tell(target, chosen.judged, data)
    model, why = None, "champion judged, not yet time to train"
    if not before or is_due(models, target, night, every_days):
        try:
            taste = _taste(data, chosen.day, config.seed, tastes)
            model = _trained(target, data, chosen, buying, taste, config, threads, night)
            told[CHALLENGER] = model.tell(target, chosen.judged, data)
        except TooLittleHistory as error:
            why = f"no challenger: {error}"
    own = CHALLENGER if model else CHAMPION if before else BG_NBD if BG_NBD in told else RECENCY
    judged = judge(own, told, came, target.is_amount, config.seed)
    decision = _decision(judged, chosen, why) if model else Decision(False, [why], {})
    text = decision.text if model else why
    quality = about(target, judged.quality, QUALITY)
    if model:
        _keep(target, model, models, night, card, config, chosen, decision, quality, record)
    used = CHALLENGER if decision.promote else CHAMPION if before else BG_NBD
    shown = told.get(used, told[RECENCY])
    moment = EPOCH.toordinal() + chosen.day - 1
    return Outcome(
        target,
        text,
        decision.promote,
        model.version if model else "",
        quality,
        deciles(target, Prediction(shown, came, target.is_amount), moment, BACKTEST),
        _fairness(target, data, chosen, shown, came, config.seed),
    )


def _nothing(target: Target, why: str) -> Outcome:
    empty = (QUALITY.empty_table(), DECILE_TABLE.empty_table(), FAIRNESS.empty_table())
    return Outcome(target, why, False, "", *empty)


def _baselines(
    target: Target, data: Prepared, chosen: Cut, buying: Buying | None
) -> dict[str, Array]:
    """What each plain rule would have told of the judged."""
    learned = chosen.learn
    came = outcome(target, data.orders, learned.user, learned.day)
    recency = Recency.fit(learned.recency, came, rises=target.name == CHURN)
    told = {
        RECENCY: recency.tell(chosen.judged.recency),
        RFM: Rfm.fit(learned.rfm, came).tell(chosen.judged.rfm),
    }
    if buying is not None:
        told[BG_NBD] = _by_buying(target, buying, chosen.judged, data.bought)
        strangers = ~np.isfinite(told[BG_NBD])
        never = np.isnan(learned.column("days_since_last_order"))
        told[BG_NBD][strangers] = came[never].mean() if never.any() else came.mean()
    return told


def _by_buying(target: Target, buying: Buying, moments: Moments, bought: Orders) -> Array:
    """[n] by BG/NBD and Gamma-Gamma; NaN for those who had not bought."""
    known, those = moments.buyers(bought)
    told = np.full(len(moments.user), np.nan)
    if len(those):
        told[those] = buying.tell(target, known)
    return told


def _taste(data: Prepared, day: int, seed: int, tastes: dict[int, Taste | None]) -> Taste | None:
    """The network of the users who teach it, as of a day; targets judged at one day share it."""
    if day not in tastes:
        met, wanted = (e.where(data.fold[e.user] == TEACHING) for e in (data.met, data.wanted))
        tastes[day] = Taste.fit(met, wanted, day, seed)
    return tastes[day]


def _trained(
    target: Target, data: Prepared, chosen: Cut, buying: Buying | None, taste: Taste | None,
    config: Config, threads: int, night: date,
) -> Model:  # fmt: skip
    rows = []
    names: tuple[str, ...] = ()
    for moments in (chosen.learn, chosen.spared):
        x, names = read(target, moments, data, buying, taste)
        if taste:
            # what the network has learned from these users holds some of what came next
            x[np.ix_(data.fold[moments.user] == TEACHING, np.isin(names, TASTES))] = np.nan
        y = outcome(target, data.orders, moments.user, moments.day)
        weight = np.exp(-(chosen.day - moments.day) / config.fades_days)
        rows.append(Rows(x, y, moments.user, weight))
    learned, spared = rows
    head = fit(names, learned, spared, target.is_amount, config, threads)
    digest = hashlib.sha256(json.dumps(asdict(config)).encode())
    for part in rows:
        digest.update(part.x.tobytes() + part.y.tobytes())
    version = f"val-{night:%Y%m%d}-{digest.hexdigest()[:10]}"
    return Model(version, head, buying, taste, data.past.names)


def _decision(judged: Judged, chosen: Cut, why: str) -> Decision:
    rivals = {name: (judged.values[name], lead) for name, lead in judged.leads.items()}
    name = {"auc": "AUC", "gini": "Gini"}[judged.primary]
    decision = settle(name, judged.values[CHALLENGER], rivals)
    how = f"judged on {chosen.split}"
    return Decision(decision.promote, [how, *decision.reasons], decision.differences)


def _keep(
    target: Target, model: Model, models: Path, night: date, card: dict[str, Any], config: Config,
    chosen: Cut, decision: Decision, quality: pa.Table, record: Callable[..., object] | None,
) -> None:  # fmt: skip
    own = {row["metric"]: row["value"] for row in quality.to_pylist() if row["model"] == CHALLENGER}
    known = card | {
        "version": model.version,
        "model": target.model,
        "night": night.isoformat(),
        "horizon_days": target.days,
        "judged_at": date.fromordinal(EPOCH.toordinal() + chosen.day - 1).isoformat(),
        "judged_on": chosen.split,
        "data_until": date.fromordinal(EPOCH.toordinal() + chosen.day - 1).isoformat(),
        "judged_users": len(chosen.judged.user),
        "rows": len(chosen.learn.user),
        "config": asdict(config),
        "decision": decision.text,
        "promoted": decision.promote,
        "metrics": own,
        "buying": model.buying.as_dict() if model.buying else None,
        "has_user_vector": model.taste is not None,
    }
    if record:
        nothing: dict[str, Any] = {"curves": {"steps": []}, "files": {}}
        record(target.model, model.version, asdict(config) | card, own, **nothing)
    registry.add(models, target.model, model.version, known, model.save)
    if decision.promote:
        registry.promote(models, target.model, model.version, night)


def _fairness(
    target: Target, data: Prepared, chosen: Cut, told: Array, came: Array, seed: int
) -> pa.Table:
    """The quality of a probability by country, and of new and old users."""
    if target.is_amount:
        return FAIRNESS.empty_table()
    user = chosen.judged.user
    is_new = chosen.judged.column("tenure_days") < NEW_USER_DAYS
    groups = {
        "country": data.country[user],
        "tenure": np.where(is_new, "new", "old").astype(object),
    }
    return about(target, fairness.gaps(told, came, groups, seed), FAIRNESS)
