"""The same work by other means: three marts in pandas and in polars, checks on a pandas frame.

What is compared is equal by value; `digest` tells.
"""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path
from typing import Any

from core.duck import connect
from core.paths import Paths
from core.shop import Shop

COLUMNS = ["user_id", "item_id", "event_ts", "event_type", "order_id", "quantity", "unit_price"]

# Money in whole ten-thousandths, as every engine can add those up exactly.
_SQL = {
    "users": """
        SELECT user_id, CAST(event_ts AS DATE) AS day, count(*) AS events,
               count(*) FILTER (event_type = 'view') AS views,
               count(*) FILTER (event_type = 'purchase') AS purchases,
               coalesce(sum(amount) FILTER (event_type = 'purchase'), 0)::BIGINT AS revenue,
               count(DISTINCT item_id) AS items
        FROM events WHERE user_id IS NOT NULL GROUP BY ALL""",
    "items": """
        SELECT item_id, CAST(event_ts AS DATE) AS day, count(*) AS events,
               count(*) FILTER (event_type = 'view') AS views,
               count(DISTINCT user_id) AS users
        FROM events WHERE item_id IS NOT NULL GROUP BY ALL""",
    "orders": """
        SELECT order_id, user_id, ordered_at, revenue,
               row_number() OVER (PARTITION BY user_id ORDER BY ordered_at, order_id) AS number
        FROM (SELECT order_id, min(user_id) AS user_id, min(event_ts) AS ordered_at,
                     sum(amount)::BIGINT AS revenue
              FROM events WHERE event_type = 'purchase' AND user_id IS NOT NULL GROUP BY order_id)
        """,
}


def marts(shop: Shop, paths: Paths, night: date, engine: str) -> dict[str, Any]:
    """Three marts from the landed events: activity by user and day, by item and day, orders."""
    folder = paths.home / "peers" / engine
    folder.mkdir(parents=True, exist_ok=True)
    files = f"{paths.landing}/events/day=*/part.parquet"
    began = time.perf_counter()
    {"duckdb": _duckdb, "pandas": _pandas, "polars": _polars}[engine](files, folder)
    seconds = time.perf_counter() - began
    with connect() as duck:
        rows = duck.execute(f"SELECT count(*) FROM read_parquet('{files}')").fetchall()[0][0]
    return {"rows": rows, "seconds": seconds, "digest": _digest(folder)}


def _digest(folder: Path) -> str:
    """A digest of the three tables, in whatever order and integer types their rows are."""
    parts = []
    with connect() as duck:
        for name, keys in (("users", 2), ("items", 2), ("orders", 3)):
            file = f"read_parquet('{folder / name}.parquet')"
            names = [row[0] for row in duck.execute(f"DESCRIBE SELECT * FROM {file}").fetchall()]
            texts = ", ".join(
                f"{column}::{'VARCHAR' if place < keys and column != 'day' else kind}"
                for place, column in enumerate(names)
                for kind in ["DATE" if column == "day" else "BIGINT"]
                if column != "ordered_at"
            )
            parts.append(
                duck.execute(f"SELECT count(*), bit_xor(hash({texts})) FROM {file}").fetchall()[0]
            )
    return str(parts)


def _duckdb(files: str, folder: Path) -> None:
    with connect() as duck:
        duck.execute(
            "CREATE VIEW events AS SELECT *, (quantity * unit_price * 10000)::BIGINT AS amount "
            f"FROM read_parquet('{files}', hive_partitioning = false)"
        )
        for name, query in _SQL.items():
            duck.execute(f"COPY ({query}) TO '{folder / name}.parquet' (FORMAT parquet)")


def _pandas(files: str, folder: Path) -> None:
    """As an analyst would write it, on Arrow's types (numpy's objects would take far more)."""
    import pandas as pd
    import pyarrow.parquet as pq

    found = sorted(Path(files.split("/day=")[0]).glob("day=*/part.parquet"))
    events = pq.ParquetDataset(found, partitioning=None).read(columns=COLUMNS)
    events = events.to_pandas(types_mapper=pd.ArrowDtype, split_blocks=True, self_destruct=True)
    events["day"] = events["event_ts"].dt.floor("D").astype("date32[pyarrow]")
    units = events["quantity"].astype("float64")
    price = events["unit_price"].astype("float64")
    events["amount"] = (units * price * 10_000).round().fillna(0).astype("int64")
    bought = events["event_type"] == "purchase"
    events["view"] = (events["event_type"] == "view").astype("int64")
    events["purchase"] = bought.astype("int64")
    events["revenue"] = events["amount"].where(bought, 0)

    users = events.groupby(["user_id", "day"], observed=True).agg(
        events=("event_type", "size"),
        views=("view", "sum"),
        purchases=("purchase", "sum"),
        revenue=("revenue", "sum"),
        items=("item_id", "nunique"),
    )
    users.reset_index().to_parquet(folder / "users.parquet")
    items = events.groupby(["item_id", "day"], observed=True).agg(
        events=("event_type", "size"), views=("view", "sum"), users=("user_id", "nunique")
    )
    items.reset_index().to_parquet(folder / "items.parquet")
    orders = (
        events[bought & events["user_id"].notna()]
        .groupby("order_id")
        .agg(user_id=("user_id", "min"), ordered_at=("event_ts", "min"), revenue=("amount", "sum"))
        .reset_index()
        .sort_values(["user_id", "ordered_at", "order_id"])
    )
    orders["number"] = orders.groupby("user_id").cumcount() + 1
    orders.to_parquet(folder / "orders.parquet", index=False)


def _polars(files: str, folder: Path) -> None:
    """Lazily, so that polars may plan the whole and stream."""
    import polars as pl

    events = pl.scan_parquet(files, hive_partitioning=False).select(
        *COLUMNS,
        pl.col("event_ts").dt.date().alias("day"),
        (pl.col("quantity").cast(pl.Float64) * pl.col("unit_price").cast(pl.Float64) * 10_000)
        .round()
        .cast(pl.Int64)
        .alias("amount"),
    )
    bought, viewed = pl.col("event_type") == "purchase", pl.col("event_type") == "view"
    users = (
        events.filter(pl.col("user_id").is_not_null())
        .group_by("user_id", "day")
        .agg(
            pl.len().alias("events"),
            viewed.sum().alias("views"),
            bought.sum().alias("purchases"),
            pl.col("amount").filter(bought).sum().alias("revenue"),
            pl.col("item_id").drop_nulls().n_unique().alias("items"),
        )
    )
    items = (
        events.filter(pl.col("item_id").is_not_null())
        .group_by("item_id", "day")
        .agg(
            pl.len().alias("events"),
            viewed.sum().alias("views"),
            pl.col("user_id").drop_nulls().n_unique().alias("users"),
        )
    )
    orders = (
        events.filter(bought & pl.col("user_id").is_not_null())
        .group_by("order_id")
        .agg(
            pl.col("user_id").min(),
            pl.col("event_ts").min().alias("ordered_at"),
            pl.col("amount").sum().alias("revenue"),
        )
        .sort("user_id", "ordered_at", "order_id")
        .with_columns(pl.int_range(1, pl.len() + 1).over("user_id").alias("number"))
    )
    for name, query in (("users", users), ("items", items), ("orders", orders)):
        query.collect(engine="streaming").write_parquet(folder / f"{name}.parquet")


def expectations(shop: Shop, paths: Paths, night: date, engine: str) -> dict[str, Any]:
    """Five expectations of Great Expectations on all landed events: in DuckDB, or on a frame."""
    import great_expectations as gx
    import great_expectations.expectations as gxe

    from ingest.contract import EVENT_TYPES

    files = f"{paths.landing}/events/day=*/part.parquet"
    began = time.perf_counter()
    context = gx.get_context(mode="ephemeral")
    if engine == "duckdb":
        from audit import dialect

        view = f"CREATE VIEW events AS FROM read_parquet('{files}', hive_partitioning = false)"
        source = context.data_sources.add_sql(
            "duckdb",
            connection_string=dialect.URL,
            kwargs={"connect_args": {"config": {}, "setup": [view]}},
        )
        batch = source.add_table_asset("events").add_batch_definition_whole_table("all")
        parameters: dict[str, Any] = {}
    else:
        with connect() as duck:
            columns = "event_id, event_ts, event_type, quantity, unit_price::DOUBLE AS unit_price"
            frame = duck.execute(
                f"SELECT {columns} FROM read_parquet('{files}', hive_partitioning = false)"
            ).df()
        source = context.data_sources.add_pandas("pandas")
        asset = source.add_dataframe_asset("events")
        batch = asset.add_batch_definition_whole_dataframe("all")
        parameters = {"dataframe": frame}
    suite = context.suites.add(
        gx.ExpectationSuite(
            name="events",
            expectations=[
                gxe.ExpectColumnValuesToBeUnique(column="event_id"),
                gxe.ExpectColumnValuesToNotBeNull(column="event_ts"),
                gxe.ExpectColumnValuesToBeInSet(column="event_type", value_set=list(EVENT_TYPES)),
                gxe.ExpectColumnValuesToBeBetween(column="unit_price", min_value=0),
                gxe.ExpectTableRowCountToBeBetween(min_value=1),
            ],
        )
    )
    validation = gx.ValidationDefinition(name="events", data=batch, suite=suite)
    result = context.validation_definitions.add(validation).run(
        batch_parameters=parameters, result_format="BOOLEAN_ONLY"
    )
    outcomes = [each.success for each in result.results]
    seconds = time.perf_counter() - began
    with connect() as duck:
        rows = duck.execute(f"SELECT count(*) FROM read_parquet('{files}')").fetchall()[0][0]
    return {"rows": rows, "seconds": seconds, "digest": str(outcomes)}
