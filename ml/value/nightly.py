"""What a night asks of the value models: judge and promote a challenger of each target, then tell.

A challenger learns from moments whose days were over before the moment it is judged at, and is
judged there on users whose days are over now: nothing that is published has seen what it was judged
on. Where a shop is too young for both, it is judged on users that it has not learned from. What has
no champion is told by BG/NBD and Gamma-Gamma, which need no day to be over.
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

from ml import ModelError, TooLittleHistory, registry
from ml.gate import Decision, settle
from ml.sequences import sorted_ids
from ml.value import drift, fairness
from ml.value.baselines import Recency, Rfm
from ml.value.buying import Buying
from ml.value.heads import SHARE, Config, Head, Rows, fit
from ml.value.history import Array
from ml.value.judge import DECILE_TABLE, QUALITY, Judged, Prediction, judge
from ml.value.matrix import Moments, feature_names, folds, matrix
from ml.value.outcomes import Orders, day_numbers, outcome, user_numbers
from ml.value.reasons import reasons, words
from ml.value.targets import CHURN, Target, targets

CHALLENGER, CHAMPION = "challenger", "champion"
BG_NBD, RECENCY, RFM = "bg_nbd", "recency", "rfm"
BACKTEST, PUBLISHED = "backtest", "published"
BY_TIME, BY_USERS = "later days", "other users"
NEW_USER_DAYS = 60
"""A user known for fewer is a new one, where quality is compared."""
DRIFT_DAYS = 28
"""Tonight is held against the newest moment that lies so far back: a longer way a young shop's
users grow into other ones, a shorter way nothing moves but what is broken."""
_JUDGED, _SPARED = 0, 1
"""Folds of users: judged on where time cannot be split, and spared to stop and to scale by."""
_EPOCH = date(1970, 1, 1)
_BUYING = "buying.json"
PREDICTIONS = pa.schema(
    [
        ("user_id", pa.string()),
        ("target", pa.string()),
        ("horizon_days", pa.int32()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("top_reasons", pa.list_(pa.string())),
        ("model_version", pa.string()),
    ]
)
FAIRNESS = pa.schema([*list(QUALITY)[:2], *fairness.SCHEMA])
DRIFT = pa.schema([*list(QUALITY)[:2], *drift.SCHEMA])
DRIVERS = pa.schema(
    [
        *list(QUALITY)[:2],
        ("feature", pa.string()),
        ("meaning", pa.string()),
        ("share", pa.float64()),
    ]
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValueInputs:
    """All that the value models are given for one night.

    past: user_id, event_timestamp and the features of the service at moments before tonight.
    tonight: the same, one row a user, at the night's end. orders: user_id, order_date, net_revenue
    of valid orders. bought: user_id, trade_date, one row a day on which orders were placed,
    whatever became of them. users: user_id, country.
    """

    past: pa.Table
    tonight: pa.Table
    orders: pa.Table
    bought: pa.Table
    users: pa.Table
    night: date
    churn_days: int | None

    @property
    def end(self) -> int:
        """The first day the night does not know, in days since 1970."""
        return (self.night - _EPOCH).days + 1


@dataclass(frozen=True)
class Prepared:
    """The same as arrays."""

    ids: pa.Array
    past: Moments
    now: Moments
    orders: Orders
    bought: Orders
    fold: np.ndarray
    """int64 [users]"""
    end: int
    country: np.ndarray
    """object [users]"""

    @classmethod
    def of(cls, inputs: ValueInputs) -> Prepared:
        """Raises TooLittleHistory where nobody is known."""
        ids = sorted_ids(
            *(table["user_id"] for table in (inputs.past, inputs.tonight, inputs.users)),
            *(table["user_id"] for table in (inputs.orders, inputs.bought)),
        )
        if not inputs.tonight.num_rows:
            raise TooLittleHistory("nobody is known yet")
        names = feature_names(inputs.tonight)
        country = np.full(len(ids), None, object)
        country[user_numbers(inputs.users["user_id"], ids)] = inputs.users["country"].to_pylist()
        return cls(
            ids=ids,
            past=Moments.of(inputs.past, ids, names),
            now=Moments.of(inputs.tonight, ids, names),
            orders=_orders(inputs.orders, "order_date", ids, "net_revenue"),
            bought=_orders(inputs.bought, "trade_date", ids),
            fold=folds(ids),
            end=inputs.end,
            country=country,
        )


def _orders(table: pa.Table, day: str, ids: pa.Array, amount: str | None = None) -> Orders:
    value = table[amount].cast(pa.float64()).to_numpy() if amount else np.zeros(table.num_rows)
    return Orders.of(user_numbers(table["user_id"], ids), day_numbers(table[day]), value, len(ids))


@dataclass(frozen=True)
class Model:
    """What tells one target: trees, and the buying models that some of their features come from."""

    version: str
    head: Head
    buying: Buying | None
    names: tuple[str, ...]
    """of the service's features, in the order that the head reads them"""

    def read(self, target: Target, moments: Moments, bought: Orders) -> np.ndarray:
        """float32 [n, f] what the head reads of some moments."""
        own = Moments(moments.user, moments.day, self.names, _aligned(moments, self.names))
        return matrix(own, target, self.buying, bought)[0]

    @classmethod
    def load(cls, models: Path, name: str, version: str) -> Model:
        """A version of the registry; raises ModelError when it cannot be read."""
        folder = registry.folder(models, name, version)
        head = Head.load(folder)
        try:
            known = json.loads((folder / _BUYING).read_text())
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder} holds no readable model: roll back ({error})") from error
        buying = Buying.of(known["buying"]) if known["buying"] else None
        return cls(version, head, buying, tuple(known["names"]))

    def save(self, folder: Path) -> None:
        """Write it; the same model gives the same bytes."""
        self.head.save(folder)
        known = {"buying": self.buying.as_dict() if self.buying else None, "names": self.names}
        (folder / _BUYING).write_text(json.dumps(known) + "\n")


def _aligned(moments: Moments, names: tuple[str, ...]) -> np.ndarray:
    if names == moments.names:
        return moments.values
    columns = [moments.column(name) for name in names]
    return np.stack(columns, 1).astype(np.float32)


@dataclass(frozen=True)
class Cut:
    """Which moments are learned from and which are judged on."""

    learn: Moments
    spared: Moments
    judged: Moments
    split: str
    day: int
    """the moment that is judged at"""


def cut(target: Target, data: Prepared) -> Cut | None:
    """The newest moment whose days are over, and what may be learned from by then; None without."""
    past = data.past
    if target.of_customers:
        past = past.where(np.nan_to_num(past.column("orders")) > 0)
    over = past.where(past.day + target.days <= data.end)
    if not len(over.day):
        return None
    day = int(over.day.max())
    judged = over.where(over.day == day)
    before = over.where(over.day + target.days <= day)
    split = BY_TIME
    if not len(before.day):
        before, split = over.where(data.fold[over.user] != _JUDGED), BY_USERS
        judged = judged.where(data.fold[judged.user] == _JUDGED)
    spared = data.fold[before.user] == _SPARED
    return Cut(before.where(~spared), before.where(spared), judged, split, day)


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


@dataclass(frozen=True)
class Told:
    """What a night tells of everybody."""

    predictions: pa.Table
    drivers: pa.Table
    drift: pa.Table
    versions: dict[str, str]
    """by target and days"""


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
    found = []
    for target in targets(inputs.churn_days):
        one = _one(target, data, inputs.night, models, card, config, threads, every_days, record)
        log(f"{_label(target)}: {one.decision}")
        found.append(one)
    return found


def _label(target: Target) -> str:
    return f"{target.name} in {target.days} days"


def _one(
    target: Target, data: Prepared, night: date, models: Path, card: dict[str, Any],
    config: Config, threads: int, every_days: int, record: Callable[..., object] | None,
) -> Outcome:  # fmt: skip
    chosen = cut(target, data)
    if chosen is None:
        return _nothing(target, "no user's days are over yet; told by BG/NBD")
    came = outcome(target, data.orders, chosen.judged.user, chosen.judged.day)
    if len(came) < 50 or not 0 < (came > 0).sum() < len(came) + target.is_amount:
        return _nothing(target, f"{len(came)} users to judge on are too few; told by BG/NBD")
    buying = _buying(data, chosen.day, config.seed)
    told = _baselines(target, data, chosen, buying)
    # as of the night before, so that a night that is run again finds what it found
    before = champion(models, target, night - timedelta(days=1), card["feature_service"])
    if before:
        told[CHAMPION] = before.head.tell(before.read(target, chosen.judged, data.bought))
    model, why = None, "champion judged, not yet time to train"
    if not before or _is_due(models, target, night, every_days):
        try:
            model = _trained(target, data, chosen, buying, config, threads, night)
            told[CHALLENGER] = model.head.tell(model.read(target, chosen.judged, data.bought))
        except TooLittleHistory as error:
            why = f"no challenger: {error}"
    own = CHALLENGER if model else CHAMPION if before else BG_NBD if BG_NBD in told else RECENCY
    judged = judge(own, told, came, target.is_amount, config.seed)
    decision = _decision(judged, chosen, why) if model else Decision(False, [why], {})
    text = decision.text if model else why
    quality = _rows(target, judged.quality, QUALITY)
    if model:
        _keep(target, model, models, night, card, config, chosen, decision, quality, record)
    used = CHALLENGER if decision.promote else CHAMPION if before else BG_NBD
    shown = told.get(used, told[RECENCY])
    moment = _EPOCH.toordinal() + chosen.day - 1
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


def champion(models: Path, target: Target, night: date, service: str) -> Model | None:
    """What tells a target tonight; None before the first promotion, or with other features."""
    version = registry.champion(models, target.model, night)
    if version is None or registry.is_due(models, target.model, version):
        return None
    if registry.card(models, target.model, version)["feature_service"] != service:
        _log.warning("%s %s knows other features: not used", target.model, version)
        return None
    return Model.load(models, target.model, version)


def _is_due(models: Path, target: Target, night: date, every_days: int) -> bool:
    trained = [
        date.fromisoformat(registry.card(models, target.model, version)["night"])
        for version in registry.versions(models, target.model)
    ]
    earlier = [each for each in trained if each < night]
    return not earlier or (night - max(earlier)).days >= every_days


def _buying(data: Prepared, day: int, seed: int) -> Buying | None:
    """The buying models of all who had bought before a day."""
    everybody = np.arange(len(data.ids))
    newest = data.past.where(data.past.day == day) if day < data.end else data.now
    values = np.full((len(everybody), len(newest.names)), np.nan, np.float32)
    values[newest.user] = newest.values
    moments = Moments(everybody, np.full(len(everybody), day), newest.names, values)
    known, _ = moments.buyers(data.bought)
    try:
        return Buying.fit(known, seed)
    except ModelError as error:
        _log.info("BG/NBD: %s", error)
        return None


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


def _trained(
    target: Target, data: Prepared, chosen: Cut, buying: Buying | None, config: Config,
    threads: int, night: date,
) -> Model:  # fmt: skip
    rows = []
    names: tuple[str, ...] = ()
    for moments in (chosen.learn, chosen.spared):
        x, names = matrix(moments, target, buying, data.bought)
        y = outcome(target, data.orders, moments.user, moments.day)
        weight = np.exp(-(chosen.day - moments.day) / config.fades_days)
        rows.append(Rows(x, y, moments.user, weight))
    learned, spared = rows
    head = fit(names, learned, spared, target.is_amount, config, threads)
    digest = hashlib.sha256(json.dumps(asdict(config)).encode())
    for part in rows:
        digest.update(part.x.tobytes() + part.y.tobytes())
    version = f"val-{night:%Y%m%d}-{digest.hexdigest()[:10]}"
    return Model(version, head, buying, data.past.names)


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
    about = card | {
        "version": model.version,
        "model": target.model,
        "night": night.isoformat(),
        "horizon_days": target.days,
        "judged_at": date.fromordinal(_EPOCH.toordinal() + chosen.day - 1).isoformat(),
        "judged_on": chosen.split,
        "data_until": date.fromordinal(_EPOCH.toordinal() + chosen.day - 1).isoformat(),
        "judged_users": len(chosen.judged.user),
        "rows": len(chosen.learn.user),
        "config": asdict(config),
        "decision": decision.text,
        "promoted": decision.promote,
        "metrics": own,
        "buying": model.buying.as_dict() if model.buying else None,
    }
    if record:
        nothing: dict[str, Any] = {"curves": {"steps": []}, "files": {}}
        record(target.model, model.version, asdict(config) | card, own, **nothing)
    registry.add(models, target.model, model.version, about, model.save)
    if decision.promote:
        registry.promote(models, target.model, model.version, night)


def _rows(target: Target, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table about one target, with the target in front."""
    columns = {name: table[name] for name in table.column_names}
    columns["target"] = pa.repeat(pa.scalar(target.name), table.num_rows)
    columns["horizon_days"] = pa.repeat(pa.scalar(target.days, pa.int32()), table.num_rows)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def deciles(target: Target, told: Prediction, ordinal: int, origin: str) -> pa.Table:
    """What was told and what came, by tenths of users, as rows of DECILE_TABLE."""
    rows = told.by_decile()
    night = date.fromordinal(ordinal)
    return pa.table(
        [
            pa.array([night] * len(rows), pa.date32()),
            [origin] * len(rows),
            [target.name] * len(rows),
            pa.array([target.days] * len(rows), pa.int32()),
            *map(pa.array, zip(*rows, strict=True)),
        ],
        names=DECILE_TABLE.names,
    ).cast(DECILE_TABLE)


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
    return _rows(target, fairness.gaps(told, came, groups, seed), FAIRNESS)


# -- what is told --------------------------------------------------------------------------------


def tell(
    inputs: ValueInputs,
    *,
    models: Path,
    feature_service: str,
    seed: int,
    log: Callable[[str], object] = _log.info,
) -> Told:
    """Every target of every user at the night's end, by its champion, else by the rhythm of buying.

    Users that nothing can be told of (no order, and no champion) have no row of that target.
    """
    data = Prepared.of(inputs)
    buying = _buying(data, data.end, seed)
    tables, drivers, drifted = [PREDICTIONS.empty_table()], [DRIVERS.empty_table()], []
    versions = {}
    for target in targets(inputs.churn_days):
        own = data.now
        if target.of_customers:
            own = own.where(np.nan_to_num(own.column("orders")) > 0)
        model = champion(models, target, inputs.night, feature_service)
        if model and len(own.user):
            table, driver = _by_model(target, model, own, data)
            drivers.append(driver)
            version = model.version
            drifted.append(_drift(target, model, own, data))
        else:
            version = f"{BG_NBD}-{inputs.night:%Y%m%d}"
            table = _by_rhythm(target, buying, own, data, version)
            version = version if table.num_rows else "none"
        versions[f"{target.name}_{target.days}"] = version
        log(f"{_label(target)}: {table.num_rows:,} users by {version}")
        tables.append(table)
    order = [("user_id", "ascending"), ("target", "ascending"), ("horizon_days", "ascending")]
    return Told(
        pa.concat_tables(tables).sort_by(order),
        pa.concat_tables(drivers),
        pa.concat_tables([DRIFT.empty_table(), *drifted]),
        versions,
    )


def _by_model(
    target: Target, model: Model, own: Moments, data: Prepared
) -> tuple[pa.Table, pa.Table]:
    x = model.read(target, own, data.bought)
    told = model.head.tell(x)
    moved = model.head.contributions(x)
    low, high = model.head.interval(told)
    why = reasons(model.head.features, x, moved)
    size = np.abs(moved).mean(0)
    top = np.argsort(-size, kind="stable")[:20]
    about = pa.table(
        {
            "feature": [model.head.features[i] for i in top],
            "meaning": [words(model.head.features[i]) for i in top],
            "share": size[top] / max(size.sum(), 1e-12),
        }
    )
    table = _predictions(target, data.ids, own.user, (told, low, high), why, model.version)
    return table, _rows(target, about, DRIVERS)


def _by_rhythm(
    target: Target, buying: Buying | None, own: Moments, data: Prepared, version: str
) -> pa.Table:
    if buying is None:
        return PREDICTIONS.empty_table()
    known, those = own.buyers(data.bought)
    if not len(those):
        return PREDICTIONS.empty_table()
    told = buying.tell(target, known)
    low, high = buying.interval(target, known, SHARE)
    values = (told, np.minimum(low, told), np.maximum(high, told))
    names = ("days_since_last_order", "orders", "order_value")
    x = np.stack([own.column(name)[those] for name in names], 1).astype(np.float32)
    # no trees, so no shares: what the model reads, in the order in which it weighs
    sign = -1.0 if target.name == CHURN else 1.0
    recent = known.history.age - known.history.recency < np.median(known.history.age)
    weight = np.stack([np.where(recent, 3, -3), np.full(len(x), 2), np.full(len(x), 1.0)], 1)
    why = reasons(names if target.is_amount else names[:2], x, sign * weight)
    return _predictions(target, data.ids, own.user[those], values, why, version)


def _predictions(
    target: Target, ids: pa.Array, user: np.ndarray, values: tuple[Array, Array, Array],
    why: pa.Array, version: str,
) -> pa.Table:  # fmt: skip
    n = len(user)
    columns = [
        ids.take(pa.array(user)),
        pa.repeat(pa.scalar(target.name), n),
        pa.repeat(pa.scalar(target.days, pa.int32()), n),
        *(pa.array(each, pa.float64()) for each in values),
        why,
        pa.repeat(pa.scalar(version), n),
    ]
    return pa.table(columns, schema=PREDICTIONS)


def _drift(target: Target, model: Model, own: Moments, data: Prepared) -> pa.Table:
    """How far tonight's features, and what is told by them, are from those of some weeks ago."""
    before = data.past.day[data.past.day <= data.end - DRIFT_DAYS]
    if not len(before):
        return DRIFT.empty_table()
    then = data.past.where(data.past.day == before.max())
    if target.of_customers:
        then = then.where(np.nan_to_num(then.column("orders")) > 0)
    tables = []
    for moments in (then, own):
        columns = {name: moments.column(name) for name in model.names}
        columns["prediction"] = model.head.tell(model.read(target, moments, data.bought))
        tables.append(pa.table(columns))
    before_then, tonight = tables
    return _rows(target, drift.psi(before_then, tonight, tonight.column_names), DRIFT)


def followed_up(told: pa.Table, orders: pa.Table, night: date, is_mature_by: date) -> pa.Table:
    """What an earlier night told, held against what came since, as rows of DECILE_TABLE.

    `told`: user_predictions of `night`; targets whose days are not over by the end of
    `is_mature_by` are left out. `orders` as in ValueInputs.
    """
    end = (is_mature_by - _EPOCH).days + 1
    day = (night - _EPOCH).days + 1
    tables = [DECILE_TABLE.empty_table()]
    if not told.num_rows:
        return tables[0]
    ids = sorted_ids(told["user_id"], orders["user_id"])
    known = _orders(orders, "order_date", ids, "net_revenue")
    kind = told["target"].to_numpy(zero_copy_only=False)
    days = told["horizon_days"].to_numpy()
    for name, horizon in sorted(set(zip(kind.tolist(), days.tolist(), strict=True))):
        if day + horizon > end:
            continue
        target = Target(name, horizon)
        part = told.filter(pa.array((kind == name) & (days == horizon)))
        user = user_numbers(part["user_id"], ids)
        came = outcome(target, known, user, np.full(len(user), day))
        prediction = Prediction(part["value"].to_numpy(), came, target.is_amount)
        tables.append(deciles(target, prediction, night.toordinal(), PUBLISHED))
    return pa.concat_tables(tables)
