"""Versions of models and which of them is the champion: plain folders and one pointer.

    <models>/recommender/<version>/     weights, card.json, metrics.parquet; never changed
    <models>/recommender/champion.json  promotions; the last one up to a night counts

    python -m ml.registry list     --models var/demo/models recommender
    python -m ml.registry rollback --models var/demo/models recommender

A version's name comes from its night and a hash of everything that made it, so the same inputs give
the same version. A folder appears by one rename, the pointer changes by one: a killed night leaves
neither half-written.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from ml import ModelError

POINTER = "champion.json"
CARD = "card.json"
DUE = "due_for_retraining"
"""On the card of a version that learned from somebody who has been erased since."""
STARTED_FROM = "started_from"
"""On the card of a version that began with another shop's: `model_of` of that."""


@dataclass(frozen=True)
class Promotion:
    """A version became champion on a night; one that was rolled back stays on record."""

    night: str
    version: str
    withdrawn: bool = False


def folder(models: Path, model: str, version: str) -> Path:
    """Where a version's files are."""
    return models / model / version


def model_of(shop: str, version: str) -> str:
    """What a version is called outside of its shop."""
    return f"{shop} {version}"


def versions(models: Path, model: str) -> list[str]:
    """All complete versions, oldest night first."""
    return sorted(path.parent.name for path in (models / model).glob(f"*/{CARD}"))


def card(models: Path, model: str, version: str) -> dict[str, Any]:
    """The card of a version; raises ModelError when there is none, or it cannot be read."""
    path = folder(models, model, version) / CARD
    if not path.exists():
        known = ", ".join(versions(models, model)) or "none"
        raise ModelError(f"{model} has no version {version} (versions here: {known})")
    told = _read(path)
    if not isinstance(told, dict):
        raise ModelError(f"{path} is damaged: {_INSTEAD}")
    return told


def is_due(models: Path, model: str, version: str) -> bool:
    """Whether a version is to be trained anew, and must not keep a newer one out."""
    return bool(card(models, model, version).get(DUE))


def add(
    models: Path, model: str, version: str, card: dict[str, Any], write: Callable[[Path], None]
) -> Path:
    """Make a version: `write` fills a folder, which then appears whole under its name."""
    final = folder(models, model, version)
    temporary = final.with_name(f".{version}.next")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(temporary)
    (temporary / CARD).write_text(_json(card))
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    return final


def promotions(models: Path, model: str) -> list[Promotion]:
    """All promotions there were, in the order of their nights; raises ModelError if damaged."""
    path = models / model / POINTER
    if not path.exists():
        return []
    try:
        return [Promotion(**entry) for entry in _read(path, _NO_POINTER)]
    except TypeError as error:
        raise ModelError(f"{path} is damaged: {_NO_POINTER} ({error})") from error


def champion(models: Path, model: str, night: date | None = None) -> str | None:
    """The champion as of a night (default: the latest), or None before the first promotion.

    A night is never served by a model that was promoted on a later one, also when it is run again.
    """
    standing = [
        entry.version
        for entry in promotions(models, model)
        if not entry.withdrawn and (night is None or entry.night <= night.isoformat())
    ]
    return standing[-1] if standing else None


def promote(models: Path, model: str, version: str, night: date) -> None:
    """Make a version the champion from this night on; doing it twice changes nothing."""
    card(models, model, version)
    if champion(models, model, night) == version:
        return
    entry = Promotion(night.isoformat(), version)
    known = promotions(models, model)
    at = sum(other.night <= entry.night for other in known)
    _write(models / model / POINTER, [*known[:at], entry, *known[at:]])


def rollback(models: Path, model: str) -> tuple[str, str]:
    """Undo the latest promotion: returns the version that left and the champion that is back."""
    if not (models / model).is_dir():
        raise ModelError(f"there is no model {model} in {models}: look at SHOP= and MODEL=")
    known = promotions(models, model)
    standing = [entry for entry in known if not entry.withdrawn]
    if len(standing) < 2:
        raise ModelError(f"{model} has no earlier champion to go back to")
    back, gone = standing[-2:]
    card(models, model, back.version)
    changed = [replace(entry, withdrawn=True) if entry is gone else entry for entry in known]
    _write(models / model / POINTER, changed)
    return gone.version, back.version


_INSTEAD = "bring it back from a backup, or go back to the version before with make rollback"


_NO_POINTER = "bring it back from a backup, or delete it: the next training chooses anew"


def _read(path: Path, instead: str = _INSTEAD) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {instead} ({error})") from error


def _write(path: Path, entries: list[Promotion]) -> None:
    temporary = path.with_suffix(".next")
    temporary.write_text(_json([asdict(entry) for entry in entries]))
    temporary.replace(path)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command line: list and rollback."""
    parser = argparse.ArgumentParser(
        prog="python -m ml.registry", description=__doc__.split("\n")[0]
    )
    parser.add_argument("action", choices=("list", "rollback"))
    parser.add_argument("model", help="recommender or text_encoder")
    parser.add_argument("--models", type=Path, required=True, help="the shop's models folder")
    options = parser.parse_args(arguments)
    try:
        if options.action == "rollback":
            gone, back = rollback(options.models, options.model)
            print(f"{options.model}: {gone} is champion no more, {back} is back")
            print("The next run of the night makes and publishes its lists.")
            return 0
        now = champion(options.models, options.model)
        for version in versions(options.models, options.model):
            about = card(options.models, options.model, version)
            mark = "*" if version == now else " "
            ndcg = about.get("ndcg_at_10")
            told = about["decision"] if ndcg is None else f"NDCG@10 {ndcg:.4f}"
            print(f"{mark} {version}  night {about['night']}  {told}")
        return 0
    except ModelError as error:
        print(error)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
