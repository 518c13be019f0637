"""Who is this shopper, without saying it: HMAC pseudonyms, and where their key is kept.

The key stays in Python and in a file of mode 600: it is never part of a SQL text or a database.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from core.paths import Paths
from core.shop import ShopError
from ingest import ledger

VARIABLE = "PERENNIAL_PSEUDONYM_KEY"
ERASED = "erased on request"
"""Why a row of a forgotten person does not land."""
_HEX_DIGITS = 32  # 128 bits: no collision among any number of shoppers


def load_key(paths: Paths) -> bytes:
    """The key: from `PERENNIAL_PSEUDONYM_KEY`, else generated once under `paths.secrets`.

    Raises ValueError when the key is there but shorter than 16 bytes, and ShopError when it is not
    there any more though raw files have landed under it.
    """
    text = os.environ.get(VARIABLE)
    origin = VARIABLE
    if text is None:
        file = key_file(paths)
        if not file.exists():
            _check_that_none_is_missing(paths)
            generate_key(file)
        text, origin = file.read_text().strip(), str(file)
    if len(text) < 16:
        raise ValueError(f"the pseudonym key in {origin} is shorter than 16 characters")
    return text.encode()


def key_file(paths: Paths) -> Path:
    """Where the generated key of a shop lies."""
    return paths.secrets / "pseudonym.key"


def _check_that_none_is_missing(paths: Paths) -> None:
    if landed := ledger.load(paths.landing / "_ledger.json").files:
        raise ShopError(
            f"{key_file(paths)} is missing, and {len(landed)} raw files have landed under that key:"
            f" bring the file back, or set {VARIABLE} if the key was there. With a new one every "
            f"shopper gets another pseudonym; if the old one is lost: make rotate-key "
            f"SHOP={paths.shop}"
        )


@dataclass(frozen=True)
class Forgotten:
    """The people who asked to be erased, as marks that say neither their ids nor pseudonyms."""

    key: bytes = b""
    marks: frozenset[str] = frozenset()

    def mark(self, identity: str) -> str:
        """HMAC-SHA256 of the shop's own id, under a key that is used for nothing else."""
        return hmac.digest(self.key, identity.encode(), hashlib.sha256).hex()

    def __contains__(self, identity: str) -> bool:
        """Whether this person is to be dropped at the door."""
        return bool(self.marks) and self.mark(identity) in self.marks


NOBODY = Forgotten()


def load_forgotten(paths: Paths) -> Forgotten:
    """Who is forgotten in this shop, from `forgotten.json`; nobody when there is no such file.

    The key is apart from the pseudonym's, which may be rotated when raw ids are long gone.
    """
    file = paths.home / "forgotten.json"
    if not file.exists():
        return Forgotten()
    return Forgotten(
        (paths.secrets / "forgotten.key").read_bytes().strip(),
        frozenset(json.loads(file.read_text())["marks"]),
    )


def forget_at_the_door(paths: Paths, identity: str) -> None:
    """From now on rows of this person do not land; doing it twice changes nothing."""
    key = paths.secrets / "forgotten.key"
    file = paths.home / "forgotten.json"
    if not key.exists():
        if file.exists():
            raise ValueError(f"{key} is lost, without which {file} says nothing: restore it")
        generate_key(key)
    known = load_forgotten(paths)
    mark = Forgotten(key.read_bytes().strip()).mark(identity)
    if mark in known.marks:
        return
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"marks": sorted({*known.marks, mark})}, indent=1) + "\n")
    new.replace(file)


def generate_key(file: Path) -> None:
    """Put a new random key into `file` at once, in place of one that is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.parent.chmod(0o700)
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(secrets.token_hex(32))
    new.replace(file)


def pseudonym(key: bytes, identity: str) -> str:
    """The first 32 hex digits of HMAC-SHA256(key, identity)."""
    return hmac.digest(key, identity.encode(), hashlib.sha256).hex()[:_HEX_DIGITS]


def pseudonyms(key: bytes, identities: Iterable[str], forgotten: Forgotten = NOBODY) -> pa.Table:
    """A table `identity, pseudonym, forgotten` to join back, one row per identity given."""
    names = list(identities)
    return pa.table(
        {
            "identity": pa.array(names, pa.string()),
            "pseudonym": pa.array([pseudonym(key, name) for name in names], pa.string()),
            "forgotten": pa.array([name in forgotten for name in names], pa.bool_()),
        }
    )
