"""Personal data in free text: found and masked before anything is stored.

A regular expression in DuckDB picks the few texts that could hold any; only those come to Python,
each once. Masked are `[email]`, `[phone]`, `[card]` (Luhn and issuer), `[iban]` and `[id]`
(national ids whose check digits make a mistake rare). A number that the text itself calls an order,
an item or the like is left alone. Names and postal addresses are not found.
"""

# ruff: noqa: RUF001 (Chinese texts have letters, digits and marks of their own)

from __future__ import annotations

import functools
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from typing import Any

import duckdb
import pyarrow as pa

FREE_TEXT = {"reviews": ("text",), "messages": ("text",), "events": ("query", "properties")}
"""Contract columns in which shoppers, or the shop's own words about them, may write anything."""

KINDS = ("email", "iban", "id", "card", "phone")
"""In the order they are looked for: what is one of the first is none of the later."""
_BATCH = 50_000  # texts in Python at a time
_log = logging.getLogger(__name__)

# -- which texts are looked at (RE2, in DuckDB): an @, or seven digits with little between
_DIGIT = "[0-9０-９]"
_CANDIDATE = (
    f"[@＠]|{_DIGIT}(?:[ .()/+-]*{_DIGIT}){{6,}}"
    "|[0-9]{6}[A-Y][0-9]{3}|[A-Z]{6}[0-9]{2}[A-Z]"  # a Finnish and an Italian id
)
# in a JSON object one dot is that of a decimal number
_JSON_CANDIDATE = (
    f"[@＠]|(?:^|[^.0-9])[0-9](?:[ ()/+-]*{_DIGIT}){{6,}}|[0-9]+[.][0-9]+[.][0-9]|[０-９]{{3}}"
    "|[0-9]{6}[A-Y][0-9]{3}|[A-Z]{6}[0-9]{2}[A-Z]"
)
_JSON = ("properties", "_payload")


def mask_columns(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Iterable[str], time_zone: str
) -> Counter[str]:
    """Mask the given text columns of `table` in place; how many values of each kind were masked."""
    region = region_of(time_zone)
    return sum((_mask_column(connection, table, name, region) for name in columns), Counter())


def _mask_column(
    connection: duckdb.DuckDBPyConnection, table: str, column: str, region: str
) -> Counter[str]:
    connection.execute(f'ALTER TABLE {table} ALTER "{column}" SET DATA TYPE VARCHAR')
    found = connection.execute(
        f'SELECT DISTINCT "{column}" FROM {table} WHERE regexp_matches("{column}", ?)',
        [_JSON_CANDIDATE if column in _JSON else _CANDIDATE],
    )
    masked = list(_changes(found, column, region))
    if not masked:
        return Counter()
    rows = [{"old": old, "new": new} | {k: counts[k] for k in KINDS} for old, new, counts in masked]
    connection.register("masks", pa.Table.from_pylist(rows))
    sums = ", ".join(f"sum({kind})::BIGINT" for kind in KINDS)
    counted = connection.execute(
        f'SELECT {sums} FROM {table} JOIN masks ON "{column}" = old'
    ).fetchall()[0]
    connection.execute(f'UPDATE {table} SET "{column}" = new FROM masks WHERE "{column}" = old')
    connection.unregister("masks")
    return +Counter(dict(zip(KINDS, counted, strict=True)))


def _changes(
    found: duckdb.DuckDBPyConnection, column: str, region: str
) -> Iterator[tuple[str, str, Counter[str]]]:
    """(text, masked text, how many of each kind) of the texts that hold personal data."""
    while batch := found.fetchmany(_BATCH):
        for (text,) in batch:
            new, counts = mask_json(text, region) if column in _JSON else mask(text, region)
            if counts:
                yield text, new, counts


def mask_json(text: str, region: str) -> tuple[str, Counter[str]]:
    """`text` with the values of the JSON object masked; as plain text when it is none.

    A number under a name that ends with `_id` is taken for that unless it is a card's.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return mask(text, region)
    counts: Counter[str] = Counter()

    def walk(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: walk(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [walk(each, key) for each in value]
        if isinstance(value, bool) or not isinstance(value, str | int):
            return value
        if not _WORTH_A_LOOK.search(str(value)) or _MOMENT.fullmatch(str(value)):
            return value
        new, found = mask(
            str(value), region, *(("", _SURE) if key.endswith("_id") else (key, KINDS))
        )
        counts.update(found)
        return new if found else value

    masked = walk(value, "")
    return (json.dumps(masked, ensure_ascii=False), counts) if counts else (text, counts)


_SURE = ("email", "iban", "card")
_MOMENT = re.compile(  # 06.123456 in it would do for a telephone number
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d([.,]\d+)?)?( ?(Z|[+-]\d\d(:?\d\d)?))?"
)


# -- what is personal data (Python)

_WORTH_A_LOOK = re.compile(_CANDIDATE)
_ASCII = str.maketrans("０１２３４５６７８９＠＋－（）", "0123456789@+-()")
# In Chinese nothing stands between words, so its letters end a number or an address too.
_LETTER = r"(?:(?![\u2e80-\uffff])\w)"
_EMAIL = re.compile(rf"(?:{_LETTER}|[.+%-])+@(?:{_LETTER}|-)+(?:\.(?:{_LETTER}|-)+)+")
_IBAN = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z]{{2}}\d{{2}}(?: ?[A-Za-z0-9]){{11,30}}(?!{_LETTER})")
_CARD = re.compile(rf"(?<![A-Za-z0-9_.,])\d(?:[ -]?\d){{13,18}}(?!{_LETTER}|[.,]\d)")
_ISSUER = re.compile(  # Visa, Mastercard, Amex, Diners, Discover, JCB, UnionPay
    r"4\d{15}(\d{3})?$|5[1-5]\d{14}$|2(22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}$|3[47]\d{13}$"
    r"|3(0[0-5]|[689]\d)\d{11}$|6(011|4[4-9]\d|5\d\d)\d{12}$|35(2[89]|[3-8]\d)\d{12}$|62\d{14,17}$"
)
_CHINESE_MOBILE = re.compile(
    r"(?<![A-Za-z0-9_.])(?:(?:\+|00)?86[ -]?)?1[3-9]\d(?:[ -]?\d{4}){2}(?![A-Za-z0-9_]|\.\d)"
)
_CALLED_A_THING = re.compile(
    r"(?<![A-Za-z])(?:order|invoice|item|sku|article|ean|isbn|upc|gtin|ref|reference|parcel|tracking|ticket|price"
    r"|bestell\w*|auftrag\w*|rechnung\w*|artikel\w*|sendung\w*|commande|facture|colis|pedido|factura"
    r"|ordine|fattura|订单|訂單|单号|運單|运单|货号|编号|快递|商品)"
    r"[\s_-]*(?:s|id|no|nr|num|number|nummer|numero|numéro|número|code|号|编号|号码)?"
    r"[\s.:：#=-]*(?:is|was|ist|war|是|为)?\s*$|#\s*$",
    re.IGNORECASE,
)
_PHONE_WORDS = (
    "tel|phone|mobile|cell|call|fax|whatsapp|wechat|handy|mobil|text|ring|reach|appel|llam|chiam"
    "|电话|手机|微信|致电"
)
_CALLED_A_PHONE = re.compile(rf"(?:{_PHONE_WORDS})\D{{0,16}}$", re.IGNORECASE)
_MAYBE_A_PHONE = re.compile(  # the library takes long, so only where one could be
    rf"[+(]\s*\d|(?<![.,])(?<!{_LETTER})0[\d (/-]|\d[ ()./-]+\d+[ ()./-]+\d"
    rf"|(?:{_PHONE_WORDS})\D{{0,16}}\d",
    re.IGNORECASE,
)
_Spans = Iterator[tuple[int, int]]


def mask(
    text: str, region: str, told: str = "", kinds: tuple[str, ...] = KINDS
) -> tuple[str, Counter[str]]:
    """`text` with personal data of these kinds masked, and how many values of each.

    `region` (ISO 3166) says how local telephone numbers look; `told` are words before the text that
    say what it is, such as the name of its field.
    """
    folded = text.translate(_ASCII)  # one to one, so that places stay
    taken: list[tuple[int, int, str]] = []
    for kind in kinds:
        for start, end in _FINDERS[kind](folded, region, told):
            if all(end <= a or start >= b for a, b, _ in taken):
                taken.append((start, end, kind))
    if not taken:
        return text, Counter()
    parts, last = [], 0
    for start, end, kind in sorted(taken):
        parts += [text[last:start], f"[{kind}]"]
        last = end
    return "".join([*parts, text[last:]]), Counter(kind for _, _, kind in taken)


def _emails(text: str, region: str, told: str) -> _Spans:
    if "@" in text:
        yield from (found.span() for found in _EMAIL.finditer(text))


def _ibans(text: str, region: str, told: str) -> _Spans:
    from stdnum import iban

    for found in _IBAN.finditer(text):
        # what follows may look like a part of it: the longest beginning that is valid
        for end in range(len(found[0]), 14, -1):
            if found[0][end - 1] != " " and iban.is_valid(found[0][:end].upper()):
                yield found.start(), found.start() + end
                break


def _cards(text: str, region: str, told: str) -> _Spans:
    from stdnum import luhn

    for found in _CARD.finditer(text):
        digits = re.sub(r"\D", "", found[0])
        if (
            _ISSUER.match(digits)
            and luhn.is_valid(digits)
            and not _thing(text, found.start(), told)
        ):
            yield found.span()


def _ids(text: str, region: str, told: str) -> _Spans:
    for pattern, valid in _national_ids():
        for found in pattern.finditer(text):
            if valid(found[0]) and not _thing(text, found.start(), told):
                yield found.span()


@functools.cache
def _national_ids() -> tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...]:
    """(how it is written, whether it is valid) of national ids with strong checks."""
    from stdnum.be import nn
    from stdnum.cz import rc
    from stdnum.es import dni, nie
    from stdnum.fi import hetu
    from stdnum.fr import nir
    from stdnum.it import codicefiscale
    from stdnum.ro import cnp
    from stdnum.se import personnummer

    written = (
        (r"[1-9]\d{5}(?:19|20)\d{9}[\dXx]", _is_chinese),
        (r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]", codicefiscale.is_valid),
        (r"\d{8}-?[A-Z]", dni.is_valid),
        (r"[XYZ]-?\d{7}-?[A-Z]", nie.is_valid),
        (r"[12] ?\d{2} ?[0-9]{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}", nir.is_valid),
        (r"\d{2}[.]?\d{2}[.]?\d{2}-?\d{3}[.]?\d{2}", nn.is_valid),
        (r"\d{6}[-+A-Y]\d{3}[0-9A-Y]", hetu.is_valid),
        (r"(?:\d{2})?\d{6}[-+]\d{4}", personnummer.is_valid),
        (r"[1-9]\d{12}", cnp.is_valid),
        (r"\d{6}/\d{4}", rc.is_valid),
    )
    edges = r"(?<![A-Za-z0-9_.])(?:%s)(?![A-Za-z0-9_]|\.\d)"
    return tuple((re.compile(edges % form), valid) for form, valid in written)


def _is_chinese(number: str) -> bool:
    """Date of birth and check digit; the library's list of counties is not complete."""
    from stdnum.cn import ric
    from stdnum.exceptions import ValidationError

    try:
        ric.get_birth_date(number)
    except ValidationError:
        return False
    return bool(ric.calc_check_digit(number) == number[-1].upper())


def _phones(text: str, region: str, told: str) -> _Spans:
    import phonenumbers

    for found in _CHINESE_MOBILE.finditer(text):
        if not _thing(text, found.start(), told):
            yield found.span()
    if not _MAYBE_A_PHONE.search(f"{told} {text}"):
        return
    for match in phonenumbers.PhoneNumberMatcher(text, region):
        raw = match.raw_string
        written_as_one = (
            raw.lstrip("(")[0] in "+0" or len(re.findall(r"\d[ ()./-]+(?=\d)", raw)) > 1
        )
        told_so = _CALLED_A_PHONE.search(f"{told} {text[: match.start]}")
        if (written_as_one or told_so) and not _thing(text, match.start, told):
            yield match.start, match.end


def _thing(text: str, start: int, told: str) -> bool:
    """Whether the words before say that the number is one of an order, an item or the like."""
    return _CALLED_A_THING.search(f"{told} {text[:start]}"[-60:]) is not None


_FINDERS: dict[str, Callable[[str, str, str], _Spans]] = {
    "email": _emails,
    "iban": _ibans,
    "id": _ids,
    "card": _cards,
    "phone": _phones,
}


@functools.cache
def region_of(time_zone: str) -> str:
    """The country (ISO 3166) a time zone belongs to; `ZZ` (none) for one like UTC."""
    table = files("tzdata.zoneinfo").joinpath("zone.tab").read_text("utf-8")
    rows = (line.split("\t") for line in table.splitlines() if not line.startswith("#"))
    return {row[2]: row[0] for row in rows}.get(time_zone, "ZZ")


_WORDS = {
    "email": "e-mail address",
    "iban": "IBAN",
    "id": "national id",
    "card": "card number",
    "phone": "phone number",
}


def told(counts: Counter[str]) -> str:
    """The counts in words."""
    words = [
        f"{counts[kind]:,} {word}{'' if counts[kind] == 1 else 'es' if word[-1] == 's' else 's'}"
        for kind, word in _WORDS.items()
        if counts[kind]
    ]
    return " and ".join([", ".join(words[:-1]), *words[-1:]] if words[1:] else words)
