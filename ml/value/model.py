"""What tells one target: kept in the registry, and read back."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from ml import ModelError, registry
from ml.value.buying import Buying
from ml.value.heads import Head
from ml.value.history import Array
from ml.value.inputs import Prepared
from ml.value.matrix import Moments, matrix
from ml.value.targets import Target
from ml.value.taste import NAMES as TASTES
from ml.value.taste import Taste

_BUYING = "buying.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """What tells one target: trees, and the models that some of their features come from."""

    version: str
    head: Head
    buying: Buying | None
    taste: Taste | None
    names: tuple[str, ...]
    """of the service's features, in the order that the head reads them"""

    def tell(self, target: Target, moments: Moments, data: Prepared) -> Array:
        """[n] what it foretells at some moments."""
        return self.head.tell(self.read(target, moments, data))

    def read(self, target: Target, moments: Moments, data: Prepared) -> np.ndarray:
        """float32 [n, f] what the head reads of some moments."""
        own = Moments(moments.user, moments.day, self.names, _aligned(moments, self.names))
        return read(target, own, data, self.buying, self.taste)[0]

    @classmethod
    def load(cls, models: Path, name: str, version: str) -> Model:
        """A version of the registry; raises ModelError when it cannot be read."""
        folder = registry.folder(models, name, version)
        head = Head.load(folder)
        try:
            known = json.loads((folder / _BUYING).read_text())
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder} holds no readable model: roll back ({error})") from error
        buying = Buying.of(known["buying"]) if known["buying"] else None
        return cls(version, head, buying, Taste.load(folder), tuple(known["names"]))

    def save(self, folder: Path) -> None:
        """Write it; the same model gives the same bytes."""
        self.head.save(folder)
        known = {"buying": self.buying.as_dict() if self.buying else None, "names": self.names}
        (folder / _BUYING).write_text(json.dumps(known) + "\n")
        if self.taste:
            self.taste.save(folder)


def _aligned(moments: Moments, names: tuple[str, ...]) -> np.ndarray:
    if names == moments.names:
        return moments.values
    columns = [moments.column(name) for name in names]
    return np.stack(columns, 1).astype(np.float32)


def read(
    target: Target, moments: Moments, data: Prepared, buying: Buying | None, taste: Taste | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """float32 [n, f] and the names of its columns: features, rhythm of buying, taste."""
    x, names = matrix(moments, target, buying, data.bought)
    if taste is None:
        return x, names
    return np.concatenate([x, taste.of(data.met, moments.user, moments.day)], 1), (*names, *TASTES)


def champion(models: Path, target: Target, night: date, service: str) -> Model | None:
    """What tells a target tonight; None before the first promotion, or with other features."""
    version = registry.champion(models, target.model, night)
    if version is None or registry.is_due(models, target.model, version):
        return None
    if registry.card(models, target.model, version)["feature_service"] != service:
        _log.warning("%s %s knows other features: not used", target.model, version)
        return None
    return Model.load(models, target.model, version)


def is_due(models: Path, target: Target, night: date, every_days: int) -> bool:
    """Whether the newest version of a target was trained so long ago."""
    trained = [
        date.fromisoformat(registry.card(models, target.model, version)["night"])
        for version in registry.versions(models, target.model)
    ]
    earlier = [each for each in trained if each < night]
    return not earlier or (night - max(earlier)).days >= every_days


def fitted_buying(data: Prepared, day: int, seed: int) -> Buying | None:
    """The buying models of all who had bought before a day."""
    everybody = np.arange(len(data.ids))
    newest = data.past.where(data.past.day == day) if day < data.end else data.now
    values = np.full((len(everybody), len(newest.names)), np.nan, np.float32)
    values[newest.user] = newest.values
    moments = Moments(everybody, np.full(len(everybody), day), newest.names, values)
    known, _ = moments.buyers(data.bought)
    try:
        return Buying.fit(known, seed)
    except ModelError as error:
        _log.info("BG/NBD: %s", error)
        return None
