"""Runs whose process was killed: told from those that are waiting or have just begun."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from orchestration.lib.dead_runs import end_dead_runs


@pytest.mark.parametrize(
    ("status", "age", "dead"),
    [
        (DagsterRunStatus.NOT_STARTED, timedelta(hours=1), True),
        (DagsterRunStatus.NOT_STARTED, timedelta(0), False),
        (DagsterRunStatus.STARTING, timedelta(hours=1), False),
        (DagsterRunStatus.STARTED, timedelta(hours=1), True),
        (DagsterRunStatus.SUCCESS, timedelta(hours=1), False),
    ],
)
def test_only_runs_without_a_process_are_ended(
    status: DagsterRunStatus,
    age: timedelta,
    dead: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path / "var"))
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        run = DagsterRun(job_name="demo_night", run_id="a" * 32, status=status)
        instance.run_storage.add_historical_run(run, datetime.now(UTC) - age)
        assert end_dead_runs(instance, "demo") == ([run.run_id] if dead else [])
        after = instance.get_run_by_id(run.run_id)
        assert after is not None
        assert after.status == (DagsterRunStatus.FAILURE if dead else status)
