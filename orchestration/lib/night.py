"""Which night a run is about, and what it has put on record so far."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TextIO

from dagster import AssetCheckExecutionContext, AssetExecutionContext, Failure
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, PARTITION_NAME_TAG

from core import access
from core.duck import EncryptionError, check_encryption
from core.paths import Paths
from core.shop import Shop, ShopError


@dataclass(frozen=True)
class Night:
    """One night of one shop: it knows every event before the end of day `night` (UTC)."""

    shop: Shop
    paths: Paths
    night: date

    @property
    def folder(self) -> Path:
        """Where the steps of this night leave word for the later ones."""
        return self.paths.home / "nights" / self.night.isoformat()

    def record(self, name: str, content: dict[str, Any]) -> None:
        """Keep `content` for the later steps of this night (atomic)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{name}.json"
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True))
        temporary.replace(self.folder / f"{name}.json")

    def recall(self, name: str) -> dict[str, Any]:
        """What an earlier step recorded; raises FileNotFoundError when it has not run."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: materialise the steps before this one for {self.night}"
            )
        return json.loads(path.read_text())


_held: dict[str, TextIO] = {}


def hold(paths: Paths) -> None:
    """Keep every other process from running a night of this shop until this one ends.

    Dagster's pools order the runs that its daemon starts; `make run` comes from outside of it.
    """
    if str(paths.home) in _held:
        return
    access.private()
    with access.published():
        paths.home.mkdir(parents=True, exist_ok=True)
    lock = _lock(paths).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        raise Failure(
            f"a night of {paths.shop} is running already (process {lock.read().strip()}): "
            "wait for it to end, then run this one again",
            allow_retries=False,
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    access.guard(paths)
    try:
        check_encryption()
    except EncryptionError as error:
        raise Failure(str(error), allow_retries=False) from error
    _held[str(paths.home)] = lock


def holds(paths: Paths) -> bool:
    """Whether this process runs the nights of the shop."""
    return str(paths.home) in _held


def is_held(paths: Paths) -> bool:
    """Whether any process runs a night of the shop."""
    if not _lock(paths).exists():
        return False
    with _lock(paths).open() as lock:
        try:
            # shared, so that two who only ask do not take each other for a night
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock(paths: Paths) -> Path:
    return paths.home / ".lock"


def tonight(context: AssetExecutionContext | AssetCheckExecutionContext, shop: Shop) -> Night:
    """The night a step is asked for; for a range in one run, its last day."""
    paths = Paths(shop.name)
    # dbt reads the shop's folder from the environment: its profile has no other way to a path
    os.environ["PERENNIAL_SHOP_HOME"] = str(paths.home)
    # a check has no partitions of its own (a preview feature), so both take the night from the run
    tags = context.run.tags
    named = tags.get(ASSET_PARTITION_RANGE_END_TAG) or tags.get(PARTITION_NAME_TAG)
    if named is None:
        raise ShopError(f"name a night of {shop.name}: a step runs for a partition")
    night = date.fromisoformat(named)
    hold(paths)
    return Night(shop, paths, shop.check_night(night))
