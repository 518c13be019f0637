"""The team profile on a real Redis and PostgreSQL: several machines, and servers that are down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from core.paths import Paths
from core.profile import ProfileError, check_servers, settings_file, without_password
from core.shop import ROOT
from feature_repo import definitions, store
from tests.conftest import Place, Ran
from tests.servers import PASSWORD, Servers, free_port

NIGHT = date(2026, 3, 4)


@pytest.fixture
def team(team_servers: Servers, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a profile in which nothing was applied yet; it is set."""
    environment = team_servers.fresh()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


def machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Paths:
    """The shop's paths on one of several machines, each with its own `var/`."""
    monkeypatch.setenv("PERENNIAL_VAR", str(folder))
    return Paths("tiny")


def write_features(paths: Paths, night: date, embedding: float = 0.5) -> None:
    """One row a view: of u1 and i1, every number 7."""
    known = pa.array([store.night_end(night).replace(tzinfo=None)], pa.timestamp("us"))
    for view in definitions.VIEWS:
        columns = {field.name: pa.array([7]) for field in view.features}
        if "embedding" in columns:
            columns = {"embedding": pa.array([[embedding] * 384], pa.list_(pa.float32()))}
        columns = {view.join_keys[0]: pa.array([view.join_keys[0][0] + "1"]), **columns}
        path = paths.features / view.name / "part.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({**columns, "event_timestamp": known}), path)


@pytest.mark.faults
def test_one_machine_writes_and_another_reads(
    team: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second machine has no file of the first: registry and values come from the servers."""
    first = machine(monkeypatch, tmp_path / "first")
    write_features(first, NIGHT)
    store.apply("tiny", first)
    store.materialize(first, NIGHT)
    written = store.online(first, "recommender_v1", {"item_id": ["i1", "unknown"]})

    other = {**os.environ, "PERENNIAL_VAR": str(tmp_path / "second")}
    code = (
        "from core.paths import Paths; from feature_repo import store;"
        "print(store.online(Paths('tiny'), 'recommender_v1', {'item_id': ['i1', 'unknown']})"
        ".to_pylist())"
    )
    read = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env=other,
        capture_output=True,
        text=True,
        check=True,
    )

    assert read.stdout.strip() == str(written.to_pylist())
    known, unknown = written.to_pylist()
    assert known["purchases_7d"] == 7 and len(known["embedding"]) == 384
    assert set(unknown.values()) == {"unknown", None}
    second = tmp_path / "second" / "tiny"
    assert not [path for path in second.rglob("*") if path.is_file()]


def test_two_shops_on_the_same_servers_do_not_meet(
    team: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    one, two = Paths("one"), Paths("two")
    for paths, embedding in ((one, 0.25), (two, 0.75)):
        write_features(paths, NIGHT, embedding)
        store.apply(paths.shop, paths)
        store.materialize(paths, NIGHT)

    found = [
        store.online(paths, "recommender_v1", {"item_id": ["i1"]})["embedding"][0][0].as_py()
        for paths in (one, two)
    ]

    assert found == [0.25, 0.75]


def test_reads_leave_no_connections_and_keys_end(
    team: dict[str, str], team_servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = machine(monkeypatch, tmp_path)
    write_features(paths, NIGHT)
    store.apply("tiny", paths)
    store.materialize(paths, NIGHT)
    for _ in range(15):
        store.online(paths, "user_state_v1", {"user_id": ["u1"]})

    with psycopg.connect(team["PERENNIAL_POSTGRES_URL"]) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        ).fetchone()
    assert row is not None and row[0] < 6, "a read leaves its connection open"
    redis = team_servers.client()
    keys = list(redis.scan_iter())
    assert len(keys) == 2  # u1 and i1
    assert all(0 < redis.ttl(key) <= 30 * 86_400 for key in keys)
    assert len(redis.client_list()) < 6, "a read leaves its connection open"


@pytest.mark.parametrize("server", ["PERENNIAL_REDIS", "PERENNIAL_POSTGRES_URL"])
def test_a_server_that_is_down_is_named_without_its_password(
    team: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    paths = machine(monkeypatch, tmp_path)
    write_features(paths, NIGHT)
    store.apply("tiny", paths)
    old = team[server].rpartition(":")[2].partition("/")[0].partition(",")[0]
    port = free_port()
    monkeypatch.setenv(server, team[server].replace(old, str(port)))

    for call in (
        lambda: store.materialize(paths, NIGHT),
        lambda: store.online(paths, "user_state_v1", {"user_id": ["u1"]}),
    ):
        with pytest.raises(ProfileError) as caught:
            call()
        said = str(caught.value)
        assert said.startswith(f"{server} (") and f"127.0.0.1:{port}" in said
        assert "Start the server or mend the variable" in said and PASSWORD not in said


def test_a_night_with_a_server_down_is_refused_and_changes_nothing(
    team: dict[str, str], tmp_path: Path
) -> None:
    place = Place(tmp_path)
    place.home().mkdir()
    marts = place.home() / "marts.duckdb"
    marts.write_bytes(b"last night's")
    down = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{free_port()}/test"

    ran = place("run", "--shop", "demo", "--scale", "small", PERENNIAL_POSTGRES_URL=down)

    assert ran.code == 2, ran.out
    assert "PERENNIAL_POSTGRES_URL (postgresql://postgres@127.0.0.1:" in ran.out
    assert PASSWORD not in ran.out and "Traceback" not in ran.out
    assert marts.read_bytes() == b"last night's"


def test_a_wrong_password_is_told_apart(
    team: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PERENNIAL_REDIS", "PERENNIAL_POSTGRES_URL"):
        with monkeypatch.context() as patch:
            patch.setenv(name, team[name].replace(PASSWORD, "another-secret"))
            with pytest.raises(ProfileError, match=r"(?i)invalid username-password|password auth"):
                check_servers()
    check_servers()


def test_a_profile_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_PROFILE", "cluster")
    with pytest.raises(ProfileError, match="there are embedded and team"):
        check_servers()
    monkeypatch.setenv("PERENNIAL_PROFILE", "team")
    monkeypatch.delenv("PERENNIAL_REDIS", raising=False)
    with pytest.raises(ProfileError, match="needs PERENNIAL_REDIS, such as host:6379"):
        settings_file(ROOT / "dagster.yaml")
    monkeypatch.delenv("PERENNIAL_PROFILE")
    assert settings_file(ROOT / "dagster.yaml") == ROOT / "dagster.yaml"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("postgresql://me:se@cret@db:5432/p?password=x", "postgresql://me@db:5432/p"),
        ("postgresql://db/p", "postgresql://db/p"),
        ("redis:6379,db=1,password=a=b", "redis:6379,db=1"),
    ],
)
def test_passwords_are_not_shown(value: str, shown: str) -> None:
    assert without_password(value) == shown


def test_the_profiles_differ_in_their_servers_only() -> None:
    """What is added to one profile's settings must not be forgotten in the other's."""
    for file, servers in (
        (ROOT / "dagster.yaml", {"storage"}),
        (ROOT / "feature_repo" / "feature_store.yaml", {"registry", "online_store"}),
    ):
        embedded, team = (
            {k: v for k, v in yaml.safe_load(each.read_text()).items() if k not in servers}
            for each in (file, file.with_suffix(".team.yaml"))
        )
        assert embedded == team


@pytest.mark.faults
def test_a_night_keeps_its_runs_in_postgresql_and_its_features_in_redis(
    team: dict[str, str],
    team_servers: Servers,
    demo_night: tuple[Place, Ran],
    tmp_path: Path,
) -> None:
    """A shop whose nights were embedded so far goes over to the team profile."""
    embedded, _ = demo_night
    place = Place(tmp_path / "var")
    shutil.copytree(embedded.var, place.var, symlinks=True)
    shutil.rmtree(place.var / "dagster")
    shutil.rmtree(place.home() / "feast")

    ran = place("run", "--shop", "demo", "--scale", "small", "--force")

    assert ran.code == 0, ran.out
    with psycopg.connect(team["PERENNIAL_POSTGRES_URL"]) as connection:
        assert connection.execute("SELECT status FROM runs").fetchall() == [("SUCCESS",)]
        events = connection.execute("SELECT count(*) FROM event_logs").fetchone()
        views = connection.execute("SELECT feature_view_name FROM feature_views").fetchall()
    assert events is not None and events[0] > 100
    assert {name for (name,) in views} == {view.name for view in definitions.VIEWS}
    assert team_servers.client().dbsize() > 100
    assert not list((place.var / "dagster").rglob("*.db")), "Dagster wrote to SQLite all the same"
    assert not list((place.home() / "feast").iterdir())
    files = [path for path in place.var.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
