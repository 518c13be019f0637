"""A shop's wishes for its lists: `shops/<shop>/rules.yml`, checked before anybody's list is made.

Without the file there are no wishes: lists are the model's order of what is in stock.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.yaml_file import Day, YamlError, read
from ml import ModelError


class RuleError(ModelError):
    """A rule file that cannot be followed; the message names file and rule and says what to do."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class About(_Strict):
    """Which items a rule is about: those that fit everything that is given."""

    name: str = Field(min_length=1, description="what people call the rule")
    items: tuple[str, ...] = Field(default=(), description="item ids")
    category: str | None = Field(default=None, description="'A > B' is that and all below it")
    brand: str | None = None
    until: Day | None = Field(default=None, description="last night on which it holds")

    @model_validator(mode="after")
    def _about_something(self) -> About:
        if not (self.items or self.category or self.brand):
            raise ValueError("name items, a category or a brand that it is about")
        return self

    def holds(self, night: date) -> bool:
        """Whether the rule holds on a night."""
        return self.until is None or night <= self.until


class Boost(About):
    """Items that count more (factor above 1) or less than the model says."""

    factor: float = Field(gt=0, le=100, description="times the model's probability")


class Cap(_Strict):
    """At most `items` of one category among the first `places`."""

    places: int = Field(default=10, ge=1)
    items: int = Field(ge=1)


class Exploration(_Strict):
    """A share of the places is for items that came within the last days, drawn by lot."""

    share: float = Field(gt=0, le=0.5)
    days: int = Field(default=28, ge=1, description="for how long an item is new")


class Rules(_Strict):
    """All wishes of a shop; the defaults wish for nothing."""

    diversity: Annotated[float, Field(ge=0, le=5)] = 0.0
    """an item just like one above it counts exp(-diversity) of its probability"""
    category_cap: Cap | None = None
    no_durable_repeats: bool = False
    """what hardly anybody buys twice is not shown to those who have it"""
    refill_intervals: bool = False
    """what is bought again is not shown before half the usual interval has passed"""
    exploration: Exploration | None = None
    block: tuple[About, ...] = ()
    boost: tuple[Boost, ...] = ()

    def named(self) -> dict[str, Rules]:
        """Each wish on its own, by its name; what is not wished for is left out."""
        plain = Rules()
        return {
            name: plain.model_copy(update={name: value})
            for name, value in self
            if value != getattr(plain, name)
        }


def load(path: Path) -> Rules:
    """Read a rule file; no file means no rules. Raises RuleError."""
    if not path.exists():
        return Rules()
    try:
        written = read(path)
        return Rules.model_validate({} if written is None else written)
    except YamlError as error:
        raise RuleError(str(error)) from error
    except ValidationError as error:
        told = "\n".join(
            f"- {_where(each['loc'], written)}: {each['msg']}" for each in error.errors()
        )
        raise RuleError(
            f"{path} cannot be followed; correct these rules or take them out:\n{told}"
        ) from error


def _where(place: tuple[int | str, ...], written: Any) -> str:
    """Which rule a problem is about: `boost 'spring' factor`; by number where it has no name."""
    words = []
    for part in place:
        try:
            written = written[part]
        except (LookupError, TypeError):
            written = None
        called = written.get("name") if isinstance(written, dict) else None
        words.append(f"number {part + 1}" if isinstance(part, int) else part)
        words += [repr(called)] if called and isinstance(part, int) else []
    return " ".join(words) or "the file"


def unknown_items(rules: Rules, items: pa.Array, night: date) -> list[str]:
    """What to warn of: tonight's rules that name, beside others, items the shop never had.

    A typing error or an item that was taken out long ago; the rule holds for the others.
    """
    told = []
    for kind, some in (("block", rules.block), ("boost", rules.boost)):
        for rule in (each for each in some if each.items and each.holds(night)):
            named = pa.array(rule.items, pa.string())
            unknown = named.filter(pc.invert(pc.is_in(named, items))).to_pylist()
            if unknown:
                told.append(
                    f"rules.yml: {kind} '{rule.name}' names items that the shop has not and never "
                    f"had: {', '.join(unknown)}; correct them or take them out"
                )
    return told


def nothing_fits(kind: str, rule: About) -> RuleError:
    """The error of a rule that is about no item of the shop: a typing error, most likely."""
    about = {"items": ", ".join(rule.items), "category": rule.category, "brand": rule.brand}
    said = ", ".join(f"{name} {value}" for name, value in about.items() if value)
    return RuleError(
        f"rules.yml: {kind} '{rule.name}' fits no item that the shop has or had ({said}): correct "
        "it, give it an `until`, or take it out"
    )
