"""Where a shop's state lives: the layout of `var/<shop>/` (git-ignored), in one place.

`PERENNIAL_VAR` moves all of it to another disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from core.shop import ROOT


def var_folder() -> Path:
    """The folder of all run state: `PERENNIAL_VAR`, else `var/` in the repository."""
    return Path(os.environ.get("PERENNIAL_VAR", ROOT / "var")).resolve()


@dataclass(frozen=True)
class Paths:
    """The files of one shop; nothing is created by asking for a path."""

    shop: str

    @property
    def home(self) -> Path:
        """Everything of the shop."""
        return var_folder() / self.shop

    @property
    def raw(self) -> Path:
        """Raw files as the shop delivers them; a symbolic link when DATA named a folder."""
        return self.home / "raw"

    @property
    def secrets(self) -> Path:
        """Generated keys (mode 700); never inside a database file."""
        return self.home / "secrets"

    @property
    def landing(self) -> Path:
        """`landing/<table>/day=YYYY-MM-DD/*.parquet`, in the contract's columns."""
        return self.home / "landing"

    @property
    def quarantine(self) -> Path:
        """`quarantine/<table>/*.parquet`: rows that broke the contract, and why."""
        return self.home / "quarantine"

    @property
    def warehouse(self) -> Path:
        """The DuckDB file dbt builds in; no analyst opens it."""
        return self.home / "warehouse.duckdb"

    @property
    def features(self) -> Path:
        """`features/<view>/*.parquet`: the offline feature store."""
        return self.home / "features"

    @property
    def feast(self) -> Path:
        """Feast's registry and online store."""
        return self.home / "feast"

    @property
    def mlflow(self) -> Path:
        """MLflow's SQLite file and artefacts."""
        return self.home / "mlflow"

    @property
    def models(self) -> Path:
        """Checkpoints and the pointer to the champion."""
        return self.home / "models"

    @property
    def recommendations(self) -> Path:
        """`recommendations/<night>[.next_quarter].parquet`, scored but not yet published."""
        return self.home / "recommendations"

    @property
    def campaigns(self) -> Path:
        """`campaigns/<night>/`: whom campaigns chose on each night, and what was handed out."""
        return self.home / "campaigns"

    def predictions(self, night: date, table: str = "user_predictions") -> Path:
        """`predictions/<night>.<table>.parquet`: told that night, not yet published."""
        return self.home / "predictions" / f"{night.isoformat()}.{table}.parquet"

    def predicted(self, night: date) -> list[Path]:
        """All tables of predictions of one night."""
        return sorted((self.home / "predictions").glob(f"{night.isoformat()}.*.parquet"))

    def audit(self, night: date) -> Path:
        """Check results and Data Docs of one night."""
        return self.home / "audit" / night.isoformat()

    @property
    def marts(self) -> Path:
        """The published DuckDB file: what an analyst opens."""
        return self.home / "marts.duckdb"

    @property
    def published_record(self) -> Path:
        """What the published night was made from."""
        return self.home / "published.json"

    @property
    def kept_nights(self) -> Path:
        """`published/<night>/`: nights that were published, kept by the shop's policy."""
        return self.home / "published"

    def kept(self, night: date) -> Path:
        """The folder of one kept night."""
        return self.kept_nights / night.isoformat()

    @property
    def share(self) -> Path:
        """Aggregates for people outside the house, and the ledger of the privacy they cost."""
        return self.home / "share"

    def report(self, night: date) -> Path:
        """The folder of one night's report."""
        return self.home / "reports" / night.isoformat()
