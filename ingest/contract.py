"""The contract: the four tables every shop maps to, once, for ingestion, dbt sources and docs.

A column says its type, whether it may be missing and what it means; a rule says when a row breaks
the contract. `python -m ingest.contract` writes the dbt source file and the docs page from here; a
test holds them equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from core.shop import ROOT

EVENT_TYPES = (
    "view",
    "click",
    "search",
    "cart_add",
    "cart_remove",
    "checkout",
    "purchase",
    "refund",
    "exposure",
)


@dataclass(frozen=True)
class Column:
    """One column: `type` is a DuckDB type; timestamps are UTC without a zone, microseconds."""

    name: str
    type: str
    description: str
    required: bool = False


@dataclass(frozen=True)
class Rule:
    """A row is broken when `broken` (a SQL predicate over the table's columns) is true."""

    name: str
    broken: str
    description: str


@dataclass(frozen=True)
class Table:
    """One contract table; `key` is unique, `time` says which day a row belongs to.

    In a `snapshot` table (the catalogue) that day is since when a row is true; in the others it is
    when something happened, and what follows from a day must follow again when it is touched.
    """

    name: str
    key: str
    time: str
    grain: str
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...] = ()
    snapshot: bool = False

    @property
    def personal(self) -> tuple[str, ...]:
        """Columns that hold a shopper's identity and are replaced by a pseudonym at the door."""
        return tuple(column.name for column in self.columns if column.name == "user_id")


_MONEY = "DECIMAL(18,4)"
_BEFORE_2000 = Rule("before_2000", "event_ts < TIMESTAMP '2000-01-01'", "before the year 2000")
_USER = "Pseudonym of the shopper (HMAC of the shop's own id); NULL for a guest"

EVENTS = Table(
    name="events",
    key="event_id",
    time="event_ts",
    grain="One row per thing a shopper did or was shown.",
    columns=(
        Column("event_id", "VARCHAR", "Unique id; a row delivered again has the same one", True),
        Column("event_ts", "TIMESTAMP", "When it happened, UTC", True),
        Column("user_id", "VARCHAR", _USER),
        Column("session_id", "VARCHAR", "The shop's own session id, where it has one"),
        Column("event_type", "VARCHAR", "One of: " + ", ".join(EVENT_TYPES), True),
        Column("item_id", "VARCHAR", "The item it is about"),
        Column("order_id", "VARCHAR", "The order of a checkout, purchase or refund"),
        Column("quantity", "BIGINT", "Pieces, positive also for refunds"),
        Column("unit_price", _MONEY, "Price of one piece in `currency`"),
        Column("currency", "VARCHAR", "ISO 4217"),
        Column("dwell_ms", "BIGINT", "Time on the page where the shop measures it, milliseconds"),
        Column("query", "VARCHAR", "What was searched for"),
        Column("channel", "VARCHAR", "Where the visit came from"),
        Column("properties", "VARCHAR", "JSON object with anything else the shop keeps"),
    ),
    rules=(
        Rule(
            "unknown_event_type",
            "event_type NOT IN (" + ", ".join(f"'{kind}'" for kind in EVENT_TYPES) + ")",
            "event_type is not one of the contract's",
        ),
        Rule(
            "item_missing",
            "item_id IS NULL AND event_type IN "
            "('view', 'click', 'cart_add', 'cart_remove', 'purchase', 'exposure')",
            "an event about an item names none",
        ),
        Rule(
            "order_missing",
            "order_id IS NULL AND event_type = 'purchase'",
            "a purchase names no order",
        ),
        Rule(
            "quantity_not_positive",
            "event_type IN ('purchase', 'refund') AND coalesce(quantity, 0) <= 0",
            "a purchase or refund of nothing",
        ),
        Rule(
            "price_missing",
            "event_type IN ('purchase', 'refund') AND unit_price IS NULL",
            "a purchase or refund without a price",
        ),
        Rule("quantity_absurd", "quantity > 1000000", "more than one million pieces"),
        Rule("price_negative", "unit_price < 0", "a price below zero"),
        Rule("price_absurd", "unit_price > 1000000", "a price above one million"),
        Rule("dwell_negative", "dwell_ms < 0", "a time on the page below zero"),
        _BEFORE_2000,
    ),
)

ITEMS = Table(
    name="items",
    key="item_id, valid_from",
    time="valid_from",
    grain="One row per item and version of its texts or price.",
    columns=(
        Column("item_id", "VARCHAR", "The shop's id of the item", True),
        Column("title", "VARCHAR", "Title in the shop's language", True),
        Column("description", "VARCHAR", "Longer text"),
        Column("category_path", "VARCHAR", "Categories from the root, separated by ' > '"),
        Column("brand", "VARCHAR", "Brand"),
        Column("price", _MONEY, "List price of one piece in the shop's currency"),
        Column("valid_from", "TIMESTAMP", "Since when this version holds, UTC", True),
    ),
    rules=(
        Rule("title_empty", "trim(title) = ''", "a title without a letter"),
        Rule("price_negative", "price < 0", "a price below zero"),
        Rule("before_1970", "valid_from < TIMESTAMP '1970-01-01'", "before the year 1970"),
    ),
    snapshot=True,
)

REVIEWS = Table(
    name="reviews",
    key="review_id",
    time="event_ts",
    grain="One row per review.",
    columns=(
        Column("review_id", "VARCHAR", "Unique id", True),
        Column("event_ts", "TIMESTAMP", "When it was written, UTC", True),
        Column("user_id", "VARCHAR", _USER),
        Column("item_id", "VARCHAR", "The item it is about", True),
        Column("rating", "DOUBLE", "Stars, 1 to 5", True),
        Column("text", "VARCHAR", "What was written"),
    ),
    rules=(
        Rule("rating_out_of_range", "rating NOT BETWEEN 1 AND 5", "stars below 1 or above 5"),
        _BEFORE_2000,
    ),
)

MESSAGES = Table(
    name="messages",
    key="message_id",
    time="event_ts",
    grain="One row per message of a support conversation.",
    columns=(
        Column("message_id", "VARCHAR", "Unique id", True),
        Column("event_ts", "TIMESTAMP", "When it was sent, UTC", True),
        Column("conversation_id", "VARCHAR", "The conversation it belongs to", True),
        Column("user_id", "VARCHAR", _USER),
        Column("sender", "VARCHAR", "customer or agent", True),
        Column("item_id", "VARCHAR", "The item it is about"),
        Column("order_id", "VARCHAR", "The order it is about"),
        Column("text", "VARCHAR", "What was written", True),
    ),
    rules=(
        Rule("unknown_sender", "sender NOT IN ('customer', 'agent')", "neither side of the talk"),
        _BEFORE_2000,
    ),
)

TABLES = {table.name: table for table in (EVENTS, ITEMS, REVIEWS, MESSAGES)}

PROVENANCE = (
    Column("_file", "VARCHAR", "Raw file the row came from, relative to the raw folder", True),
    Column("_row", "BIGINT", "Row within that file, counted from 1", True),
)

QUARANTINE = Table(
    name="quarantine",
    key="table_name, file, row",
    time="",
    grain="One row per raw row or unreadable raw file that was put aside, and why.",
    columns=(
        Column("table_name", "VARCHAR", "Contract table the row was mapped to", True),
        Column(
            "kind",
            "VARCHAR",
            "broken = breaks the contract; excluded = the shop's SELECT says it is no such row;"
            " late = its day was closed when its file came; empty = a file without a byte",
            True,
        ),
        Column("reason", "VARCHAR", "Which rule, cast or column, or the shop's own words", True),
        Column("file", "VARCHAR", "Raw file the row came from, relative to the raw folder", True),
        Column("row", "BIGINT", "Row within that file; NULL when the whole file is unreadable"),
        Column(
            "payload",
            "VARCHAR",
            "The mapped columns as JSON, user ids as pseudonyms; NULL for what could not be read:"
            " its text stays in the raw file, for nobody can tell where in it a shopper is named",
        ),
    ),
)

_PAGE = ROOT / "docs" / "contract.md"
_SOURCES = ROOT / "dbt_project" / "models" / "staging" / "_sources.yml"
_HOME = "{{ env_var('PERENNIAL_SHOP_HOME', 'var/demo') }}"


def dbt_sources() -> str:
    """The dbt source file: the landing and quarantine folders as sources of the warehouse."""
    days = "hive_partitioning = true, hive_types = {'day': DATE}"
    day = Column("day", "DATE", "UTC day the row belongs to", True)
    tables = [
        _dbt_table(
            table,
            (*table.columns, *PROVENANCE, day),
            f"read_parquet('{_HOME}/landing/{table.name}/*/*.parquet', {days})",
        )
        for table in TABLES.values()
    ]
    tables.append(
        _dbt_table(
            QUARANTINE, QUARANTINE.columns, f"read_parquet('{_HOME}/quarantine/*/*.parquet')"
        )
    )
    source = {
        "name": "landing",
        "description": "The contract's tables as ingestion lands them: parquet by UTC day.",
        "tables": tables,
    }
    # `formatter: template` keeps dbt-duckdb from reading the braces of hive_types as placeholders.
    text = yaml.safe_dump(
        {"version": 2, "sources": [source]}, sort_keys=False, width=1000, allow_unicode=True
    )
    return f"# Written by `python -m ingest.contract`; change ingest/contract.py instead.\n{text}"


def _dbt_table(table: Table, columns: tuple[Column, ...], location: str) -> dict[str, Any]:
    return {
        "name": table.name,
        "description": table.grain,
        "config": {"meta": {"external_location": location, "formatter": "template"}},
        "columns": [
            {"name": column.name, "data_type": column.type, "description": column.description}
            for column in columns
        ],
    }


def page() -> str:
    """docs/contract.md: the tables, their columns and the rules, for a person."""
    parts = [
        "# The contract\n",
        "Every shop maps its raw files to these tables, one SELECT per table. A value that does not"
        " cast to its column's\ntype, a required value that is missing and a row that breaks a rule"
        " are put aside with the reason; nothing is lost\nand the rest goes on. Empty text is a"
        " missing value. Timestamps are UTC without a zone, in microseconds (text with an\noffset"
        " such as +02:00 is converted). A row delivered twice counts once: the earliest timestamp"
        " wins, then the first\nfile by name, then the first row. Rows after the night wait for"
        " their own night.\n",
        "A SELECT that makes each row from one raw row costs a night only the days that new files"
        " touch. One that compares\nrows (a join, a group, a window) is allowed and is run over all"
        " files whenever one changes.\n",
        "This page is written by `python -m ingest.contract` from `ingest/contract.py`.\n",
        *(_section(table) for table in TABLES.values()),
        _section(QUARANTINE),
    ]
    return "\n".join(parts)


def _section(table: Table) -> str:
    lines = [f"## {table.name}\n", f"{table.grain} Key: `{table.key}`."]
    if table.time:
        lines[-1] += f" Its day is the UTC day of `{table.time}`."
    lines += ["", "| column | type | required | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{c.name}` | {c.type} | {'yes' if c.required else ''} | {c.description} |"
        for c in table.columns
    ]
    if table.rules:
        lines += ["", "| a row is broken | when |", "|---|---|"]
        lines += [f"| `{rule.name}` | {rule.description} |" for rule in table.rules]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the generated files."""
    for path, text in ((_SOURCES, dbt_sources()), (_PAGE, page())):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
