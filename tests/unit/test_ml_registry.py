"""Versions, promotion and going back: what a night and a person on duty rely on."""

from datetime import date

import pytest

from ml import ModelError, registry

JAN, FEB, MAR = date(2026, 1, 31), date(2026, 2, 28), date(2026, 3, 31)


def add(models, version, night=JAN):
    about = {"night": night.isoformat(), "ndcg_at_10": 0.1}
    registry.add(models, "recommender", version, about, lambda at: (at / "w").write_text(version))


def test_a_night_has_the_champion_of_its_time(tmp_path):
    for version, night in (("a", JAN), ("c", MAR), ("b", FEB)):  # February is backfilled last
        add(tmp_path, version, night)
        registry.promote(tmp_path, "recommender", version, night)
    assert registry.champion(tmp_path, "recommender", date(2026, 1, 1)) is None
    assert registry.champion(tmp_path, "recommender", JAN) == "a"
    assert registry.champion(tmp_path, "recommender", date(2026, 3, 30)) == "b"
    assert registry.champion(tmp_path, "recommender") == "c"


def test_promoting_twice_changes_nothing(tmp_path):
    add(tmp_path, "a")
    registry.promote(tmp_path, "recommender", "a", JAN)
    before = (tmp_path / "recommender" / registry.POINTER).read_bytes()
    registry.promote(tmp_path, "recommender", "a", JAN)
    assert (tmp_path / "recommender" / registry.POINTER).read_bytes() == before


def test_rollback_from_the_command_line(tmp_path, capsys):
    for version, night in (("a", JAN), ("b", FEB)):
        add(tmp_path, version, night)
        registry.promote(tmp_path, "recommender", version, night)
    call = ["--models", str(tmp_path), "recommender"]
    assert registry.main(["rollback", *call]) == 0
    assert "b is champion no more, a is back" in capsys.readouterr().out
    assert registry.champion(tmp_path, "recommender") == "a"
    assert registry.main(["list", *call]) == 0
    assert "* a" in capsys.readouterr().out
    assert registry.main(["rollback", *call]) == 1
    assert "no earlier champion" in capsys.readouterr().out
    assert registry.champion(tmp_path, "recommender") == "a"


def test_a_version_that_failed_half_way_is_not_there(tmp_path):
    def fail(folder):
        (folder / "w").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        registry.add(tmp_path, "recommender", "a", {"night": "x"}, fail)
    assert registry.versions(tmp_path, "recommender") == []
    with pytest.raises(ModelError, match="no version a"):
        registry.promote(tmp_path, "recommender", "a", JAN)
    add(tmp_path, "a")
    assert registry.versions(tmp_path, "recommender") == ["a"]
