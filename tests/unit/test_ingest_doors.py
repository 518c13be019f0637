"""Pseudonyms, the source script, the generated contract files and check-shop."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import shop as core_shop
from core.paths import Paths
from core.shop import ShopError, load_shop
from ingest import check_shop, contract
from ingest.fetch import fetch
from ingest.pseudonym import load_key, pseudonym, pseudonyms
from ingest.raw import find_files

SHOP_YML = """
name: tiny
title: Tiny
time_zone: UTC
currency: EUR
language: en
start: 2026-01-01
raw:
  log: {files: "*.csv", format: csv, columns: [number, moment, who, what, sku]}
  reviews: {files: "*.json", format: json, columns: [id, stars]}
recommender: {input_events: [view], target_events: [view], holdout_days: 1}
"""
EVENTS = """
SELECT number AS event_id, moment AS event_ts, who AS user_id, what AS event_type, sku AS item_id,
    _file, _row
FROM raw.log
"""
GOOD = """number,moment,who,what,sku
1,2026-01-01 10:00:00,ann@shop,view,mug
2,2026-01-02,bob,view,cup
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`shops/tiny` and its raw files, in one folder each; returns the folder of both."""
    monkeypatch.setattr(core_shop, "SHOPS", tmp_path / "shops")
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path / "var"))
    monkeypatch.delenv("PERENNIAL_PSEUDONYM_KEY", raising=False)
    (tmp_path / "shops" / "tiny").mkdir(parents=True)
    (tmp_path / "shops" / "tiny" / "shop.yml").write_text(SHOP_YML)
    (tmp_path / "shops" / "tiny" / "events.sql").write_text(EVENTS)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").write_text(GOOD)
    return tmp_path


def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = check_shop.main(["tiny", "--data", str(folder / "raw")])
    return code, capsys.readouterr().out


# ---- pseudonyms


def test_pseudonym_is_hmac_sha256_as_published() -> None:
    """RFC 4231, test case 2."""
    assert pseudonym(b"Jefe", "what do ya want for nothing?") == "5bdcc146bf60754e6a042426089575c7"


@settings(deadline=None)
@given(key=st.binary(min_size=16), other=st.binary(min_size=16), names=st.sets(st.text()))
def test_pseudonyms_are_stable_distinct_and_depend_on_the_key(
    key: bytes, other: bytes, names: set[str]
) -> None:
    found = pseudonyms(key, sorted(names)).to_pylist()
    assert len({row["pseudonym"] for row in found}) == len(names)
    for row in found:
        assert row["pseudonym"] == pseudonym(key, row["identity"])
        # HMAC pads a short key with zero bytes, so keys that differ only in those are one key
        if key.rstrip(b"\0") != other.rstrip(b"\0") and max(len(key), len(other)) <= 64:
            assert row["pseudonym"] != pseudonym(other, row["identity"])


def test_a_key_is_generated_once_for_the_owner_only(tiny: Path) -> None:
    paths = Paths("tiny")
    key = load_key(paths)
    assert load_key(paths) == key and len(key) == 64
    assert paths.secrets.stat().st_mode & 0o777 == 0o700
    (file,) = paths.secrets.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_key_of_the_environment_comes_first_and_must_be_long(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_PSEUDONYM_KEY", "sixteen letters!")
    assert load_key(Paths("tiny")) == b"sixteen letters!"
    assert not Paths("tiny").secrets.exists()
    monkeypatch.setenv("PERENNIAL_PSEUDONYM_KEY", "short")
    with pytest.raises(ValueError, match="PERENNIAL_PSEUDONYM_KEY is shorter"):
        load_key(Paths("tiny"))


# ---- the source script


def test_fetch_runs_the_shops_own_script_but_leaves_a_users_folder_alone(tiny: Path) -> None:
    shop, paths = load_shop("tiny"), Paths("tiny")
    assert fetch(shop, paths, date(2026, 1, 1), "small") is None
    script = tiny / "shops" / "tiny" / "source.py"
    script.write_text(
        "def fetch(raw, night, scale):\n"
        "    (raw / f'{night}.csv').write_text(scale)\n"
        "    return 'one file'\n"
    )
    assert fetch(shop, paths, date(2026, 1, 1), "small") == "one file"
    assert (paths.raw / "2026-01-01.csv").read_text() == "small"
    (paths.raw / "2026-01-01.csv").unlink()
    paths.raw.rmdir()
    paths.raw.symlink_to(tiny / "raw")
    assert fetch(shop, paths, date(2026, 1, 1), "small") is None
    assert [file.name for file in (tiny / "raw").iterdir()] == ["a.csv"]
    paths.raw.unlink()
    script.write_text("")
    with pytest.raises(ShopError, match="no function fetch"):
        fetch(shop, paths, date(2026, 1, 1), "small")


def test_hidden_and_half_written_files_are_not_raw_files(tiny: Path) -> None:
    (tiny / "raw" / ".a.csv").write_text(GOOD)
    (tiny / "raw" / "b.csv.part").write_text(GOOD)
    assert find_files(load_shop("tiny"), tiny / "raw") == {"log": ["a.csv"], "reviews": []}


# ---- the contract


def test_the_generated_files_are_those_of_the_contract() -> None:
    root = core_shop.ROOT
    sources = root / "dbt_project" / "models" / "staging" / "_sources.yml"
    assert sources.read_text() == contract.dbt_sources(), "run python -m ingest.contract"
    assert (root / "docs" / "contract.md").read_text() == contract.page()


# ---- check-shop


def test_a_good_mapping_is_ready(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(tiny, capsys)
    assert code == 0 and "\nready to run" in out
    assert "events: 2 rows, 2026-01-01 10:00:00 to 2026-01-02 00:00:00" in out
    assert "ann@shop" not in out and "raw.reviews: no file matches *.json" in out


@pytest.mark.parametrize(
    ("select", "said"),
    [
        (
            EVENTS.replace("AS user_id", "AS user_ids"),
            "column user_ids is not in the contract (is it user_id?)",
        ),
        (EVENTS.replace("number AS event_id, ", ""), "column event_id is not returned"),
        (EVENTS.replace("who", "whom"), 'Referenced column "whom" not found'),
        (EVENTS.replace("raw.log", "raw.lag"), "reads raw.lag; shop.yml has only: log, reviews"),
        (EVENTS.replace("moment AS", "'May ' || moment AS"), "event_ts_not_timestamp: 'May 2026"),
        (EVENTS.replace("number AS", "'one' AS"), "3 rows have only 1 different keys (event_id)"),
        (EVENTS.replace("what AS", "'look' AS"), "unknown_event_type"),
        (EVENTS + ";" + EVENTS, "must be one SELECT, not 2 statements"),
    ],
)
def test_what_is_wrong_with_a_select_is_said_with_its_column(
    select: str, said: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny / "raw" / "a.csv").write_text(GOOD + "3,2026-01-02,bob,view,cup\n")
    (tiny / "shops" / "tiny" / "events.sql").write_text(select)
    code, out = run(tiny, capsys)
    assert code == 1 and "put right" in out
    assert said in out


def test_a_file_that_lacks_a_column_is_named_with_those_it_has(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny / "raw" / "b.csv").write_text(GOOD.replace("who", "customer"))
    code, out = run(tiny, capsys)
    assert code == 1
    assert "b.csv: column who missing (is it now customer?)" in out
    assert "(the file has: number, moment, customer, what, sku" in out


def test_an_id_that_is_a_floating_point_number_is_warned_of(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    select = EVENTS.replace("who AS user_id", "number::DOUBLE AS user_id")
    (tiny / "shops" / "tiny" / "events.sql").write_text(select)
    code, out = run(tiny, capsys)
    assert code == 0 and "user_id is a floating-point number" in out


def test_no_data_no_shop_and_a_wrong_setting_say_what_to_do(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_shop.main(["tiny", "--data", str(tiny / "nowhere")]) == 1
    assert "no raw files in" in capsys.readouterr().out
    assert check_shop.main(["tony"]) == 1
    assert "no shop 'tony'" in capsys.readouterr().out
    (tiny / "shops" / "tiny" / "shop.yml").write_text(SHOP_YML + "colour: red\n")
    assert check_shop.main(["tiny"]) == 1
    assert "colour" in capsys.readouterr().out
