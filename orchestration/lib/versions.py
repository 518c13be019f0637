"""What ran: the code's revision and fingerprint, and the versions of the libraries."""

from __future__ import annotations

import hashlib
import subprocess
from importlib.metadata import version

from core.shop import ROOT

ROOMS = (
    "core",
    "ingest",
    "dbt_project",
    "audit",
    "feature_repo",
    "ml",
    "campaigns",
    "reports",
    "privacy",
    "orchestration",
)
_LIBRARIES = ("duckdb", "dbt-core", "feast", "great-expectations", "torch", "dagster")


def git_revision(shop: str) -> str:
    """The last commit that changed what a night of `shop` is made of; `unknown` outside git."""
    command = ["git", "log", "-1", "--format=%H", "--", *ROOMS, f"shops/{shop}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def library_versions() -> dict[str, str]:
    """Versions of the libraries whose change may change a figure."""
    return {name: version(name) for name in _LIBRARIES}


def code_fingerprint(shop: str) -> str:
    """Hash of all code, SQL and settings that a night of `shop` is made of."""
    digest = hashlib.sha256()
    for room in (*ROOMS, f"shops/{shop}"):
        for path in sorted((ROOT / room).rglob("*")):
            if path.suffix in {".py", ".sql", ".yml", ".yaml", ".html", ".css"} and path.is_file():
                if "target" in path.parts:
                    continue
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()
