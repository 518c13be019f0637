"""The recommender and its lists as assets."""

from collections.abc import Iterator
from math import isfinite
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    Failure,
    MaterializeResult,
    MetadataValue,
    asset,
    multi_asset,
)

from core.shop import Shop
from orchestration.lib.inputs import SEED
from orchestration.lib.keys import OWNERS, feature_keys, key, step
from orchestration.lib.night import Night, tonight
from orchestration.lib.plots import picture


def assets(shop: Shop) -> list[AssetsDefinition]:
    """The models of one shop and tonight's lists."""
    tuned = [_text_encoder(shop)] if _tunes(shop) else []
    return [*tuned, _recommender(shop), _recommendations(shop)]


def _tunes(shop: Shop) -> bool:
    return shop.fine_tune.mode != "frozen"


def _text_encoder(shop: Shop) -> AssetsDefinition:
    settings = shop.fine_tune

    @asset(
        key=key(shop, "models", "text_encoder"),
        deps=[*feature_keys(shop), key(shop, "marts", "fct_events")],
        description="The text encoder fine-tuned on what shoppers do next, used only if it gains; "
        f"every {settings.every_days} days. Its embeddings are a feature view of its own.",
        group_name=f"{shop.name}_models",
        owners=OWNERS,
        kinds={"torch", "mlflow"},
        **step(shop),
    )
    def text_encoder(context: AssetExecutionContext) -> MaterializeResult[Any]:
        from ml import ModelError
        from ml.encoder.nightly import tonight as tune
        from ml.encoder.train import Config
        from orchestration.lib.embeddings import embed_items_tuned
        from orchestration.lib.inputs import encoder_inputs
        from orchestration.lib.versions import git_revision

        night = tonight(context, shop)
        config = Config(
            seed=SEED,
            encoder=shop.text_encoder,
            mode=settings.mode,
            max_steps=settings.max_steps,
        )
        try:
            found = tune(
                lambda: encoder_inputs(night),
                night=night.night,
                models=night.paths.models,
                mlflow=night.paths.mlflow,
                config=config,
                every_days=settings.every_days,
                card={"shop": shop.name, "git_revision": git_revision(shop.name)},
                log=context.log.info,
            )
            embedded = embed_items_tuned(night, found.version) if found.version else 0
        except ModelError as error:
            raise Failure(str(error), allow_retries=False) from error
        context.log.info(f"{found.version or shop.text_encoder} is in use; {found.decision}")
        plots = {name: picture(png, name) for name, png in found.plots.items()}
        return MaterializeResult(
            metadata={
                "decision": found.decision,
                "encoder": found.version or shop.text_encoder,
                "embedded": embedded,
                **plots,
            }
        )

    return text_encoder


def _recommender(shop: Shop) -> AssetsDefinition:
    marts = [key(shop, "marts", name) for name in ("fct_events", "dim_users", "dim_items")]
    tuned = [key(shop, "models", "text_encoder")] if _tunes(shop) else []

    @asset(
        key=key(shop, "models", "recommender"),
        deps=[*feature_keys(shop), *marts, *tuned],
        description="A causal Transformer over each shopper's events, trained up to the held-out "
        "days and promoted only when it beats the champion and the plain baselines on them.",
        group_name=f"{shop.name}_models",
        owners=OWNERS,
        kinds={"torch", "mlflow"},
        **step(shop),
    )
    def recommender(context: AssetExecutionContext) -> MaterializeResult[Any]:
        from feature_repo.store import apply
        from ml import ModelError, TooLittleHistory
        from ml.nightly import train
        from ml.registry import STARTED_FROM
        from orchestration.lib.inputs import (
            champion_inputs,
            night_inputs,
            other_shops_model,
            recommender_service,
        )
        from orchestration.lib.versions import git_revision

        night = tonight(context, shop)
        apply(shop.name, night.paths)
        service = recommender_service(night)
        card = {
            "shop": shop.name,
            "night": night.night.isoformat(),
            "feature_service": service,
            "git_revision": git_revision(shop.name),
            "text_encoder": shop.text_encoder,
        }
        try:
            inputs = night_inputs(night, service)
            begun = other_shops_model(night, service, inputs.events.num_rows, context.log.info)
            card[STARTED_FROM] = begun[0] if begun else "nothing"
            result = train(
                inputs,
                champion_inputs=champion_inputs(night, inputs, service),
                start=begun[1] if begun else None,
                models=night.paths.models,
                mlflow=night.paths.mlflow,
                card=card,
                seed=SEED,
                log=context.log.info,
            )
        except TooLittleHistory as error:
            return _no_model_yet(context, night, error)
        except ModelError as error:
            raise Failure(str(error), allow_retries=False) from error
        metrics = result.metrics.to_pylist()
        night.record(
            "recommender",
            {
                "metrics": metrics,
                "decision": result.decision,
                "promoted": result.promoted,
                "model_version": result.model_version,
                "feature_service": service,
            },
        )
        plots = {name: picture(png, name) for name, png in result.plots.items()}
        return MaterializeResult(
            metadata={
                "decision": result.decision,
                "promoted": result.promoted,
                "model_version": result.model_version,
                "mlflow": MetadataValue.path(str(night.paths.mlflow)),
                **plots,
            }
        )

    return recommender


def _no_model_yet(
    context: AssetExecutionContext, night: Night, error: Exception
) -> MaterializeResult[Any]:
    """A shop's first nights have nothing to learn from; its marts are published all the same."""
    decision = f"no new model: {error}"
    context.log.warning(decision)
    night.record(
        "recommender",
        {
            "metrics": [],
            "decision": decision,
            "promoted": False,
            "model_version": "none",
            "feature_service": "none",
        },
    )
    return MaterializeResult(metadata={"decision": decision, "promoted": False})


def _recommendations(shop: Shop) -> AssetsDefinition:
    deps = [key(shop, "models", "recommender"), key(shop, "marts", "dim_users")]
    shared: dict[str, Any] = {
        "deps": deps,
        "group_name": f"{shop.name}_models",
        "owners": OWNERS,
        "kinds": {"torch", "parquet"},
    }
    tonights, next_quarters = (
        AssetSpec(
            key(shop, "models", "recommendations"),
            description="50 items for every shopper, best first, as far as the shop's rules leave "
            "the model's order: score, rank, reason, propensity, model version.",
            **shared,
        ),
        AssetSpec(
            key(shop, "models", "next_quarter"),
            description="What every shopper will need over the next 90 days: what they will buy "
            "again and, apart from it, what is new to them.",
            **shared,
        ),
    )

    @multi_asset(
        name=f"{shop.name}__models__recommendations", specs=[tonights, next_quarters], **step(shop)
    )
    def recommendations(context: AssetExecutionContext) -> Iterator[MaterializeResult[Any]]:
        from ml import ModelError
        from ml.nightly import champion_service, score
        from ml.rule_costs import foreseen, rule_costs
        from ml.rules import load
        from orchestration.lib.inputs import night_inputs, recommender_service

        night = tonight(context, shop)
        champions = champion_service(night.paths.models, night.night)
        service = champions or recommender_service(night)
        try:
            asked: dict[str, Any] = {
                "models": night.paths.models,
                "feature_service": service,
                "rules": load(shop.folder / "rules.yml"),
            }
            inputs = night_inputs(night, service)
            lists = score(inputs, **asked)
            costs = rule_costs(inputs, **asked)
        except ModelError as error:
            raise Failure(str(error), allow_retries=False) from error
        _write(night, "", lists.tonight)
        _write(night, ".next_quarter", lists.next_quarter)
        users = len(lists.tonight["user_id"].unique())
        scored_by = ", ".join(sorted(lists.tonight["model_version"].unique().to_pylist()))
        night.record(
            "recommendations",
            {"model_version": scored_by, "feature_service": champions or "none"},
        )
        context.log.info(f"{lists.tonight.num_rows:,} recommendations for {users:,} shoppers")
        known = {name: value for name, value in lists.quality.items() if isfinite(value)}
        yield MaterializeResult(
            asset_key=tonights.key,
            metadata={
                "dagster/row_count": lists.tonight.num_rows,
                "users": users,
                "model_version": scored_by,
                "rules on the held-out days": MetadataValue.md(markdown(costs)),
                **known,
            },
        )
        yield MaterializeResult(
            asset_key=next_quarters.key,
            metadata={
                "dagster/row_count": lists.next_quarter.num_rows,
                "held against the last 90 days": str(foreseen(inputs)),
            },
        )

    return recommendations


def _write(night: Night, name: str, lists: Any) -> None:
    """Keep the lists of the night for its audit and publishing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    dated = lists.add_column(0, "night", pa.array([night.night] * lists.num_rows, pa.date32()))
    path = night.paths.recommendations / f"{night.night}{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pq.write_table(dated, temporary)
    temporary.replace(path)


def markdown(table: Any) -> str:
    """An Arrow table as a page shows it; what is no number is empty."""
    rows = [table.column_names, ["---"] * table.num_columns]
    for row in table.to_pylist():
        rows.append(
            [
                (f"{value:.4f}" if isfinite(value) else "") if isinstance(value, float) else value
                for value in row.values()
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
