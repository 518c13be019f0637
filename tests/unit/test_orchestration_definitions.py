"""What Dagster is given: names that stay, and every step described, owned and grouped."""

from __future__ import annotations

import json
import threading
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from dagster import (
    AssetCheckResult,
    AssetKey,
    DagsterInstance,
    Definitions,
    asset,
    asset_check,
    build_schedule_context,
    build_sensor_context,
    define_asset_job,
    in_process_executor,
    job,
    op,
)

from core.paths import Paths
from core.shop import load_shop
from orchestration.definitions import defs
from orchestration.defs.ingest.assets import assets as ingest_assets
from orchestration.lib.alerts import tell_of_failure
from orchestration.lib.console import night_console
from orchestration.lib.keys import nights
from tests.unit.test_ingest_landing import EVENTS, line, make_shop, put

SNAPSHOT = Path(__file__).parent.parent / "snapshots" / "definitions.json"


def _names() -> dict[str, list[str]]:
    graph = defs.resolve_asset_graph()
    repository = defs.get_repository_def()
    return {
        "assets": sorted(key.to_user_string() for key in graph.get_all_asset_keys()),
        "checks": sorted(
            f"{check.asset_key.to_user_string()}: {check.name}" for check in graph.asset_check_keys
        ),
        "jobs": sorted(name for name in repository.job_names if not name.startswith("__")),
        "schedules": sorted(schedule.name for schedule in repository.schedule_defs),
        "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
    }


def test_names_stay() -> None:
    # A name is a promise to whoever reads a chart or calls a job. To change one on purpose:
    # python -m tests.unit.test_orchestration_definitions
    assert _names() == json.loads(SNAPSHOT.read_text())


def test_every_asset_is_described_owned_and_grouped() -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.is_materializable, f"{key} comes from nowhere"
        assert node.description, f"{key} has no description"
        assert node.owners, f"{key} has no owner"
        assert node.group_name != "default", f"{key} has no group"


def test_lineage_runs_from_raw_file_to_report() -> None:
    graph = defs.resolve_asset_graph()
    report = AssetKey(["demo", "reports", "retention"])
    above = {key.to_user_string() for key in graph.get_ancestor_asset_keys(report)}
    for expected in (
        "demo/raw/events",
        "demo/landing/events",
        "demo/staging/stg_events",
        "demo/marts/fct_orders",
        "demo/features/user_behaviour_v1",
        "demo/feature_store/item_text_embedding_minilm_v1",
        "demo/models/recommender",
        "demo/published/marts",
    ):
        assert expected in above


def test_every_audited_asset_stands_above_the_published_file() -> None:
    graph = defs.resolve_asset_graph()
    published = AssetKey(["demo", "published", "marts"])
    parents = graph.get(published).parent_keys
    blocking = {
        check.asset_key
        for check in graph.asset_check_keys
        if graph.get(check).blocking
        and check.asset_key.path[0] == "demo"
        and check.asset_key.path[1] in {"landing", "marts", "feature_store", "models", "campaigns"}
    }
    assert blocking
    assert blocking <= parents


def test_schedule_runs_the_last_finished_day_at_two_in_the_shops_time() -> None:
    repository = defs.get_repository_def()
    schedule = repository.get_schedule_def("demo_nightly")
    assert schedule.cron_schedule == "0 2 * * *"
    assert schedule.execution_timezone == load_shop("demo").time_zone
    tick = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
    context = build_schedule_context(scheduled_execution_time=tick, repository_def=repository)
    requests = schedule.evaluate_tick(context).run_requests
    assert [request.partition_key for request in requests] == ["2026-03-01"]


def test_an_archive_has_its_last_day_as_last_night_and_no_schedule() -> None:
    shop = load_shop("online_retail")
    assert nights(shop).get_last_partition_key() == "2011-12-09"
    names = [schedule.name for schedule in defs.get_repository_def().schedule_defs]
    assert "online_retail_nightly" not in names


def test_sensor_waits_for_the_first_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    sensor = defs.get_repository_def().get_sensor_def("demo_late_files")
    with DagsterInstance.ephemeral() as instance:
        data = sensor.evaluate_tick(
            build_sensor_context(instance=instance, repository_def=defs.get_repository_def())
        )
    assert not data.run_requests
    assert data.skip_message == "no night has run yet"


def test_sensor_runs_the_last_night_again_for_a_late_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingest.fetch import fetch
    from ingest.landing import land

    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    shop, paths, night = load_shop("demo"), Paths("demo"), date(2026, 1, 3)
    fetch(shop, paths, night, "small")
    land(shop, paths, night)
    sensor = defs.get_repository_def().get_sensor_def("demo_late_files")
    with DagsterInstance.ephemeral() as instance:
        context = build_sensor_context(instance=instance, repository_def=defs.get_repository_def())
        assert not sensor.evaluate_tick(context).run_requests
        first = next(iter(sorted(paths.raw.glob(shop.raw["events"].files))))
        (first.parent / f"2026-01-02-late{first.suffix}").write_bytes(first.read_bytes())
        requests = sensor.evaluate_tick(context).run_requests
        assert [request.partition_key for request in requests] == ["2026-01-03"]
        again = sensor.evaluate_tick(context).run_requests
        assert [r.run_key for r in again] == [r.run_key for r in requests]


def test_failure_is_posted_to_the_webhook_and_a_dead_webhook_hides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posted: list[dict[str, str]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    @op
    def breaks() -> None:
        raise ValueError("the shop burned down")

    @job(hooks={tell_of_failure})
    def night() -> None:
        breaks()

    server = HTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PERENNIAL_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/")
    assert not night.execute_in_process(raise_on_error=False).success
    server.shutdown()
    server.server_close()
    assert len(posted) == 1
    assert "the shop burned down" in posted[0]["text"]
    result = night.execute_in_process(raise_on_error=False)
    assert [event.step_key for event in result.get_step_failure_events()] == ["breaks"]


def _said(definitions: Definitions, capsys: pytest.CaptureFixture[str], **how: str) -> str:
    """What the terminal shows of a run that fails."""
    logged = Definitions(loggers={"night": night_console}, executor=in_process_executor)
    everything = Definitions(jobs=[define_asset_job("run", hooks={tell_of_failure})])
    run = Definitions.merge(definitions, everything, logged).resolve_job_def("run")
    result = run.execute_in_process(
        run_config={"loggers": {"night": {}}}, raise_on_error=False, **how
    )
    assert not result.success
    return capsys.readouterr().err


def test_a_select_that_cannot_run_is_named_once_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    select = EVENTS.replace("moment AS", "moment + AS")
    shop, paths = make_shop(tmp_path, monkeypatch, events=select)
    put(paths, "a.csv", line(1, "2026-01-01"))
    said = _said(Definitions(ingest_assets(shop)), capsys, partition_key="2026-01-01")
    assert "landing FAILED: shops/tiny/events.sql: Parser Error" in said
    assert said.count("Parser Error") == 1
    assert "tried again" not in said


def test_a_check_that_blocks_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    @asset
    def raw() -> None:
        pass

    @asset_check(asset=raw, blocking=True)
    def raw__readable() -> AssetCheckResult:
        return AssetCheckResult(passed=False, description="raw.readable: a.csv cannot be read")

    said = _said(Definitions([raw], asset_checks=[raw__readable]), capsys)
    assert "BLOCKED by raw.readable: a.csv cannot be read" in said
    assert said.count("readable: ") == 1
    assert "FAILED: a check above blocks the night" in said and "Error" not in said


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(_names(), indent=1) + "\n")
