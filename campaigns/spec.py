"""A shop's campaigns: `shops/<shop>/campaigns/<name>.yml`, checked before anybody is chosen."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from campaigns import CampaignError
from campaigns.who import check_select
from core.yaml_file import Day, YamlError, read


class Campaign(BaseModel):
    """One campaign, as its file says it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="its file's name without .yml")
    title: str = Field(min_length=1, description="what people call it")
    who: str = Field(min_length=1, description="one SELECT over marts that gives user_id")
    action: str = Field(min_length=1, description="what is to be done for them")
    holdout: float = Field(ge=0, le=0.5, description="share left out by lot, to measure against")
    cap_days: int = Field(
        ge=1, description="nobody is chosen who was chosen, by any campaign, in so many days before"
    )
    outcome_days: int = Field(ge=1, description="for so many days after it orders are counted")
    priority: int = Field(default=0, description="of two that want the same user, the higher wins")
    start: Day | None = Field(default=None, description="first night on which it chooses")
    end: Day | None = Field(default=None, description="last night on which it chooses")

    @model_validator(mode="after")
    def _in_order(self) -> Campaign:
        if self.start and self.end and self.end < self.start:
            raise ValueError(f"end {self.end} is before start {self.start}")
        return self

    def runs(self, night: date) -> bool:
        """Whether it chooses on a night."""
        return (self.start or night) <= night <= (self.end or night)


def load(folder: Path) -> list[Campaign]:
    """The campaigns of a folder by name, none when it is missing.

    Raises CampaignError with the file, the field and what to do.
    """
    return [_load(path) for path in sorted(folder.glob("*.y*ml"))]


def _load(path: Path) -> Campaign:
    try:
        given = read(path)
    except YamlError as error:
        raise CampaignError(str(error)) from error
    if not isinstance(given, dict):
        raise CampaignError(f"{path}: write `field: value` lines; the fields are {_fields()}")
    try:
        campaign = Campaign.model_validate(given)
    except ValidationError as error:
        said = "; ".join(_told(dict(each)) for each in error.errors())
        raise CampaignError(f"{path}: {said}") from error
    if path.name != f"{campaign.name}.yml":
        raise CampaignError(f"{path}: name is '{campaign.name}': call the file {campaign.name}.yml")
    try:
        check_select(campaign.who)
    except CampaignError as error:
        raise CampaignError(f"{path}: who {error}") from error
    return campaign


def _told(error: dict[str, Any]) -> str:
    """What is wrong with one field, and what to do."""
    field = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"there is no field `{field}`: take it out or correct it; the fields are {_fields()}"
    what = Campaign.model_fields[field].description if field in Campaign.model_fields else None
    if error["type"] == "missing":
        return f"`{field}` is missing: add it ({what})"
    said = error["msg"].removeprefix("Value error, ")
    if what is None:
        return said
    return f"`{field}` is {error['input']!r}: {said[0].lower()}{said[1:]} ({what})"


def _fields() -> str:
    return ", ".join(Campaign.model_fields)
