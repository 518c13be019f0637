"""The profile: where the state lives that several machines may share.

`PERENNIAL_PROFILE` is `embedded` (SQLite files below `var/`, the default) or `team` (Redis for
online features, PostgreSQL for Feast's registry and for Dagster). A profile is one settings file
for Feast and one for Dagster, the team's beside the embedded one; no other code path differs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EMBEDDED, TEAM = "embedded", "team"
REDIS, POSTGRES = "PERENNIAL_REDIS", "PERENNIAL_POSTGRES_URL"
_EXAMPLES = {
    REDIS: "host:6379,password=...",
    POSTGRES: "postgresql://user:password@host:5432/perennial",
}
_PATIENCE = 5  # seconds until a server that does not answer counts as down


class ProfileError(RuntimeError):
    """The profile cannot be used as it is set; the message says what to do, without passwords."""


def profile() -> str:
    """The profile that is chosen; raises ProfileError when it lacks a setting."""
    chosen = os.environ.get("PERENNIAL_PROFILE") or EMBEDDED
    if chosen not in (EMBEDDED, TEAM):
        raise ProfileError(f"PERENNIAL_PROFILE={chosen}: there are {EMBEDDED} and {TEAM}")
    if chosen == TEAM:
        for name, example in _EXAMPLES.items():
            if not os.environ.get(name):
                raise ProfileError(f"PERENNIAL_PROFILE={TEAM} needs {name}, such as {example}")
    return chosen


def settings_file(embedded: Path) -> Path:
    """The profile's own file beside the embedded one: `dagster.yaml` or `dagster.team.yaml`."""
    chosen = profile()
    return embedded if chosen == EMBEDDED else embedded.with_suffix(f".{chosen}{embedded.suffix}")


def check_servers() -> None:
    """Raises ProfileError when a server of the profile does not answer; embedded has none."""
    if profile() == EMBEDDED:
        return
    for name, knock in ((REDIS, _knock_at_redis), (POSTGRES, _knock_at_postgres)):
        try:
            knock(os.environ[name])
        except Exception as error:
            raise ProfileError(
                f"{name} ({without_password(os.environ[name])}) cannot be used: {_first(error)}. "
                "Start the server or mend the variable, then run this again; what was published "
                "is as it was."
            ) from None


@contextmanager
def servers() -> Iterator[None]:
    """Any error that comes of a server being down says which one, and what to do."""
    try:
        yield
    except Exception:
        check_servers()
        raise


def without_password(value: str) -> str:
    """The value of a server's variable as it may be shown."""
    if "://" in value:
        scheme, _, rest = value.partition("://")
        user, at, place = rest.rpartition("@")
        return f"{scheme}://{user.partition(':')[0]}{at}{place.partition('?')[0]}"
    return ",".join(part for part in value.split(",") if not part.startswith("password="))


def _first(error: Exception) -> str:
    """The first line of an error; clients name host, port and user there, never the password."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _knock_at_redis(value: str) -> None:
    from redis import Redis

    place, *options = value.split(",")
    host, _, port = place.partition(":")
    chosen = dict(option.split("=", 1) for option in options)
    client = Redis(
        host=host,
        port=int(port or 6379),
        username=chosen.get("username"),
        password=chosen.get("password"),
        ssl=chosen.get("ssl") == "true",
        socket_timeout=_PATIENCE,
    )
    with client:
        client.ping()


def _knock_at_postgres(value: str) -> None:
    import psycopg

    psycopg.connect(value, connect_timeout=_PATIENCE).close()
