"""The search for better settings as a job of its own: no night waits for it."""

from datetime import date
from typing import Any

from dagster import (
    Config,
    Failure,
    JobDefinition,
    MetadataValue,
    OpExecutionContext,
    Output,
    job,
    op,
)
from pydantic import Field

from core.shop import Shop, ShopError


class Budget(Config):
    """How long to look, and what for."""

    night: str = Field(description="YYYY-MM-DD; its held-out days stay unseen")
    trials: int = Field(default=20, ge=1, description="settings to try, those of before included")
    seconds: float = Field(default=1800, gt=0, description="no trial begins after these")


def search_job(shop: Shop) -> JobDefinition:
    """Looks for settings; the same night again goes on with the same study."""

    @op(name=f"{shop.name}_search_settings", tags={"kind": "optuna"})
    def search_settings(context: OpExecutionContext, config: Budget) -> Output[Any]:
        from ml import ModelError
        from orchestration.lib.search import advice, look

        try:
            night = shop.check_night(date.fromisoformat(config.night))
            found, study = look(shop, night, config.trials, config.seconds, context.log.info)
        except (ModelError, ShopError, ValueError) as error:
            raise Failure(str(error), allow_retries=False) from error
        said = advice(shop, found)
        context.log.info(said)
        metadata: dict[str, Any] = {
            "ndcg_at_10": found.value,
            "ndcg_at_10_present": "diverged" if found.present is None else found.present,
            "trials_finished": found.finished,
            "trials_pruned": found.pruned,
            "advice": MetadataValue.md(f"```\n{said}\n```"),
            "study": MetadataValue.path(study),
        }
        return Output(found.settings, metadata=metadata)

    @job(
        name=f"{shop.name}_search",
        description=f"Looks for better settings of the recommender of {shop.title}.",
        tags={"shop": shop.name},
    )
    def search() -> None:
        search_settings()

    return search
