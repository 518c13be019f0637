"""The nightly job of a shop, and the schedule that runs it at 02:00 in the shop's time zone."""

from datetime import UTC, timedelta

from dagster import (
    AssetSelection,
    DefaultScheduleStatus,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    define_asset_job,
    schedule,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from core.shop import Shop
from orchestration.lib.alerts import tell_of_failure
from orchestration.lib.keys import nights


def nightly_job(shop: Shop) -> UnresolvedAssetJobDefinition:
    """Every asset and check of the shop, from raw file to report."""
    return define_asset_job(
        f"{shop.name}_night",
        selection=AssetSelection.key_prefixes([shop.name]),
        partitions_def=nights(shop),
        hooks={tell_of_failure},
        description=f"One whole night of {shop.title}: raw files to report.",
        tags={"shop": shop.name},
    )


def nightly_schedule(shop: Shop, job: UnresolvedAssetJobDefinition) -> ScheduleDefinition:
    """Runs the last UTC day that is over; the only place of the platform that reads the clock."""

    @schedule(
        name=f"{shop.name}_nightly",
        job=job,
        cron_schedule="0 2 * * *",
        execution_timezone=shop.time_zone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=f"Every night at 02:00 {shop.time_zone}.",
    )
    def nightly(context: ScheduleEvaluationContext) -> RunRequest:
        tick = context.scheduled_execution_time.astimezone(UTC)
        night = (tick - timedelta(days=1)).date().isoformat()
        return RunRequest(run_key=night, partition_key=night)

    return nightly
