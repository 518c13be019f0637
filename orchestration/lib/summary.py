"""The short summary a night ends with, read from what was published."""

from __future__ import annotations

import json

import duckdb

from core.duck import connect
from core.paths import Paths


def summary(paths: Paths) -> str:
    """Rows in, quarantined, checks, model against baselines, and where everything is."""
    with connect(paths.marts, read_only=True) as marts:
        night = marts.execute("SELECT max(night) FROM marts.run_manifest").fetchall()[0][0]
        parts = [
            f"Night {night} is published.",
            _rows(marts),
            _checks(marts),
            _model(marts),
        ]
    docs = paths.audit(night) / "data_docs" / "index.html"
    parts.append(
        f"  marts      {paths.marts}\n"
        f"  report     {paths.report(night) / 'index.html'}\n"
        f"  data docs  {docs}\n"
        "  UI         make ui, then http://127.0.0.1:3000"
    )
    return "\n".join(parts)


def _rows(marts: duckdb.DuckDBPyConnection) -> str:
    found = marts.execute(
        "SELECT name, CAST(value AS BIGINT) FROM marts.run_manifest WHERE section = 'rows'"
    ).fetchall()
    counts: dict[str, int] = {}
    for name, value in found:
        kind = name.split("/")[1]
        counts[kind] = counts.get(kind, 0) + value
    return (
        f"  rows       {counts['mapped']:,} in, {counts['landed']:,} landed, "
        f"{counts['deduplicated']:,} duplicates, {counts['quarantined']:,} quarantined, "
        f"{counts['excluded']:,} excluded by the shop's rules, {counts['later']:,} after the night"
    )


def _checks(marts: duckdb.DuckDBPyConnection) -> str:
    passed, total = marts.execute(
        "SELECT count(*) FILTER (WHERE passed), count(*) FROM marts.run_manifest "
        "WHERE section = 'check'"
    ).fetchall()[0]
    warned = marts.execute(
        "SELECT name FROM marts.run_manifest WHERE section = 'check' AND NOT passed ORDER BY name"
    ).fetchall()
    names = ", ".join(name for (name,) in warned)
    return f"  checks     {passed} of {total} passed" + (f"; warnings: {names}" if names else "")


def _model(marts: duckdb.DuckDBPyConnection) -> str:
    found = marts.execute(
        "SELECT detail FROM marts.run_manifest WHERE section = 'model'"
    ).fetchall()
    metrics = [json.loads(detail) for (detail,) in found]
    shown = sorted(
        (m for m in metrics if m["metric"] == "ndcg" and m["k"] == 10),
        key=lambda metric: -metric["value"],
    )
    if not shown:
        return "  model      none yet: the lists hold what is popular now"
    values = ", ".join(f"{m['model']} {m['value']:.4f}" for m in shown)
    return f"  model      NDCG@10 on the held-out days: {values}"
