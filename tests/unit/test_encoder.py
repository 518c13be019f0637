"""Fine-tuning the text encoder: what is learned from, that it learns, kills, divergence, gain."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from core.shop import FineTune
from ml import ModelError, TooLittleHistory
from ml.encoder import train as training
from ml.encoder.model import Encoder
from ml.encoder.pairs import Pairs, groups, hard_negatives, lessons, recall
from ml.encoder.train import FULL, Config, fine_tune
from ml.sequences import DAY, Events, from_arrow, sorted_ids
from ml.text import embed
from tests import tiny_encoder

ROOT = Path(__file__).parents[2]
USERS, ITEMS, TASTES, END = 600, 48, 6, 20_000
SYNONYMS = 4
WORDS = [f"kind{n}x{s}" for n in range(TASTES) for s in range(SYNONYMS)]
TEXTS = [
    f"kind{i % TASTES}x{i // TASTES % SYNONYMS} thing{i // TASTES}" for i in range(ITEMS - 1)
] + [""]


@pytest.fixture(scope="module")
def name(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    return tiny_encoder.make(folder, [*WORDS, *(f"thing{n}" for n in range(ITEMS))])


@pytest.fixture(scope="module")
def events() -> Events:
    """Shoppers meet items of one taste; no word of a text is shared by all items of a taste."""
    rng = np.random.default_rng(0)
    n = 9000
    user, day = rng.integers(0, USERS, n), END - 1 - rng.integers(0, 60, n)
    item = rng.integers(0, ITEMS // TASTES, n) * TASTES + user % TASTES
    moments = [datetime(1970, 1, 1) + timedelta(days=int(d), seconds=i) for i, d in enumerate(day)]
    table = pa.table(
        {
            "user_id": [f"u{u}" for u in user],
            "item_id": [f"i{i:02d}" for i in item],
            "event_type": ["purchase" if i % 2 else "view" for i in range(n)],
            "event_ts": pa.array(moments, pa.timestamp("us")),
        }
    )
    ids = pa.array([f"i{i:02d}" for i in range(ITEMS)])
    return from_arrow(table, sorted_ids(table["user_id"]), ids, ("purchase", "view"))


def some_lessons(events: Events, cutoff: int = END):
    has_text = np.array([bool(text) for text in TEXTS])
    return lessons(events, ("purchase",), cutoff, has_text, reach=2, window_days=10)


def settings(name: str, **more) -> Config:
    base = Config(
        encoder=name,
        last_layers=1,
        max_steps=80,
        batch_size=64,
        learning_rate=1e-2,
        hard_negatives=3,
        judge_every=20,
    )
    return replace(base, **more)


def test_a_pair_is_a_meeting_and_the_target_that_follows_within_the_window(events):
    found = some_lessons(events)
    at = {(int(u), int(i)): set() for u, i in zip(events.user, events.item, strict=True)}
    for user, item, kind, time in zip(
        events.user, events.item, events.kind, events.time, strict=True
    ):
        at[user, item].add((int(time), events.kinds[kind]))
    assert len(found.learn.user) > 500
    for pairs in (found.learn, found.stop, found.judge):
        for user, past, following in zip(pairs.user, pairs.past, pairs.next, strict=True):
            assert past != following and TEXTS[past] and TEXTS[following]
            assert any(
                0 <= then - met <= 10 * DAY
                for then, _ in at[user, following]
                for met, _ in at[user, past]
            )
            assert "purchase" in {kind for _, kind in at[user, following]}


def test_what_happens_from_the_cutoff_on_teaches_nothing(events):
    cutoff = END - 20
    # an item that nobody met before, met by everybody on the day of the cutoff
    late = replace(
        events,
        item=np.where(events.day >= cutoff, 0, np.maximum(events.item, TASTES)),
    )
    found = some_lessons(late, cutoff)
    assert len(found.learn.user) > 100
    for pairs in (found.learn, found.stop, found.judge):
        assert not (pairs.past == 0).any() and not (pairs.next == 0).any()


def test_spared_shoppers_are_never_learned_from_and_the_same_every_night(events):
    found = some_lessons(events)
    sets = [set(pairs.user.tolist()) for pairs in (found.learn, found.stop, found.judge)]
    assert all(sets) and sum(map(len, sets)) == len(set.union(*sets))
    some = pa.array([f"u{n}" for n in range(50)])
    assert (groups(some)[10:] == groups(some[10:])).all()


def test_hard_negatives_are_near_and_never_met_together():
    vectors = np.array([[1, 0], [0.99, 0.1], [0.9, 0.4], [0, 1], [0, 0]], np.float32)
    met = Pairs(np.array([0]), np.array([1]), np.array([0]))
    found = hard_negatives(vectors, met, 2)
    assert found[0].tolist() == [2, 3]  # not 1: met together, not 4: no text
    assert found[4].tolist() == [-1, -1]


def test_recall_counts_the_next_item_among_the_nearest_but_never_the_one_before():
    angle = np.arange(30) / 30
    vectors = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    pairs = Pairs(np.array([0, 0, 7]), np.array([0, 0, 5]), np.array([10, 11, 4]))
    assert recall(vectors, pairs).tolist() == [0.5, 1.0]  # of item 0 the nearest are 1 to 10


def test_what_was_kept_of_the_lower_layers_changes_no_vector(name):
    whole = Encoder(name, TEXTS, None, 16, 0, torch.device("cpu")).all_vectors()
    cut = Encoder(name, TEXTS, 1, 16, 1 << 20, torch.device("cpu"))
    assert cut.kept is not None and len(cut.weights) < 20
    assert np.abs(cut.all_vectors() - whole).max() < 1e-5
    no_room = Encoder(name, TEXTS, 1, 16, 1000, torch.device("cpu"))
    assert no_room.kept is None and np.abs(no_room.all_vectors() - whole).max() < 1e-5
    assert np.abs(embed(TEXTS[:5], name) - whole[:5]).max() < 1e-2  # it may be in bfloat16


@pytest.mark.parametrize("mode", ["last_layers", FULL])
def test_it_learns_what_shoppers_do_next_and_what_is_saved_gives_the_same_vectors(
    name, events, tmp_path, mode
):
    tuned = fine_tune(TEXTS, some_lessons(events), settings(name, mode=mode))
    assert tuned.pays and tuned.tuned > tuned.frozen + 0.05
    assert tuned.curves.loss[-1] < tuned.curves.loss[0]
    tuned.encoder.save(tmp_path / "saved")
    again = embed(TEXTS[:9], str(tmp_path / "saved"))
    assert np.abs(again - tuned.encoder.all_vectors()[:9]).max() < 1e-2


def test_without_anything_to_learn_there_is_no_gain_to_speak_of(name, events):
    # every shopper buys at random: what is learned from some says nothing of others
    rng = np.random.default_rng(1)
    noise = replace(events, item=rng.integers(0, ITEMS - 1, len(events.item)))
    assert not fine_tune(TEXTS, some_lessons(noise), settings(name, max_steps=20)).pays


def test_killed_and_resumed_it_gives_the_same_weights(name, events, tmp_path):
    found, config = some_lessons(events), settings(name)

    class Killed(Exception):
        pass

    def kill(text: str) -> None:
        if text.startswith("step 40"):
            raise Killed

    whole = fine_tune(TEXTS, found, config).encoder.state()
    with pytest.raises(Killed):
        fine_tune(TEXTS, found, config, tmp_path / "c", kill)
    said: list[str] = []
    resumed = fine_tune(TEXTS, found, config, tmp_path / "c", said.append).encoder.state()
    assert "from step 20" in said[0]
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    with pytest.raises(ModelError, match="other settings"):
        fine_tune(TEXTS, found, replace(config, seed=9), tmp_path / "c")
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:1000])  # the disk lost the rest
    fine_tune(TEXTS, found, settings(name, max_steps=2), tmp_path / "c", said.append)
    assert "from step 0" in said[-2]


def test_divergence_and_lack_of_history_are_told(name, events, monkeypatch):
    found = some_lessons(events)
    with pytest.raises(TooLittleHistory, match="the encoder stays"):
        fine_tune(TEXTS, some_lessons(events, END - 100), settings(name))
    whole = training.loss_of
    monkeypatch.setattr(training, "loss_of", lambda *given: whole(*given) * torch.nan)
    with pytest.raises(
        ModelError, match=r"diverged before step 20: .* nan; set (.*) in shop"
    ) as told:
        fine_tune(TEXTS, found, settings(name))
    (advised,) = re.findall(r"set fine_tune\.(\w+) in shop\.yml to (\w+)$", str(told.value))
    FineTune.model_validate(dict([advised]))  # a setting that there is


def test_it_stops_when_the_spared_shoppers_gain_nothing_more(name, events):
    config = settings(name, max_steps=400, judge_every=5, patience=2)
    assert fine_tune(TEXTS, some_lessons(events), config).curves.steps[-1] < 400


TWO = """
import sys, pickle, torch
from ml import parallel
from ml.encoder.train import fine_tune
parallel.join()
texts, found, config = pickle.load(open(sys.argv[1], "rb"))
tuned = fine_tune(texts, found, config)
assert parallel.world() == 2
torch.save(tuned.encoder.state(), f"{sys.argv[2]}/{parallel.rank()}.pt")
parallel.leave()
"""


def test_two_processes_give_what_one_gives(name, events, tmp_path):
    found, config = some_lessons(events), settings(name, max_steps=20)
    one = fine_tune(TEXTS, found, config).encoder.state()
    (tmp_path / "two.py").write_text(TWO)
    (tmp_path / "given").write_bytes(pickle.dumps((TEXTS, found, config)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", tmp_path / "two.py", tmp_path / "given", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    two = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for key, value in one.items():
        assert torch.equal(two[0][key], two[1][key])
        assert torch.allclose(two[0][key], value, atol=2e-3, rtol=1e-2)
