"""The online store where it is a server of its own: Redis, in the team profile.

SQLite is a file under `var/` like any other and is not treated here.
"""

from __future__ import annotations

from collections import Counter

from core.paths import Paths
from core.profile import TEAM, profile
from privacy import PrivacyError


def erase(paths: Paths, pseudonym: str) -> Counter[str]:
    """Delete the key of a person, which holds the values of every view; how many there were."""
    if profile() != TEAM:
        return Counter()
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from feature_repo.store import open_store

    config = open_store(paths).config
    entity = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=pseudonym)])
    key = _redis_key(config.project, entity, config.entity_key_serialization_version)
    client = open_store(paths)._get_provider().online_store._get_client(config.online_store)  # type: ignore[attr-defined]
    gone = Counter({"Redis": int(client.delete(key))})
    if client.exists(key):
        raise PrivacyError("Redis still holds the person: is the server writable?")
    return gone
