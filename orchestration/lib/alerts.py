"""Telling people that a step failed: on the report's entry page and by a webhook."""

import json
import os
import urllib.request
from datetime import date

from dagster import HookContext, failure_hook
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, PARTITION_NAME_TAG

from audit import results
from core import access
from core.paths import Paths
from reports.entry import tell_failure


@failure_hook(name="tell_of_failure")
def tell_of_failure(context: HookContext) -> None:
    """Tell the report's readers; post to `PERENNIAL_WEBHOOK_URL` as JSON when that is set.

    Dagster's own log has the failure already.
    """
    try:
        _tell_readers(context)
    except OSError as error:
        context.log.error(f"the entry page of the reports could not be written: {error}")
    url = os.environ.get("PERENNIAL_WEBHOOK_URL")
    if not url:
        return
    text = f"{context.job_name}: step {context.step_key} failed: {context.op_exception}"
    body = json.dumps({"text": text, "job": context.job_name, "run_id": context.run_id}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except OSError as error:
        # the night's own failure is what matters: a webhook that is down must not hide it
        context.log.error(f"the webhook did not take the message: {error}")


def _tell_readers(context: HookContext) -> None:
    """Say on the report's entry page which night failed, at which step, by which checks."""
    run = context.instance.get_run_by_id(context.run_id)
    tags = run.tags if run else {}
    named = tags.get(ASSET_PARTITION_RANGE_END_TAG) or tags.get(PARTITION_NAME_TAG)
    if named is None or "shop" not in tags:
        return
    paths, night = Paths(tags["shop"]), date.fromisoformat(named)
    stage = context.step_key.partition("__audit_")[2]
    checks = results.load(paths, night).get(stage, []) if stage else []
    failed = [check.name for check in checks if check.blocking and not check.passed]
    with access.published():
        tell_failure(paths, night, context.step_key, failed)
