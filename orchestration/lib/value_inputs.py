"""The Arrow tables that the value models of a night are given: by the warehouse and by Feast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.duck import connect
from orchestration.lib.inputs import behaviour, end_of
from orchestration.lib.night import Night

if TYPE_CHECKING:
    import pyarrow as pa

    from ml.value.inputs import ValueInputs

SERVICE = "user_value_v1"
_VIEW = "user_behaviour_v1"
"""Its snapshots say who was known when."""


def value_inputs(night: Night) -> ValueInputs:
    """What the value models may know tonight, and what was known at the snapshots before."""
    from feature_repo.store import training_set
    from ml.value.inputs import ValueInputs

    with connect(night.paths.warehouse, read_only=True) as connection:
        orders = connection.execute(
            """
            SELECT user_id, order_date, net_revenue FROM marts.fct_orders
            WHERE order_number IS NOT NULL ORDER BY user_id, ordered_at, order_id
            """
        ).to_arrow_table()
        bought = connection.execute(
            """
            SELECT user_id, trade_date FROM intermediate.int_user_trade_days
            WHERE orders > 0 ORDER BY user_id, trade_date
            """
        ).to_arrow_table()
        users = connection.execute(
            "SELECT user_id, country FROM marts.dim_users ORDER BY user_id"
        ).to_arrow_table()
        events = behaviour(connection, night)
        churn = connection.execute("SELECT horizon_days FROM marts.churn_horizon").fetchone()
    past, tonight = (training_set(night.paths, SERVICE, each) for each in _moments(night))
    return ValueInputs(
        past=past,
        tonight=tonight,
        orders=orders,
        bought=bought,
        users=users,
        events=events,
        met=tuple(night.shop.recommender.input_events),
        wanted=tuple(night.shop.recommender.target_events),
        night=night.night,
        churn_days=churn[0] if churn and churn[0] else None,
    )


def _moments(night: Night) -> tuple[pa.Table, pa.Table]:
    """Who was known at each snapshot before tonight, at most `max_rows` of them, and tonight.

    Which rows are kept depends on their ids and moments alone.
    """
    with connect() as connection:
        past: pa.Table
        tonight: pa.Table
        past, tonight = (
            connection.execute(
                f"""
                WITH known AS (
                    SELECT user_id, event_timestamp, hash(user_id, event_timestamp) AS lot
                    FROM read_parquet($files) WHERE event_timestamp {which} $end
                )
                SELECT user_id, event_timestamp AT TIME ZONE 'UTC' AS event_timestamp FROM known
                WHERE lot <= 18446744073709551615::HUGEINT * $most // greatest($most, (
                    SELECT count(*) FROM known
                ))
                ORDER BY user_id, event_timestamp
                """,
                {
                    "files": str(night.paths.features / _VIEW / "*.parquet"),
                    "end": end_of(night),
                    "most": night.shop.value.max_rows if which == "<" else 1 << 40,
                },
            ).to_arrow_table()
            for which in ("<", "=")
        )
    return past, tonight
