"""MLflow on SQLite: one run for each trained version, with its parameters, curves and pictures.

mlflow ui --backend-store-uri sqlite:///var/demo/mlflow/mlflow.db
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any


def record(
    folder: Path,
    experiment: str,
    name: str,
    parameters: dict[str, Any],
    metrics: dict[str, float],
    curves: dict[str, list[float]],
    files: dict[str, bytes],
) -> str:
    """Write one finished run and return its id; one of this name that is there is returned as is.

    `curves` has `steps` and, by name, one value per step or none. Nothing is sent to anybody.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read by mlflow when it is imported
    os.environ["DO_NOT_TRACK"] = "true"
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    # its own lines are about database tables; warnings still come through
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    if found is None:
        place = (folder / "artifacts").resolve().as_uri()
        number = client.create_experiment(experiment, artifact_location=place)
    else:
        number = found.experiment_id
    done = client.search_runs([number], f"attributes.run_name = '{name}' and status = 'FINISHED'")
    if done:
        return str(done[0].info.run_id)
    run = client.create_run(number, run_name=name).info.run_id
    steps = [int(step) for step in curves["steps"]]
    points = [
        Metric(key, value, step, step)
        for key, values in curves.items()
        if key != "steps" and values
        for step, value in zip(steps, values, strict=True)
    ]
    points += [Metric(key, value, 0, 0) for key, value in metrics.items()]
    settings = [Param(key, str(value)) for key, value in sorted(parameters.items())]
    for start in range(0, len(points), 1000):
        client.log_batch(run, metrics=points[start : start + 1000])
    client.log_batch(run, params=settings)
    for file, content in files.items():
        target = folder / "artifacts" / run / "artifacts" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    client.set_terminated(run)
    return str(run)
