"""Is personal data in free text found, and is anything else masked?

Values of every kind are made with their check digits, put into sentences of five languages, and
masked by the function that landing calls; the share of them that is gone is the recall. Titles of
real products hold no personal data: whatever is masked in them is a mistake. Speed is that of
masking a column where one text in a hundred holds something, beside only reading it.
"""

# ruff: noqa: RUF001 (a Chinese sentence has marks of its own)

from __future__ import annotations

import argparse
import random
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import duckdb

from benchmarks.lib.night import real_data
from benchmarks.lib.page import publish, quiet, table
from ingest.personal_data import mask, mask_columns

SENTENCES = [
    "{}",
    "Hello, {} is mine, thank you.",
    "please use {} from now on!",
    "Bitte ab jetzt {} verwenden, danke",
    "merci de noter : {}.",
    "grazie ({})",
    "请用{}，谢谢",
]
REGIONS = {
    "DE": "Europe/Berlin",
    "FR": "Europe/Paris",
    "GB": "Europe/London",
    "US": "America/New_York",
    "CN": "Asia/Shanghai",
}
TEXTS = 400_000


def digits(rng: random.Random, n: int) -> str:
    """`n` random digits."""
    return "".join(rng.choices(string.digits, k=n))


def until(valid: Callable[[str], bool], make: Callable[[], str]) -> str:
    """The first made value that is valid."""
    while not valid(value := make()):
        pass
    return value


def email(rng: random.Random, region: str) -> str:
    """An address at a domain of two or three parts."""
    names = ["anna", "li.wei", "j_doe", "m-rossi", "o'neil+shop"]
    return f"{rng.choice(names)}{digits(rng, 3)}@{rng.choice(['mail', 'a-b', 'post.uni'])}.example"


def phone(rng: random.Random, region: str) -> str:
    """A valid mobile or fixed number of the country, written as there or from abroad."""
    import phonenumbers as lib

    kind = rng.choice([lib.PhoneNumberType.MOBILE, lib.PhoneNumberType.FIXED_LINE])
    model = lib.example_number_for_type(region, kind)
    length = len(str(model.national_number))

    def number() -> lib.PhoneNumber:
        head = str(model.national_number)[: length - 6]
        return lib.PhoneNumber(model.country_code, int(head + digits(rng, 6)))

    made = number()
    while not lib.is_valid_number(made):
        made = number()
    form = rng.choice([lib.PhoneNumberFormat.NATIONAL, lib.PhoneNumberFormat.INTERNATIONAL])
    return str(lib.format_number(made, form))


def card(rng: random.Random, region: str) -> str:
    """A Visa, Mastercard, Amex or UnionPay number with its check digit, in fours or in one."""
    from stdnum import luhn

    head, length = rng.choice([("4", 16), ("53", 16), ("37", 15), ("622", 16)])
    number = head + digits(rng, length - 1 - len(head))
    number += luhn.calc_check_digit(number)
    fours = " ".join(number[i : i + 4] for i in range(0, len(number), 4))
    return rng.choice([number, fours])


def iban(rng: random.Random, region: str) -> str:
    """A German, British or Dutch account, in fours or in one."""
    from stdnum import iban as lib

    country, body = rng.choice(
        [
            ("DE", digits(rng, 18)),
            ("GB", "NWBK" + digits(rng, 14)),
            ("NL", "ABNA" + digits(rng, 10)),
        ]
    )
    number = country + lib.calc_check_digits(f"{country}00{body}") + body
    fours = " ".join(number[i : i + 4] for i in range(0, len(number), 4))
    return rng.choice([number, fours])


def birth(rng: random.Random) -> str:
    """A day of birth as YYYYMMDD."""
    return f"{rng.randint(1940, 2005)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"


def national_id(rng: random.Random, region: str) -> str:
    """A valid Chinese, Spanish, Swedish, Belgian or Finnish id."""
    from stdnum.be import nn
    from stdnum.cn import ric
    from stdnum.es import dni
    from stdnum.fi import hetu
    from stdnum.se import personnummer

    def chinese() -> str:
        head = f"110105{birth(rng)}{digits(rng, 3)}"
        return head + ric.calc_check_digit(head + "0")

    def swedish() -> str:
        return f"{birth(rng)[2:]}-{digits(rng, 4)}"

    def belgian() -> str:
        day = birth(rng)[2:]
        return f"{day[:2]}.{day[2:4]}.{day[4:]}-{digits(rng, 3)}.{digits(rng, 2)}"

    def finnish() -> str:
        day = birth(rng)
        letter = rng.choice("0123456789ABCDEFHJKLMNPRSTUVWXY")
        return f"{day[6:]}{day[4:6]}{day[2:4]}-{digits(rng, 3)}{letter}"

    return rng.choice(
        [
            chinese,
            lambda: until(
                dni.is_valid, lambda: digits(rng, 8) + rng.choice(string.ascii_uppercase)
            ),
            lambda: until(personnummer.is_valid, swedish),
            lambda: until(nn.is_valid, belgian),
            lambda: until(hetu.is_valid, finnish),
        ]
    )()


KINDS = {"email": email, "phone": phone, "card": card, "iban": iban, "id": national_id}


def recall(n: int) -> str:
    """The share of `n` planted values of each kind that are gone from the text, by country."""
    rows = []
    for kind, make in KINDS.items():
        shares = []
        for region in REGIONS:
            rng = random.Random(f"{kind} {region}")
            gone = 0
            for _ in range(n):
                value = make(rng, region)
                text = rng.choice(SENTENCES).format(value)
                gone += value not in mask(text, region)[0]
            shares.append(f"{gone / n:.3f}")
        rows.append([kind, *shares])
    return table(["gone from the text; a shop in", *REGIONS], rows)


def mistakes(corpora: dict[str, list[str]]) -> str:
    """How many titles of real products are masked, by country of the shop."""
    rows = []
    for name, texts in corpora.items():
        wrong = [sum(mask(text, region)[0] != text for text in texts) for region in REGIONS]
        rows.append([name, f"{len(texts):,}", *map(str, wrong)])
    return table(["texts without personal data", "texts", *REGIONS], rows)


def speed() -> str:
    """Seconds to mask a column, and to read it with a regular expression that finds nothing."""
    rng = random.Random(0)
    words = ["soap", "smells", "of", "lavender", "and", "came", "in", "a", "broken", "box"]
    texts = [" ".join(rng.choices(words, k=20)) for _ in range(TEXTS)]
    for place in range(0, TEXTS, 100):
        texts[place] += f" write to {email(rng, 'DE')} or {phone(rng, 'DE')}"
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT unnest(?::VARCHAR[]) AS text", [texts])
        began = time.perf_counter()
        connection.execute("SELECT count(*) FROM t WHERE regexp_matches(text, '#{9}')").fetchall()
        floor = time.perf_counter() - began
        began = time.perf_counter()
        counts = mask_columns(connection, "t", ["text"], REGIONS["DE"])
        taken = time.perf_counter() - began
    return (
        f"{TEXTS:,} texts of 20 words, {sum(counts.values()):,} values masked: {taken:.2f} s "
        f"({TEXTS / taken:,.0f} texts/s); only reading them with a regular expression: "
        f"{floor:.2f} s."
    )


def titles(data: Path | None) -> dict[str, list[str]]:
    """The distinct titles of the real data that are here."""
    found = {}
    sources = {
        "online_retail": ("*.parquet", "Description", "Online Retail II, descriptions"),
        "amazon_beauty": ("items.parquet", "title", "Amazon Beauty 2014, titles"),
    }
    for folder, (files, column, name) in sources.items():
        place = real_data(folder, data / folder if data else None)
        if place is None:
            continue
        with duckdb.connect() as connection:
            rows = connection.execute(
                f"SELECT DISTINCT {column} "
                f"FROM read_parquet('{place}/{files}', union_by_name=true) "
                f"WHERE {column} IS NOT NULL ORDER BY 1"
            ).fetchall()
        found[name] = [text for (text,) in rows]
    return found


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=1000, help="planted of each kind and country")
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    parser.add_argument("--write", action="store_true", help="keep the page in results/")
    asked = parser.parse_args()
    quiet()
    corpora = titles(asked.data)
    parts = [
        recall(asked.values),
        mistakes(corpora) if corpora else "No real titles here.",
        speed(),
    ]
    publish("Personal data in free text", parts, ["duckdb", "phonenumbers"], asked.write)


if __name__ == "__main__":
    main()
