"""What each rule of a shop's lists costs and brings, measured on the held-out days.

The champion ranks for everybody as of the first held-out day; the lists of the shop's rules, each
rule alone and all together, are held against what shoppers then did. What is sold out now was not
then, so stock and blocks of the night play no part where they are not rules.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.evaluate import held_out
from ml.list_quality import quality
from ml.metrics import mean_with_interval, ndcg_at
from ml.next_quarter import Comparison, compare
from ml.nightly import NightInputs, pool_of, ranker
from ml.recommender.rank import Ranked
from ml.repurchase import learn
from ml.rerank import CANDIDATES, column_of, numbered, rerank, seeds, shelf
from ml.rules import Rules
from ml.sequences import distinct_pairs, from_arrow, sorted_ids

NONE, ALL = "no rules", "all rules"
_K = 10
SCHEMA = pa.schema(
    [("rules", pa.string())]
    + [
        (name, pa.float64())
        for name in (
            "ndcg_at_10", "difference", "low", "high", "coverage", "gini_of_exposure",
            "intra_list_diversity", "novelty",
        )
    ]
)  # fmt: skip


def rule_costs(
    inputs: NightInputs, *, models: Path, feature_service: str, rules: Rules, k: int = 50
) -> pa.Table:
    """NDCG@10, its difference to no rules with the 95 % interval, and `ml.list_quality`.

    One row for no rules, each rule alone and all of them; no row where nobody can be judged.
    """
    by = ranker(inputs, models, feature_service, at_cutoff=True)
    n_items = len(by.events.items)
    later = by.events.of_kinds(inputs.target_events).between(inputs.cutoff, inputs.end)
    held = held_out(by.data.events, later, by.facts.first_day < inputs.cutoff)
    if not len(held.users):
        return SCHEMA.empty_table()
    truth = held.truth @ [n_items, 1]
    n_true = np.bincount(held.truth[:, 0])
    past = by.events.between(None, inputs.cutoff)
    met = distinct_pairs(past.user, past.item, n_items)
    met_by = np.bincount(met[:, 1], minlength=n_items)
    about = inputs.items
    if "is_sold_out" in about.column_names:
        about = about.drop_columns("is_sold_out")
    seed = seeds(by.events.users, inputs.night)
    parts = [_of(part, held.users) for part in by.best(held.candidates, CANDIDATES * k)]

    rows, base = [], None
    for name, wish in {NONE: Rules(), **rules.named(), ALL: rules}.items():
        on = shelf(by.events.items, about, held.candidates, by.facts, wish, inputs.night, by.end)
        known = learn(past.of_kinds(["purchase"]), on.category, by.end)
        pools = pool_of(by, on, wish)
        ranking = np.full((len(held.users), k), -1)
        for part, pool in zip(parts, pools, strict=False):
            mine = None if pool is None else _of(pool, held.users)
            final = rerank(part, mine, on, known, wish, seed, k)
            row = np.searchsorted(held.users, final.users)
            ranking[row, : final.ranking.shape[1]] = final.ranking
        row_start = np.arange(len(held.users))[:, None] * n_items
        hit = np.isin(ranking + row_start, truth) & (ranking >= 0)
        ndcg = ndcg_at(hit, n_true, _K)
        base = ndcg if base is None else base
        cost = mean_with_interval(ndcg - base)
        told = {"rules": name, "ndcg_at_10": float(ndcg.mean()), "difference": cost.value}
        told |= {"low": cost.low, "high": cost.high}
        rows.append(
            told | quality(ranking, held.candidates, by.facts.text, met_by, len(by.events.users))
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def foreseen(inputs: NightInputs) -> Comparison | str:
    """How the repeats of `ml.next_quarter` did on the last 90 days, or why that is not known."""
    purchases = inputs.events.filter(pc.equal(inputs.events["event_type"], "purchase"))
    users, items = sorted_ids(purchases["user_id"]), sorted_ids(purchases["item_id"])
    bought = from_arrow(purchases, users, items, ["purchase"]).between(None, inputs.end)
    return compare(bought, numbered(column_of(inputs.items, items, "category_path")), inputs.end)


def _of(part: Ranked, users: np.ndarray) -> Ranked:
    """The lists of some of the users."""
    keep = np.isin(part.users, users)
    return Ranked(part.users[keep], part.ranking[keep], part.score[keep], part.by_model)
