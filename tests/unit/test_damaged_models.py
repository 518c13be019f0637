"""Files of models that a disk, a copy or a person has damaged: said with what to do, or made anew.

Every file is cut off, emptied, and given other bytes; what is raised is the project's own error.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ml import ModelError, registry
from ml import checkpoint as checkpoints
from ml.recommender.data import examples
from ml.recommender.files import ABOUT, WEIGHTS, Learned, Scale
from ml.recommender.train import build, train
from ml.text import embed
from ml.words import NO_WORDS
from tests import tiny_encoder
from tests.unit.test_recommender_model import DAYS, network, shop

NIGHT = date(2026, 3, 1)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scramble(path: Path) -> None:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    path.write_bytes((data ^ 0xA5).tobytes())


Damage = Callable[[Path], None]
DAMAGE = pytest.mark.parametrize("damage", [cut, empty, scramble])


def keep(folder: Path) -> Learned:
    events, facts = shop()
    data = examples(events, events, DAYS, 1)
    learned = Learned.of(
        build(data, facts, network(("both",))), data, (), Scale([0], [1]), NO_WORDS
    )
    learned = replace(learned, items=pa.array(events.items))
    registry.add(folder, "recommender", "rec-1", {"night": str(NIGHT)}, learned.save)
    registry.promote(folder, "recommender", "rec-1", NIGHT)
    return learned


@DAMAGE
@pytest.mark.parametrize("name", [WEIGHTS, ABOUT])
def test_a_damaged_recommender_says_what_to_do(tmp_path: Path, name: str, damage: Damage) -> None:
    keep(tmp_path)
    folder = registry.folder(tmp_path, "recommender", "rec-1")
    assert Learned.load(folder).kinds == ("met",)
    damage(folder / name)
    with pytest.raises(ModelError, match="holds no readable model: roll back or retrain"):
        Learned.load(folder)
    assert Learned.is_of_this_layout(folder)  # it is not taken for one of another version


@pytest.mark.parametrize("part", ["shape", "items", "kinds", "scale", "terms"])
def test_a_description_that_lacks_a_part_is_no_model(tmp_path: Path, part: str) -> None:
    learned = keep(tmp_path)
    about = registry.folder(tmp_path, "recommender", "rec-1") / ABOUT
    told = json.loads(about.read_text())
    about.write_text(json.dumps({key: value for key, value in told.items() if key != part}))
    with pytest.raises(ModelError, match=f"no readable model: roll back or retrain .*{part}"):
        Learned.load(about.parent)
    about.write_text(json.dumps(told | {"items": told["items"][1:]}))
    with pytest.raises(ModelError, match="is of 24 items, not 23"):
        Learned.load(about.parent)
    about.write_text(json.dumps(told | {"shape": told["shape"] | {"dim": 8}}))
    with pytest.raises(ModelError, match="the weights are not those of the network"):
        Learned.load(about.parent).on(learned.items, shop()[1])


@DAMAGE
def test_a_damaged_card_or_list_of_champions_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Damage
) -> None:
    keep(tmp_path)
    pointer = tmp_path / "recommender" / registry.POINTER
    card = registry.folder(tmp_path, "recommender", "rec-1") / registry.CARD
    whole = card.read_bytes()
    damage(card)
    assert registry.main(["list", "recommender", "--models", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert f"{card} is damaged: bring it back from a backup" in told and "make rollback" in told
    card.write_bytes(whole)
    damage(pointer)
    with pytest.raises(ModelError, match="json is damaged: bring it back from a backup, or delete"):
        registry.champion(tmp_path, "recommender")
    pointer.unlink()
    assert registry.champion(tmp_path, "recommender") is None


@pytest.mark.parametrize("written", ["[]", "3", '[{"day": 1}]'])
def test_a_card_or_pointer_that_says_something_else_is_damaged(
    tmp_path: Path, written: str
) -> None:
    keep(tmp_path)
    (registry.folder(tmp_path, "recommender", "rec-1") / registry.CARD).write_text(written)
    with pytest.raises(ModelError, match=r"card\.json is damaged"):
        registry.card(tmp_path, "recommender", "rec-1")
    (tmp_path / "recommender" / registry.POINTER).write_text(written.replace("[]", "{}"))
    if written != "[]":
        with pytest.raises(ModelError, match=r"champion\.json is damaged"):
            registry.promotions(tmp_path, "recommender")


def flip(path: Path) -> None:
    """One byte of the weights."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_told_of_and_the_training_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events, facts = shop()
    data = examples(events, events, DAYS, 1)
    config = network(("ids",), max_steps=6, checkpoint_every=2, log_every=2)
    checkpoint = tmp_path / "checkpoint"
    said: list[str] = []

    def kill(text: str) -> None:
        if text.startswith("step 4"):
            raise KeyboardInterrupt

    def weights(kept: Path | None, log: Callable[[str], object]) -> dict[str, torch.Tensor]:
        return train(data, facts, config, kept, log).model.state_dict()

    whole = weights(None, said.append)
    with pytest.raises(KeyboardInterrupt):
        weights(checkpoint, kill)
    good = checkpoint.read_bytes()
    assert checkpoints.load(checkpoint, asdict(config)) and not caplog.text
    for damage in (cut, empty, scramble, flip):
        checkpoint.write_bytes(good)
        damage(checkpoint)
        caplog.clear()
        assert checkpoints.load(checkpoint, asdict(config)) is None
        assert f"{checkpoint} is damaged" in caplog.text and "starts anew" in caplog.text
    said.clear()
    anew = weights(checkpoint, said.append)
    assert "from step 0" in said[0]
    assert all(torch.equal(whole[key], anew[key]) for key in whole)


@DAMAGE
def test_a_damaged_text_encoder_says_what_to_do(tmp_path: Path, damage: Damage) -> None:
    encoder = tiny_encoder.make(tmp_path, ["mug", "cup"])
    assert np.isfinite(embed(["mug"], encoder)).all()
    (weights,) = Path(encoder).rglob("*.safetensors")
    damage(weights)
    with pytest.raises(ModelError, match=r"cannot load .* whole\? .* make rollback MODEL=text_enc"):
        embed(["mug"], encoder)
