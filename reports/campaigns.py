"""Did the campaigns help? Each one's treated users beside its holdout, whom the lot left out.

Reads `marts.campaign_results`; without it there is no section.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reports.panels import Panel, Section, Source, count, percent
from reports.plots import SMALL
from reports.queries import table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


def results(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per campaign and number of days its outcome is looked at."""
    return table(
        connection,
        """
        SELECT campaign, title, outcome_days, n_waiting, n_treated, n_holdout, treated_rate,
               holdout_rate, rate_difference, rate_low, rate_high, revenue_difference,
               revenue_low, revenue_high, verdict
        FROM marts.campaign_results ORDER BY title, outcome_days
        """,
    )


def campaigns(source: Source) -> list[Section]:
    """The section, where campaigns are measured at all."""
    if not source.has("campaign_results"):
        return []
    data = results(source.connection)
    panel = Panel(
        "campaign_results",
        "Treated against holdout",
        f"{source.definition('campaign_effect')} Of each group the share with a valid order "
        "within the days of the outcome; the difference in percentage points, that of revenue in "
        f"{source.shop.currency} a user, both with 95% intervals. Whoever was drawn counts, "
        "reached or not.",
        data,
        n=f"{count(sum(data['n_treated'].to_pylist()))} treated, "
        f"{count(sum(data['n_holdout'].to_pylist()))} held out"
        if data.num_rows
        else "",
        headers=("campaign", "treated", "holdout", "more bought", "more revenue"),
        rows=[
            [
                f"{row['title']}, {row['outcome_days']} days\n{row['verdict']}",
                f"{percent(row['treated_rate'])}\nof {count(row['n_treated'])}",
                f"{percent(row['holdout_rate'])}\nof {count(row['n_holdout'])}",
                _difference(row, "rate", 100),
                _difference(row, "revenue", 1),
            ]
            for row in data.to_pylist()
        ],
        few=tuple(min(row["n_treated"], row["n_holdout"]) < SMALL for row in data.to_pylist()),
        empty="" if data.num_rows else "No campaign has been set up.",
        wide=True,
    )
    lead = "Who was treated and who was held out was decided by lot, so what differs is the effect."
    return [Section("campaigns", "Did the campaigns help?", lead, [panel])]


def _difference(row: dict[str, Any], of: str, scale: float) -> str:
    """The difference, and below it its interval."""
    values = [row[f"{of}_{part}"] for part in ("difference", "low", "high")]
    said = ["-" if value is None else f"{value * scale:+.1f}" for value in values]
    return said[0] if values[1] is None else f"{said[0]}\n{said[1]} to {said[2]}"
