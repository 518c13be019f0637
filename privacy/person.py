"""How one person shows in data: the shop's own id and the pseudonym, and where they count as such.

A pseudonym is 32 hex digits: wherever they are, it is this person. The shop's own id may be a mere
`17`, so it counts as a whole value only, and one without a letter, or with fewer than four
characters, only in a column or field whose name says that it holds a person.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

ERASED = "[erased]"
_NAMES = "user|customer|client|shopper|visitor|member|account|buyer|person|kunde|kunden"
_ID = "(?:[ _-]?(?:id|no|nr|key|num|number|code))?"


@dataclass(frozen=True)
class Person:
    """`columns` are names that hold the shop's own ids, beside those that say so by themselves."""

    identity: str
    pseudonym: str
    columns: frozenset[str] = frozenset()

    @cached_property
    def stands_out(self) -> bool:
        """Whether the id says by itself that it is one."""
        has_letter = re.search(r"[^\W\d_]", self.identity) is not None
        return len(self.identity) >= (4 if has_letter else 12)

    def names_a_person(self, column: str) -> bool:
        """Whether values of this column are the shop's own ids of people."""
        return column in self.columns or bool(re.fullmatch(f"(?i:{_NAMES}){_ID}", column, re.I))

    def is_whole(self, column: str, value: object) -> bool:
        """Whether a value is this person, and nothing else."""
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            return False
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        if text == self.pseudonym:
            return True
        return text == self.identity and (self.stands_out or self.names_a_person(column))

    def in_text(self, text: str) -> bool:
        """Whether the person is named somewhere in a text."""
        return self.pattern.search(text) is not None

    def erased_from(self, text: str) -> str:
        """The text without the person's id or pseudonym."""
        return self.pattern.sub(ERASED, text)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The id or the pseudonym in a text, with Python's lookarounds."""
        return re.compile(self._pattern)

    @cached_property
    def bytes_pattern(self) -> re.Pattern[bytes]:
        """The same in bytes that are not decoded; an id that is short is met there by chance."""
        if len(self.identity) < 6 or not self.stands_out:
            return re.compile(re.escape(self.pseudonym).encode())
        return re.compile(self._pattern.encode())

    @cached_property
    def _pattern(self) -> str:
        own = re.escape(self.identity)
        if not self.stands_out:
            return re.escape(self.pseudonym)
        return rf"{re.escape(self.pseudonym)}|(?<![A-Za-z0-9]){own}(?![A-Za-z0-9])"

    # ---- the same in SQL

    def sql_whole(self, columns: list[tuple[str, str]]) -> str:
        """Predicate: one of the columns (name, type) is this person."""
        parts = []
        for name, kind in columns:
            quoted = '"' + name.replace('"', '""') + '"'
            if kind == "VARCHAR" or kind.startswith("ENUM"):
                values = [_literal(self.pseudonym)]
                if self.stands_out or self.names_a_person(name):
                    values.append(_literal(self.identity))
                parts.append(f"{quoted} IN ({', '.join(values)})")
            elif "VARCHAR" in kind or kind in ("BLOB", "JSON"):  # lists, structures
                parts.append(f"regexp_matches({quoted}::VARCHAR, {_literal(self.sql_pattern)})")
            elif self.identity.isdigit() and self.names_a_person(name):
                parts.append(f"TRY_CAST({quoted} AS DOUBLE) = {int(self.identity)}")
        return " OR ".join(f"coalesce({part}, false)" for part in parts) or "false"

    def sql_in_text(self, columns: list[tuple[str, str]]) -> str:
        """Predicate: one of the text columns names the person somewhere."""
        parts = [
            f"coalesce(regexp_matches({_quote(name)}, {_literal(self.sql_pattern)}), false)"
            for name, kind in columns
            if kind == "VARCHAR"
        ]
        return " OR ".join(parts) or "false"

    def sql_erased(self, column: str) -> str:
        """The text of a column without the person (twice: what is between two is read once)."""
        new = _quote(column)
        for _ in range(2):
            new = f"regexp_replace({new}, {_literal(self.sql_pattern)}, '\\1{ERASED}\\2', 'g')"
        return new

    @cached_property
    def sql_pattern(self) -> str:
        """For RE2, which knows no lookarounds."""
        if not self.stands_out:
            return f"(){self.pseudonym}()"
        own = re.escape(self.identity)
        return f"(^|[^A-Za-z0-9])(?:{self.pseudonym}|{own})($|[^A-Za-z0-9])|{self.pseudonym}"


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
