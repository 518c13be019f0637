"""The recommender and its lists as assets."""

from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    Failure,
    MaterializeResult,
    MetadataValue,
    asset,
)

from core.shop import Shop
from orchestration.lib.keys import OWNERS, feature_keys, key, step
from orchestration.lib.night import Night, tonight
from orchestration.lib.plots import picture

SEED = 20


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
        from orchestration.lib.inputs import champion_inputs, night_inputs, recommender_service
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
            result = train(
                inputs,
                champion_inputs=champion_inputs(night, inputs, service),
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
    @asset(
        key=key(shop, "models", "recommendations"),
        deps=[key(shop, "models", "recommender"), key(shop, "marts", "dim_users")],
        description="50 items for every shopper, best first, as far as the shop's rules leave the "
        "model's order: score, rank, reason, propensity, model version.",
        group_name=f"{shop.name}_models",
        owners=OWNERS,
        kinds={"torch", "parquet"},
        **step(shop),
    )
    def recommendations(context: AssetExecutionContext) -> MaterializeResult[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from ml import ModelError
        from ml.nightly import champion_service, score
        from ml.rules import load
        from orchestration.lib.inputs import night_inputs, recommender_service

        night = tonight(context, shop)
        champions = champion_service(night.paths.models, night.night)
        service = champions or recommender_service(night)
        try:
            lists = score(
                night_inputs(night, service),
                models=night.paths.models,
                feature_service=service,
                rules=load(shop.folder / "rules.yml"),
            )
        except ModelError as error:
            raise Failure(str(error), allow_retries=False) from error
        lists = lists.add_column(0, "night", pa.array([night.night] * lists.num_rows, pa.date32()))
        path = night.paths.recommendations / f"{night.night}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        pq.write_table(lists, temporary)
        temporary.replace(path)
        users = len(lists["user_id"].unique())
        scored_by = sorted(lists["model_version"].unique().to_pylist())
        night.record(
            "recommendations",
            {"model_version": ", ".join(scored_by), "feature_service": champions or "none"},
        )
        context.log.info(f"{lists.num_rows:,} recommendations for {users:,} shoppers")
        return MaterializeResult(
            metadata={
                "dagster/row_count": lists.num_rows,
                "users": users,
                "model_version": ", ".join(scored_by),
            }
        )

    return recommendations
