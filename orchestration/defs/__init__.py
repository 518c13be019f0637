"""The definitions of one shop, a folder for each domain."""

from dagster import Definitions

from core.shop import Shop
from orchestration.defs import campaigns, features, ingest, models, quality, reports, warehouse
from orchestration.defs.schedules import nightly_job, nightly_schedule
from orchestration.defs.sensors import dead_runs_sensor, late_files_sensor


def shop_definitions(shop: Shop) -> Definitions:
    """Assets, checks, jobs, schedule and sensors of one shop, all under its name."""
    job = nightly_job(shop)
    return Definitions(
        assets=[
            *ingest.assets(shop),
            *warehouse.assets(shop),
            *features.assets(shop),
            *models.assets(shop),
            *campaigns.assets(shop),
            models.predictions(shop),
            *reports.assets(shop),
        ],
        asset_checks=quality.checks(shop),
        jobs=[job, models.search_job(shop)],
        # an archive is complete: no new night will come, so there is nothing to schedule
        schedules=[] if shop.end else [nightly_schedule(shop, job)],
        sensors=[late_files_sensor(shop, job), dead_runs_sensor(shop)],
    )
