"""Runs that Dagster takes for running although their process is gone.

A killed process (`kill -9`, a power cut) cannot say that it ended. Its run would hold the pool of
its shop for ever, and no run that the daemon starts would get in.
"""

from __future__ import annotations

import time

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from core.paths import Paths
from orchestration.lib.night import holds, is_held

_BEFORE_THE_FIRST_STEP = 60  # seconds; from its first step on a run holds the shop's lock


def end_dead_runs(instance: DagsterInstance, shop: str) -> list[str]:
    """Mark the dead runs of a shop's night as failed, which frees their pool slots; their ids."""
    paths = Paths(shop)
    if not holds(paths) and is_held(paths):
        return []
    # when the lock is this process's, a run that has just begun is refused at its first step anyway
    wait = 0 if holds(paths) else _BEFORE_THE_FIRST_STEP
    # a run of the daemon's is in the queue or starting before it has started: not looked at here
    statuses = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED]
    records = instance.get_run_records(RunsFilter(job_name=f"{shop}_night", statuses=statuses))
    now = time.time()
    dead = [
        record.dagster_run
        for record in records
        if now - (record.start_time or record.create_timestamp.timestamp()) >= wait
    ]
    for run in dead:
        instance.report_run_failed(run, "the process of this run is gone: it was killed")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in dead]
