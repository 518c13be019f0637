"""In the team profile a person leaves Redis as well, and nobody else does."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.paths import Paths
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


@pytest.mark.usefixtures("team")
def test_everybody_leaves_redis_and_items_and_other_shops_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    name, mine, other = "0123456789abcdef" * 2, Paths("tiny"), Paths("my_tiny")
    for paths in (mine, other):
        write_features(paths, NIGHT)
        for file in (paths.features / "user_behaviour_v1").glob("*.parquet"):
            rows = pq.read_table(file)
            pq.write_table(rows.set_column(0, "user_id", pa.array([name])), file)
        store.apply(paths.shop, paths)
        store.materialize(paths, NIGHT)

    def known(paths: Paths) -> bool:
        read = store.online(paths, "user_state_v1", {"user_id": [name]})
        return any(value is not None for value in read.to_pylist()[0].values() if value != name)

    assert known(mine) and known(other)
    assert online.erase_everybody(mine) == 1 and online.erase_everybody(mine) == 0
    assert not known(mine) and known(other)
    items = store.online(mine, "recommender_v1", {"item_id": ["i1"]})
    assert items["purchases_7d"].to_pylist() == [7]
