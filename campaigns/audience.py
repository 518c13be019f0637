"""Choosing tonight's users and keeping whom each night has chosen.

`campaigns/<night>/chosen.parquet` is the night's choice, holdouts too; `audience.csv` and
`audience.parquet` beside it, without them, are what is handed out once the night is published. From
then on the choice stands: the night run again chooses nobody else. A choice that was never handed
out counts for nothing and is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from campaigns import CampaignError
from campaigns.spec import Campaign
from campaigns.who import check_select, choose_users, tonights_marts
from core import access
from core.paths import Paths

COLUMNS = {
    "campaign": "VARCHAR",
    "user_id": "VARCHAR",
    "action": "VARCHAR",
    "entered_night": "DATE",
    "is_holdout": "BOOLEAN",
    "holdout_share": "DOUBLE",
    "cap_days": "INTEGER",
    "outcome_days": "INTEGER",
}
_HANDED_OUT = ["campaign", "user_id", "action", "entered_night"]

# A number from 0 to 1 that follows from campaign and user alone, the same on every night and under
# every version of DuckDB; the name of the campaign is its salt.
LOT = "('0x' || substr(sha256(campaign || '/' || user_id), 1, 13))::UBIGINT / (1::UBIGINT << 52)"

_CHOOSE = f"""
    SELECT campaign, user_id, action, $night::DATE AS entered_night, {LOT} < holdout AS is_holdout,
           holdout AS holdout_share, cap_days, outcome_days
    FROM wanted JOIN settings USING (campaign)
    WHERE NOT EXISTS (
        FROM entered
        WHERE entered.user_id = wanted.user_id AND entered.campaign = wanted.campaign
    ) AND NOT EXISTS (
        FROM entered
        WHERE entered.user_id = wanted.user_id AND abs(entered.entered_night - $night::DATE)
              < greatest(entered.cap_days, settings.cap_days)
    )
    QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY priority DESC, campaign) = 1
    ORDER BY campaign, user_id
"""


def choose(campaigns: Sequence[Campaign], paths: Paths, night: date) -> int:
    """Choose tonight's users, holdouts too, unless they were handed out already; how many.

    Raises CampaignError when a campaign's SELECT does not fit tonight's marts.
    """
    folder = paths.campaigns / night.isoformat()
    if campaigns and night not in handed_out(paths):
        with wanting([each for each in campaigns if each.runs(night)], paths, night) as connection:
            chosen = connection.sql(_CHOOSE, params={"night": night}).to_arrow_table()
        with access.published():
            folder.mkdir(parents=True, exist_ok=True)
            _write(chosen, folder / "chosen.parquet")
    return _rows(folder / "chosen.parquet")


@contextmanager
def wanting(
    campaigns: Sequence[Campaign], paths: Paths, night: date
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Tables `wanted` (campaign, user_id), `settings`, and `entered` on other nights."""
    tables = {table for campaign in campaigns for table in check_select(campaign.who)}
    others = kept(paths, (each for each in handed_out(paths) if each != night))
    ours = [
        f"CREATE TEMP TABLE entered AS SELECT campaign, user_id, entered_night, cap_days {others}",
        "CREATE TEMP TABLE settings (campaign VARCHAR, action VARCHAR, holdout DOUBLE, "
        "cap_days INTEGER, outcome_days INTEGER, priority INTEGER)",
        "CREATE TEMP TABLE wanted (campaign VARCHAR, user_id VARCHAR)",
    ]
    with tonights_marts(paths, night, tables, ours) as connection:
        for each in campaigns:
            measures = [each.holdout, each.cap_days, each.outcome_days, each.priority]
            connection.execute(
                "INSERT INTO settings VALUES (?, ?, ?, ?, ?, ?)",
                [each.name, each.action, *measures],
            )
            connection.execute("CREATE OR REPLACE TEMP TABLE users (user_id VARCHAR)")
            try:
                choose_users(connection, each.who, "users")
            except CampaignError as error:
                raise CampaignError(f"campaign {each.name}: who {error}") from error
            connection.execute("INSERT INTO wanted SELECT ?, user_id FROM users", [each.name])
        yield connection


def kept(paths: Paths, nights: Iterable[date]) -> str:
    """SQL: FROM what was chosen on these nights."""
    files = [str(paths.campaigns / night.isoformat() / "chosen.parquet") for night in nights]
    if there := [file for file in files if Path(file).exists()]:
        quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in there)
        return f"FROM read_parquet([{quoted}])"
    empty = ", ".join(f"NULL::{kind} AS {name}" for name, kind in COLUMNS.items())
    return f"FROM (SELECT {empty} WHERE false)"


def handed_out(paths: Paths) -> list[date]:
    """The nights whose choice was handed out."""
    folders = sorted(path.parent.name for path in paths.campaigns.glob("*/audience.csv"))
    return [date.fromisoformat(name) for name in folders]


def hand_out(paths: Paths, night: date) -> int:
    """Write tonight's audience, without its holdouts, for whoever acts on it; the users in it.

    To be called once the night is published.
    """
    folder = paths.campaigns / night.isoformat()
    if (folder / "chosen.parquet").exists() and night not in handed_out(paths):
        chosen = pq.read_table(folder / "chosen.parquet")
        audience = chosen.filter(pc.invert(chosen["is_holdout"])).select(_HANDED_OUT)
        with access.published():
            _write(audience, folder / "audience.parquet")
            _write(audience, folder / "audience.csv")  # last: with it the choice stands
    return _rows(folder / "audience.parquet")


def _rows(file: Path) -> int:
    return pq.read_metadata(file).num_rows if file.exists() else 0


def _write(table: pa.Table, file: Path) -> None:
    """A table as parquet or CSV, whole or not at all."""
    temporary = file.with_suffix(".next")
    if file.suffix == ".csv":
        pyarrow.csv.write_csv(table, temporary)
    else:
        pq.write_table(table, temporary)
    temporary.replace(file)
