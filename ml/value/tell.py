"""What a night tells of every user, and what came of what earlier nights told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from ml.sequences import sorted_ids
from ml.value import drift
from ml.value.buying import Buying
from ml.value.heads import SHARE
from ml.value.history import Array
from ml.value.inputs import EPOCH, Prepared, ValueInputs, orders_of
from ml.value.judge import BG_NBD, DECILE_TABLE, Prediction
from ml.value.matrix import Moments
from ml.value.model import Model, champion, fitted_buying
from ml.value.outcomes import outcome, user_numbers
from ml.value.reasons import reasons, words
from ml.value.tables import DRIFT, DRIVERS, PREDICTIONS, PUBLISHED, about, deciles
from ml.value.targets import CHURN, Target, targets

DRIFT_DAYS = 28
"""Tonight is held against the newest moment that lies so far back: a longer way a young shop's
users grow into other ones, a shorter way nothing moves but what is broken."""
_AT_ONCE = 100_000
"""Users whose features and their shares are in memory at once."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """What a night tells of everybody."""

    predictions: pa.Table
    drivers: pa.Table
    drift: pa.Table
    versions: dict[str, str]
    """by target and days"""


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
    buying = fitted_buying(data, data.end, seed)
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
        log(f"{target.label}: {table.num_rows:,} users by {version}")
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
    """What a model tells, and what moves it most; a million users are read some at a time."""
    features = model.head.features
    tables, size = [], np.zeros(len(features))
    for start in range(0, len(own.user), _AT_ONCE):
        some = own.where(slice(start, start + _AT_ONCE))
        x = model.read(target, some, data)
        told, moved = model.head.tell(x), model.head.contributions(x)
        values = (told, *model.head.interval(told))
        why = reasons(features, x, moved)
        tables.append(_predictions(target, data.ids, some.user, values, why, model.version))
        size += np.abs(moved).sum(0)
    top = np.argsort(-size, kind="stable")[:20]
    drivers = pa.table(
        {
            "feature": [features[i] for i in top],
            "meaning": [words(features[i]) for i in top],
            "share": size[top] / max(size.sum(), 1e-12),
        }
    )
    return pa.concat_tables(tables), about(target, drivers, DRIVERS)


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
        columns["prediction"] = model.tell(target, moments, data)
        tables.append(pa.table(columns))
    before_then, tonight = tables
    return about(target, drift.psi(before_then, tonight, tonight.column_names), DRIFT)


def followed_up(told: pa.Table, orders: pa.Table, night: date, is_mature_by: date) -> pa.Table:
    """What an earlier night told, held against what came since, as rows of DECILE_TABLE.

    `told`: user_predictions of `night`; targets whose days are not over by the end of
    `is_mature_by` are left out. `orders` as in ValueInputs.
    """
    end = (is_mature_by - EPOCH).days + 1
    day = (night - EPOCH).days + 1
    tables = [DECILE_TABLE.empty_table()]
    if not told.num_rows:
        return tables[0]
    ids = sorted_ids(told["user_id"], orders["user_id"])
    known = orders_of(orders, "order_date", ids, "net_revenue")
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
