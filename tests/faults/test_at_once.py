"""Two nights at once: one runs, the other is refused or waits; and a killed one frees its place."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dagster._core.storage.tags import PARTITION_NAME_TAG

from tests.faults.state import runs, state
from tests.faults.tiny import TONIGHT, Calm, Nights, kill

pytestmark = pytest.mark.faults


def test_of_two_nights_at_once_one_runs_and_one_is_refused(
    nights: Nights, undisturbed: Calm, tmp_path: Path
) -> None:
    # the second names another folder of raw files, which the first must not get to see
    (tmp_path / "elsewhere").mkdir()
    command = ("run", "--shop", "tiny", "--night", str(TONIGHT), "--data")
    folders = (nights.clone / "raw", tmp_path / "elsewhere")
    first = nights.start(*command, str(folders[0]))
    _until(lambda: _holder(nights) == first.pid, 120)
    second = nights.start(*command, str(folders[1]))
    refused = second.communicate()[0]
    said = first.communicate()[0]
    assert (first.returncode, second.returncode) == (0, 1), said + refused
    assert f"is running already (process {first.pid})" in refused
    assert state(nights) == undisturbed.state
    assert (nights.home / "raw").resolve() == folders[0].resolve()


def test_nights_of_two_shops_at_once_both_run(nights: Nights, undisturbed: Calm) -> None:
    raw = str(nights.clone / "raw")
    started = [
        nights.start("run", "--shop", shop, "--night", str(TONIGHT), "--data", raw)
        for shop in ("tiny", "other")
    ]
    said = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    assert state(nights) == undisturbed.state
    assert (nights.var / "other" / "marts.duckdb").exists()


def test_the_queue_goes_on_after_kills(nights: Nights, undisturbed: Calm) -> None:
    """Runs that the daemon starts wait for each other, and a killed one frees its pool slot."""
    with _ui(nights) as launch:
        first, second = launch(), launch()
        _until(lambda: _holder(nights) is not None, 300)
        assert runs(nights)[first] == "STARTED"
        assert runs(nights)[second] == "QUEUED"
        by_hand = nights.run(TONIGHT)
        assert by_hand.code == 1
        assert "is running already" in by_hand.out
        os.kill(_holder(nights) or 0, signal.SIGKILL)
        _until(lambda: runs(nights)[first] == "FAILURE", 120)
        _until(lambda: runs(nights)[second] == "STARTED", 300)
    # Dagster itself was killed with the run in it, and knows nothing of its end
    assert runs(nights)[second] == "STARTED"
    with _ui(nights) as launch:
        third = launch()
        _until(lambda: runs(nights)[third] == "SUCCESS", 900)
    assert runs(nights)[second] == "FAILURE"
    assert state(nights) == undisturbed.state


@contextmanager
def _ui(nights: Nights) -> Iterator[Callable[[], str]]:
    """`make ui`, killed at the end; gives what puts a run of TONIGHT into the queue."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = nights.start("ui", "--port", str(port), log=nights.var / "ui.log")
    try:
        _until(lambda: _answers(port), 300)
        yield lambda: _launch(port)
    finally:
        kill(process)


def _launch(port: int) -> str:
    from dagster_graphql import DagsterGraphQLClient

    client = DagsterGraphQLClient("127.0.0.1", port_number=port)
    return client.submit_job_execution("tiny_night", tags={PARTITION_NAME_TAG: str(TONIGHT)})


def _answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _holder(nights: Nights) -> int | None:
    """The process that runs a night, as its lock says."""
    with (nights.home / ".lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(lock.read() or 0) or None
    return None


def _until(true: Callable[[], bool], seconds: int) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.5)
