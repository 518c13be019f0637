"""The online store where it is a server of its own: Redis, in the team profile.

SQLite is a file under `var/` like any other and is not treated here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from core.paths import Paths
from core.profile import TEAM, profile
from privacy import PrivacyError


def erase(paths: Paths, pseudonym: str) -> Counter[str]:
    """Delete the key of a person, which holds the values of every view; how many there were."""
    if profile() != TEAM:
        return Counter()
    client, key = _redis(paths, pseudonym)
    gone = Counter({"Redis": int(client.delete(key))})
    if client.exists(key):
        raise PrivacyError("Redis still holds the person: is the server writable?")
    return gone


def erase_everybody(paths: Paths) -> int:
    """Delete the keys of all persons of the shop; how many there were."""
    if profile() != TEAM:
        return 0
    # one `?` a character: a shop whose name ends like this one's has longer keys
    client, every = _redis(paths, "?" * 32)
    gone, cursor = 0, None
    while cursor != 0:
        cursor, keys = client.scan(cursor or 0, every, count=10_000)
        gone += int(client.delete(*keys)) if keys else 0
    if any(True for _ in client.scan_iter(every, count=10_000)):
        raise PrivacyError("Redis still holds persons: is the server writable?")
    return gone


def _redis(paths: Paths, pseudonym: str) -> tuple[Any, bytes]:
    """The client, and the key of a person."""
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from feature_repo.store import open_store

    store = open_store(paths)
    config = store.config
    entity = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=pseudonym)])
    key = _redis_key(config.project, entity, config.entity_key_serialization_version)
    return store._get_provider().online_store._get_client(config.online_store), key  # type: ignore[attr-defined]
