"""The value models and what they tell of every user, as assets."""

from collections.abc import Iterator
from functools import partial
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
from orchestration.lib.inputs import SEED
from orchestration.lib.keys import OWNERS, PREDICTIONS, feature_keys, key, step
from orchestration.lib.night import tonight


def predictions(shop: Shop) -> AssetsDefinition:
    """Purchase, churn, repurchase and spend of every user of one shop, and how good they are."""
    marts = ("fct_orders", "dim_users", "churn_horizon")
    specs = [
        AssetSpec(
            key(shop, "models", name),
            deps=[*feature_keys(shop), *(key(shop, "marts", each) for each in marts)],
            description=description,
            group_name=f"{shop.name}_models",
            owners=OWNERS,
            kinds={"lightgbm", "parquet"},
        )
        for name, description in PREDICTIONS.items()
    ]

    @multi_asset(name=f"{shop.name}__models__predictions", specs=specs, **step(shop))
    def value_models(context: AssetExecutionContext) -> Iterator[MaterializeResult[Any]]:
        from feature_repo.store import apply
        from ml import ModelError
        from ml.device import cores
        from ml.plots import told_and_came
        from ml.tracking import record
        from orchestration.lib.plots import picture
        from orchestration.lib.predictions import made, write
        from orchestration.lib.versions import git_revision

        night = tonight(context, shop)
        apply(shop.name, night.paths)
        try:
            found = made(
                night,
                seed=SEED,
                threads=cores(),
                card={"shop": shop.name, "git_revision": git_revision(shop.name)},
                record=partial(record, night.paths.mlflow),
                log=context.log.info,
            )
        except ModelError as error:
            raise Failure(str(error), allow_retries=False) from error
        write(night, found.tables)
        night.record("predictions", {"versions": found.versions, "decisions": found.decisions})
        said = "\n".join(f"- {name}: {text}" for name, text in found.decisions.items())
        about: dict[str, dict[str, Any]] = {
            "user_predictions": {"decisions": MetadataValue.md(said), **found.versions},
            "prediction_deciles": {
                name: picture(png, name)
                for name, png in told_and_came(found.tables["prediction_deciles"]).items()
            },
        }
        for name, table in found.tables.items():
            yield MaterializeResult(
                asset_key=key(shop, "models", name),
                metadata={"dagster/row_count": table.num_rows, **about.get(name, {})},
            )

    return value_models
