"""What an analyst's file shows of a mart."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import disclosure
from core.paths import Paths

VISITS = st.lists(
    st.tuples(
        st.none() | st.sampled_from(["ab" * 16, "cd" * 16]), st.text("v0123456789", min_size=1)
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(autouse=True)
def _var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    monkeypatch.setenv("PERENNIAL_PSEUDONYM_KEY", "a key for tests only")


def _shown(rows: list[tuple[str | None, str]]) -> list[tuple[str | None, str]]:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE mart (n INTEGER, user_id VARCHAR, visitor_key VARCHAR)")
        connection.executemany(
            "INSERT INTO mart VALUES (?, ?, ?)",
            [(n, user, user or f"session:{visit}") for n, (user, visit) in enumerate(rows)],
        )
        disclosure.prepare(connection, Paths("small"))
        columns = disclosure.shown(connection, "mart")
        return connection.execute(
            f"SELECT {columns['user_id']}, {columns['visitor_key']} FROM mart ORDER BY n"
        ).fetchall()


@settings(max_examples=25, deadline=None)
@given(rows=VISITS)
def test_guests_stay_told_apart_and_their_own_ids_do_not_come_through(rows):
    shown = _shown(rows)
    assert all(key == user for user, key in shown if user)
    guests = [(visit, key) for (user, visit), (_, key) in zip(rows, shown, strict=True) if not user]
    assert len(set(guests)) == len({visit for visit, _ in guests}) == len({k for _, k in guests})
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for _, key in guests)
    assert _shown(rows) == shown


def test_a_guests_key_cannot_be_repeated_without_the_shops_key(monkeypatch):
    before = _shown([(None, "v1")])
    monkeypatch.setenv("PERENNIAL_PSEUDONYM_KEY", "another key for tests")
    assert _shown([(None, "v1")]) != before


def test_free_text_is_in_no_list_of_columns():
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE mart (user_id VARCHAR, query VARCHAR, title VARCHAR)")
        assert list(disclosure.shown(connection, "mart")) == ["user_id", "title"]


def test_a_user_id_that_is_no_pseudonym_is_found():
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE good AS SELECT repeat('ab', 16) AS user_id")
        connection.execute("CREATE TABLE guests AS SELECT NULL::VARCHAR AS user_id")
        connection.execute(
            "CREATE TABLE bad AS SELECT unnest([repeat('ab', 16), 'C000814']) AS user_id"
        )
        assert disclosure.raw_ids(connection, "memory", date(1970, 1, 1)) == ["bad"]
