"""Bringing a shop's state back: a kept night, or everything from a backup.

Each of these holds the shop's lock, so that no night runs meanwhile.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path

from audit import nights
from core import access, vault
from core.paths import Paths
from core.shop import Shop, ShopError, load_shop
from ingest.pseudonym import VARIABLE as PSEUDONYM_KEY
from orchestration.lib.night import hold
from orchestration.lib.summary import summary
from privacy import budget
from reports import entry

# What a backup leaves out: locks and scratch, and what dbt compiles anew each night
_PASSING = (".lock", "spill", "dbt")


def restore_night(name: str, night: date) -> None:
    """Make a kept night the one that analysts see."""
    shop = load_shop(name)
    paths = Paths(shop.name)
    _hold(paths)
    with access.published():
        nights.restore(paths, night)
        entry.show_restored(paths, night)
    print(summary(paths))
    print(
        "Restored: the marts, with their lists and manifest, and the report. The warehouse, "
        "features and models are those of the newest night, which `make run` publishes again."
    )


def backup(name: str, to: Path, plain: bool, secrets: bool) -> Path:
    """Write the shop's whole state into one verified file in the folder `to`."""
    shop = load_shop(name)
    paths = Paths(shop.name)
    key = vault.recipient()
    if key is None and not plain:
        raise ShopError(
            f"a backup holds all about people: set {vault.VARIABLE} to an age public key "
            "(age1...; docs/backup.md says how to make one), or ask for an open one with PLAIN=1"
        )
    if secrets and key is None:
        raise ShopError("SECRETS=1 puts the pseudonym key into the backup: only an encrypted one")
    if not paths.published_record.exists():
        raise ShopError(f"no night of {shop.title} has been published: there is nothing to back up")
    if not to.is_dir():
        raise ShopError(f"TO={to} is not a folder: make it first")
    if to.resolve().is_relative_to(paths.home):
        raise ShopError(f"TO={to} lies in {paths.home}, which is what is to be backed up")
    _hold(paths)
    night = json.loads(paths.published_record.read_text())["night"]
    linked = paths.raw.is_symlink()
    about = {"version": 1, "shop": name, "night": night, "home": str(paths.home)}
    about |= {"raw": not linked, "secrets": secrets}
    left_out = [*_PASSING, *["raw"] * linked, *["secrets"] * (not secrets)]
    archive = to / f"{name}-{night}.tar.zst{'.age' if key else ''}"
    files = vault.write(paths.home, archive, about, key, left_out)
    size = archive.stat().st_size / 1e6
    print(f"{archive}: {files:,} files, {size:,.1f} MB, read back and found whole.")
    if linked:
        print(f"Not in it: the raw files in {paths.raw.resolve()}, which are the shop's own.")
    if not secrets:
        print(f"Not in it: {paths.secrets}. Without the key there, nobody keeps their pseudonym.")
    return archive


def restore_backup(name: str, archive: Path) -> None:
    """Bring the whole state back from a backup found whole; what is there is put aside."""
    shop = load_shop(name)
    paths = Paths(shop.name)
    if not archive.is_file():
        raise ShopError(f"FROM={archive} is not a file")
    key = vault.identity() if vault.is_encrypted(archive) else None
    about = vault.read_about(archive, key)
    if about["shop"] != name:
        raise ShopError(f"{archive} is of the shop {about['shop']}: SHOP={about['shop']}")
    aside = paths.home.with_name(f"{name}.replaced")
    if aside.exists():
        raise ShopError(f"{aside} is left from an earlier restore: delete it or move it away")
    if paths.home.exists():
        _hold(paths)
    coming = paths.home.with_name(f".{name}.coming")
    shutil.rmtree(coming, ignore_errors=True)
    try:
        with access.published():
            coming.parent.mkdir(parents=True, exist_ok=True)
            files = vault.unpack(archive, coming, key)
        _relocate(coming / "mlflow" / "mlflow.db", about["home"], str(paths.home))
        _carry_over(paths, coming)
        if paths.home.exists():
            paths.home.replace(aside)
        coming.replace(paths.home)
    finally:
        shutil.rmtree(coming, ignore_errors=True)
    access.guard(paths)
    print(summary(paths))
    print(f"Restored {files:,} files from {archive}.")
    _say_what_is_missing(shop, paths, aside)


def _hold(paths: Paths) -> None:
    from dagster import Failure

    try:
        hold(paths)
    except Failure as error:
        raise ShopError(error.description) from error


def _carry_over(paths: Paths, coming: Path) -> None:
    """What the backup does not hold and this machine does: keys, a link to raw files, releases."""
    if paths.secrets.is_dir() and not (coming / "secrets").exists():
        shutil.copytree(paths.secrets, coming / "secrets")
    if paths.raw.is_symlink() and not (coming / "raw").exists():
        (coming / "raw").symlink_to(paths.raw.readlink())
    budget.carry_over(paths.share, coming / paths.share.name)


def _relocate(file: Path, before: str, now: str) -> None:
    """MLflow keeps whole paths: let them be those of this machine."""
    if not file.exists() or before == now:
        return
    with closing(sqlite3.connect(file)) as connection, connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, $before, $now)",
                {"before": f"file://{before}/", "now": f"file://{now}/"},
            )


def _say_what_is_missing(shop: Shop, paths: Paths, aside: Path) -> None:
    if aside.exists():
        print(f"What was here before is in {aside}: delete it when you are content.")
    if not paths.raw.exists():
        print("The raw files are not in the backup: name them with DATA= on the next `make run`.")
    if not (paths.secrets / "pseudonym.key").exists():
        print(
            f"The pseudonym key is not here: put it into {paths.secrets}/pseudonym.key (mode 600) "
            f"or {PSEUDONYM_KEY} before the next night. If it is lost, "
            f"make rotate-key SHOP={shop.name} gives every shopper another pseudonym."
        )
