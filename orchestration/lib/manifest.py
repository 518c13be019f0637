"""The run manifest: one row for each thing a reader may want to know about how a night was made."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Any

from audit import nights
from core import access
from core.duck import connect
from ml.registry import champion
from orchestration.lib.night import Night
from orchestration.lib.versions import code_fingerprint, git_revision, library_versions

if TYPE_CHECKING:
    import pyarrow as pa


def manifest_rows(night: Night) -> pa.Table:
    """Rows of `marts.run_manifest` but for the checks, which the publish step adds."""
    import pyarrow as pa

    landing, model = night.recall("landing"), night.recall("recommender")
    lists = night.recall("recommendations")
    rows: list[tuple[str, str, str, dict[str, Any] | None]] = [
        ("setting", "shop", night.shop.name, None),
        ("setting", "title", night.shop.title, None),
        ("setting", "currency", night.shop.currency, None),
        ("setting", "simulated", str(night.shop.simulated).lower(), None),
        ("input", "files", str(landing["files"]), None),
        ("input", "fingerprint", landing["fingerprint"], None),
        ("input", "worst_quarantine_reason", landing["worst_reason"] or "none", None),
        ("version", "git", git_revision(night.shop.name), None),
        ("version", "code", code_fingerprint(night.shop.name), None),
        ("version", "recommender", lists["model_version"], None),
        ("version", "challenger", model["model_version"], {"decision": model["decision"]}),
        ("version", "feature_service", lists["feature_service"], None),
        ("version", "text_encoder", night.shop.text_encoder, None),
    ]
    rows += [("version", name, value, None) for name, value in library_versions().items()]
    reasons = quarantine_reasons(night)
    for table, counts in landing["tables"].items():
        rows += [
            ("rows", f"{table}/{name}", str(value), reasons.get((table, name)))
            for name, value in counts.items()
        ]
    rows += deliveries(night)
    rows += [_metric(metric) for metric in model["metrics"]]
    return pa.table(
        {
            "night": pa.array([night.night] * len(rows), pa.date32()),
            "section": [row[0] for row in rows],
            "name": [row[1] for row in rows],
            "value": [row[2] for row in rows],
            "passed": pa.nulls(len(rows), pa.bool_()),
            "detail": pa.array(
                [json.dumps(row[3], sort_keys=True) if row[3] else None for row in rows],
                pa.string(),
            ),
        }
    )


def quarantine_reasons(night: Night) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows set aside by (contract table, name of their count): {"reasons": {reason: rows}}."""
    with connect() as connection:
        found = connection.execute(
            """
            SELECT table_name, kind, reason, count(*)
            FROM read_parquet($files, union_by_name = true) WHERE kind <> 'empty'
            GROUP BY ALL ORDER BY table_name, kind, count(*) DESC, reason
            """,
            {"files": f"{night.paths.quarantine}/*/*.parquet"},
        ).fetchall()
    reasons: dict[tuple[str, str], dict[str, Any]] = {}
    for table, kind, reason, rows in found:
        counted = {"broken": "quarantined", "late": "late"}.get(kind, "excluded")
        reasons.setdefault((table, counted), {"reasons": {}})["reasons"][reason] = rows
    return reasons


def deliveries(night: Night) -> list[tuple[str, str, str, dict[str, Any]]]:
    """The event files of the last five weeks by the newest day in them: rows, late, quarantined.

    Late: of a day more than one before the file's newest. A file of a local day begins in the UTC
    day before, which is not late.
    """
    with connect() as connection:
        found = connection.execute(
            """
            WITH kept AS (
                SELECT _file AS file, day, count(*) AS n
                FROM read_parquet($landed, hive_partitioning = true, hive_types = {'day': DATE})
                WHERE day BETWEEN $night::DATE - 35 AND $night GROUP BY ALL
            ), files AS (
                SELECT file, max(day) AS newest, sum(n) AS rows,
                       sum(n) FILTER (newest - day > 1) AS late
                FROM (SELECT *, max(day) OVER (PARTITION BY file) AS newest FROM kept)
                GROUP BY file
            ), aside AS (
                SELECT file, count(*) FILTER (kind = 'broken') AS broken,
                       count(*) FILTER (kind = 'late') AS late
                FROM read_parquet($aside, union_by_name = true)
                WHERE file IN (SELECT file FROM files) GROUP BY file
            )
            SELECT newest, sum(rows)::BIGINT,
                   sum(coalesce(files.late, 0) + coalesce(aside.late, 0))::BIGINT,
                   sum(coalesce(broken, 0))::BIGINT
            FROM files LEFT JOIN aside USING (file)
            GROUP BY newest ORDER BY newest
            """,
            {
                "landed": f"{night.paths.landing}/events/*/*.parquet",
                "aside": f"{night.paths.quarantine}/events/*.parquet",
                "night": night.night,
            },
        ).fetchall()
    return [
        ("delivery", newest.isoformat(), str(rows), {"late": late, "quarantined": broken})
        for newest, rows, late, broken in found
    ]


def _metric(metric: dict[str, Any]) -> tuple[str, str, str, dict[str, Any]]:
    at = f"@{metric['k']}" if metric.get("k") else ""
    name = f"recommender/{metric['model']}/{metric['metric']}{at}"
    return ("model", name, repr(metric["value"]), metric)


def remember_published(night: Night) -> list[date]:
    """Keep the published night and what it was made from, so that the same need not run twice.

    Returns the nights that were thrown away because the shop's policy keeps them no longer.
    """
    content = {
        "night": night.night.isoformat(),
        "code": code_fingerprint(night.shop.name),
        "inputs": night.recall("landing")["fingerprint"],
        "champion": champion(night.paths.models, "recommender", night.night),
    }
    with access.published():
        return nights.keep(night.paths, night.night, content, night.shop.keep_nights)


def is_published(night: Night) -> bool:
    """Whether this very night, with this code and these raw files, is what analysts see already."""
    from ingest.landing import changed_files

    path = night.paths.published_record
    if not path.exists() or not night.paths.marts.exists():
        return False
    if not (night.paths.report(night.night) / "index.html").exists():
        return False
    published = json.loads(path.read_text())
    same_night = date.fromisoformat(published["night"]) == night.night
    same_code = published["code"] == code_fingerprint(night.shop.name)
    # after a rollback the lists have to be made again
    same_model = published["champion"] == champion(night.paths.models, "recommender", night.night)
    return same_night and same_code and same_model and not changed_files(night.shop, night.paths)
