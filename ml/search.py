"""A search for the settings of the recommender, by Optuna: within a budget, pruned, resumable.

It judges on days before the held-out ones: those stay unseen until a night trains with what was
found. A study is one SQLite file; a search that was killed goes on with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml import ModelError
from ml.nightly import NightInputs, validation
from ml.recommender.model import Recommender
from ml.recommender.train import Config, train

_log = logging.getLogger(__name__)

Report = Callable[[float], None]
"""Tells how good a trial is so far; ends the trial when others were better at that point."""
Objective = Callable[[dict[str, Any], Report], float]
"""From settings to how good they are; higher is better."""
Space = dict[str, tuple[float, float] | tuple[int, ...]]
"""By setting: two floats are a range, on a logarithmic scale; whole numbers are a choice."""

SPACE: Space = {
    "dim": (32, 64, 128),
    "layers": (1, 2, 3),
    "learning_rate": (1e-3, 2e-2),
    "weight_decay": (1e-3, 0.2),
}
PRESENT = {name: getattr(Config(), name) for name in SPACE}


@dataclass(frozen=True)
class Found:
    """The best settings so far."""

    settings: dict[str, Any]
    value: float
    present: float | None
    """what the present settings reached; None when they diverged"""
    finished: int
    pruned: int


def search(
    objective: Objective,
    space: Space,
    present: dict[str, Any],
    study: Path,
    *,
    trials: int,
    seconds: float,
    seed: int,
    log: Callable[[str], object] = _log.info,
) -> Found:
    """Try settings until the study has `trials` of them, or `seconds` are over.

    The present settings are tried first. A trial that diverges counts and is passed over. The
    study in the file is gone on with, also after a kill. Raises ModelError when none finished.
    """
    import optuna
    from optuna.trial import Trial, TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study.parent.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{study}"
    known = study.exists()
    kept = optuna.create_study(
        study_name="search", storage=url, direction="maximize", load_if_exists=True
    )
    if not known:
        kept.enqueue_trial(present)
    for trial in kept.get_trials(states=(TrialState.RUNNING,)):
        # cut off by a kill: it is tried again, and does not count
        kept.tell(trial.number, state=TrialState.FAIL)
        kept.enqueue_trial(trial.params or present)
    done = [
        trial
        for trial in kept.trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or "diverged" in trial.user_attrs
    ]
    # another seed after a stop: the same one would suggest the same again
    kept.sampler = optuna.samplers.TPESampler(seed=seed + len(done))
    kept.pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    log(f"{len(done)} of {trials} trials are done")

    def one(trial: Trial) -> float:
        settings = {name: _suggest(trial, name, values) for name, values in space.items()}
        looks = 0

        def report(value: float) -> None:
            nonlocal looks
            trial.report(value, looks)
            looks += 1
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            value = objective(settings, report)
        except ModelError:
            trial.set_user_attr("diverged", True)
            raise
        log(f"trial {trial.number}: {value:.4f} with {settings}")
        return value

    if trials > len(done):
        kept.optimize(one, n_trials=trials - len(done), timeout=seconds, catch=(ModelError,))
    complete = kept.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        raise ModelError("no trial has finished: give the search more seconds")
    own = [trial.value for trial in complete if trial.params == present]
    return Found(
        settings=dict(kept.best_params),
        value=kept.best_value,
        present=own[0] if own else None,
        finished=len(complete),
        pruned=len(kept.get_trials(states=(TrialState.PRUNED,))),
    )


def _suggest(trial: Any, name: str, values: tuple[float, ...]) -> Any:
    if isinstance(values[0], float):
        return trial.suggest_float(name, values[0], values[1], log=True)
    return trial.suggest_categorical(name, values)


def recommender(inputs: NightInputs, seed: int) -> Objective:
    """How good settings are on the held-out days of `inputs`: NDCG@10.

    Give an earlier night's inputs, one whose held-out days end where tonight's begin.
    """
    case = validation(inputs)
    base = Config(seed=seed, max_steps=inputs.max_steps, max_length=inputs.max_length)

    def objective(settings: dict[str, Any], report: Report) -> float:
        def judge(model: Recommender) -> float:
            value = case.ndcg(model)
            report(value)
            return value

        config = replace(base, **settings)
        trained = train(case.data, case.facts, config, log=lambda _: None, judge=judge)
        return max(trained.curves.judged)

    return objective
