"""Ten faults in transformations and models, each put where it would arise, each in a whole night.

The night is run as `make run` runs it, in this process, so that a step of the model can be made
wrong as well as a dbt model, a SELECT of the shop or its raw files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from tests.faults.tiny import TONIGHT, YESTERDAY, Nights

pytestmark = pytest.mark.faults


@dataclass(frozen=True)
class Harm:
    """What a fault may be done to: copies of the dbt project, the shops and the raw files."""

    project: Path
    shops: Path
    raw: Path
    patch: pytest.MonkeyPatch


Fault = Callable[[Harm], None]


def _model(model: str, right: str, wrong: str) -> Fault:
    """Somebody edits a dbt model."""

    def do(harm: Harm) -> None:
        file = harm.project / "models" / f"{model}.sql"
        assert file.read_text().count(right) == 1, f"{model} has changed: mend this test"
        file.write_text(file.read_text().replace(right, wrong))

    return do


def _select(right: str, wrong: str) -> Fault:
    """Somebody edits the shop's SELECT."""

    def do(harm: Harm) -> None:
        file = harm.shops / "tiny" / "events.sql"
        assert right in file.read_text()
        file.write_text(file.read_text().replace(right, wrong))

    return do


def _csv(file: Path, query: str) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS FROM read_csv('{file}', all_varchar = true)")
        connection.execute(f"COPY ({query}) TO '{file}' (HEADER)")


def _half_the_users(harm: Harm) -> None:
    """The export loses every other shopper, in all of its files."""
    for file in (harm.raw / "events").iterdir():
        _csv(file, "FROM t WHERE CAST(replace(customer, 'shopper', '') AS INTEGER) % 2 = 0")


def _yesterday_again(harm: Harm) -> None:
    """The export runs on yesterday's rows and gives them tonight's date and new numbers."""
    events = harm.raw / "events"
    shutil.copyfile(events / f"{YESTERDAY}.csv", events / f"{TONIGHT}.csv")
    _csv(
        events / f"{TONIGHT}.csv",
        "SELECT * REPLACE ('again-' || id AS id, 'again-' || order_no AS order_no, "
        "CAST(happened AS TIMESTAMP) + INTERVAL 1 DAY AS happened) FROM t",
    )


def _embeddings_of_zeros(harm: Harm) -> None:
    """New items are in the catalogue, and the encoder gives zeros for them."""
    _csv(
        harm.raw / "catalogue.csv",
        "FROM t UNION ALL SELECT 'new' || sku, 'Another ' || name, department, price, since FROM t",
    )
    harm.patch.setattr("ml.text.embed", lambda texts, *_: np.zeros((len(texts), 384), np.float32))


def _unknown_item(harm: Harm) -> None:
    """The model puts an item on every list that no catalogue has."""
    from ml import nightly

    score = nightly.score

    def wrong(*args: object, **kwargs: object) -> pa.Table:
        lists = score(*args, **kwargs)  # type: ignore[arg-type]
        items = [
            "ghost" if rank == 3 else item
            for rank, item in zip(
                lists["rank"].to_pylist(), lists["item_id"].to_pylist(), strict=True
            )
        ]
        return lists.set_column(lists.column_names.index("item_id"), "item_id", pa.array(items))

    harm.patch.setattr(nightly, "score", wrong)


WEEK_AGO = TONIGHT - timedelta(days=6)
FAULTS: dict[str, tuple[Fault, str, str]] = {
    "wrong totals": (
        _model(
            "marts/fct_orders",
            "    gross_revenue,\n",
            "    cast(gross_revenue + 0.01 as decimal(38, 4)) as gross_revenue,\n",
        ),
        "marts.fct_orders.total_equals_lines",
        "gross_of_lines",
    ),
    "duplicated orders": (
        _model(
            "marts/fct_orders",
            "from {{ ref('int_orders') }}",
            "from {{ ref('int_orders') }} cross join (values (1), (2)) as twice (n)",
        ),
        "marts.fct_orders.key",
        "order_id",
    ),
    "a null key": (
        _model(
            "marts/fct_events",
            "select\n    event_id,\n    event_ts,\n",
            "select\n    nullif(event_id, '5-5-1') as event_id,\n    event_ts,\n",
        ),
        "NOT NULL constraint failed",
        "event_id",
    ),
    "negative dwell": (
        _model("marts/fct_events", "then ms_to_next end", "then -ms_to_next end"),
        "marts.fct_events.dwell_not_negative",
        "dwell_ms",
    ),
    "a fall of revenue by more than 60 %": (
        _select(
            "price AS unit_price",
            f"CASE WHEN happened >= '{WEEK_AGO}' THEN CAST(price AS DOUBLE) * 0.39 "
            "ELSE CAST(price AS DOUBLE) END AS unit_price",
        ),
        "marts.fct_orders.revenue_week",
        "last_week",
    ),
    "a feature from the future": (
        _model(
            "features/user_behaviour_v1",
            "    known.event_timestamp,\n",
            "    known.event_timestamp + interval 1 hour as event_timestamp,\n",
        ),
        "features.user_behaviour_v1.not_from_the_future",
        "",
    ),
    "a model that recommends an unknown item": (
        _unknown_item,
        "recommendations.items.known",
        "ghost",
    ),
    "embeddings of zeros": (
        _embeddings_of_zeros,
        "features.item_text_embedding_minilm_v1.unit_length",
        "squared_length 0.0",
    ),
    "half the users missing": (_half_the_users, "marts.dim_users.none_lost", "users_tonight 50"),
    "yesterday's data again": (
        _yesterday_again,
        "marts.fct_events.not_an_earlier_day_again",
        f"earlier_day {YESTERDAY}",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_night_stops_names_the_check_and_leaves_yesterday(
    name: str,
    nights: Nights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fault, check, says = FAULTS[name]
    ignored = shutil.ignore_patterns("target", "logs")
    harm = Harm(tmp_path / "dbt_project", tmp_path / "shops", tmp_path / "raw", monkeypatch)
    shutil.copytree(nights.clone / "dbt_project", harm.project, ignore=ignored)
    shutil.copytree(nights.clone / "shops", harm.shops)
    shutil.copytree(nights.clone / "raw", harm.raw)
    before = nights.marts.read_bytes()
    fault(harm)
    done = _night(nights, harm)
    said = capfd.readouterr().err
    assert not done
    assert f"Night {TONIGHT} failed and was not published" in said
    assert check in said, said
    assert says in said, said
    assert "published__marts ..." not in said
    assert nights.marts.read_bytes() == before


def test_the_same_night_without_a_fault_is_published(
    nights: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # or else the ten above would stop for any reason
    before = nights.marts.read_bytes()
    harm = Harm(
        nights.clone / "dbt_project", nights.clone / "shops", nights.clone / "raw", monkeypatch
    )
    assert _night(nights, harm)
    assert nights.marts.read_bytes() != before


def _night(nights: Nights, harm: Harm) -> bool:
    """Run TONIGHT in this process with what the fault has made of code and files."""
    from dagster import Definitions, in_process_executor

    from core.shop import load_shop
    from orchestration import definitions
    from orchestration.defs import shop_definitions
    from orchestration.lib import commands, console, dbt

    harm.patch.setenv("PERENNIAL_VAR", str(nights.var))
    harm.patch.setenv("DAGSTER_HOME", os.environ.get("DAGSTER_HOME", ""))  # set by the command
    harm.patch.setattr("core.shop.SHOPS", harm.shops)
    project = nights.clone / "dbt_project"
    harm.patch.setattr(dbt, "PROJECT", project)
    harm.patch.setattr(dbt, "MANIFEST", project / "target" / "manifest.json")
    shop = Definitions.merge(
        shop_definitions(load_shop("tiny")),
        Definitions(executor=in_process_executor, loggers={"night": console.night_console}),
    )
    harm.patch.setattr(definitions, "defs", shop)
    harm.patch.setattr(dbt, "PROJECT", harm.project)  # Dagster knows the models as they were
    return commands.run_night("tiny", harm.raw, None, TONIGHT, force=False)
