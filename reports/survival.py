"""How long until the second order? The Kaplan-Meier curve of `marts.repurchase_survival`.

Customers without a second order are censored at the night. The life table is as long as the shop
is old in days, so the estimate costs the same for a thousand customers and for a million.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.queries import table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True)
class Median:
    """Days until half of the customers have ordered again, with its 95% interval.

    None is `not reached`: so far the curve, or the end of its interval, stays below one half.
    """

    days: int | None
    low: int | None
    high: int | None

    def __str__(self) -> str:
        between = " to ".join(
            "not reached" if days is None else f"{days:,} days" for days in (self.low, self.high)
        )
        if self.days is None:
            return f"That half of all customers order again is not reached yet (95%: {between})."
        return f"Half of all customers order again within {self.days:,} days (95%: {between})."


def curve(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per day of the life table: the share with a second order by then, and its interval.

    Kaplan and Meier (1958); Greenwood's variance on the log-log scale, which stays within 0 and 1.
    `eligible` are the customers still watched and still without a second order on that day.
    """
    import pyarrow as pa

    life = table(
        connection,
        "SELECT days, at_risk AS eligible, ordered_again, censored "
        "FROM marts.repurchase_survival ORDER BY days",
    )
    if life.num_rows == 0:
        return life
    fitted = _fitted(life)
    share = fitted.cumulative_density_.iloc[:, 0]
    bounds = fitted.confidence_interval_cumulative_density_
    days = life["days"].to_pylist()
    for name, values in (
        ("rate", share),
        ("low", bounds.iloc[:, 0].fillna(share)),
        ("high", bounds.iloc[:, 1].fillna(share)),
    ):
        life = life.append_column(name, pa.array(values.loc[days].tolist(), pa.float64()))
    return life


def median(life: pa.Table) -> Median:
    """When the curve of a life table with rows reaches one half."""
    from lifelines.utils import median_survival_times

    fitted = _fitted(life)
    between = median_survival_times(fitted.confidence_interval_survival_function_).iloc[0]
    return Median(_day(fitted.median_survival_time_), _day(between.iloc[0]), _day(between.iloc[1]))


def _fitted(life: pa.Table) -> Any:
    """The estimator, fitted to one row of weight n for n customers who left alike."""
    from lifelines import KaplanMeierFitter

    days = life["days"].to_pylist()
    again, censored = life["ordered_again"].to_pylist(), life["censored"].to_pylist()
    rows = [
        (day, seen, n)
        for day, ns in zip(days, zip(again, censored, strict=True), strict=True)
        for seen, n in zip((True, False), ns, strict=True)
        if n
    ]
    durations, observed, weights = zip(*rows, strict=True)
    return KaplanMeierFitter().fit(durations, event_observed=observed, weights=weights)


def _day(value: float) -> int | None:
    return None if math.isinf(value) or math.isnan(value) else round(value)
