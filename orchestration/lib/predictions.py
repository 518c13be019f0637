"""A night's predictions as tables: made, written, and brought to the feature store."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from core.duck import connect
from orchestration.lib.night import Night
from orchestration.lib.value_inputs import SERVICE, value_inputs

if TYPE_CHECKING:
    import pyarrow as pa

FOLLOWED = 3
"""Past nights whose days are over that are held against what came, for each target and horizon."""
ONLINE_DAYS = 14
"""For how long a prediction may be asked for online; longer ago it is stale."""
_DATED = re.compile(r"(\d{4}-\d\d-\d\d)\.user_predictions\.parquet")


@dataclass(frozen=True)
class Made:
    """What a night tells, table by table, and why."""

    tables: dict[str, pa.Table]
    versions: dict[str, str]
    decisions: dict[str, str]


def made(
    night: Night, *, seed: int, threads: int, card: dict[str, Any],
    record: Callable[..., object], log: Callable[[str], object],
) -> Made:  # fmt: skip
    """Train what is due, judge everything, tell everybody; empty tables before anybody is known."""
    import pyarrow as pa

    from ml import TooLittleHistory
    from ml.value.judge import DECILE_TABLE, QUALITY
    from ml.value.nightly import train
    from ml.value.tables import DRIFT, DRIVERS, FAIRNESS, PREDICTIONS
    from ml.value.tell import tell

    inputs = value_inputs(night)
    card = card | {"feature_service": SERVICE, "night": night.night.isoformat()}
    models = night.paths.models
    try:
        outcomes = train(
            inputs, models=models, card=card, seed=seed, threads=threads,
            every_days=night.shop.value.every_days, record=record, log=log,
        )  # fmt: skip
        told = tell(inputs, models=models, feature_service=SERVICE, seed=seed, log=log)
    except TooLittleHistory as error:
        log(f"nothing to tell: {error}")
        schemas = {
            "user_predictions": PREDICTIONS,
            "prediction_quality": QUALITY,
            "prediction_deciles": DECILE_TABLE,
            "prediction_fairness": FAIRNESS,
            "prediction_drift": DRIFT,
            "prediction_drivers": DRIVERS,
        }
        empty = {name: schema.empty_table() for name, schema in schemas.items()}
        return Made({n: _dated(t, night.night) for n, t in empty.items()}, {}, {"all": str(error)})
    past = [_followed_up(night, inputs.orders)]
    tables = {
        "user_predictions": told.predictions,
        "prediction_quality": pa.concat_tables(each.quality for each in outcomes),
        "prediction_deciles": pa.concat_tables([*(each.deciles for each in outcomes), *past]),
        "prediction_fairness": pa.concat_tables(each.fairness for each in outcomes),
        "prediction_drift": told.drift,
        "prediction_drivers": told.drivers,
    }
    return Made(
        {name: _dated(table, night.night) for name, table in tables.items()},
        told.versions,
        {f"{each.target.name}_{each.target.days}": each.decision for each in outcomes},
    )


def _dated(table: pa.Table, night: date) -> pa.Table:
    """With the night in front, where a table has none of its own."""
    import pyarrow as pa

    if "night" in table.column_names:
        return table
    return table.add_column(0, "night", pa.array([night] * table.num_rows, pa.date32()))


def _followed_up(night: Night, orders: pa.Table) -> pa.Table:
    """What the newest past nights whose days are over told, against what came."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from ml.value.judge import DECILE_TABLE
    from ml.value.tell import followed_up

    folder = night.paths.predictions(night.night).parent
    names = (_DATED.fullmatch(path.name) for path in folder.glob("*"))
    past = sorted((date.fromisoformat(name[1]) for name in names if name), reverse=True)
    found: dict[tuple[str, int], int] = {}
    tables = [DECILE_TABLE.empty_table()]
    for day in past:
        if day >= night.night:
            continue
        rows = followed_up(pq.read_table(night.paths.predictions(day)), orders, day, night.night)
        for target, days in sorted({(r["target"], r["horizon_days"]) for r in rows.to_pylist()}):
            found[target, days] = found.get((target, days), 0) + 1
            if found[target, days] <= FOLLOWED:
                own = pc.and_(
                    pc.equal(rows["target"], target), pc.equal(rows["horizon_days"], days)
                )
                tables.append(rows.filter(own))
    return pa.concat_tables(tables)


def write(night: Night, tables: dict[str, pa.Table]) -> None:
    """Keep the tables of the night for its audit and publishing (each atomic)."""
    import pyarrow.parquet as pq

    for name, table in tables.items():
        path = night.paths.predictions(night.night, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        pq.write_table(table, temporary)
        temporary.replace(path)


def _of(days: int | None) -> str:
    return f"horizon_days = {days}" if days else "true"


def to_feature_store(night: Night) -> int:
    """Write the night's predictions, one row a user, where Feast reads them; the rows.

    Only of a night that is published. Those that are too old to be asked for go.
    """
    from feature_repo.definitions import PREDICTION_FIELDS, PREDICTIONS_VIEW

    folder = night.paths.features / PREDICTIONS_VIEW
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{night.night}.parquet"
    temporary = path.with_suffix(".tmp")
    columns = ", ".join(
        f"max(value) FILTER (target = '{target}' AND {_of(days)}) AS {name}"
        for name, target, days, _ in PREDICTION_FIELDS
    )
    with connect() as connection:
        rows = connection.execute(
            f"COPY (SELECT user_id, (night + 1)::TIMESTAMP AS event_timestamp, {columns} "
            f"FROM read_parquet('{night.paths.predictions(night.night)}') "
            f"GROUP BY user_id, night ORDER BY user_id) TO '{temporary}' (FORMAT parquet)"
        ).fetchone()
    temporary.replace(path)
    oldest = (night.night - timedelta(days=ONLINE_DAYS)).isoformat()
    for file in folder.glob("*.parquet"):
        if file.stem < oldest:
            file.unlink()
    return int(rows[0]) if rows else 0
