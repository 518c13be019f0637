"""docker-compose.yml: the settings of the team profile, and no password in a file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.profile import POSTGRES, REDIS, TEAM, without_password
from core.shop import ROOT
from orchestration.lib.commands import prepare_environment

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def filled_in(value: str) -> str:
    """A value as compose fills it in when every password is `secret`."""
    return re.sub(r"\$\{(\w+)(:[?-][^}]*)?\}", "secret", value)


@pytest.mark.parametrize("name", ["webserver", "daemon"])
def test_dagster_runs_in_the_team_profile(name: str) -> None:
    service = COMPOSE["services"][name]
    settings = {key: filled_in(value) for key, value in service["environment"].items()}

    assert settings["PERENNIAL_PROFILE"] == TEAM
    assert without_password(settings[REDIS]) == "redis:6379"
    assert without_password(settings[POSTGRES]) == "postgresql://perennial@postgres:5432/perennial"
    assert set(service["depends_on"]) == {"redis", "postgres"} <= set(COMPOSE["services"])
    assert service["build"] == "." and "workspace.yaml" in service["command"]
    assert (Path(sys.executable).parent / service["command"][0]).is_file()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    for mount in service["volumes"]:
        volume, _, place = mount.partition(":")
        assert volume in COMPOSE["volumes"] and settings["PERENNIAL_VAR"] == place
    assert settings["DAGSTER_HOME"] == f"{place}/dagster"
    assert f"cp dagster.team.yaml {place}/dagster/dagster.yaml" in DOCKERFILE


def test_passwords_come_from_the_environment_and_must_be_set() -> None:
    """Each is required where its server starts, and named, empty, in .env.example."""
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if not line.startswith("#")
    )
    text = (ROOT / "docker-compose.yml").read_text()
    assert example == {"REDIS_PASSWORD": "", "POSTGRES_PASSWORD": ""}
    for name in example:
        assert f"${{{name}:?" in text
        assert not re.search(rf"{name}: (?!\$\{{)", text), f"{name} is written down"
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert ".env" in (ROOT / ".dockerignore").read_text().splitlines()


def test_no_library_reports_its_use_from_the_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The image does not start through the command line that turns telemetry off."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", kept | {"PERENNIAL_VAR": str(tmp_path)})
        prepare_environment()
        made = {k: v for k, v in os.environ.items() if k not in kept}
    for name in ("PERENNIAL_VAR", "DAGSTER_HOME"):
        del made[name]
    assert len(made) > 5
    for name, value in made.items():
        assert f"{name}={value}" in DOCKERFILE


def test_compose_itself_accepts_the_file(tmp_path: Path) -> None:
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    done = subprocess.run(
        ["docker-compose", "-f", str(ROOT / "docker-compose.yml"), "config", "--quiet"],
        env={"PATH": os.environ["PATH"], "REDIS_PASSWORD": "a", "POSTGRES_PASSWORD": "b"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
