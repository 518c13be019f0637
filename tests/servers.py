"""A real Redis and a real PostgreSQL on loopback, from the machine's own packages.

PostgreSQL refuses to run as root, so root starts it as the user that its package made.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg
from redis import Redis

PASSWORD = "only-for-these-tests"
_numbers = count(1)


@dataclass(frozen=True)
class Servers:
    """Both servers; `fresh` gives the environment of a profile with nothing in it yet."""

    redis_port: int
    postgres_port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def fresh(self) -> dict[str, str]:
        number = next(_numbers)
        self.client(0).flushall()
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE test{number}")
        return {
            "PERENNIAL_PROFILE": "team",
            "PERENNIAL_REDIS": f"127.0.0.1:{self.redis_port},password={PASSWORD}",
            "PERENNIAL_POSTGRES_URL": self.url(f"test{number}"),
        }

    def url(self, database: str) -> str:
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.postgres_port}/{database}"

    def client(self, database: int = 0) -> Redis:
        return Redis("127.0.0.1", self.redis_port, database, password=PASSWORD)


def why_not() -> str | None:
    """What is missing to start them, or None."""
    if shutil.which("redis-server") is None:
        return "redis-server is not installed (Debian: apt-get install redis-server)"
    if _postgres_programs() is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    return None


@contextmanager
def running() -> Iterator[Servers]:
    """Both servers, with passwords, on free ports; stopped and deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="perennial-servers-"))
    servers = Servers(free_port(), free_port())
    try:
        servers.processes["redis"] = _start_redis(folder, servers.redis_port)
        servers.processes["postgres"] = _start_postgres(folder, servers.postgres_port)
        _wait(lambda: servers.client().ping())
        _wait(lambda: psycopg.connect(servers.url("postgres")).close())
        yield servers
    finally:
        for name, process in servers.processes.items():
            # PostgreSQL stops at once on SIGQUIT and lets go of its shared memory
            process.send_signal(signal.SIGQUIT if name == "postgres" else signal.SIGKILL)
            process.wait(timeout=30)
        shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _start_redis(folder: Path, port: int) -> subprocess.Popen[bytes]:
    options = {"port": port, "bind": "127.0.0.1", "requirepass": PASSWORD, "dir": folder}
    options |= {"save": "", "appendonly": "no"}
    words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL)


def _start_postgres(folder: Path, port: int) -> subprocess.Popen[bytes]:
    programs = _postgres_programs()
    assert programs is not None
    data, secret = folder / "postgres", folder / "password"
    data.mkdir(mode=0o700)
    secret.write_text(PASSWORD)
    who = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        for path in (folder, data, secret):
            os.chown(path, user.pw_uid, user.pw_gid)
        who = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    init = [
        *who,
        str(programs / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "-A",
        "scram-sha-256",
    ]
    subprocess.run(
        [*init, f"--pwfile={secret}", "-N", "-E", "UTF8", "--locale=C.UTF-8"],
        stdout=subprocess.DEVNULL,
        check=True,
        cwd=folder,
    )
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": ""}
    settings |= {"fsync": "off", "shared_buffers": "16MB", "max_connections": 60}
    words = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return subprocess.Popen(
        [*who, str(programs / "postgres"), "-D", str(data), *words],
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )


def _postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    elsewhere = shutil.which("initdb")
    return Path(elsewhere).parent if elsewhere else None


def _wait(ready, patience: float = 30.0) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + patience
    while True:
        try:
            ready()
            return
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
