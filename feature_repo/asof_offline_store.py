"""A Feast offline store: point-in-time joins by DuckDB's ASOF JOIN over parquet files.

Every entity row comes back exactly once and in the order given, whether or not anything is known of
it. A feature counts from its timestamp on and, where the view has a TTL, up to and including
timestamp + TTL. A source may hold several rows for one entity and moment only when it names a
created_timestamp_column: then the row created last counts. A source may say in its tag `online`, as
a condition over its columns, which entities are brought online.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import FeatureView
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import (
    OfflineStore,
    RetrievalJob,
    RetrievalMetadata,
)
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from core.duck import connect

ONLINE = "online"
"""The tag of a source with the condition that an entity's last row must meet to go online."""
MOMENT = "event_timestamp"
"""The column of the entity rows that says when each is asked about."""


class AsofDuckDBOfflineStoreConfig(FeastConfigBaseModel):
    """The store's part of feature_store.yaml."""

    type: Literal["feature_repo.asof_offline_store.AsofDuckDBOfflineStore"] = (
        "feature_repo.asof_offline_store.AsofDuckDBOfflineStore"
    )
    root: str = "."
    """The folder that relative paths of file sources are below."""


class AsofDuckDBOfflineStore(OfflineStore):
    """Reads parquet file sources; writing them is not the store's work."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pa.Table | pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
    ) -> RetrievalJob:
        """Each entity row with what was known of it at its own event_timestamp.

        `entity_df` is an Arrow table, a pandas frame or a DuckDB SELECT with the views' join keys
        and a column event_timestamp (naive means UTC). Its columns come back as they are, the
        features behind them. Raises ValueError when a column is missing.
        """
        entities = _entity_table(entity_df)
        needed = {MOMENT}.union(*(_keys_of_rows(view) for view in feature_views))
        if missing := needed - set(entities.column_names):
            raise ValueError(
                f"the entity rows lack {', '.join(sorted(missing))}; "
                f"they have {', '.join(entities.column_names)}"
            )
        moments = _utc(entities[MOMENT])
        query = _point_in_time_query(config, feature_views, feature_refs, full_feature_names)

        def run() -> pa.Table:
            asked = entities.select(sorted(needed - {MOMENT}))
            asked = asked.append_column("_moment", moments)
            asked = asked.append_column("_row", pa.array(range(asked.num_rows), pa.int64()))
            features = _run(query, asked=asked)
            return pa.table(
                [*entities.columns, *features.columns],
                names=[*entities.column_names, *features.column_names],
            )

        return _Job(
            run,
            full_feature_names,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entities.column_names if name != MOMENT],
                min_event_timestamp=pc.min(moments).as_py(),
                max_event_timestamp=pc.max(moments).as_py(),
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The last row of each entity with start_date <= timestamp <= end_date that goes online."""
        times = [timestamp_field, *filter(None, [created_timestamp_column])]
        columns = [*join_key_columns, *feature_name_columns, *times]
        keys = _columns(join_key_columns)
        newest_first = ", ".join(f"{_name(column)} DESC" for column in times)
        query = f"""
            {_rows_between(config, data_source, columns, start_date, end_date)}
            QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {newest_first}) = 1
                AND ({data_source.tags.get(ONLINE, "true")})
            ORDER BY {keys}"""
        return _Job(lambda: _run(query))

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row with start_date <= timestamp <= end_date; an open end where one is None."""
        times = [timestamp_field, *filter(None, [created_timestamp_column])]
        columns = [*join_key_columns, *feature_name_columns, *times]
        query = f"""
            {_rows_between(config, data_source, columns, start_date, end_date)}
            ORDER BY {_columns([*join_key_columns, *times])}"""
        return _Job(lambda: _run(query))

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Raises ValueError when the source is of a kind that the store cannot read."""
        _parquet(config, data_source)


class _Job(RetrievalJob):
    """A query that runs when its result is asked for."""

    def __init__(
        self,
        run: Callable[[], pa.Table],
        full_feature_names: bool = False,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        metadata: RetrievalMetadata | None = None,
    ):
        self._run = run
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = on_demand_feature_views or []
        self._metadata = metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        # One chunk a column: Feast's materialization writes the first record batch only.
        return self._run().combine_chunks()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result as one parquet file, whole or not at all."""
        if not isinstance(storage, SavedDatasetFileStorage):
            raise ValueError(f"a result is saved to a file, not to {type(storage).__name__}")
        path = Path(storage.file_options.uri)
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        temporary = path.with_name(f".{path.name}.next")
        pq.write_table(self.to_arrow(), temporary)
        temporary.replace(path)


def _run(query: str, **tables: pa.Table) -> pa.Table:
    with connect() as duck:
        for name, table in tables.items():
            duck.register(name, table)
        return duck.sql(query).to_arrow_table()


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _columns(names: list[str]) -> str:
    return ", ".join(_name(name) for name in names)


def _parquet(config: RepoConfig, source: DataSource | None) -> str:
    """The source as a DuckDB table function; raises ValueError when it is no file."""
    if not isinstance(source, FileSource):
        raise ValueError(f"this offline store reads parquet files, not {type(source).__name__}")
    path = str(Path(config.offline_store.root) / source.path).replace("'", "''")
    return f"read_parquet('{path}')"


def _entity_table(entity_df: pa.Table | pd.DataFrame | str | None) -> pa.Table:
    if entity_df is None:
        raise ValueError("name the entity rows: a table with join keys and event_timestamp")
    if isinstance(entity_df, str):
        return _run(entity_df)
    if isinstance(entity_df, pd.DataFrame):
        return pa.Table.from_pandas(entity_df, preserve_index=False)
    return entity_df


def _utc(moments: pa.ChunkedArray) -> pa.ChunkedArray:
    """Timestamps in any unit or zone as naive UTC microseconds; else ValueError."""
    if not pa.types.is_timestamp(moments.type):
        raise ValueError(f"{MOMENT} of the entity rows is {moments.type}, not a timestamp")
    # pandas brings nanoseconds, which DuckDB 2.0 cannot carry with a zone; features have none
    whole = pc.cast(moments, pa.timestamp("us", moments.type.tz), safe=False)
    return pc.cast(whole, pa.timestamp("us"))


def _sql_moment(moment: datetime) -> str:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"TIMESTAMP '{aware.astimezone(UTC).replace(tzinfo=None).isoformat(' ')}'"


def _rows_between(
    config: RepoConfig,
    source: DataSource,
    columns: list[str],
    start: datetime | None,
    end: datetime | None,
) -> str:
    assert source.timestamp_field
    moment = f"CAST({_name(source.timestamp_field)} AS TIMESTAMP)"
    bounds = [f"{moment} >= {_sql_moment(start)}"] if start else []
    bounds += [f"{moment} <= {_sql_moment(end)}"] if end else []
    return f"""SELECT {_columns(columns)} FROM {_parquet(config, source)}
            WHERE {" AND ".join(bounds) or "true"}"""


def _keys_of_rows(view: FeatureView) -> list[str]:
    """The entity rows' names of the view's join keys, in the order of `view.entity_columns`."""
    mapped = view.projection.join_key_map
    return [mapped.get(column.name, column.name) for column in view.entity_columns]


def _point_in_time_query(
    config: RepoConfig, views: list[FeatureView], refs: list[str], full_names: bool
) -> str:
    """One ASOF LEFT JOIN a view onto `asked` (join keys, _moment, _row), in the order of _row."""
    columns, joins = [], []
    for number, view in enumerate(views):
        prefix = view.projection.name_to_use()
        wanted = [ref.split(":")[1] for ref in refs if ref.split(":")[0] == prefix]
        joins.append(_asof_join(config, view, wanted, f"v{number}"))
        fresh = f"v{number}._known_at >= asked._moment - INTERVAL {_seconds(view)} SECOND"
        for feature in wanted:
            value = f"v{number}.{_name(feature)}"
            value = f"CASE WHEN {fresh} THEN {value} END" if view.ttl else value
            columns.append(f"{value} AS {_name(f'{prefix}__{feature}' if full_names else feature)}")
    return f"SELECT {', '.join(columns)} FROM asked {' '.join(joins)} ORDER BY asked._row"


def _seconds(view: FeatureView) -> int:
    return int(view.ttl.total_seconds()) if view.ttl else 0


def _asof_join(config: RepoConfig, view: FeatureView, features: list[str], alias: str) -> str:
    """The last row of the view's source that each row of `asked` can have known."""
    source = view.batch_source
    assert source is not None and source.timestamp_field
    in_file = {feature: column for column, feature in source.field_mapping.items()}
    keys = [column.name for column in view.entity_columns]
    picked = [
        f"{_name(in_file.get(column, column))} AS {_name(column)}" for column in [*keys, *features]
    ]
    moment = f"CAST({_name(source.timestamp_field)} AS TIMESTAMP)"
    rows = f"SELECT {', '.join(picked)}, {moment} AS _known_at FROM {_parquet(config, source)}"
    if source.created_timestamp_column:
        rows += f""" QUALIFY row_number() OVER (
            PARTITION BY {_columns([in_file.get(key, key) for key in keys])}, {moment}
            ORDER BY {_name(source.created_timestamp_column)} DESC) = 1"""
    same = [
        f"{alias}.{_name(key)} = asked.{_name(asked)}"
        for key, asked in zip(keys, _keys_of_rows(view), strict=True)
    ]
    condition = " AND ".join([*same, f"asked._moment >= {alias}._known_at"])
    return f"ASOF LEFT JOIN ({rows}) AS {alias} ON {condition}"
