"""One step of a night's data path at a time, each in a process of its own, and what it took.

    python -m benchmarks.lib.steps <step> <arguments as JSON>

runs a step below `PERENNIAL_VAR` and prints its seconds and its rows; `run` starts that and watches
the memory. The steps are the functions that Dagster's assets call, without Dagster around them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.lib import peers
from benchmarks.lib.night import watch
from core.duck import connect
from core.paths import Paths
from core.shop import Shop, load_shop

SHOP = "demo"


@dataclass(frozen=True)
class Step:
    """What a step took: seconds inside it and of its process, rows, most bytes resident."""

    seconds: float
    wall: float
    rows: int
    peak: int
    said: dict[str, Any]


def run(name: str, **arguments: Any) -> Step:
    """Run a step in a process of its own; exits with the step's own words when it fails."""
    command = [sys.executable, "-m", "benchmarks.lib.steps", name, json.dumps(arguments)]
    wall, peak, printed = watch(command)
    lines = reversed(printed.splitlines())
    said = json.loads(next(line for line in lines if line.startswith('{"seconds"')))
    return Step(said.pop("seconds"), wall, said.pop("rows"), peak, said)


def simulate(shop: Shop, paths: Paths, night: date, scale: str) -> dict[str, Any]:
    """Raw files up to the night, in a folder from which `deliver` takes them."""
    from shops.demo.simulate import SCALES, Scale
    from shops.demo.source import fetch

    # after 1,800 days as many events a day as `large` has after 180
    SCALES["long"] = Scale(30_000, 1_850)
    store = paths.home / "simulated"
    fetch(store, night, scale)
    return {"rows": _parquet_rows(store / "events")}


def deliver(shop: Shop, paths: Paths, night: date) -> dict[str, Any]:
    """Let the files of the days up to the night be in the raw folder (no copies: links)."""
    new = 0
    for file in sorted((paths.home / "simulated").glob("*/*-*-*.*")):
        place = paths.raw / file.parent.name / file.name
        if file.stem <= night.isoformat() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(file)
            new += 1
    return {"rows": new}


def land(shop: Shop, paths: Paths, night: date) -> dict[str, Any]:
    """Raw files into landing."""
    from ingest.landing import land

    before = _counts(paths)
    landed = land(shop, paths, night)
    counts = {name: vars(counts) for name, counts in landed.tables.items()}
    (paths.home / "counts.json").write_text(json.dumps(counts))
    after = sum(each["mapped"] for each in counts.values())
    return {"rows": after - sum(each["mapped"] for each in before.values())}


def audit(shop: Shop, paths: Paths, night: date, stage: str) -> dict[str, Any]:
    """Every check of a stage; a failed one ends the benchmark."""
    from audit.suites import run as audit_stage

    counts = _counts(paths) if stage in ("landing", "marts") else None
    began = time.perf_counter()
    import great_expectations  # noqa: F401

    imported = time.perf_counter() - began
    checks = audit_stage(stage, shop, paths, night, counts)
    failed = [check.message for check in checks if check.blocking and not check.passed]
    if failed:
        raise SystemExit("\n".join(failed))
    return {"rows": len(checks), "importing": imported}


def warehouse(
    shop: Shop, paths: Paths, night: date, feature_weeks: int | None = None
) -> dict[str, Any]:
    """dbt as the nightly step runs it: the marts, the feature tables and their tests."""
    from orchestration.lib import dbt
    from orchestration.lib.night import Night

    tonight = Night(shop, paths, night)
    landed = dbt.landing_digests(paths)
    first = dbt.reprocess_from(tonight, landed)
    fresh = ["--full-refresh"] if first is None else []
    with dbt.building(night, first or shop.start):
        _dbt(shop, paths, "build", *fresh, feature_weeks=feature_weeks)
    dbt.remember_build(tonight, landed)
    return {"rows": _rows(paths.warehouse, "marts.fct_events"), "first": str(first)}


def script(shop: Shop, paths: Paths, night: date) -> dict[str, Any]:
    """The floor: the very SQL that dbt compiles for a full refresh, in one script, without dbt."""
    from orchestration.lib import dbt

    with dbt.building(night, shop.start):
        _dbt(shop, paths, "compile", "--full-refresh")
    manifest = json.loads((paths.home / "dbt" / "manifest.json").read_text())
    file = paths.home / "script" / "warehouse.duckdb"
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    began = time.perf_counter()
    with connect(file) as duck:
        for schema in ("staging", "intermediate", "marts", "features"):
            duck.execute(f"CREATE SCHEMA {schema}")
        for kind, relation, select in _in_order(manifest["nodes"]):
            duck.execute(f"CREATE {kind} {relation} AS {select}")
        duck.execute("CHECKPOINT")
    seconds = time.perf_counter() - began
    rows = _rows(file, "marts.fct_events")
    file.unlink()
    return {"rows": rows, "seconds": seconds}


def _dbt(
    shop: Shop, paths: Paths, command: str, *options: str, feature_weeks: int | None = None
) -> None:
    from orchestration.lib import dbt

    variables = json.loads(dbt.variables(shop))
    if feature_weeks:
        variables |= {"feature_weeks": feature_weeks, "feature_weeks_thinned": 0}

    os.environ["PERENNIAL_SHOP_HOME"] = str(paths.home)
    folder = ["--project-dir", str(dbt.PROJECT), "--profiles-dir", str(dbt.PROJECT)]
    excluded = ["--exclude-resource-type", "unit_test"] if command == "build" else []
    done = subprocess.run(
        [str(dbt.EXECUTABLE), command, *folder, "--target-path", str(paths.home / "dbt"),
         *excluded, *options, "--vars", json.dumps(variables)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def _in_order(nodes: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(TABLE or VIEW, relation, SELECT) of every model, each after those that it reads."""
    models = {name: node for name, node in nodes.items() if node["resource_type"] == "model"}
    ordered: dict[str, Any] = {}
    while len(ordered) < len(models):
        for name, node in models.items():
            above = [each for each in node["depends_on"]["nodes"] if each in models]
            if name not in ordered and all(each in ordered for each in above):
                ordered[name] = node
    return [
        (
            "VIEW" if node["config"]["materialized"] == "view" else "TABLE",
            node["relation_name"],
            node["compiled_code"],
        )
        for node in ordered.values()
    ]


def export(shop: Shop, paths: Paths, night: date) -> dict[str, Any]:
    """Feature tables to parquet."""
    from feature_repo.store import export as export_features

    return {"rows": sum(export_features(paths, night).values())}


def materialize(shop: Shop, paths: Paths, night: date) -> dict[str, Any]:
    """The night's features to the online store."""
    from feature_repo.store import apply
    from feature_repo.store import materialize as bring_online

    apply(shop.name, paths)
    return {"rows": sum(bring_online(paths, night).values())}


def embed(shop: Shop, paths: Paths, night: date) -> dict[str, Any]:
    """Texts of the catalogue as vectors; what is new only."""
    from orchestration.lib.embeddings import embed_items
    from orchestration.lib.night import Night

    return {"rows": embed_items(Night(shop, paths, night))[1]}


def lists(shop: Shop, paths: Paths, night: date) -> dict[str, Any]:
    """Popularity lists for everyone, as a shop's first nights publish them: no model."""
    paths.recommendations.mkdir(exist_ok=True)
    with connect(paths.warehouse, read_only=True) as duck:
        duck.execute(f"SET temp_directory = '{paths.home / 'spill'}'")
        duck.execute(
            f"""
            COPY (
              WITH best AS (
                SELECT item_id, units::DOUBLE / greatest(1, sum(units) OVER ()) AS score,
                       row_number() OVER (ORDER BY units DESC, item_id)::INTEGER AS rank
                FROM (SELECT item_id, coalesce(sum(units), 0) AS units
                      FROM marts.dim_items LEFT JOIN marts.item_daily_stats USING (item_id)
                      WHERE is_catalogued GROUP BY item_id)
                ORDER BY rank LIMIT 50)
              SELECT DATE '{night}' AS night, user_id, rank, item_id, score,
                     'popular now' AS reason, 1::DOUBLE AS propensity,
                     'popularity' AS model_version
              FROM marts.dim_users CROSS JOIN best ORDER BY user_id, rank
            ) TO '{paths.recommendations / f"{night}.parquet"}' (FORMAT parquet)"""
        )
        found = duck.execute("SELECT 50 * count(*) FROM marts.dim_users").fetchall()
        duck.execute(
            f"""
            COPY (
              SELECT DATE '{night}' AS night, user_id, 'repeat' AS part, 1 AS rank, item_id,
                     1::DOUBLE AS score, 'purchases' AS model_version
              FROM marts.dim_users JOIN marts.dim_items ON false
            ) TO '{paths.recommendations / f"{night}.next_quarter.parquet"}' (FORMAT parquet)"""
        )
    return {"rows": found[0][0]}


def publish(shop: Shop, paths: Paths, night: date) -> dict[str, Any]:
    """The audited tables to the file that analysts open."""
    from audit.publish import MANIFEST_SCHEMA
    from audit.publish import publish as publish_night

    published = publish_night(shop, paths, night, MANIFEST_SCHEMA.empty_table())
    return {"rows": sum(published.tables.values())}


def in_a_row(shop: Shop, paths: Paths, night: date, scale: str) -> dict[str, Any]:
    """A whole night of functions called one after the other, as a script would, without Dagster."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from feature_repo.store import apply
    from ingest.fetch import fetch
    from ingest.landing import land as land_night
    from ml.nightly import score, train
    from orchestration.defs.ingest.assets import as_record
    from orchestration.lib.inputs import RECOMMENDER_SERVICE, night_inputs
    from orchestration.lib.manifest import manifest_rows
    from orchestration.lib.night import Night
    from reports.build import build

    tonight = Night(shop, paths, night)
    fetch(shop, paths, night, scale)
    landed = land_night(shop, paths, night)
    tonight.record("landing", as_record(landed))
    counts = {name: vars(counts) for name, counts in landed.tables.items()}
    (paths.home / "counts.json").write_text(json.dumps(counts))
    audit(shop, paths, night, "landing")
    warehouse(shop, paths, night)
    audit(shop, paths, night, "marts")
    export(shop, paths, night)
    embed(shop, paths, night)
    audit(shop, paths, night, "features")
    apply(shop.name, paths)
    trained = train(
        night_inputs(tonight), models=paths.models, mlflow=paths.mlflow, seed=20,
        card={"feature_service": RECOMMENDER_SERVICE}, log=lambda _: None,
    )  # fmt: skip
    tonight.record("recommender", {
        "metrics": trained.metrics.to_pylist(), "decision": trained.decision,
        "promoted": trained.promoted, "model_version": trained.model_version,
        "feature_service": RECOMMENDER_SERVICE,
    })  # fmt: skip
    made = score(night_inputs(tonight), models=paths.models, feature_service=RECOMMENDER_SERVICE)
    paths.recommendations.mkdir(exist_ok=True)
    for name, rows in (("", made.tonight), (".next_quarter", made.next_quarter)):
        dated = rows.add_column(0, "night", pa.array([night] * rows.num_rows, pa.date32()))
        pq.write_table(dated, paths.recommendations / f"{night}{name}.parquet")
    table = made.tonight
    tonight.record(
        "recommendations",
        {"model_version": trained.model_version, "feature_service": RECOMMENDER_SERVICE},
    )
    audit(shop, paths, night, "recommendations")
    from audit.publish import publish as publish_night

    publish_night(shop, paths, night, manifest_rows(tonight))
    materialize(shop, paths, night)
    build(shop, paths, night)
    return {"rows": table.num_rows}


def _parquet_rows(folder: Path) -> int:
    with connect() as duck:
        found = duck.execute(
            "SELECT sum(num_rows) FROM parquet_file_metadata(?)", [f"{folder}/*.parquet"]
        ).fetchall()
    return int(found[0][0])


def _counts(paths: Paths) -> dict[str, Any]:
    path = paths.home / "counts.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _rows(file: Path, table: str) -> int:
    with connect(file, read_only=True) as duck:
        return int(duck.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    step.__name__: step
    for step in (
        simulate, deliver, land, audit, warehouse, script, export, materialize, embed, lists,
        publish, in_a_row, peers.marts, peers.expectations,
    )
}  # fmt: skip


def main(name: str, arguments: str) -> None:
    """Run one step and print what it took as one line of JSON."""
    given = json.loads(arguments)
    given["night"] = date.fromisoformat(given["night"])
    shop, paths = load_shop(SHOP), Paths(SHOP)
    paths.home.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    said = STEPS[name](shop, paths, **given)
    took = time.perf_counter() - began
    print("\n" + json.dumps({"seconds": said.pop("seconds", took), **said}), flush=True)
    os._exit(0)  # DuckDB's bindings print pages about leaks while the interpreter is torn down


if __name__ == "__main__":
    main(*sys.argv[1:])
