"""In the team profile a person leaves Redis as well, and nobody else does."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo import store
from privacy import online
from tests.integration.test_team_servers import NIGHT, machine, team, write_features  # noqa: F401

pytestmark = pytest.mark.faults


@pytest.mark.usefixtures("team")
def test_a_person_leaves_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = machine(monkeypatch, tmp_path)
    write_features(paths, NIGHT)
    for file in (paths.features / "user_behaviour_v1").glob("*.parquet"):
        rows = pq.read_table(file)
        other = rows.set_column(0, "user_id", pa.array(["u2"]))
        pq.write_table(pa.concat_tables([rows, other]), file)
    store.apply("tiny", paths)
    store.materialize(paths, NIGHT)
    assert online.erase(paths, "u1") == {"Redis": 1}
    assert online.erase(paths, "u1") == {"Redis": 0}
    read = store.online(paths, "user_state_v1", {"user_id": ["u1", "u2"]})
    feature = next(name for name in read.column_names if name.endswith("_7d"))
    assert read[feature].to_pylist()[0] is None and read[feature].to_pylist()[1] is not None
