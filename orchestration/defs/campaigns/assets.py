"""The audience of tonight's campaigns and the results of past ones as assets."""

from collections.abc import Iterator
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    Failure,
    MaterializeResult,
    MetadataValue,
    multi_asset,
)

from core.shop import Shop
from orchestration.lib.keys import ANALYSTS, PREDICTIONS, key, mart_keys, step
from orchestration.lib.night import tonight


def assets(shop: Shop) -> list[AssetsDefinition]:
    """One step: tonight's choice is the newest part of what is measured."""
    shared: dict[str, Any] = {
        # all that a campaign's SELECT may read
        "deps": [
            *mart_keys(shop),
            key(shop, "models", "recommendations"),
            key(shop, "models", "next_quarter"),
            *(key(shop, "models", name) for name in PREDICTIONS),
        ],
        "group_name": f"{shop.name}_campaigns",
        "owners": ANALYSTS,
        "kinds": {"duckdb", "parquet"},
    }
    audience, results = (
        AssetSpec(
            key(shop, "campaigns", "campaign_audience"),
            description="Whom the shop's campaigns have chosen on every night so far, and who of "
            "them was left out by lot.",
            **shared,
        ),
        AssetSpec(
            key(shop, "campaigns", "campaign_results"),
            description="What those whom a campaign chose ordered afterwards, beside its holdout.",
            **shared,
        ),
    )

    @multi_asset(name=f"{shop.name}__campaigns", specs=[audience, results], **step(shop))
    def campaigns(context: AssetExecutionContext) -> Iterator[MaterializeResult[Any]]:
        from campaigns import CampaignError
        from campaigns.audience import choose
        from campaigns.results import tables
        from campaigns.spec import load

        night = tonight(context, shop)
        try:
            theirs = load(shop.folder / "campaigns")
            chosen = choose(theirs, night.paths, night.night)
        except CampaignError as error:
            raise Failure(str(error), allow_retries=False) from error
        rows, verdicts = tables(theirs, night.paths, night.night)
        context.log.info(f"{chosen:,} users chosen by {len(theirs)} campaigns")
        yield MaterializeResult(
            asset_key=audience.key,
            metadata={"dagster/row_count": rows, "chosen tonight": chosen},
        )
        yield MaterializeResult(
            asset_key=results.key,
            metadata={
                "dagster/row_count": len(verdicts),
                "verdicts": MetadataValue.md("\n".join(f"- {each}" for each in verdicts)),
            },
        )

    return [campaigns]
