"""Who is this shopper, without saying it: HMAC pseudonyms, and where their key is kept.

The key stays in Python and in a file of mode 600: it is never part of a SQL text or a database.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from core.paths import Paths

VARIABLE = "PERENNIAL_PSEUDONYM_KEY"
_HEX_DIGITS = 32  # 128 bits: no collision among any number of shoppers


def load_key(paths: Paths) -> bytes:
    """The key: from `PERENNIAL_PSEUDONYM_KEY`, else generated once under `paths.secrets`.

    Raises ValueError when the key is there but shorter than 16 bytes.
    """
    text = os.environ.get(VARIABLE)
    origin = VARIABLE
    if text is None:
        file = paths.secrets / "pseudonym.key"
        if not file.exists():
            _generate(file)
        text, origin = file.read_text().strip(), str(file)
    if len(text) < 16:
        raise ValueError(f"the pseudonym key in {origin} is shorter than 16 characters")
    return text.encode()


def _generate(file: Path) -> None:
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


def pseudonyms(key: bytes, identities: Iterable[str]) -> pa.Table:
    """A table `identity, pseudonym` to join back, one row per identity given."""
    names = list(identities)
    return pa.table(
        {
            "identity": pa.array(names, pa.string()),
            "pseudonym": pa.array([pseudonym(key, name) for name in names], pa.string()),
        }
    )
