"""Did it help? What those whom a campaign chose did, beside its holdout, whom the lot left out.

An outcome is looked at when its days are over: valid orders on the days after the night of the
choice, and their net revenue. Everybody counts in the group they were drawn for, whether or not
the action reached them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from math import sqrt
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from campaigns.audience import handed_out, kept
from campaigns.spec import Campaign
from core import access
from core.duck import connect
from core.paths import Paths

TOO_FEW = 30  # in either group: below that no verdict is given

RESULTS = pa.schema(
    [
        ("night", pa.date32()),
        ("campaign", pa.string()),
        ("title", pa.string()),
        ("outcome_days", pa.int32()),
        ("n_waiting", pa.int64()),
        ("n_treated", pa.int64()),
        ("n_holdout", pa.int64()),
        ("treated_rate", pa.float64()),
        ("holdout_rate", pa.float64()),
        ("rate_difference", pa.float64()),
        ("rate_low", pa.float64()),
        ("rate_high", pa.float64()),
        ("treated_revenue", pa.float64()),
        ("holdout_revenue", pa.float64()),
        ("revenue_difference", pa.float64()),
        ("revenue_low", pa.float64()),
        ("revenue_high", pa.float64()),
        ("verdict", pa.string()),
    ]
)

_OUTCOMES = """
    WITH outcomes AS (
        SELECT campaign, outcome_days, audience.user_id, is_holdout,
               entered_night + outcome_days <= $night::DATE AS is_over,
               count(order_id) > 0 AS ordered, coalesce(sum(net_revenue), 0)::DOUBLE AS revenue
        FROM audience LEFT JOIN (
            SELECT user_id, order_id, order_date, net_revenue FROM warehouse.marts.fct_orders
            WHERE is_valid
        ) AS orders
            ON orders.user_id = audience.user_id AND order_date > entered_night
            AND order_date <= entered_night + outcome_days
        GROUP BY ALL
    )
    SELECT campaign, outcome_days, count(*) FILTER (NOT is_over) AS n_waiting,
        {arms}
    FROM outcomes GROUP BY campaign, outcome_days ORDER BY campaign, outcome_days
"""
_ARM = """
        count(*) FILTER ({arm}) AS n_{name},
        count(*) FILTER ({arm} AND ordered) AS {name}_ordered,
        avg(revenue) FILTER ({arm}) AS {name}_revenue,
        var_samp(revenue) FILTER ({arm}) AS {name}_variance"""


def tables(campaigns: Sequence[Campaign], paths: Paths, night: date) -> tuple[int, list[str]]:
    """Write `campaign_audience` and `campaign_results` as of `night`, to be audited and published.

    Returns the rows of the first and the verdicts of the second.
    """
    nights = {*(each for each in handed_out(paths) if each < night), night}
    arms = [
        _ARM.format(name=name, arm=f"is_over AND {which}")
        for name, which in (("treated", "NOT is_holdout"), ("holdout", "is_holdout"))
    ]
    paths.campaigns.mkdir(parents=True, exist_ok=True)
    with connect() as connection:
        connection.execute(f"SET temp_directory = '{paths.home / 'spill'}'")
        connection.execute(f"ATTACH '{paths.warehouse}' AS warehouse (READ_ONLY)")
        connection.execute(f"CREATE TEMP TABLE audience AS {kept(paths, sorted(nights))}")
        draft = paths.campaigns / "campaign_audience.next"
        with access.published():
            connection.execute(
                "COPY (FROM audience ORDER BY campaign, entered_night, user_id) "
                f"TO '{draft}' (FORMAT parquet)"
            )
        draft.replace(draft.with_suffix(".parquet"))
        found = connection.sql(_OUTCOMES.format(arms=",".join(arms)), params={"night": night})
        measured = found.to_arrow_table().to_pylist()  # a row for each campaign
        [[rows]] = connection.execute("SELECT count(*) FROM audience").fetchall()
    titles = {campaign.name: campaign.title for campaign in campaigns}
    there = {row["campaign"] for row in measured}
    measured += [
        {"campaign": each.name, "outcome_days": each.outcome_days, "n_waiting": 0}
        for each in campaigns
        if each.name not in there
    ]
    results = [
        _effect(row) | {"night": night, "title": titles.get(row["campaign"], row["campaign"])}
        for row in sorted(measured, key=lambda row: (row["campaign"], row["outcome_days"]))
    ]
    draft = paths.campaigns / "campaign_results.next"
    with access.published():
        pq.write_table(pa.Table.from_pylist(results, schema=RESULTS), draft)
    draft.replace(draft.with_suffix(".parquet"))
    return rows, [f"{each['title']}: {each['verdict']}" for each in results]


def _effect(row: dict[str, Any]) -> dict[str, Any]:
    """One line of `campaign_results` from counts, means and variances of both groups."""
    n_treated, n_holdout = row.get("n_treated", 0), row.get("n_holdout", 0)
    line = {name: row.get(name) for name in RESULTS.names}
    line |= {"n_treated": n_treated, "n_holdout": n_holdout}
    if n_treated and n_holdout:
        rates = rate_interval(row["treated_ordered"], n_treated, row["holdout_ordered"], n_holdout)
        line |= dict(zip(("rate_difference", "rate_low", "rate_high"), rates, strict=True))
        revenue = revenue_interval(
            (row["treated_revenue"], row["treated_variance"], n_treated),
            (row["holdout_revenue"], row["holdout_variance"], n_holdout),
        )
        names = ("revenue_difference", "revenue_low", "revenue_high")
        line |= dict(zip(names, revenue, strict=True))
    for arm, n in (("treated", n_treated), ("holdout", n_holdout)):
        line[f"{arm}_rate"] = row[f"{arm}_ordered"] / n if n else None
    return line | {"verdict": verdict(line)}


def rate_interval(hits: int, n: int, other_hits: int, other_n: int) -> tuple[float, float, float]:
    """Difference of two rates and its 95 % interval (Newcombe 1998, from Wilson's of each)."""
    from scipy.stats import binomtest

    (rate, low, high), (other, other_low, other_high) = (
        (k / m, *binomtest(k, m).proportion_ci(method="wilson"))
        for k, m in ((hits, n), (other_hits, other_n))
    )
    difference = rate - other
    return (
        difference,
        difference - sqrt((rate - low) ** 2 + (other_high - other) ** 2),
        difference + sqrt((high - rate) ** 2 + (other - other_low) ** 2),
    )


def revenue_interval(
    one: tuple[float, float | None, int], another: tuple[float, float | None, int]
) -> tuple[float, float | None, float | None]:
    """Difference of two means and its 95 % interval (Welch), from each mean, variance and number.

    There is no interval with one user in a group.
    """
    from scipy.stats import t

    (mean, variance, n), (other, other_variance, m) = one, another
    if variance is None or other_variance is None:
        return mean - other, None, None
    parts = variance / n, other_variance / m
    error = sqrt(sum(parts))
    if not error:
        return mean - other, mean - other, mean - other
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (m - 1))
    reach = float(t.ppf(0.975, freedom)) * error
    return mean - other, mean - other - reach, mean - other + reach


def verdict(line: dict[str, Any]) -> str:
    """What the figures say, in a sentence."""
    days, treated, holdout = line["outcome_days"], line["n_treated"], line["n_holdout"]
    if not (treated or holdout):
        return (
            f"Not known yet: nobody's {days} days are over."
            if line["n_waiting"]
            else "Nobody has been chosen yet."
        )
    if not (treated and holdout):
        return "Cannot be told: there is nobody to compare with. Set `holdout` above 0."
    told = (
        f"{line['treated_rate']:.1%} of {treated:,} treated and {line['holdout_rate']:.1%} of "
        f"{holdout:,} held out ordered within {days} days, a difference of "
        f"{100 * line['rate_difference']:+.1f} points (95 % interval {100 * line['rate_low']:+.1f} "
        f"to {100 * line['rate_high']:+.1f})."
    )
    if min(treated, holdout) < TOO_FEW:
        return f"Too few to tell: {told}"
    if line["rate_low"] > 0:
        return f"It helped: {told}"
    if line["rate_high"] < 0:
        return f"It did harm: {told}"
    return f"No effect shown, the difference may be chance: {told}"
