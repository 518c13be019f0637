"""Who may read what under `var/`: the owner everything, a group only what was published.

`private` is called where a command or a night begins; nothing else sets the umask for good.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.paths import Paths

PUBLISHED = ("marts.duckdb", "published.json", "published", "reports", "campaigns")
"""What a group may be given of a shop's folder."""


def private() -> None:
    """From now on, what this process and its children create is the owner's alone."""
    os.umask(0o077)


@contextmanager
def published() -> Iterator[None]:
    """What is created inside may be read by the group (files 640, folders 750)."""
    before = os.umask(0o027)
    try:
        yield
    finally:
        os.umask(before)


def guard(paths: Paths) -> None:
    """A door for the group into the shop's folder, and a wall around all in it but PUBLISHED.

    Set each time: an entry may have come with other modes, from an older version or by hand. A link
    to raw files elsewhere is left alone.
    """
    allow(paths.home, 0o750)
    for entry in paths.home.iterdir():
        if not entry.is_symlink():
            mode = 0o750 if entry.name in PUBLISHED else 0o700
            allow(entry, mode if entry.is_dir() else mode & ~0o111)


def allow(path: Path, mode: int) -> None:
    """Set a mode, but for a folder's set-group-id bit, by which its group is handed down."""
    there = stat.S_IMODE(path.stat().st_mode)
    wanted = mode | there & stat.S_ISGID
    if there != wanted:
        path.chmod(wanted)
