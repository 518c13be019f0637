"""The tables that a night's value models give, as they are published."""

from __future__ import annotations

from datetime import date

import pyarrow as pa

from ml.value import drift, fairness
from ml.value.judge import DECILE_TABLE, QUALITY, Prediction
from ml.value.targets import Target

BACKTEST, PUBLISHED = "backtest", "published"
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


def about(target: Target, table: pa.Table, schema: pa.Schema) -> pa.Table:
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
