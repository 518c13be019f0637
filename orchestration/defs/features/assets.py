"""Feature views as assets: exported from the warehouse, embedded, and served online."""

from collections.abc import Iterator
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    MaterializeResult,
    asset,
    multi_asset,
)

from core.shop import Shop
from orchestration.lib.keys import OWNERS, key, mart_keys, step
from orchestration.lib.night import tonight

_EXPORTED = {
    "user_behaviour_v1": "What a shopper has done by the end of a snapshot day.",
    "user_purchases_v1": "How often and for how much a shopper has bought, over a year.",
    "item_stats_v1": "How an item has sold by the end of a snapshot day.",
}


def assets(shop: Shop) -> list[AssetsDefinition]:
    """The feature views of one shop, offline and online."""
    return [_behaviour(shop), _embeddings(shop), _online(shop)]


def _behaviour(shop: Shop) -> AssetsDefinition:
    specs = [
        AssetSpec(
            key(shop, "feature_store", name),
            # the marts too: a failed check of any of them keeps features from being exported
            deps=[key(shop, "features", name), *mart_keys(shop)],
            description=f"{description} Parquet that Feast reads; versioned by name.",
            group_name=f"{shop.name}_features",
            owners=OWNERS,
            kinds={"feast", "parquet"},
        )
        for name, description in _EXPORTED.items()
    ]

    @multi_asset(name=f"{shop.name}__feature_export", specs=specs, **step(shop))
    def feature_export(context: AssetExecutionContext) -> Iterator[MaterializeResult[Any]]:
        from feature_repo.store import export

        night = tonight(context, shop)
        for name, rows in export(night.paths, night.night).items():
            context.log.info(f"{name}: {rows:,} rows")
            yield MaterializeResult(
                asset_key=key(shop, "feature_store", name), metadata={"dagster/row_count": rows}
            )

    return feature_export


def _embeddings(shop: Shop) -> AssetsDefinition:
    @asset(
        key=key(shop, "feature_store", "item_text_embedding_minilm_v1"),
        deps=[key(shop, "landing", "items"), key(shop, "marts", "dim_items")],
        description="Embedding of each version of an item's texts by the frozen text encoder; only "
        "texts that changed are encoded.",
        group_name=f"{shop.name}_features",
        owners=OWNERS,
        kinds={"feast", "torch"},
        **step(shop),
    )
    def item_text_embedding_minilm_v1(context: AssetExecutionContext) -> MaterializeResult[Any]:
        from orchestration.lib.embeddings import embed_for_champion, embed_items

        night = tonight(context, shop)
        texts, embedded = embed_items(night)
        embed_for_champion(night)
        context.log.info(f"{embedded:,} of {texts:,} item texts were new and embedded")
        return MaterializeResult(
            metadata={
                "dagster/row_count": texts,
                "embedded": embedded,
                "encoder": shop.text_encoder,
            }
        )

    return item_text_embedding_minilm_v1


def _online(shop: Shop) -> AssetsDefinition:
    @asset(
        key=key(shop, "feature_store", "online"),
        deps=[key(shop, "published", "marts")],
        description="The latest features of every shopper and item in the online store, "
        "filled only from a night that was published.",
        group_name=f"{shop.name}_features",
        owners=OWNERS,
        kinds={"feast"},
        **step(shop, warehouse=False),
    )
    def online(context: AssetExecutionContext) -> MaterializeResult[Any]:
        from feature_repo.store import apply, materialize
        from orchestration.lib.predictions import to_feature_store

        night = tonight(context, shop)
        to_feature_store(night)
        apply(shop.name, night.paths)
        rows = materialize(night.paths, night.night)
        context.log.info(", ".join(f"{name}: {count:,}" for name, count in rows.items()))
        return MaterializeResult(metadata={f"{name} rows": count for name, count in rows.items()})

    return online
