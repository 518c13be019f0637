"""Every dbt model says what it is: grain first, a contract, and a word on each column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from core.shop import ROOT

MODELS = ROOT / "dbt_project" / "models"
SQL = sorted(path for path in MODELS.rglob("*.sql"))

MARTS = {
    "dim_users",
    "dim_items",
    "fct_events",
    "fct_sessions",
    "fct_orders",
    "fct_order_lines",
    "user_daily_activity",
    "item_daily_stats",
    "retention_cohorts",
    "repurchase_rates",
    "dwell_stats",
    "funnel_daily",
    "user_rfm",
    "churn_horizon",
    "repurchase_survival",
    "session_stats",
    "returning_revenue",
    "cohort_value",
    "item_second_orders",
    "metric_definitions",
    "segment_history",
}


def described(path: Path) -> dict[str, Any]:
    [model] = yaml.safe_load(path.with_suffix(".yml").read_text())["models"]
    return model


@pytest.mark.parametrize("path", SQL, ids=lambda path: path.stem)
def test_a_model_states_its_grain_and_every_column(path: Path) -> None:
    model = described(path)
    assert model["name"] == path.stem
    assert model["description"].startswith("One row")
    for column in model["columns"]:
        assert column["description"].strip(), column["name"]
        assert column["data_type"], column["name"]


def test_no_model_can_escape_its_contract() -> None:
    project = yaml.safe_load((MODELS.parent / "dbt_project.yml").read_text())
    assert project["models"]["perennial"]["+contract"] == {"enforced": True}
    assert not [path for path in SQL if "'enforced': false" in path.read_text().lower()]


def test_no_model_looks_at_a_clock_or_draws_lots() -> None:
    """The same night must give the same bytes whenever it is built."""
    forbidden = ("current_date", "current_timestamp", "now()", "random()", "any_value", "mode(")
    for path in [*SQL, *MODELS.parent.joinpath("macros").rglob("*.sql")]:
        text = path.read_text().lower()
        assert not [word for word in forbidden if word in text], path


def test_every_mart_has_its_model() -> None:
    assert {path.stem for path in MODELS.joinpath("marts").glob("*.sql")} == MARTS
