"""Asset keys, partitions and the settings every asset of a shop shares."""

from __future__ import annotations

from typing import Any

from dagster import AssetKey, BackfillPolicy, DailyPartitionsDefinition, RetryPolicy

from core.shop import Shop
from ingest.contract import TABLES

FEATURE_VIEWS = (
    "user_behaviour_v1",
    "user_purchases_v1",
    "item_stats_v1",
    "item_text_embedding_minilm_v1",
)
MARTS = (
    "dim_users",
    "dim_items",
    "fct_events",
    "fct_sessions",
    "fct_orders",
    "fct_order_lines",
    "user_daily_activity",
    "item_daily_stats",
    "retention_cohorts",
    "repurchase_rates",
    "dwell_stats",
    "funnel_daily",
    "user_rfm",
    "churn_horizon",
    "repurchase_survival",
    "session_stats",
    "returning_revenue",
    "cohort_value",
    "item_second_orders",
    "metric_definitions",
    "segment_history",
)
PREDICTIONS = {
    "user_predictions": "How likely every user is to buy, to leave and to come back, and what they "
    "will spend: value, 80 % interval, reasons, model version.",
    "prediction_quality": "The models and the plain rules against what came, on users whose days "
    "are over, with 95 % intervals.",
    "prediction_deciles": "What was told and what came by tenths of users: as the newest models "
    "would have told it, and as past nights did.",
    "prediction_fairness": "The quality of each probability by country, and of new and old users.",
    "prediction_drift": "How far tonight's features and predictions are from those of four weeks "
    "ago.",
    "prediction_drivers": "Which features move each model most.",
}
OWNERS = ["team:data-engineering"]
ANALYSTS = ["team:analytics"]


def key(shop: Shop, layer: str, name: str) -> AssetKey:
    """`<shop>/<layer>/<name>`."""
    return AssetKey([shop.name, layer, name])


def landing_keys(shop: Shop) -> list[AssetKey]:
    """The landed contract tables and the quarantine, as dbt's sources name them."""
    return [key(shop, "landing", name) for name in (*TABLES, "quarantine")]


def mart_keys(shop: Shop) -> list[AssetKey]:
    """The marts that dbt builds and the audit reads."""
    return [key(shop, "marts", name) for name in MARTS]


def feature_keys(shop: Shop) -> list[AssetKey]:
    """The offline feature views."""
    return [key(shop, "feature_store", name) for name in FEATURE_VIEWS]


def nights(shop: Shop) -> DailyPartitionsDefinition:
    """One partition a night; a night is a UTC day."""
    last = shop.end.toordinal() + 1 if shop.end else None
    end = shop.end.fromordinal(last).isoformat() if shop.end and last else None
    return DailyPartitionsDefinition(start_date=shop.start.isoformat(), end_date=end)


def step(shop: Shop, *, warehouse: bool = True, retries: int = 1) -> dict[str, Any]:
    """Settings of every step: nightly partitions, a range in one run, pool and retries.

    A step that opens the warehouse names its pool, so that two runs never meet there.
    """
    return {
        "partitions_def": nights(shop),
        "backfill_policy": BackfillPolicy.single_run(),
        "retry_policy": RetryPolicy(max_retries=retries, delay=5),
        "pool": f"{shop.name}_warehouse" if warehouse else None,
    }
