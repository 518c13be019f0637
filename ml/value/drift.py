"""Do tonight's columns look like those that a model was trained on?

The population stability index: the reference is cut into ten bins of equal counts, and the sum over
bins of (tonight - reference) * ln(tonight / reference) says how far the shares have moved.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml import ModelError

STEADY = 0.1
"""Below: no change to speak of."""
DRIFTED = 0.25
"""Above: another population; between the two it has shifted."""
_BINS = 10
_LEAST = 1e-4
"""The share that an empty bin is taken to have."""

SCHEMA = pa.schema(
    [
        ("feature", pa.string()),
        ("psi", pa.float64()),
        ("missing_reference", pa.float64()),
        ("missing_tonight", pa.float64()),
        ("n_reference", pa.int64()),
        ("n_tonight", pa.int64()),
    ]
)


def psi(reference: pa.Table, tonight: pa.Table, columns: list[str]) -> pa.Table:
    """The index of each numeric column, and the share of its rows without a value.

    NULL and NaN are missing, which is a bin of its own; infinite values fall into the outer bins.
    The index is NULL when either table has no rows.
    """
    rows = []
    for name in columns:
        then, now = _numbers(reference, name), _numbers(tonight, name)
        missing = [float(np.isnan(each).mean()) if len(each) else None for each in (then, now)]
        index = _index(then, now) if len(then) and len(now) else None
        rows.append((name, index, *missing, len(then), len(now)))
    if not rows:
        return SCHEMA.empty_table()
    return pa.Table.from_arrays(
        [pa.array(c, t) for c, t in zip(zip(*rows, strict=True), SCHEMA.types, strict=True)],
        schema=SCHEMA,
    )


def reading(index: float) -> str:
    """`steady`, `shifted` or `drifted`."""
    return "steady" if index < STEADY else "shifted" if index <= DRIFTED else "drifted"


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column as float64, NaN where it is missing."""
    if name not in table.column_names:
        raise ModelError(f"drift: no column {name} among {', '.join(table.column_names)}")
    try:
        return pc.cast(table[name], pa.float64(), safe=False).to_numpy()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise ModelError(f"drift: {name} is {table[name].type}, not a number") from error


def _index(then: np.ndarray, now: np.ndarray) -> float:
    edges = _edges(then[~np.isnan(then)])
    before, after = (np.maximum(_shares(each, edges), _LEAST) for each in (then, now))
    return float((after - before) @ np.log(after / before))


def _edges(values: np.ndarray) -> np.ndarray:
    """Upper ends of all bins but the last; values that repeat make fewer of them."""
    if not len(values):
        return values
    last = -(-np.arange(1, _BINS) * len(values) // _BINS) - 1
    edges = np.unique(np.partition(values, last)[last])
    lowest = values.min()
    if edges[0] == lowest:
        # many rows have the lowest value, as in a constant column: what lies below it is a change
        edges = np.concatenate([[np.nextafter(lowest, -np.inf)], edges])
    return edges


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The share of rows in each bin, missing ones last."""
    # NaN sorts behind the last edge, where it would pass for a large value
    place = np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values))
    return np.bincount(place, minlength=len(edges) + 2) / len(values)
