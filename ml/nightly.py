"""What a night asks of the recommender: train a challenger and judge it, then score every shopper.

Two functions over Arrow tables, `train` and `score`. The orchestrator brings the tables and writes
the lists; nothing here knows where the tables come from.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml import ModelError, TooLittleHistory, next_quarter, registry
from ml.baselines import ease, item_knn, popularity, popularity_counts, text_similarity
from ml.evaluate import Evaluation, HeldOut, Scorer, evaluate, held_out
from ml.gate import decide
from ml.list_quality import quality
from ml.plots import loss_curve, metric_bars
from ml.reasons import Reasons
from ml.recommender.data import Examples, ItemFacts, examples, stats_from_events
from ml.recommender.files import Learned, Scale
from ml.recommender.model import Recommender
from ml.recommender.rank import Ranked, best, scorer
from ml.recommender.train import Config, Curves
from ml.recommender.train import train as fit
from ml.repurchase import learn
from ml.rerank import CANDIDATES, POOL, Listed, Shelf, rerank, seeds, shelf
from ml.rules import Rules, unknown_items
from ml.sequences import Events, distinct_pairs, from_arrow, sorted_ids, vectors
from ml.tracking import record
from ml.transfer import begin, carry, like
from ml.words import NO_WORDS, Lexicon

MODEL = "recommender"
CHALLENGER, CHAMPION = "challenger", "champion"
FALLBACK = "popularity"
SNAPSHOT_DAYS = 7
EASE_ITEMS = 20_000
"""The baseline EASE is left out beyond: it inverts a matrix of items x items."""
EASE_PENALTY = 200.0
NEVER = 1_000_000
"""A day that does not come."""
LISTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float64()),
        ("reason", pa.string()),
        ("propensity", pa.float64()),
        ("model_version", pa.string()),
    ]
)
NEXT_QUARTER = pa.schema(
    [
        ("user_id", pa.string()),
        ("part", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float64()),
        ("model_version", pa.string()),
    ]
)
PURCHASES = "purchases"
"""What stands in place of a model's version where a shopper's own purchases speak."""
_METRICS = "metrics.parquet"
_EPOCH = date(1970, 1, 1)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NightInputs:
    """All that the recommender is given for one night.

    events: user_id, item_id, event_type, event_ts (UTC without zone), of input and target types.
    users: user_id of everybody to score. items: item_id, title, is_catalogued, and for the rules of
    the lists, where they are known, category_path, brand, is_sold_out.
    item_features_at_cutoff, item_features_at_night: item_id, embedding (list of float, NULL where
    there was no text yet) and days_since_first_seen (NULL before the item was there); one row per
    item, as the feature service knew them when the held-out days began and at the night's end.
    """

    events: pa.Table
    users: pa.Table
    items: pa.Table
    item_features_at_cutoff: pa.Table
    item_features_at_night: pa.Table
    night: date
    input_events: tuple[str, ...]
    target_events: tuple[str, ...]
    holdout_days: int
    max_length: int = 64
    max_steps: int = 600
    settings: dict[str, Any] = field(default_factory=dict)
    """further fields of `ml.recommender.train.Config`"""

    @property
    def end(self) -> int:
        """The first day the night does not know, in days since 1970."""
        return (self.night - _EPOCH).days + 1

    @property
    def cutoff(self) -> int:
        """The first held-out day, in days since 1970."""
        return self.end - self.holdout_days


@dataclass(frozen=True)
class TrainResult:
    """What came of a night's training."""

    metrics: pa.Table
    """model, metric, k, value, low, high, n_users (`ml.evaluate`)"""
    decision: str
    promoted: bool
    model_version: str
    reused: bool
    """the same inputs, settings and code were there already"""
    curves: dict[str, list[float]]
    """steps, loss, valid_loss (empty in a shop with too few users to spare any)"""
    plots: dict[str, bytes] = field(default_factory=dict)
    """PNG by name"""


def train(
    inputs: NightInputs,
    *,
    models: Path,
    mlflow: Path,
    card: dict[str, Any],
    seed: int,
    champion_inputs: NightInputs | None = None,
    start: Learned | None = None,
    resume: bool = True,
    log: Callable[[str], object] = _log.info,
) -> TrainResult:
    """Train a challenger up to the held-out days, judge it on them, promote it if it is the best.

    `card` must name the `feature_service` the item features came from. A champion of another one
    (`champion_service`) is judged with its own: `champion_inputs` are the same night's with the
    item features of that service. With `start`, another shop's model, the training begins with what
    of it can be carried (`ml.transfer`); where there is nothing to learn from yet, that is the
    challenger. The same inputs, settings, seed and code as before give the version that is there,
    with its metrics and its decision. A killed run is taken up at its last checkpoint when
    `resume`. Raises ModelError when there is nothing to learn from, the training diverges, or the
    champion's features are not given.
    """
    if not card.get("feature_service"):
        raise ModelError("the card must name the feature_service that the item features came from")
    config = Config(
        seed=seed, max_steps=inputs.max_steps, max_length=inputs.max_length, **inputs.settings
    )
    config.check()
    theirs = champion_service(models, inputs.night)
    if champion_inputs is None and theirs not in (None, card["feature_service"]):
        raise ModelError(f"the champion is judged with {theirs}: give its champion_inputs too")
    events = _events(inputs)
    data = _examples(events, inputs.input_events, inputs.target_events, inputs.cutoff, inputs)
    features = inputs.item_features_at_cutoff
    carried = carry(start, data.events.kinds, inputs.input_events) if start else None
    config = like(config, carried) if carried else config
    lexicon = carried.lexicon if carried else _lexicon(inputs, events, features)
    known_scale = carried.scale if carried else None
    facts, scale = _facts(inputs, events, features, inputs.cutoff, lexicon, known_scale)
    fingerprint = _fingerprint(inputs, events, facts, config, card["feature_service"], carried)
    version = f"rec-{inputs.night:%Y%m%d}-{fingerprint[:10]}"
    if version in registry.versions(models, MODEL) and not registry.is_due(models, MODEL, version):
        log(f"{version} was made of the same inputs before: not trained again")
        return _known(models, version)

    checkpoint = models / MODEL / f".{version}.checkpoint"
    if not resume:
        checkpoint.unlink(missing_ok=True)
    try:
        begun = partial(begin, carried=carried) if carried else None
        trained = fit(data, facts, config, checkpoint, log, start=begun)
        learned = Learned.of(trained.model, data, inputs.input_events, scale, lexicon)
        course = trained.curves
    except TooLittleHistory:
        if carried is None:
            raise
        log("nothing to learn from yet: the other shop's model stands as it is")
        learned, course = carried, Curves()

    before = _champion(models, inputs.night)
    if before and registry.is_due(models, MODEL, before):
        log(f"{before} learned from somebody who has been erased: it is not to be beaten")
        before = None
    held = _held_out(inputs, events, facts)
    known = champion_inputs or inputs
    judged = _judge(inputs, known, events, held, models, learned, before, _facts_then)
    own = judged.pop(CHALLENGER)
    decision = decide(own.ndcg, {name: each.ndcg for name, each in judged.items()})
    log(decision.text)

    with_new = _facts_with_new_items(inputs, events, lexicon, scale)
    held_new = _held_out(inputs, events, with_new)
    on_new = _judge(inputs, known, events, held_new, models, learned, before, _facts_with_new_items)
    metrics = pa.concat_tables(
        [_rows(each.table, new_items=False) for each in (*judged.values(), own)]
        + [_rows(each.table, new_items=True) for each in on_new.values()]
    )
    curves = {name: list(map(float, values)) for name, values in asdict(course).items()}
    about = card | {
        "version": version,
        "model": MODEL,
        "night": inputs.night.isoformat(),
        "data_from": str(np.datetime64(int(events.day.min()), "D")),
        "data_until": str(np.datetime64(inputs.cutoff - 1, "D")),
        "events": inputs.events.num_rows,
        "held_out_days": inputs.holdout_days,
        "held_out_users": len(held.users),
        "held_out_not_in_catalogue": held.unreachable,
        "seed": seed,
        "config": asdict(config),
        "fingerprint": fingerprint,
        "judged_against": before,
        "decision": decision.text,
        "promoted": decision.promote,
        "ndcg_at_10": float(own.ndcg.mean()) if len(own.ndcg) else 0.0,
        "metrics": _flat(metrics),
        "curves": curves,
    }
    plots = _plots(metrics, curves, version)

    def write(folder: Path) -> None:
        learned.save(folder)
        pq.write_table(metrics, folder / _METRICS)

    # MLflow first: a version that is there is complete, its run included.
    record(
        mlflow,
        MODEL,
        version,
        parameters=asdict(config) | card | {"night": inputs.night, "judged_against": before},
        metrics=_flat(metrics),
        curves=curves,
        files={f"{name}.png": png for name, png in plots.items()}
        | {"decision.txt": decision.text.encode()},
    )
    registry.add(models, MODEL, version, about, write)
    if decision.promote:
        registry.promote(models, MODEL, version, inputs.night)
    checkpoint.unlink(missing_ok=True)
    return TrainResult(metrics, decision.text, decision.promote, version, False, curves, plots)


@dataclass(frozen=True)
class Validation:
    """What a training reads, and the held-out days to judge it on."""

    inputs: NightInputs
    events: Events
    data: Examples
    facts: ItemFacts
    scale: Scale
    lexicon: Lexicon

    def learned(self, model: Recommender) -> Learned:
        """What there is to keep of a network trained on this."""
        return Learned.of(model, self.data, self.inputs.input_events, self.scale, self.lexicon)

    def scorer(self, model: Recommender) -> Scorer:
        """A network's scores as of the first held-out day."""
        then = _facts_then(self.inputs, self.events, self.lexicon, self.scale)
        ready = self.learned(model).on(self.events.items, then)
        return scorer(ready, self.data, then, self.inputs.cutoff)

    def held_out(self) -> HeldOut:
        """What is to be foreseen on the held-out days."""
        return _held_out(self.inputs, self.events, self.facts)

    def ndcg(self, model: Recommender) -> float:
        """NDCG@10 of a network on the held-out days, as the mean over users."""
        found = evaluate("", self.scorer(model), self.held_out())
        return float(found.ndcg.mean()) if len(found.ndcg) else 0.0


def validation(inputs: NightInputs, like: Learned | None = None) -> Validation:
    """The training and the judging of a night by themselves, without registry and gate.

    `like`: put statistics and words as that network reads them.
    """
    events = _events(inputs)
    data = _examples(events, inputs.input_events, inputs.target_events, inputs.cutoff, inputs)
    features = inputs.item_features_at_cutoff
    lexicon = like.lexicon if like else _lexicon(inputs, events, features)
    known = like.scale if like else None
    facts, scale = _facts(inputs, events, features, inputs.cutoff, lexicon, known)
    return Validation(inputs, events, data, facts, scale, lexicon)


def champion_service(models: Path, night: date) -> str | None:
    """The feature service that the champion of a night was trained with; None without champion."""
    version = _champion(models, night)
    return registry.card(models, MODEL, version)["feature_service"] if version else None


def _champion(models: Path, night: date) -> str | None:
    """The champion of a night; None where there is none that this version of the code can read."""
    version = registry.champion(models, MODEL, night)
    if version is None or Learned.is_of_this_layout(registry.folder(models, MODEL, version)):
        return version
    _log.warning("champion %s was kept by another version of this code: not used", version)
    return None


@dataclass(frozen=True)
class Ranker:
    """Who ranks the items for everybody at the beginning of a day: the champion, or popularity."""

    version: str | None
    """None: there is no champion, everybody gets what is popular"""
    model: Recommender | None
    events: Events
    data: Examples
    facts: ItemFacts
    targets: Events
    end: int

    def best(self, items: np.ndarray, k: int) -> Iterator[Ranked]:
        """The `k` best of the items (bool [items]) for every user, some users at a time."""
        popular = popularity_counts(self.targets, self.end)
        return best(self.model, self.data, self.facts, self.end, items, popular, k)


def ranker(
    inputs: NightInputs, models: Path, feature_service: str, *, at_cutoff: bool = False
) -> Ranker:
    """The ranker of a night, as of its end or as of the first held-out day.

    `feature_service` is what the item features came from: raises ModelError unless it is the
    champion's own (`champion_service`).
    """
    end = inputs.cutoff if at_cutoff else inputs.end
    features = inputs.item_features_at_cutoff if at_cutoff else inputs.item_features_at_night
    events = _events(inputs)
    version = _champion(models, inputs.night)
    learned = _learned(models, version, feature_service) if version else None
    kinds = learned.kinds if learned else events.kinds
    input_events = learned.input_events if learned else inputs.input_events
    scale, lexicon = (learned.scale, learned.lexicon) if learned else (None, NO_WORDS)
    facts, _ = _facts(inputs, events, features, end, lexicon, scale, history=False)
    data = _examples(_events(inputs, kinds), input_events, inputs.target_events, end, inputs)
    model = learned.on(events.items, facts) if learned else None
    targets = events.of_kinds(inputs.target_events).between(None, end)
    return Ranker(version, model, events, data, facts, targets, end)


@dataclass(frozen=True)
class Lists:
    """What a night says to every shopper."""

    tonight: pa.Table
    """user_id, rank (1..k), item_id, score, reason, propensity, model_version"""
    next_quarter: pa.Table
    """user_id, part (repeat, explore), rank, item_id, score, model_version"""
    quality: dict[str, float]
    """of tonight's lists: `ml.list_quality`"""


def score(
    inputs: NightInputs,
    *,
    models: Path,
    feature_service: str,
    k: int = 50,
    rules: Rules | None = None,
) -> Lists:
    """Lists for every user of `inputs.users`, by the champion of the night.

    Tonight's has `k` items of the present catalogue that are not sold out, in the order of the
    model as far as the shop's `rules` leave it (`ml.rerank`); ties go to the lower item_id. The
    score is the model's probability of the item among all that may be shown, the propensity the
    odds with which the item got its place. Users without usable history, and everybody while there
    is no champion, get what is popular now, and the reason says so. The next quarter's
    (`ml.next_quarter`) has what a user will buy again, and apart from it what is new to them. Both
    are ordered by user and rank. Raises ModelError as `ranker` does.
    """
    rules = rules or Rules()
    by = ranker(inputs, models, feature_service)
    events, facts = by.events, by.facts
    words = Reasons(by.data.events, by.targets, _titles(inputs, events.items), facts.text, by.model)
    candidates = _catalogued(inputs, events.items)
    for warning in unknown_items(rules, events.items, inputs.night):
        _log.warning(warning)
    on = shelf(events.items, inputs.items, candidates, facts, rules, inputs.night, by.end)
    purchases = events.of_kinds(["purchase"])
    known = learn(purchases, on.category, by.end)
    seed = seeds(events.users, inputs.night)
    needs = next_quarter.repeats(purchases, known, by.end, on.allowed)
    met = distinct_pairs(events.user, events.item, len(events.items)) @ [len(events.items), 1]

    lists, later, shown = [LISTS.empty_table()], [NEXT_QUARTER.empty_table()], []
    pools = pool_of(by, on, rules)
    for part, pool in zip(by.best(on.allowed, CANDIDATES * k), pools, strict=False):
        version = (by.version if part.by_model else None) or FALLBACK
        final = rerank(part, pool, on, known, rules, seed, k)
        lists.append(_tonight(final, events, words, version))
        shown.append(final.ranking)
        again = needs.top(part.users, next_quarter.PLACES)
        later.append(_later(next_quarter.REPEAT, part.users, *again, events, PURCHASES))
        new = next_quarter.unmet(part.ranking, part.users, met, len(events.items))
        found = (np.where(new < 0, -1, _taken(part.ranking, new)), _taken(part.score, new))
        later.append(_later(next_quarter.EXPLORE, part.users, *found, events, version))
    met_by = np.bincount(met % len(events.items), minlength=len(events.items))
    ranking = np.concatenate(shown) if shown else np.zeros((0, k), np.int64)
    return Lists(
        pa.concat_tables(lists).sort_by([("user_id", "ascending"), ("rank", "ascending")]),
        pa.concat_tables(later).sort_by(
            [("user_id", "ascending"), ("part", "descending"), ("rank", "ascending")]
        ),
        quality(ranking, candidates, facts.text, met_by, len(events.users)),
    )


def pool_of(by: Ranker, on: Shelf, rules: Rules) -> Iterator[Ranked | None]:
    """The new items that exploration draws from, for the users in the order of `best`."""
    if rules.exploration is None or not on.is_new.any():
        return repeat(None)
    return by.best(on.is_new, POOL)


def _learned(models: Path, version: str, feature_service: str) -> Learned:
    """The champion; raises ModelError when it was trained with other features than are given."""
    card = registry.card(models, MODEL, version)
    if card["feature_service"] != feature_service:
        raise ModelError(
            f"champion {version} was trained with feature service {card['feature_service']}, "
            f"not {feature_service}: it is scored with the features it was trained on"
        )
    return Learned.load(registry.folder(models, MODEL, version))


def _tonight(lists: Listed, events: Events, words: Reasons, version: str) -> pa.Table:
    """The lists of some users as rows of LISTS."""
    there = lists.ranking >= 0
    columns = _columns(lists.users, lists.ranking, lists.score, events, version) | {
        "reason": words.of(lists).filter(pa.array(there.reshape(-1))),
        "propensity": pa.array(lists.propensity[there], pa.float64()),
    }
    return pa.table([columns[name] for name in LISTS.names], schema=LISTS)


def _later(
    part: str, users: np.ndarray, ranking: np.ndarray, score: np.ndarray, events: Events,
    version: str,
) -> pa.Table:  # fmt: skip
    """One part of the next quarter's lists of some users as rows of NEXT_QUARTER."""
    columns = _columns(users, ranking, score, events, version)
    columns["part"] = pa.repeat(pa.scalar(part), len(columns["rank"]))
    return pa.table([columns[name] for name in NEXT_QUARTER.names], schema=NEXT_QUARTER)


def _columns(
    users: np.ndarray, ranking: np.ndarray, score: np.ndarray, events: Events, version: str
) -> dict[str, pa.Array]:
    """What every list has: int64 [n, k] of item numbers, -1 for no row."""
    there = ranking >= 0
    rank = np.broadcast_to(np.arange(1, there.shape[1] + 1), there.shape)
    user = np.broadcast_to(users[:, None], there.shape)
    return {
        "user_id": events.users.take(pa.array(user[there])),
        "rank": pa.array(rank[there], pa.int32()),
        "item_id": events.items.take(pa.array(ranking[there])),
        "score": pa.array(score[there], pa.float64()),
        "model_version": pa.repeat(pa.scalar(version), int(there.sum())),
    }


def _taken(values: np.ndarray, column: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, np.maximum(column, 0), 1)


def _events(inputs: NightInputs, kinds: tuple[str, ...] = ()) -> Events:
    """The night's events as arrays; what lies after the night is left out."""
    users = sorted_ids(inputs.users["user_id"])
    items = sorted_ids(inputs.items["item_id"], inputs.events["item_id"])
    kinds = kinds or tuple({*inputs.input_events, *inputs.target_events})
    return from_arrow(inputs.events, users, items, kinds).between(None, inputs.end)


def _examples(
    events: Events,
    input_events: tuple[str, ...],
    target_events: tuple[str, ...],
    end: int,
    inputs: NightInputs,
) -> Examples:
    """What may be read and foreseen before day `end`."""
    return examples(
        events.of_kinds(input_events), events.of_kinds(target_events), end, inputs.holdout_days
    )


def _lexicon(inputs: NightInputs, events: Events, features: pa.Table) -> Lexicon:
    """The words of the items that had a text by the time of these features."""
    text = vectors(features, events.items, "item_id", "embedding")
    return Lexicon.fit(_titles(inputs, events.items).filter(pa.array(text.any(axis=1))))


def _facts(
    inputs: NightInputs,
    events: Events,
    features: pa.Table,
    end: int,
    lexicon: Lexicon,
    scale: Scale | None = None,
    history: bool = True,
) -> tuple[ItemFacts, Scale]:
    """What was known of the items before day `end`, and with `history` also each week before it.

    Statistics are put on the given scale, or on their own.
    """
    before = events.between(None, end)
    text = vectors(features, events.items, "item_id", "embedding")
    words = lexicon.vectors(_titles(inputs, events.items)) * text.any(axis=1, keepdims=True)
    first_day = _first_days(before, features, text, end)
    start = int(before.day.min(initial=end)) if history else end - 1
    days = np.arange(end, start, -SNAPSHOT_DAYS)[::-1] if end > start else np.array([end])
    inputs_, targets = (before.of_kinds(k) for k in (inputs.input_events, inputs.target_events))
    stats = stats_from_events(inputs_, targets, days, first_day)
    scale = scale or Scale.of(stats)
    return ItemFacts(text, words, scale.apply(stats), days, first_day), scale


def _first_days(events: Events, features: pa.Table, text: np.ndarray, end: int) -> np.ndarray:
    """The day each item was first there: in an event, or in the catalogue as the features say."""
    first = np.full(len(events.items), NEVER, np.int64)
    np.minimum.at(first, events.item, events.day)
    # An item with a text was in the catalogue by then, if only since the last day.
    first[text.any(axis=1)] = np.minimum(first[text.any(axis=1)], end - 1)
    if "days_since_first_seen" in features.column_names:
        known = features.filter(pc.is_valid(features["days_since_first_seen"]))
        number = pc.index_in(known["item_id"].cast(pa.string()), events.items).to_numpy()
        since = known["days_since_first_seen"].to_numpy().astype(np.int64)
        first[number] = np.minimum(first[number], end - np.maximum(since, 1))
    return first


def _held_out(inputs: NightInputs, events: Events, facts: ItemFacts) -> HeldOut:
    """The held-out days as truth, for users and items that were there before them."""
    return held_out(
        events.of_kinds(inputs.input_events).between(None, inputs.cutoff),
        events.of_kinds(inputs.target_events).between(inputs.cutoff, inputs.end),
        facts.first_day < inputs.cutoff,
    )


def _facts_then(inputs: NightInputs, events: Events, lexicon: Lexicon, scale: Scale) -> ItemFacts:
    """What was known of the items when the held-out days began."""
    features = inputs.item_features_at_cutoff
    return _facts(inputs, events, features, inputs.cutoff, lexicon, scale, history=False)[0]


def _facts_with_new_items(
    inputs: NightInputs, events: Events, lexicon: Lexicon, scale: Scale
) -> ItemFacts:
    """The same, and the texts of the items that came in the held-out days.

    A list of the day they came would know their texts, but no event: that is what `new_item_recall`
    asks for. Nothing else of the held-out days is known.
    """
    then = _facts_then(inputs, events, lexicon, scale)
    features = inputs.item_features_at_night
    now, _ = _facts(inputs, events, features, inputs.cutoff, lexicon, scale, history=False)
    new = (then.first_day >= inputs.cutoff) & now.text.any(axis=1)
    return ItemFacts(
        text=np.where(new[:, None], now.text, then.text),
        words=np.where(new[:, None], now.words, then.words),
        stats=np.where(new[None, :, None], now.stats, then.stats),
        snapshot_days=then.snapshot_days,
        first_day=np.where(new, inputs.cutoff - 1, then.first_day),
    )


def _judge(
    inputs: NightInputs,
    champion_inputs: NightInputs,
    events: Events,
    held: HeldOut,
    models: Path,
    challenger: Learned,
    champion: str | None,
    facts_of: Callable[[NightInputs, Events, Lexicon, Scale], ItemFacts],
) -> dict[str, Evaluation]:
    """The plain baselines, the champion if there is one, and the challenger on held-out days.

    `champion_inputs` have the item features of the champion's own feature service.
    """
    past = events.of_kinds(inputs.input_events).between(None, inputs.cutoff)
    sold = events.of_kinds(inputs.target_events).between(None, inputs.cutoff)
    scorers: dict[str, Scorer] = {
        "popularity": popularity(sold, inputs.cutoff),
        "text similarity": text_similarity(
            past, facts_of(inputs, events, NO_WORDS, challenger.scale).text
        ),
        "item-kNN": item_knn(past),
    }
    if len(events.items) <= EASE_ITEMS:
        scorers["EASE"] = ease(past, EASE_PENALTY)
    learned = {CHALLENGER: challenger}
    if champion is not None:
        learned = {CHAMPION: Learned.load(registry.folder(models, MODEL, champion)), **learned}
    for name, each in learned.items():
        given = champion_inputs if name == CHAMPION else inputs
        facts = facts_of(given, events, each.lexicon, each.scale)
        mine = _events(inputs, each.kinds)
        data = _examples(mine, each.input_events, inputs.target_events, inputs.cutoff, inputs)
        scorers[name] = scorer(each.on(events.items, facts), data, facts, inputs.cutoff)
    return {name: evaluate(name, score, held) for name, score in scorers.items()}


def _rows(metrics: pa.Table, *, new_items: bool) -> pa.Table:
    """The rows about new items, or all others."""
    about_new = pc.equal(metrics["metric"], "new_item_recall")
    return metrics.filter(about_new if new_items else pc.invert(about_new))


def _fingerprint(
    inputs: NightInputs,
    events: Events,
    facts: ItemFacts,
    config: Config,
    service: str,
    carried: Learned | None,
) -> str:
    """A hash of all that makes a version: events, item facts, settings and the code itself."""
    digest = hashlib.sha256()
    for name, value in sorted(carried.weights.items()) if carried else ():
        digest.update(name.encode() + value.numpy().tobytes())
    code = sorted(Path(__file__).parent.rglob("*.py"))
    settings = [
        asdict(config),
        [inputs.night.isoformat(), inputs.holdout_days, service],
        [inputs.input_events, inputs.target_events],
        [events.users.to_pylist(), events.items.to_pylist(), events.kinds],
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in code],
    ]
    digest.update(json.dumps(settings).encode())
    later = vectors(inputs.item_features_at_night, events.items, "item_id", "embedding")
    arrays = (events.user, events.item, events.kind, events.time, later)
    for array in (
        *arrays,
        facts.text,
        facts.words,
        facts.stats,
        facts.snapshot_days,
        facts.first_day,
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _known(models: Path, version: str) -> TrainResult:
    """The result of a version that is there."""
    card = registry.card(models, MODEL, version)
    # a night killed between the two left a version that should have been promoted; one that was
    # rolled back is on record and stays out
    if card["promoted"] and version not in {p.version for p in registry.promotions(models, MODEL)}:
        registry.promote(models, MODEL, version, date.fromisoformat(card["night"]))
    metrics = pq.read_table(registry.folder(models, MODEL, version) / _METRICS)
    plots = _plots(metrics, card["curves"], version)
    return TrainResult(
        metrics, card["decision"], card["promoted"], version, True, card["curves"], plots
    )


def _plots(metrics: pa.Table, curves: dict[str, list[float]], version: str) -> dict[str, bytes]:
    return {
        "loss": loss_curve(curves, version),
        "metrics": metric_bars(metrics, version),
    }


def _flat(metrics: pa.Table) -> dict[str, float]:
    """The metrics by name, as `model.metric_at_k`; what could not be measured is left out."""
    return {
        f"{row['model'].replace(' ', '_')}.{row['metric']}_at_{row['k']}": row["value"]
        for row in metrics.to_pylist()
        if row["value"] is not None
    }


def _catalogued(inputs: NightInputs, items: pa.Array) -> np.ndarray:
    """Which items are in the catalogue tonight, bool [items]."""
    there = inputs.items.filter(pc.fill_null(inputs.items["is_catalogued"], False))
    return pc.is_in(items, sorted_ids(there["item_id"])).to_numpy(zero_copy_only=False)


def _titles(inputs: NightInputs, items: pa.Array) -> pa.Array:
    """Title of each item; its id where there is none."""
    place = pc.index_in(items, inputs.items["item_id"].cast(pa.string()).combine_chunks())
    titles = inputs.items["title"].cast(pa.string()).combine_chunks().take(place)
    return pc.coalesce(titles, items)
