"""What is looked at every few minutes: raw files that came late, and runs that were killed."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from dagster import (
    DefaultSensorStatus,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from core.paths import Paths
from core.shop import Shop
from orchestration.lib.dead_runs import end_dead_runs


def late_files_sensor(shop: Shop, job: UnresolvedAssetJobDefinition) -> SensorDefinition:
    """Runs the last night again when raw files changed after it."""

    @sensor(
        name=f"{shop.name}_late_files",
        job=job,
        minimum_interval_seconds=300,
        default_status=DefaultSensorStatus.RUNNING,
        description="Runs the last night again when raw files arrived or changed after it.",
    )
    def late_files(context: SensorEvaluationContext) -> Iterator[RunRequest | SkipReason]:
        from ingest.landing import changed_files, last_night

        paths = Paths(shop.name)
        night = last_night(paths)
        if night is None:
            yield SkipReason("no night has run yet")
            return
        changed = changed_files(shop, paths)
        if not changed:
            yield SkipReason(f"no raw file changed since night {night}")
            return
        # the same change asks for one run only; another change of the same file for another
        stamps = [_stamp(paths.raw / name) for name in changed]
        digest = hashlib.sha256("\n".join([*changed, *stamps]).encode()).hexdigest()[:12]
        yield RunRequest(run_key=f"{night}-{digest}", partition_key=night.isoformat())

    return late_files


def dead_runs_sensor(shop: Shop) -> SensorDefinition:
    """Ends the runs of processes that were killed, so that the next run gets their place."""

    @sensor(
        name=f"{shop.name}_dead_runs",
        minimum_interval_seconds=60,
        default_status=DefaultSensorStatus.RUNNING,
        description="Marks runs as failed whose process was killed; the queue waits for them.",
    )
    def dead_runs(context: SensorEvaluationContext) -> SkipReason:
        ended = end_dead_runs(context.instance, shop.name)
        return SkipReason(f"ended {', '.join(ended)}" if ended else "no run was killed")

    return dead_runs


def _stamp(file: Path) -> str:
    return f"{file.stat().st_mtime_ns}" if file.exists() else "deleted"
