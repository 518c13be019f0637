"""A new key for the pseudonyms, and nothing left beside it that bears the old ones.

The landing's fingerprint follows from the key: the next night lands all raw files anew and builds
the rest from there. What it would not replace is deleted here, because who is still in it could not
be told without the old key. The published marts stay until that night; while they do, nobody can be
erased. Killed at any point and run again it ends the same: the key comes last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from core.paths import Paths, var_folder
from core.shop import Shop, ShopError
from ingest import ledger
from ingest.pseudonym import VARIABLE, generate_key, key_file
from ingest.raw import find_files
from privacy import online
from privacy.retention import KINDS

_NAMED = 10  # files named in a message
_BUILT = ("warehouse.json", "audited.json", "warehouse.duckdb", "warehouse.duckdb.wal")


def rotate(shop: Shop, paths: Paths) -> dict[str, list[str]]:
    """Give the shop a new key; what was deleted, by place. The caller holds the shop's lock.

    Raises ShopError, and changes nothing, when the raw files could not be landed anew.
    """
    _check(shop, paths)
    # first of all: no night is `published already`, wherever this is killed
    paths.published_record.unlink(missing_ok=True)
    gone: dict[str, list[str]] = {}
    for path in _under_the_old_key(paths):
        place, *inside = path.relative_to(paths.home).parts
        gone.setdefault(place, []).extend(inside)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if keys := online.erase_everybody(paths):
        gone["Redis"] = [f"{keys:,} keys"]
    _write_stamp(paths)
    generate_key(key_file(paths))
    return gone


def awaits_a_night(paths: Paths) -> bool:
    """Whether the published file is the one from before the rotation, under the old pseudonyms."""
    stamp, record = _stamp(paths), _record(paths)
    return bool(stamp) and record.exists() and json.loads(record.read_text()) == stamp


def _check(shop: Shop, paths: Paths) -> None:
    if VARIABLE in os.environ:
        raise ShopError(
            f"{VARIABLE} is set and comes before any file: unset it, run this, then set it to "
            "another value or leave it unset, and run the night"
        )
    landed = ledger.load(paths.landing / "_ledger.json").files
    if not key_file(paths).exists() and not landed:
        raise ShopError(f"{shop.title} has no pseudonym key yet: the first night makes one")
    there = {file for files in find_files(shop, paths.raw).values() for file in files}
    if missing := sorted(landed.keys() - there):
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise ShopError(
            f"{len(missing)} raw files had landed and are gone from {paths.raw}, so that their "
            f"rows could not get another pseudonym: {', '.join(missing[:_NAMED])}{more}. Bring "
            "them back; or run a night without them, by which their rows leave, and then this"
        )
    replaced = var_folder() / f"{paths.shop}.replaced"
    if replaced.exists():
        raise ShopError(f"{replaced}, left from a restore, has the old pseudonyms: delete it first")


def _under_the_old_key(paths: Paths) -> Iterator[Path]:
    """All that bears pseudonyms, but the landing and the published file, which a night replaces."""
    for folder in (paths.kept_nights.name, *KINDS):
        yield from sorted((paths.home / folder).glob("*"))
    for view in sorted(paths.features.glob("*")):
        if any("user_id" in pq.read_schema(file).names for file in view.glob("*.parquet")):
            yield view
    yield from sorted(paths.feast.glob("online.db*"))
    yield from (paths.home / name for name in _BUILT if (paths.home / name).exists())


def _record(paths: Paths) -> Path:
    return paths.home / "rotated.json"


def _write_stamp(paths: Paths) -> None:
    new = _record(paths).with_suffix(".next")
    new.write_text(json.dumps(_stamp(paths)))
    new.replace(_record(paths))


def _stamp(paths: Paths) -> list[int]:
    """What tells the published file from any that comes after it; nothing when there is none."""
    if not paths.marts.exists():
        return []
    stat = paths.marts.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
