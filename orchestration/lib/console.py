"""What a person sees in the terminal while a night runs: a line for each step and its words."""

from __future__ import annotations

import logging
import sys
import time

from dagster import DagsterEvent, InitLoggerContext, logger

# What Dagster says for itself: steps that could not run for want of another one are plain from the
# one that failed, and how dbt is called is in the UI.
_UNSAID = (
    "Dependencies for step",
    "A dbt subsetted execution",
    "Copying `",
    "Running dbt command",
    "Finished dbt command",
)


class _NightHandler(logging.Handler):
    """Prints steps and the words of our own code; Dagster's other events stay in its UI."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        meta = getattr(record, "dagster_meta", {})
        event = meta.get("dagster_event") if isinstance(meta, dict) else None
        line = self._event(event) if event is not None else self._message(record, meta)
        if line:
            print(f"{time.monotonic() - self.began:6.0f}s  {line}", file=sys.stderr, flush=True)

    def _event(self, event: DagsterEvent) -> str | None:
        step = (event.step_key or "").split("__", 1)[-1]
        kind = event.event_type_value
        if kind == "STEP_START":
            return f"{step} ..."
        if kind == "STEP_SUCCESS":
            seconds = event.step_success_data.duration_ms / 1000
            return f"{step} done in {seconds:.1f} s"
        if kind == "ASSET_CHECK_EVALUATION":
            return self._failed_check(event)
        if kind == "STEP_UP_FOR_RETRY":
            return f"{step} failed and is tried again"
        if kind == "STEP_FAILURE":
            return f"{step} FAILED: {_cause(event)}"
        return f"{step} not run" if kind == "STEP_SKIPPED" else None

    def _failed_check(self, event: DagsterEvent) -> str | None:
        check = event.asset_check_evaluation_data
        if check.passed:
            return None
        word = "BLOCKED by" if check.blocking else "warning:"
        said = check.description or "failed"
        if not said.replace(".", "__").startswith(check.check_name):  # ours begin with their name
            said = f"{check.check_name}: {said}"
        return f"  {word} {said}"

    def _message(self, record: logging.LogRecord, meta: dict[str, object]) -> str | None:
        said = str(meta.get("orig_message") or record.getMessage())
        if record.levelno < logging.INFO or said.startswith(_UNSAID):
            return None
        return f"  {said}"


def _cause(event: DagsterEvent) -> str:
    """The message of the step's own error; the whole stack is in Dagster's UI."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description.strip()
    error = data.error
    if error and error.cls_name == "DagsterAssetCheckFailedError":
        return "a check above blocks the night"
    wrappers = ("Dagster", "RetryRequested")
    while error and error.cause and (error.cls_name or "").startswith(wrappers):
        error = error.cause
    return error.message.strip() if error else (event.message or "")


@logger(None, description="Steps and their words, one line each.")
def night_console(context: InitLoggerContext) -> logging.Logger:
    """The `console` logger of every job."""
    console = logging.getLogger("perennial.night")
    console.setLevel(logging.DEBUG)
    console.handlers = [_NightHandler()]
    console.propagate = False
    return console
