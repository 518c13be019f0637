"""What a night asks of the text encoder: fine-tune it now and then, use it only if it gains.

A fine-tuned encoder is a version in the registry like any model; its embeddings are a feature view
of the version's name, so the recommender that was trained with them is scored with them for as long
as it is the champion.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml import ModelError, TooLittleHistory, registry
from ml.encoder.pairs import Lessons, lessons
from ml.encoder.train import Config, fine_tune
from ml.plots import encoder_curve
from ml.sequences import from_arrow, sorted_ids
from ml.tracking import record

MODEL = "text_encoder"
_log = logging.getLogger(__name__)
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class EncoderInputs:
    """All that the encoder is given for one night.

    events: user_id, item_id, event_type, event_ts (UTC without zone). texts: item_id, text, one row
    an item, as the catalogue knew it when the held-out days began.
    """

    events: pa.Table
    texts: pa.Table
    night: date
    input_events: tuple[str, ...]
    target_events: tuple[str, ...]
    holdout_days: int

    @property
    def cutoff(self) -> int:
        """The first held-out day, in days since 1970."""
        return (self.night - _EPOCH).days + 1 - self.holdout_days


@dataclass(frozen=True)
class Outcome:
    """What came of a night's look at the encoder."""

    version: str | None
    """the encoder in use from now on; None: the frozen one"""
    decision: str
    curves: dict[str, list[float]] = field(default_factory=dict)
    plots: dict[str, bytes] = field(default_factory=dict)


def tonight(
    inputs: Callable[[], EncoderInputs],
    *,
    night: date,
    models: Path,
    mlflow: Path,
    config: Config,
    every_days: int,
    card: dict[str, Any],
    log: Callable[[str], object] = _log.info,
) -> Outcome:
    """Fine-tune if the last time is `every_days` ago, and say which encoder is in use.

    `inputs` are asked for only then. A version is used when its gain over the frozen encoder, on
    shoppers it never learned from, is more than chance; otherwise what was in use stays. A killed
    run is taken up at its last checkpoint. Raises ModelError when the training diverges.
    """
    config.check()
    before = [name for name in registry.versions(models, MODEL) if _counts(models, name, config)]
    nights = [date.fromisoformat(registry.card(models, MODEL, name)["night"]) for name in before]
    recent = [name for name, on in zip(before, nights, strict=True) if on <= night]
    if recent:
        # the card tells of a night that was killed between the version and its promotion
        last = registry.card(models, MODEL, recent[-1])
        on = date.fromisoformat(last["night"])
        if (night - on).days < every_days:
            _use(models, recent[-1], last)
            return Outcome(in_use(models, night), f"looked at on {on}: {last['decision']}")
    try:
        return _tune(inputs(), models, mlflow, config, card, log)
    except TooLittleHistory as error:
        return Outcome(in_use(models, night), f"not fine-tuned: {error}")


def in_use(models: Path, night: date) -> str | None:
    """The fine-tuned encoder of a night; None: the frozen one.

    One that learned from somebody who was erased since is not used for anything new.
    """
    version = registry.champion(models, MODEL, night)
    return None if version and registry.is_due(models, MODEL, version) else version


def _tune(
    inputs: EncoderInputs,
    models: Path,
    mlflow: Path,
    config: Config,
    card: dict[str, Any],
    log: Callable[[str], object],
) -> Outcome:
    texts, found = _lessons(inputs, config)
    fingerprint = _fingerprint(texts, found, config)
    version = f"enc-{inputs.night:%Y%m%d}-{fingerprint[:10]}"
    checkpoint = models / MODEL / f".{version}.checkpoint"
    tuned = fine_tune(texts, found, config, checkpoint, log)
    decision = (
        f"{'in use' if tuned.pays else 'the encoder stays as it was'}: recall@10 of the next item "
        f"{tuned.tuned:.4f} fine-tuned, {tuned.frozen:.4f} frozen, gain {tuned.gain.value:+.4f}, "
        f"95 % interval {tuned.gain.low:+.4f} to {tuned.gain.high:+.4f}, {tuned.gain.n} shoppers"
    )
    log(decision)
    curves = {name: list(map(float, values)) for name, values in asdict(tuned.curves).items()}
    plots = {"encoder": encoder_curve(curves, tuned.frozen, version)}
    about = card | {
        "version": version,
        "model": MODEL,
        "night": inputs.night.isoformat(),
        "data_until": str(np.datetime64(inputs.cutoff - 1, "D")),
        "config": asdict(config),
        "fingerprint": fingerprint,
        "pairs": len(found.learn.user),
        "frozen": tuned.frozen,
        "tuned": tuned.tuned,
        "decision": decision,
        "promoted": tuned.pays,
        "curves": curves,
    }
    record(
        mlflow,
        MODEL,
        version,
        parameters=asdict(config) | card | {"night": inputs.night},
        metrics={"frozen": tuned.frozen, "tuned": tuned.tuned, "gain": tuned.gain.value},
        curves=curves,
        files={f"{name}.png": png for name, png in plots.items()},
    )
    # weights that nobody uses are not kept; the card says that it was tried
    write = tuned.encoder.save if tuned.pays else lambda folder: None
    registry.add(models, MODEL, version, about, write)
    _use(models, version, about)
    checkpoint.unlink(missing_ok=True)
    return Outcome(in_use(models, inputs.night), decision, curves, plots)


def _use(models: Path, version: str, card: dict[str, Any]) -> None:
    """Promote a version that gained; one that was rolled back is on record and stays out."""
    if card["promoted"] and version not in {p.version for p in registry.promotions(models, MODEL)}:
        registry.promote(models, MODEL, version, date.fromisoformat(card["night"]))


def _counts(models: Path, version: str, config: Config) -> bool:
    """Whether a version was made as tonight's would be, of nobody who was erased since."""
    card = registry.card(models, MODEL, version)
    return card["config"] == asdict(config) and not registry.is_due(models, MODEL, version)


def _lessons(inputs: EncoderInputs, config: Config) -> tuple[list[str], Lessons]:
    """Texts by item number, and the lessons of the events before the held-out days."""
    users = sorted_ids(inputs.events["user_id"])
    items = sorted_ids(inputs.events["item_id"], inputs.texts["item_id"])
    kinds = tuple({*inputs.input_events, *inputs.target_events})
    events = from_arrow(inputs.events, users, items, kinds)
    place = pc.index_in(items, inputs.texts["item_id"].cast(pa.string()).combine_chunks())
    told = inputs.texts["text"].cast(pa.string()).combine_chunks().take(place)
    texts = pc.fill_null(told, "").to_pylist()
    has_text = np.array([bool(text) for text in texts])
    found = lessons(
        events, inputs.target_events, inputs.cutoff, has_text, config.reach, config.window_days
    )
    return texts, found


def _fingerprint(texts: list[str], found: Lessons, config: Config) -> str:
    """A hash of all that makes a version: lessons, texts, settings and the code itself."""
    code = sorted(Path(__file__).parent.rglob("*.py"))
    settings = [asdict(config), texts, *(hashlib.sha256(p.read_bytes()).hexdigest() for p in code)]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for pairs in (found.learn, found.stop, found.judge):
        for array in (pairs.user, pairs.past, pairs.next):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def folder(models: Path, version: str) -> str:
    """Where a version's sentence-transformers files are; raises ModelError when it has none."""
    path = registry.folder(models, MODEL, version)
    if not (path / "modules.json").exists():
        raise ModelError(f"{path} holds no encoder: set fine_tune.mode to frozen, or restore it")
    return str(path)
