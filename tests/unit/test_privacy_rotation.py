"""A new key for the pseudonyms: other names, the same shop, and nothing left under the old ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.paths import Paths
from core.shop import Shop, ShopError
from ingest.landing import land
from ingest.pseudonym import VARIABLE, key_file, load_key, pseudonym
from privacy import PrivacyError
from privacy.forget import forget
from privacy.rotation import awaits_a_night, rotate
from tests.unit.test_ingest_landing import (
    EVENTS,
    NIGHT,
    all_text,
    line,
    make_shop,
    put,
    query,
)

PEOPLE = ("ann", "bob", "cyd", "")
REVIEWS = """
SELECT 'r' || no AS review_id, moment AS event_ts, who AS user_id, sku AS item_id, 5 AS rating,
    'fine' AS "text", _file, _row FROM raw.log WHERE no::INTEGER % 2 = 0
"""
PER_DAY = "SELECT day, count(*) FROM $events GROUP BY day ORDER BY day"
REVIEWS_PER_DAY = PER_DAY.replace("$events", "$reviews")
PER_USER = "SELECT count(*) FROM $events WHERE user_id IS NOT NULL GROUP BY user_id ORDER BY 1"
ASIDE = "SELECT kind, reason, count(*) FROM $quarantine GROUP BY ALL ORDER BY ALL"
USERS = "SELECT DISTINCT user_id FROM $events WHERE user_id IS NOT NULL"


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shop that has landed and published."""
    folder = tmp_path_factory.mktemp("landed")
    with pytest.MonkeyPatch.context() as patch:
        tiny, paths = make_shop(folder, patch, events=EVENTS, reviews=REVIEWS)
        patch.delenv(VARIABLE)
        fill(paths)
        land(tiny, paths, NIGHT)
        a_night(paths)
    return folder


@pytest.fixture
def shop(landed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Shop, Paths]:
    """A copy of that shop, to change."""
    shutil.copytree(landed, tmp_path, dirs_exist_ok=True)
    tiny, paths = make_shop(tmp_path, monkeypatch, events=EVENTS, reviews=REVIEWS)
    monkeypatch.delenv(VARIABLE)
    return tiny, paths


def fill(paths: Paths) -> None:
    """Raw files of four shoppers, one of them a guest, with rows that do not land."""
    for day in (2, 3, 4):
        rows = [
            line(100 * day + 10 * n + again, f"2026-01-0{day} 1{n}:0{again}:00", who)
            for n, who in enumerate(PEOPLE)
            for again in range(n + 1)
        ]
        rows += [rows[0], line(99 + day, f"2026-01-0{day} 09:00:00", "cyd", what="dance")]
        put(paths, f"{day}.csv", *rows, line(90 + day, "whenever", "ann"))


def a_night(paths: Paths) -> None:
    """What a night leaves under the pseudonyms of today."""
    name = pseudonym(load_key(paths), "ann")
    for file in (
        "marts.duckdb",
        "published/2026-01-04/marts.duckdb",
        "published/2026-01-05/marts.duckdb",
        "published.json",
        "warehouse.duckdb",
        "warehouse.json",
        "audit/2026-01-05/landing.json",
        "reports/2026-01-05/sample.csv",
        "reports/index.html",
        "nights/2026-01-05/landing.json",
        "feast/online.db",
        "feast/registry.db",
    ):
        (paths.home / file).parent.mkdir(parents=True, exist_ok=True)
        (paths.home / file).write_text("views" if "registry" in file else f"{name}\n")
    for file, ids in (
        ("recommendations/2026-01-05.parquet", {"user_id": [name]}),
        ("campaigns/2026-01-05/chosen.parquet", {"user_id": [name]}),
        ("campaigns/campaign_audience.parquet", {"user_id": [name]}),
        ("features/behaviour_v1/2026-01-05.parquet", {"user_id": [name]}),
        ("features/texts_v1/part.parquet", {"item_id": ["mug"]}),
    ):
        (paths.home / file).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(ids), paths.home / file)


def figures(paths: Paths) -> list[list[tuple]]:
    """Rows by table and day, events by shopper, and what was put aside."""
    reviews = f"read_parquet('{paths.landing}/reviews/*/*.parquet', hive_partitioning = true)"
    selects = (PER_DAY, REVIEWS_PER_DAY.replace("$reviews", reviews), PER_USER, ASIDE)
    return [query(paths, select) for select in selects]


def users(paths: Paths) -> set[str]:
    return {name for (name,) in query(paths, USERS)}


def test_everybody_has_another_name_and_nothing_else_changes(shop: tuple[Shop, Paths]) -> None:
    tiny, paths = shop
    before = figures(paths)
    counts = land(tiny, paths, NIGHT).tables
    assert counts["events"].quarantined and counts["events"].deduplicated
    old, old_key = users(paths), load_key(paths)
    published = paths.marts.read_bytes()
    gone = rotate(tiny, paths)
    assert gone["published"] == ["2026-01-04", "2026-01-05"]
    assert gone["features"] == ["behaviour_v1"] and gone["feast"] == ["online.db"]
    assert load_key(paths) != old_key and len(load_key(paths)) == 64
    assert key_file(paths).stat().st_mode & 0o777 == 0o600
    assert [file.name for file in paths.secrets.iterdir()] == [key_file(paths).name]
    assert paths.marts.read_bytes() == published  # analysts keep it until the next night

    after = land(tiny, paths, NIGHT)
    assert after.changed and after.tables == counts
    assert figures(paths) == before
    assert len(users(paths)) == len(old) == 3 and not users(paths) & old
    assert users(paths) == {pseudonym(load_key(paths), who) for who in PEOPLE if who}
    paths.marts.unlink()
    left = all_text(paths)
    assert not [name for name in old if name in left] and old_key.decode() not in left
    assert "views" in left and "mug" in left
    assert not land(tiny, paths, NIGHT).changed


def test_nobody_can_be_erased_until_a_night_has_replaced_the_published_file(
    shop: tuple[Shop, Paths],
) -> None:
    tiny, paths = shop
    rotate(tiny, paths)
    there = (paths.raw / "log" / "2.csv").read_bytes()
    with pytest.raises(PrivacyError, match="run the night"):
        forget(tiny, paths, "ann", lambda text: None)
    assert (paths.raw / "log" / "2.csv").read_bytes() == there
    land(tiny, paths, NIGHT)
    new = paths.marts.with_suffix(".next")
    with duckdb.connect(str(new)) as made:
        made.execute("CREATE TABLE t AS SELECT ? AS user_id", [pseudonym(load_key(paths), "ann")])
    new.replace(paths.marts)
    assert forget(tiny, paths, "ann", lambda text: None).removed["marts.duckdb"] == 1
    assert len(users(paths)) == 2


class Killed(BaseException):
    """The process is gone: nothing may catch it."""


@pytest.mark.parametrize(
    "step", [1, 9, 15, *(pytest.param(n, marks=pytest.mark.faults) for n in range(2, 17))]
)
def test_killed_at_any_step_and_run_again(
    shop: tuple[Shop, Paths], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    tiny, paths = shop
    old, old_key = users(paths), load_key(paths)
    left = [step]

    def dying(original):  # type: ignore[no-untyped-def]
        def call(*args, **options):  # type: ignore[no-untyped-def]
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return original(*args, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        try:
            rotate(tiny, paths)
            done = True
        except Killed:
            done = False
    assert done == (left[0] > 0)
    # whenever it was killed, the next night does not take itself for published already
    assert step == 1 or not paths.published_record.exists()
    if not done:
        assert load_key(paths) == old_key  # the key comes last: until then all fits together
        rotate(tiny, paths)
    assert load_key(paths) != old_key and awaits_a_night(paths)
    land(tiny, paths, NIGHT)
    paths.marts.unlink()
    text = all_text(paths)
    assert not [name for name in old if name in text]


def test_what_cannot_be_rotated_is_refused_and_nothing_changes(
    shop: tuple[Shop, Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, paths = shop
    before = all_text(paths)

    def refused(why: str) -> None:
        with pytest.raises(ShopError, match=why):
            rotate(tiny, paths)
        assert all_text(paths) == before

    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, "a key that is only for tests")
        refused(f"{VARIABLE} is set")
    (paths.raw / "log" / "3.csv").rename(paths.home.parent / "3.csv")
    refused(r"1 raw files had landed and are gone .* log/3\.csv")
    (paths.home.parent / "3.csv").rename(paths.raw / "log" / "3.csv")
    aside = paths.home.with_name("tiny.replaced")
    aside.mkdir()
    refused(r"tiny\.replaced")
    aside.rmdir()
    rotate(tiny, paths)


def test_a_shop_without_a_night_has_nothing_to_rotate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, paths = make_shop(tmp_path, monkeypatch)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ShopError, match="no pseudonym key yet"):
        rotate(tiny, paths)
    assert not paths.secrets.exists()


def test_a_lost_key_is_not_silently_replaced(
    shop: tuple[Shop, Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, paths = shop
    old = users(paths)
    key = key_file(paths).read_text()
    key_file(paths).unlink()
    before = all_text(paths)
    with pytest.raises(ShopError, match=r"bring the file back.*make rotate-key SHOP=tiny"):
        land(tiny, paths, NIGHT)
    assert all_text(paths) == before
    # either way out: the key is brought back, or everybody gets another name
    key_file(paths).write_text(key)
    assert not land(tiny, paths, NIGHT).changed
    key_file(paths).unlink()
    rotate(tiny, paths)
    land(tiny, paths, NIGHT)
    assert len(users(paths)) == len(old) and not users(paths) & old
