"""The digest that decides whether a published file has changed."""

from pathlib import Path

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.publish import content_hash

ROWS = st.lists(st.tuples(st.integers(-5, 5), st.none() | st.text("ab'\n", max_size=3)), max_size=6)


def _file(folder: Path, name: str, rows: list[tuple[int, str | None]], comment: str = "c") -> Path:
    path = folder / name
    path.unlink(missing_ok=True)
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE t (a INTEGER, b VARCHAR)")
        connection.execute(f"COMMENT ON TABLE t IS '{comment}'")
        if rows:
            connection.executemany("INSERT INTO t VALUES (?, ?)", rows)
    return path


@settings(max_examples=20, deadline=None)
@given(one=ROWS, other=ROWS)
def test_two_files_have_one_digest_exactly_when_their_rows_are_the_same(
    tmp_path_factory, one, other
):
    folder = tmp_path_factory.mktemp("digest")
    digests = [
        content_hash(_file(folder, f"{i}.duckdb", rows)) for i, rows in enumerate([one, other])
    ]

    def in_order(rows):
        return sorted(rows, key=repr)

    assert (digests[0] == digests[1]) == (in_order(one) == in_order(other))
    assert digests[0] == content_hash(_file(folder, "again.duckdb", one))


def test_a_changed_comment_or_type_changes_the_digest(tmp_path):
    rows = [(1, "a")]
    before = content_hash(_file(tmp_path, "a.duckdb", rows))
    assert before != content_hash(_file(tmp_path, "b.duckdb", rows, comment="other"))
    widened = _file(tmp_path, "c.duckdb", rows)
    with duckdb.connect(str(widened)) as connection:
        connection.execute("ALTER TABLE t ALTER a TYPE BIGINT")
    assert before != content_hash(widened)
