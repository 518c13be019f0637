"""The tiny shop with one published night, made once for all fault tests."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.state import state
from tests.faults.tiny import TONIGHT, YESTERDAY, Calm, Nights, make_clone, write_raw


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the shops `tiny` and `other`, and the raw files of both."""
    folder = make_clone(tmp_path_factory.mktemp("clone"), "tiny", "other")
    write_raw(folder / "raw")
    return folder


@pytest.fixture(scope="session")
def published(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """The night YESTERDAY of the tiny shop is published; tests copy it."""
    nights = Nights(clone, tmp_path_factory.mktemp("published") / "var")
    ran = nights.run(YESTERDAY, "--data", str(clone / "raw"))
    assert ran.code == 0, ran.out
    return nights


@pytest.fixture(scope="session")
def undisturbed(published: Nights, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """TONIGHT, run once without a fault; tests may read it but must not change it."""
    nights = published.copy(tmp_path_factory.mktemp("undisturbed") / "var")
    began = time.monotonic()
    ran = nights.run(TONIGHT)
    assert ran.code == 0, ran.out
    return Calm(nights, state(nights), time.monotonic() - began)


@pytest.fixture
def nights(published: Nights, tmp_path: Path) -> Nights:
    """A copy of the published night that a test may harm."""
    return published.copy(tmp_path / "var")
