"""Personal data in free text: what is found, what is left alone, and that none of it is stored."""

# ruff: noqa: RUF001 (Chinese texts have letters, digits and marks of their own)

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import duckdb
import pyarrow.csv
import pyarrow.json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.paths import Paths
from ingest.landing import land
from ingest.personal_data import _CANDIDATE, mask, mask_json, region_of, told
from ingest.pseudonym import ERASED, forget_at_the_door, load_forgotten, load_key, pseudonym
from shops.demo.source import fetch
from tests.unit.test_ingest_landing import NIGHT, line, make_shop, put

PERSONAL = [  # (country of the shop, text, what it is masked as)
    ("DE", "write to Jane.Doe+shop@mail.example.co.uk, thanks", "write to [email], thanks"),
    ("DE", "mail: müller@bücher.example.de", "mail: [email]"),
    ("CN", "邮箱是zhang＠qq.com谢谢", "邮箱是[email]谢谢"),
    ("DE", "tel 030 12345678", "tel [phone]"),
    ("DE", "+49 (0)30 901820 please", "[phone] please"),
    ("DE", "reach me on 0151 23456789 after six", "reach me on [phone] after six"),
    ("GB", "ring 020 7946 0958", "ring [phone]"),
    ("US", "(415) 555-2671 is my number", "[phone] is my number"),
    ("ES", "llame al 612345678", "llame al [phone]"),
    ("FR", "appelez le 06 12 34 56 78", "appelez le [phone]"),
    ("DE", "from abroad: 0044 20 7946 0958", "from abroad: [phone]"),
    ("CN", "我的手机是13800138000，谢谢", "我的手机是[phone]，谢谢"),
    ("DE", "I mean 13812345678", "I mean [phone]"),  # the end of a word says nothing: -ean
    ("DE", "请用030 271134，谢谢", "请用[phone]，谢谢"),
    ("CN", "电话１３８００１３８０００", "电话[phone]"),
    ("DE", "+86 138 0013 8000", "[phone]"),
    ("DE", "my card 4111 1111 1111 1111 was charged", "my card [card] was charged"),
    ("DE", "card: 5500-0000-0000-0004.", "card: [card]."),
    ("DE", "378282246310005", "[card]"),
    ("CN", "银行卡6222021234567890128", "银行卡[card]"),
    ("DE", "DE89 3704 0044 0532 0130 00 PLEASE REFUND", "[iban] PLEASE REFUND"),
    ("GB", "gb29nwbk60161331926819", "[iban]"),
    ("CN", "身份证11010519491231002X", "身份证[id]"),
    ("IT", "codice fiscale RSSMRA85T10A562S", "codice fiscale [id]"),
    ("ES", "DNI 54362315K", "DNI [id]"),
    ("FI", "hetu 131052-308T", "hetu [id]"),
    ("BE", "85.07.30-033.28", "[id]"),
    ("FR", "2 95 10 99 126 111 93", "[id]"),
    ("SE", "811218-9876", "[id]"),
]
HARMLESS = [
    "order 148000004",
    "Order no. 13800138000 has not arrived",
    "订单号13800138000",
    "I paid 1299.99 for 2 items on 2026-06-28 12:00:00",
    "EAN 4006381333931",
    "4006381333931",
    "ISBN 978-3-16-148410-0",
    "ticket 15400000 part 3",
    "sku 0301234567",
    "3m x 4m, 100x200x300 cm, 1 234 567.89",
    "tracking: 00340434161094042557",
    "item #4111111111111111",
    "ref 811218-9876",
    "1719565200000",
]


@pytest.mark.parametrize(("region", "text", "masked"), PERSONAL)
def test_personal_data_are_found(region: str, text: str, masked: str) -> None:
    new, counts = mask(text, region)
    assert new == masked
    assert counts.total() == 1
    # and the expression that picks texts in DuckDB lets none of them pass
    found = duckdb.execute("SELECT regexp_matches(?, ?)", [text, _CANDIDATE]).fetchall()
    assert found == [(True,)]


@pytest.mark.parametrize("text", HARMLESS)
def test_numbers_of_orders_items_and_prices_stay(text: str) -> None:
    assert mask(text, "DE") == (text, {})


def test_no_text_or_title_of_the_demo_shop_is_masked(tmp_path: Path) -> None:
    fetch(tmp_path, NIGHT.replace(day=20), "small")
    texts = [
        text
        for pattern, column in (
            ("messages/*.csv", "body"),
            ("catalogue/*.csv", "name"),
            ("catalogue/*.csv", "text"),
            ("reviews/*.jsonl", "words"),
        )
        for file in tmp_path.glob(pattern)
        for text in _read(file)[column].to_pylist()
    ]
    assert len(texts) > 300 and any("order" in text for text in texts)
    assert [text for text in texts if mask(text, "DE")[1]] == []


def _read(file: Path) -> pyarrow.Table:
    return (pyarrow.csv.read_csv if file.suffix == ".csv" else pyarrow.json.read_json)(file)


@given(st.text(), st.text())
def test_an_address_is_found_in_whatever_is_around_it(before: str, after: str) -> None:
    text = f"{before} jane.doe@example.org {after}"
    new, counts = mask(text, "DE")
    assert counts["email"] >= 1 and "jane.doe@example.org" not in new


@given(st.from_regex(r"[A-Za-z0-9 +()./:@-]{0,40}", fullmatch=True))
def test_no_text_is_too_odd_to_be_looked_at(text: str) -> None:
    new, counts = mask(text, "CN")
    assert (new == text) == (not counts)


def test_a_json_object_stays_one_and_keeps_its_ids() -> None:
    text = '{"note": "a@b.de", "order_id": "13800138000", "slot": 3, "propensity": 0.0244183}'
    new, counts = mask_json(text, "DE")
    assert json.loads(new) == json.loads(text) | {"note": "[email]"}
    assert counts == {"email": 1}


@pytest.mark.parametrize("second", range(10))
def test_a_moment_in_a_json_object_is_no_telephone_number(second: int) -> None:
    moments = [f"2026-06-01 16:00:0{second}.{digits}" for digits in ("1", "123456", "301234")]
    moments += [f"2026-06-01T16:00:0{second}.301234+02:00", f"2026-06-01T16:00:0{second}.301234Z"]
    text = json.dumps({"event_ts": moments})
    assert mask_json(text, "DE") == (text, {})


def test_the_country_follows_from_the_time_zone() -> None:
    assert [region_of(zone) for zone in ("Europe/Berlin", "Asia/Shanghai", "UTC")] == [
        "DE", "CN", "ZZ",
    ]  # fmt: skip


EVENTS = """
SELECT 'e' || no AS event_id, moment AS event_ts, who AS user_id, what AS event_type,
    sku AS item_id, note AS query, json_object('said', note)::VARCHAR AS properties, _file, _row
FROM raw.log
"""
REVIEWS = """
SELECT 'r' || no AS review_id, moment AS event_ts, who AS user_id, sku AS item_id,
    pieces AS rating, note AS "text", _file, _row
FROM raw.log
"""
SECRETS = ("jane@example.org", "4111111111111111", "13800138000")


def test_nothing_that_is_masked_reaches_landing_or_quarantine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shop, paths = make_shop(tmp_path, monkeypatch, events=EVENTS, reviews=REVIEWS)
    lines = ["no,moment,who,what,sku,pieces,price,note"]
    lines += [f"{no},2026-01-02 10:00:00,u{no},view,mug,4,,write {secret}"
              for no, secret in enumerate(SECRETS)]  # fmt: skip
    # broken rows: zero stars, and slipped columns: an address where a time should be
    lines += [f"7,2026-01-02 10:00:00,u7,view,mug,0,,call {SECRETS[2]}"]
    lines += [f"8,{SECRETS[0]},u8,view,{SECRETS[1]},3,,no"]
    (paths.raw / "log" / "a.csv").write_text("\n".join(lines) + "\n")
    with caplog.at_level("INFO", logger="ingest"):
        landed = land(shop, paths, NIGHT)
    assert landed.tables["reviews"].landed == 3 and landed.tables["reviews"].quarantined == 2
    stored = _texts(paths)
    assert stored.count("[email]") >= 4 and "[card]" in stored and "[phone]" in stored
    assert not any(secret in stored for secret in SECRETS)
    assert "masked in its texts" in caplog.text and not any(s in caplog.text for s in SECRETS)


def _texts(paths: Paths) -> str:
    """Everything in landing and quarantine, decoded."""
    files = [str(f) for part in (paths.landing, paths.quarantine) for f in part.rglob("*.parquet")]
    rows = [
        duckdb.execute("SELECT t::VARCHAR FROM read_parquet(?) t", [f]).fetchall() for f in files
    ]
    return str(rows)


def test_a_forgotten_shopper_is_dropped_at_the_door_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, paths = make_shop(tmp_path, monkeypatch, events=EVENTS)
    put(paths, "a.csv", line(1, "2026-01-02 10:00:00"), line(2, "2026-01-02 11:00:00", "bob"))
    put(paths, "b.csv", line(3, "2026-01-03 10:00:00", what="dance"), line(4, "soon"))
    forget_at_the_door(paths, "ann@shop")
    counts = land(shop, paths, NIGHT).tables["events"]
    assert (counts.mapped, counts.landed, counts.excluded, counts.quarantined) == (4, 1, 3, 0)
    stored = _texts(paths)
    assert stored.count(ERASED) == 3
    assert pseudonym(load_key(paths), "ann@shop") not in stored and "dance" not in stored
    # neither the id nor the pseudonym can be told from what is kept, not even with their key
    kept = (paths.home / "forgotten.json").read_text()
    assert "ann" not in kept and pseudonym(load_key(paths), "ann@shop") not in kept


def test_the_key_of_the_forgotten_is_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, paths = make_shop(tmp_path, monkeypatch)
    forget_at_the_door(paths, "ann")
    forget_at_the_door(paths, "ann")
    assert "ann" in load_forgotten(paths) and "bob" not in load_forgotten(paths)
    assert len(load_forgotten(paths).marks) == 1
    (paths.secrets / "forgotten.key").unlink()
    with pytest.raises(ValueError, match="is lost"):
        forget_at_the_door(paths, "bob")


def test_what_was_masked_is_told_in_words() -> None:
    assert told(Counter(phone=2)) == "2 phone numbers"
    assert told(Counter(email=450, phone=580)) == "450 e-mail addresses and 580 phone numbers"
    assert told(Counter(iban=1, id=1, card=1, email=1)) == (
        "1 e-mail address, 1 IBAN, 1 national id and 1 card number"
    )
