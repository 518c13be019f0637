"""The published protocol: each user's last item is to be foreseen, the one before it chooses.

`sequences.parquet` (user_id, position, item_id) and, where there is one, `items.parquet` (item_id,
title, further text columns). There are no times, so one event is made a day, and all sequences
are made to end on the same day: LAST holds the test items, the day before it the validation items,
and all that lies earlier is for training. To foresee the test item a model may read the validation
item.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from ml.baselines import ease, item_knn, met_items, popularity
from ml.evaluate import Evaluation, HeldOut, Scorer, evaluate, held_out
from ml.recommender.data import ItemFacts, examples
from ml.recommender.files import Learned, Scale
from ml.recommender.model import Recommender
from ml.recommender.rank import scorer
from ml.recommender.train import Config, train
from ml.sequences import Events, from_arrow, sorted_ids
from ml.text import embed
from ml.words import Lexicon

KS = (5, 10, 20)
LAST = 20_000
"""The day of the test items, in days since 1970."""
VALID = LAST - 1
MET = "met"
COLUMNS = ("user_id", "position", "item_id")
LEAST = 4
"""Items of at least one user: two to learn one from the other, one to choose by, one to test."""
EASE_ITEMS = 25_000
"""EASE holds several matrices of items x items: 2.5 GB each with this many."""


class BadFolder(Exception):
    """What is wrong with a folder of sequences, and what to do."""


@dataclass(frozen=True)
class Split:
    """The events up to each stage, and what is to be foreseen at it."""

    events: Events
    texts: pa.Array | None
    """by item number, "" where there is none; None for a folder without texts"""

    @property
    def training(self) -> Events:
        """All but the last two items of each user."""
        return self.events.between(None, VALID)

    @property
    def known(self) -> Events:
        """All but the last item of each user."""
        return self.events.between(None, LAST)

    def truth(self, day: int) -> HeldOut:
        """What is to be foreseen on `VALID` or `LAST`, whether or not it was ever trained on."""
        everything = np.ones(len(self.events.items), bool)
        past, there = self.events.between(None, day), self.events.between(day, day + 1)
        return held_out(past, there, everything)


def read(folder: Path) -> Split:
    """The split of a folder; raises BadFolder without sequences that have an order."""
    file, texts = folder / "sequences.parquet", folder / "items.parquet"
    if not file.exists() or not {*COLUMNS} <= {*columns_of(file)}:
        needed = ", ".join(COLUMNS)
        raise BadFolder(f"{file} is not there or not right: {needed} are needed")
    with duckdb.connect() as connection:
        place = position(connection, file)
        connection.execute(
            f"CREATE TABLE sequences AS SELECT user_id::VARCHAR AS user_id, {place} AS position, "
            "item_id::VARCHAR AS item_id FROM read_parquet(?)",
            [str(file)],
        )
        check(connection, file)
        events = connection.sql(
            """
            SELECT user_id, item_id, ? AS event_type,
                   make_timestamp(1000000 * 86400::BIGINT * (? - row_number() OVER
                       (PARTITION BY user_id ORDER BY position DESC) + 1)) AS event_ts
            FROM sequences
            """,
            params=[MET, LAST],
        ).to_arrow_table()
        about = item_texts(connection, texts) if texts.exists() else None
    listed = [] if about is None else [about["item_id"]]
    items = sorted_ids(events["item_id"], *listed)
    told = None
    if about is not None and pc.any(pc.not_equal(about["text"], "")).as_py():
        place_of = pc.index_in(items, about["item_id"].combine_chunks())
        told = pc.fill_null(about["text"].combine_chunks().take(place_of), "")
    elif about is not None:
        tell(f"{texts} holds no text: items are known by their ids alone")
    return Split(from_arrow(events, sorted_ids(events["user_id"]), items, (MET,)), told)


def columns_of(file: Path) -> list[str]:
    """The names of a parquet file's columns; raises BadFolder where it cannot be read."""
    try:
        return list(pq.read_schema(file).names)
    except (OSError, pa.ArrowException) as error:
        raise BadFolder(f"{file} is no whole parquet file, write it anew ({error})") from error


def position(connection: duckdb.DuckDBPyConnection, file: Path) -> str:
    """What says in SQL where a row stands; raises BadFolder for what has no order of its own.

    Text would sort 10 before 2: it is read as numbers.
    """
    kind = connection.execute(
        "SELECT column_type FROM (DESCRIBE SELECT position FROM read_parquet(?))", [str(file)]
    ).fetchall()[0][0]
    if kind == "VARCHAR":
        wrong = connection.execute(
            "SELECT min(position) FROM read_parquet(?) WHERE position IS NOT NULL "
            "AND TRY_CAST(position AS DECIMAL(38, 10)) IS NULL",
            [str(file)],
        ).fetchall()[0][0]
        if wrong is None:
            return "position::DECIMAL(38, 10)"
        raise BadFolder(f"{file}: position {wrong!r} is no number: number each user's rows 1, 2, 3")
    if kind in ("FLOAT", "DOUBLE"):
        return "CASE WHEN isfinite(position) THEN position END"  # what is not counts as missing
    if kind.startswith(("DECIMAL", "DATE", "TIMESTAMP")) or kind.endswith(("INT", "INTEGER")):
        return "position"
    raise BadFolder(f"{file}: position is {kind}, not numbers: number each user's rows 1, 2, 3")


def check(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Raises BadFolder when there are no rows, or some that say too little or too much."""
    rows, whole, places, items = connection.execute(
        """
        SELECT count(*), count(*) FILTER (WHERE user_id IS NOT NULL AND position IS NOT NULL
                                          AND item_id IS NOT NULL),
               count(DISTINCT (user_id, position)), count(DISTINCT item_id)
        FROM sequences
        """
    ).fetchall()[0]
    if not rows:
        raise BadFolder(f"{file} holds no rows")
    if whole < rows:
        raise BadFolder(f"{file}: {rows - whole:,} rows lack a user_id, a position or an item_id")
    if places < rows:
        raise BadFolder(
            f"{file}: {rows - places:,} rows repeat a user's position: which of them came first "
            "cannot be known; number each user's rows 1, 2, 3, ..."
        )
    if items < 2:
        raise BadFolder(f"{file} holds one item alone: there is nothing to rank")
    longest = connection.execute(
        "SELECT max(n) FROM (SELECT count(*) AS n FROM sequences GROUP BY user_id)"
    ).fetchall()[0][0]
    if longest < LEAST:
        raise BadFolder(
            f"{file}: no user has more than {longest} items: the last is the test, the one before "
            f"it the validation, and to learn from takes two more; bring users with {LEAST}"
        )


def item_texts(connection: duckdb.DuckDBPyConnection, file: Path) -> pa.Table:
    """item_id and its text: the title, then what else there is in words.

    Raises BadFolder for a file that does not belong to the sequences.
    """
    if "item_id" not in columns_of(file):
        raise BadFolder(f"{file} has no column item_id: name it so, or take the file away")
    connection.execute("CREATE TABLE items AS SELECT * FROM read_parquet(?)", [str(file)])
    rows, named, distinct, here, there, known = connection.execute(
        "SELECT count(*), count(item_id), count(DISTINCT item_id), min(item_id::VARCHAR), "
        "(SELECT min(item_id) FROM sequences), "
        "count(*) FILTER (item_id::VARCHAR IN (SELECT item_id FROM sequences)) FROM items"
    ).fetchall()[0]
    if named < rows:
        raise BadFolder(f"{file}: {rows - named:,} rows lack an item_id: take them out")
    if not rows:
        raise BadFolder(f"{file} holds no rows: bring them, or take the file away")
    if not known:
        raise BadFolder(
            f"{file}: none of its item_ids is in sequences.parquet (here {here!r}, there "
            f"{there!r}): write both alike, or take the file away"
        )
    if distinct < rows:
        tell(f"{file}: {rows - distinct:,} rows repeat an item_id; the first text counts")
    columns = connection.execute(
        "SELECT column_name FROM (DESCRIBE items) "
        "WHERE column_type = 'VARCHAR' AND column_name <> 'item_id' "
        "ORDER BY column_name <> 'title'"
    ).fetchall()
    doubled = [name.replace('"', '""') for (name,) in columns]
    quoted = ", ".join(f"nullif(trim(\"{name}\"), '')" for name in doubled)
    return connection.sql(
        f"SELECT item_id::VARCHAR AS item_id, concat_ws('. ', {quoted or 'NULL'}) AS text "
        "FROM items ORDER BY item_id, text"
    ).to_arrow_table()


def als(history: Events, factors: int, alpha: float, profile: Events | None = None) -> Scorer:
    """Weighted matrix factorisation of implicit feedback, by the library `implicit`."""
    from implicit.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):  # within its own threads: more would wait for each other
        model = AlternatingLeastSquares(factors, alpha=alpha, iterations=15, random_state=0)
        model.fit(met_items(history), show_progress=False)
    known = met_items(profile or history)
    items = torch.from_numpy(np.asarray(model.item_factors))

    def score(users: np.ndarray) -> torch.Tensor:
        with threadpool_limits(1, "blas"):
            vectors = model.recalculate_user(users, known[users])
        return torch.from_numpy(np.asarray(vectors)) @ items.T

    return score


Fit = Callable[[Events, Events], Scorer]
"""From the events to learn from, and those a user is known by, to scores."""
BASELINES: dict[str, dict[str, Fit]] = {
    "popularity": {"": lambda learn, known: popularity(learn, VALID, days=VALID)},
    "item-kNN": {
        f"last {n}": lambda learn, known, n=n: item_knn(learn, n, known) for n in (1, 3, 10, 50)
    },
    "EASE": {
        f"penalty {n}": lambda learn, known, n=n: ease(learn, n, known) for n in (50, 200, 800)
    },
    "ALS (implicit)": {
        f"{d} factors, alpha {a}": lambda learn, known, d=d, a=a: als(learn, d, a, known)
        for d in (64, 256)
        for a in (4, 16)
    },
}
"""What is tried of each; the best NDCG@10 on the validation items, seen ones masked, is shown."""


def baselines(split: Split) -> dict[str, dict[str, Fit]]:
    """Those that this machine's memory allows."""
    if len(split.events.items) <= EASE_ITEMS:
        return BASELINES
    tell(f"EASE left out: it holds matrices of items x items, and these are over {EASE_ITEMS:,}")
    return {name: tries for name, tries in BASELINES.items() if name != "EASE"}


def choose(split: Split, tries: dict[str, Fit]) -> tuple[str, Fit]:
    """The try that foresees the validation items best."""
    if len(tries) == 1:
        return next(iter(tries.items()))
    truth = split.truth(VALID)
    reached = {
        name: metric(evaluate(name, fit(split.training, split.training), truth, KS), "ndcg", 10)
        for name, fit in tries.items()
    }
    best = max(reached, key=reached.__getitem__)
    return best, tries[best]


def metric(found: Evaluation, name: str, k: int, masked: bool = True) -> float:
    """One figure of an evaluation; `masked`: items that the user has met are not ranked.

    A user whose item is one of these then has it nowhere: a miss. (`evaluate` leaves them out.)
    """
    wanted = f"{name}_unseen" if masked else name
    rows = found.table.filter(
        pc.and_(pc.equal(found.table["metric"], wanted), pc.equal(found.table["k"], k))
    )
    value, asked = (rows[column][0].as_py() for column in ("value", "n_users"))
    of_all = pc.and_(pc.equal(found.table["metric"], name), pc.equal(found.table["k"], k))
    everybody = found.table.filter(of_all)["n_users"][0].as_py()
    return float((value or 0.0) * asked / max(1, everybody))


def repeated(truth: HeldOut) -> int:
    """How many users are to take an item that they have met."""
    size = len(truth.candidates)
    return int(np.isin(truth.truth @ [size, 1], truth.seen @ [size, 1]).sum())


RECIPE = Config(
    max_steps=10_000_000,
    max_epochs=16,
    max_length=50,
    dim=128,
    dropout=0.4,
    id_dropout=0.1,
    fade=0.4,
    batch_size=256,
    learning_rate=2e-3,
    weight_decay=0.0,
    warmup=0.05,
    log_every=50,
)
"""Chosen on the validation items of Amazon Beauty (the ablations in results/)."""
AHEAD = 3
"""Items that a moment foresees in training: their order is partly chance."""
JUDGED = 6000
"""Users by whose validation items the best epoch is chosen."""


def item_facts(
    split: Split, learn: Events, text: np.ndarray | None
) -> tuple[ItemFacts, Scale, Lexicon]:
    """What is known of the items in training: their texts and how often they were met.

    There are only the items that were met; of one that comes later nothing is known but its text.
    """
    counts = np.bincount(learn.item, minlength=len(learn.items))
    texts = split.texts if split.texts is not None else pa.array([""] * len(counts))
    lexicon = Lexicon.fit(texts.filter(pa.array(counts > 0)))
    stats = np.log1p(counts[None, :, None])
    scale = Scale.of(stats[:, counts > 0])
    facts = ItemFacts(
        text=np.zeros((len(counts), 1), np.float32) if text is None else text,
        words=lexicon.vectors(texts),
        stats=scale.apply(stats) * (counts > 0)[:, None].astype(np.float32),
        snapshot_days=np.zeros(1, np.int64),
        first_day=np.where(counts > 0, -1, LAST + 1),
    )
    return facts, scale, lexicon


def embedded(split: Split) -> np.ndarray | None:
    """Each item's text as a vector of the default encoder, float32 [items, d]; None without."""
    if split.texts is None:
        return None
    texts = split.texts.to_pylist()
    vectors = embed(texts)
    vectors[[not text for text in texts]] = 0
    return vectors


@dataclass(frozen=True)
class Fitted:
    """A trained recommender with the facts of the items, and the epochs that were best."""

    model: Recommender
    facts: ItemFacts
    epochs: int


def network(split: Split, text: np.ndarray | None, config: Config, until: int = VALID) -> Fitted:
    """Train the nightly's own recommender on the events before `until`.

    Until VALID the epoch is chosen by NDCG@10 on validation items, seen ones masked; a later
    `until` trains on them and takes the last epoch.
    """
    learn = split.events.between(None, until)
    known, scale, lexicon = item_facts(split, learn, text)
    data = examples(learn, learn, until, AHEAD)
    truth = some(split.truth(VALID), JUDGED)

    def judge(model: Recommender) -> float:
        return metric(evaluate("", scorer(model, data, known, VALID), truth, KS), "ndcg", 10)

    trained = train(data, known, config, log=tell, judge=judge if until == VALID else None)
    everything = replace(known, first_day=np.full(len(learn.items), -1))
    model = Learned.of(trained.model, data, (MET,), scale, lexicon).on(learn.items, everything)
    judged = trained.curves.judged
    epochs = int(np.argmax(judged)) + 1 if judged else config.max_epochs
    return Fitted(model, everything, epochs)


def tell(text: str) -> None:
    """Say where a training stands."""
    print(text, flush=True)


def some(truth: HeldOut, users: int) -> HeldOut:
    """The same for a random part of the users."""
    if len(truth.users) <= users:
        return truth
    rows = np.sort(np.random.default_rng(0).permutation(len(truth.users))[:users])
    return of_rows(truth, rows)


def of_items(truth: HeldOut, items: np.ndarray, known: Events) -> HeldOut:
    """The same for the users who are to take one of the items (bool [items]) and are known."""
    rows = truth.truth[items[truth.truth[:, 1]], 0]
    return of_rows(truth, np.unique(rows[np.isin(truth.users[rows], known.user)]))


def of_rows(truth: HeldOut, rows: np.ndarray) -> HeldOut:
    """The same for some rows of `users`, ascending."""
    place = np.full(len(truth.users), -1)
    place[rows] = np.arange(len(rows))

    def of(pairs: np.ndarray) -> np.ndarray:
        kept = pairs[place[pairs[:, 0]] >= 0]
        return np.stack([place[kept[:, 0]], kept[:, 1]], 1)

    return replace(truth, users=truth.users[rows], truth=of(truth.truth), seen=of(truth.seen))


def hide(split: Split, share: float, seed: int) -> tuple[np.ndarray, Split]:
    """A random share of the items (bool [items]), and the split without any event of them."""
    cold = np.random.default_rng(seed).random(len(split.events.items)) < share
    return cold, replace(split, events=split.events.where(~cold[split.events.item]))


def ask(split: Split, model: Recommender, facts: ItemFacts, day: int = LAST) -> Scorer:
    """Scores for what follows on `day`, from all that lies before it."""
    known = split.events.between(None, day)
    return scorer(model, examples(known, known, day, 1), facts, day)


def together(scorers: list[Scorer]) -> Scorer:
    """The sum of several models' log probabilities."""
    return lambda users: torch.stack([score(users).log_softmax(1) for score in scorers]).sum(0)


def at_random(n_items: int) -> Scorer:
    """Any order."""
    draw = torch.Generator().manual_seed(0)
    return lambda users: torch.rand(len(users), n_items, generator=draw)
