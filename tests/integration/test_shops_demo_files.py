"""The demo shop's raw files: the same bytes whenever they are made, and what ingestion finds."""

import hashlib
import re
from datetime import date, timedelta
from pathlib import Path

import pytest

from core.paths import Paths
from core.shop import ROOT, load_shop
from ingest.landing import land
from ingest.raw import find_files
from shops.demo import delivery, source

FIRST, NIGHT = date(2026, 1, 20), date(2026, 1, 30)


def content(raw: Path) -> dict[str, str]:
    """Hash of every raw file, but for the truth as of the last night."""
    return {
        path.relative_to(raw).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in raw.rglob("*")
        if path.is_file() and path.parent not in (raw, raw / source.TRUTH)
    }


def truth(raw: Path) -> dict[str, str]:
    """Hash of every table of the truth as of the last night."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (raw / source.TRUTH).glob("*.parquet")
    }


def times(raw: Path) -> dict[str, int]:
    return {name: (raw / name).stat().st_mtime_ns for name in content(raw)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("raw")
    source.fetch(raw, NIGHT, "small")
    return raw


def test_there_is_a_file_of_events_for_every_day(files: Path) -> None:
    days = (NIGHT - date(2026, 1, 1)).days + 1
    assert sorted(path.stem for path in (files / "events").iterdir()) == [
        (date(2026, 1, 1) + timedelta(number)).isoformat() for number in range(days)
    ]
    assert {path.split("/")[0] for path in content(files)} == {*source.KINDS, source.TRUTH}
    assert truth(files).keys() == {"users.parquet", "items.parquet", "experiment.parquet"}
    assert not list(files.rglob(".*.part"))


def test_a_later_night_adds_files_and_leaves_the_others(files: Path, tmp_path: Path) -> None:
    source.fetch(tmp_path, FIRST, "small")
    before = times(tmp_path)
    source.fetch(tmp_path, NIGHT, "small")
    after = times(tmp_path)
    assert {name: after[name] for name in before} == before, "not even written again"
    assert content(tmp_path) == content(files), "the same bytes as in one go"
    assert truth(tmp_path) == truth(files)


def test_a_second_time_it_does_nothing_and_says_so(files: Path) -> None:
    before = times(files)
    summary = source.fetch(files, NIGHT, "small")
    assert summary and "already here" in summary
    assert "already here" in (source.fetch(files, FIRST, "small") or "")
    assert times(files) == before


def test_a_lost_or_spoilt_file_comes_back(files: Path) -> None:
    before, told = content(files), truth(files)
    (files / "truth" / "users.parquet").unlink()
    (files / "events" / "2026-01-03.parquet").unlink()
    (files / "catalogue" / "2026-01-01.csv").write_text("spoilt")
    source.fetch(files, NIGHT, "small")
    assert content(files) == before and truth(files) == told


def test_no_part_of_the_platform_knows_where_the_truth_lies(files: Path) -> None:
    """No room names the folder, and no pattern of the shop's own raw files matches in it."""
    for room in ("core", "ingest", "dbt_project", "feature_repo", "ml", "audit", "orchestration",
                 "reports"):  # fmt: skip
        for path in (ROOT / room).rglob("*"):
            if path.suffix in {".py", ".sql", ".yml", ".yaml", ".toml"}:
                text = path.read_text()
                assert "demo.truth" not in text and not re.search(r"[\"'/]truth[\"'/]", text), path
    found = find_files(load_shop("demo"), files)
    assert found.keys() == set(source.KINDS)
    assert not any(name.startswith(source.TRUTH) for names in found.values() for name in names)


def test_another_scale_leaves_nothing_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.fetch(tmp_path, FIRST, "small")
    small = content(tmp_path)
    tiny = source.SCALES["small"].__class__(200, 80)
    monkeypatch.setitem(source.SCALES, "tiny", tiny)
    source.fetch(tmp_path, date(2026, 1, 5), "tiny")
    assert not content(tmp_path).items() & small.items()
    assert not (tmp_path / "events" / "2026-01-06.parquet").exists()
    source.fetch(tmp_path, FIRST, "small")
    assert content(tmp_path) == small


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="small, default, large"):
        source.fetch(tmp_path, NIGHT, "huge")


def test_ingestion_finds_what_went_wrong_and_nothing_else(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_VAR", str(tmp_path))
    paths = Paths("demo")
    paths.home.mkdir(parents=True)
    paths.raw.symlink_to(files)
    landed = land(load_shop("demo"), paths, NIGHT)
    events = landed.tables["events"]
    assert events.mapped == (
        events.landed + events.deduplicated + events.quarantined + events.excluded + events.later
    )
    assert events.excluded == events.later == 0
    assert events.quarantined / events.mapped == pytest.approx(delivery.BROKEN, rel=0.3)
    assert events.deduplicated / events.mapped == pytest.approx(delivery.TWICE, rel=0.3)
    for name in ("items", "reviews", "messages"):
        table = landed.tables[name]
        assert table.landed > 0 and table.deduplicated == 0
        assert table.quarantined <= 0.05 * table.mapped
