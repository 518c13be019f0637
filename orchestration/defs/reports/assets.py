"""Publishing the audited night, and the report made from what was published."""

from datetime import timedelta
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    Failure,
    FreshnessPolicy,
    MaterializeResult,
    MetadataValue,
    asset,
)

from core import access
from core.shop import Shop
from orchestration.lib.keys import (
    ANALYSTS,
    OWNERS,
    PREDICTIONS,
    feature_keys,
    key,
    landing_keys,
    mart_keys,
    step,
)
from orchestration.lib.night import tonight
from orchestration.lib.plots import picture


def assets(shop: Shop) -> list[AssetsDefinition]:
    """The published file of one shop and its report."""
    return [_published(shop), _report(shop)]


def _published(shop: Shop) -> AssetsDefinition:
    # everything that is audited stands directly above, so that a failed blocking check of any of it
    # keeps this step from running
    audited = [
        *landing_keys(shop),
        *mart_keys(shop),
        *feature_keys(shop),
        key(shop, "models", "recommendations"),
        key(shop, "models", "next_quarter"),
        key(shop, "campaigns", "campaign_audience"),
        key(shop, "campaigns", "campaign_results"),
        *(key(shop, "models", name) for name in PREDICTIONS),
    ]
    # an archive gets no new nights, so it cannot go stale
    freshness = (
        None
        if shop.end
        else FreshnessPolicy.time_window(
            fail_window=timedelta(hours=48), warn_window=timedelta(hours=28)
        )
    )

    @asset(
        key=key(shop, "published", "marts"),
        deps=audited,
        description="The DuckDB file that analysts open: replaced by one atomic rename, only when "
        "every blocking check of the night has passed.",
        group_name=f"{shop.name}_published",
        owners=ANALYSTS,
        kinds={"duckdb"},
        freshness_policy=freshness,
        **step(shop),
    )
    def marts(context: AssetExecutionContext) -> MaterializeResult[Any]:
        from audit.publish import PublishError, publish
        from campaigns.audience import hand_out
        from orchestration.lib.manifest import manifest_rows, remember_published
        from reports.entry import clear_failure

        night = tonight(context, shop)
        try:
            published = publish(shop, night.paths, night.night, manifest_rows(night))
        except PublishError as error:
            raise Failure(str(error), allow_retries=False) from error
        if users := hand_out(night.paths, night.night):
            context.log.info(f"{users:,} users to be talked to: {night.paths.campaigns}")
        gone = remember_published(night)
        if gone:
            context.log.info(f"no longer kept: the nights of {', '.join(map(str, gone))}")
        clear_failure(night.paths, night.night)
        rows = sum(published.tables.values())
        context.log.info(f"{len(published.tables)} tables, {rows:,} rows in {published.path}")
        docs = night.paths.audit(night.night) / "data_docs" / "index.html"
        return MaterializeResult(
            metadata={
                "dagster/row_count": rows,
                "tables": published.tables,
                "file": MetadataValue.path(str(published.path)),
                "data docs": MetadataValue.url(docs.as_uri()),
            }
        )

    return marts


def _report(shop: Shop) -> AssetsDefinition:
    @asset(
        key=key(shop, "reports", "retention"),
        deps=[key(shop, "published", "marts")],
        description="One self-contained page about the night: retention, repurchase, dwell, "
        "funnel, segments, model quality and data quality.",
        group_name=f"{shop.name}_reports",
        owners=ANALYSTS + OWNERS,
        kinds={"html"},
        **step(shop, warehouse=False),
    )
    def retention(context: AssetExecutionContext) -> MaterializeResult[Any]:
        from reports.build import build

        night = tonight(context, shop)
        with access.published():
            report = build(shop, night.paths, night.night)
        context.log.info(f"report: {report.path}")
        plots = {name: picture(png, name) for name, png in report.plots.items()}
        return MaterializeResult(
            metadata={"report": MetadataValue.url(report.path.as_uri()), **plots}
        )

    return retention
