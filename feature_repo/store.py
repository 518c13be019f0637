"""The feature store as the other rooms call it: export, apply, training sets, online reads.

The moment of a night is the midnight (UTC) that ends it: then its snapshot is known.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from string import Template
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast import FeatureService, FeatureStore, FeatureView, RepoConfig
from feast.errors import FeatureServiceNotFoundException
from feast.feast_object import FeastObject
from feast.type_map import feast_value_type_to_python_type
from feast.types import from_feast_to_pyarrow_type

from core.duck import connect
from core.paths import Paths
from core.profile import servers, settings_file
from feature_repo import FeatureError, definitions
from feature_repo.asof_offline_store import ONLINE

_CONFIG = Path(__file__).with_name("feature_store.yaml")
_IDS_PER_READ = 1_000
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
_FOREVER = 1 << 62


def night_end(night: date) -> datetime:
    """The moment when a night is over: the next day, 00:00 UTC."""
    return datetime.combine(night + timedelta(days=1), time(), UTC)


def export(paths: Paths, night: date) -> dict[str, int]:
    """Copy the warehouse's feature tables to `features/<view>/<day>.parquet`; rows by view.

    One file a snapshot day, and only the snapshots that can have changed since they were exported:
    a night costs what its own snapshot costs, however many there are. All files are written beside
    the old ones first and then renamed, so an error leaves the old ones as they were. Raises
    FeatureError when the tables do not end with this night.
    """
    rows: dict[str, int] = {}
    written: list[tuple[Path, Path]] = []
    stale: list[Path] = []
    with connect(paths.warehouse, read_only=True) as duck:
        duck.execute(f"SET temp_directory = '{paths.home / 'spill'}'")
        for view in _views_built_by("dbt"):
            # items also by what is said of them: the catalogue may say something new of any day
            content = "bit_xor(hash(snapshot))" if view.join_keys == ["item_id"] else "''"
            found = duck.execute(
                f"SELECT event_timestamp, count(*), {content} FROM features.{view.name} AS snapshot"
                " GROUP BY event_timestamp"
            ).fetchall()
            moments = {moment: count for moment, count, _ in found}
            rows[view.name] = sum(moments.values())
            last = max(moments, default=None)
            if last and last > night_end(night).replace(tzinfo=None):
                raise FeatureError(
                    f"features.{view.name}.not_from_the_future: the newest row is of {last}, after "
                    f"the end of night {night}: run dbt for that night, or mend the model"
                )
            if last != night_end(night).replace(tzinfo=None):
                raise FeatureError(
                    f"features.{view.name} ends at {last}, not with {night}: run dbt for that night"
                )
            folder = paths.features / view.name
            folder.mkdir(parents=True, exist_ok=True)
            files = {moment.date() - timedelta(days=1): moment for moment in moments}
            made_from = _made_from(paths, sorted(files))
            for moment, _, said in found:
                day = moment.date() - timedelta(days=1)
                made_from[day] = made_from[day] and f"{made_from[day]}{said}"
            for day in _to_export(folder, made_from, night):
                temporary = folder / f".{day}.parquet.next"
                duck.execute(
                    f"COPY (FROM features.{view.name} WHERE event_timestamp = '{files[day]}' "
                    f"ORDER BY {view.join_keys[0]}) TO '{temporary}' (FORMAT parquet, "
                    f"COMPRESSION zstd, KV_METADATA {{made_from: '{made_from[day]}'}})"
                )
                written.append((temporary, folder / f"{day}.parquet"))
            wanted = {f"{day}.parquet" for day in files}
            stale += [file for file in folder.glob("*.parquet") if file.name not in wanted]
    for temporary, path in written:
        temporary.replace(path)
    for path in stale:
        path.unlink()
    return rows


def _made_from(paths: Paths, days: list[date]) -> dict[date, str]:
    """By snapshot day, a hash of the landed days that the warehouse built it from, and of its SQL.

    Empty where the warehouse does not say what it was built from.
    """
    built = paths.home / "warehouse.json"
    if not built.exists():
        return dict.fromkeys(days, "")
    known = json.loads(built.read_text())
    digest = hashlib.sha256(str(known["project"]).encode())
    landed = sorted(known["days"].items())
    made_from = {}
    for day in days:
        while landed and landed[0][0] <= day.isoformat():
            digest.update("=".join(landed.pop(0)).encode())
        made_from[day] = digest.hexdigest()
    return made_from


def _to_export(folder: Path, made_from: dict[date, str], night: date) -> list[date]:
    """The snapshot days whose file is missing or of other content.

    The newest snapshot of the export before may differ without a trace in `made_from`: a later
    version of the catalogue changes the night it is landed in. So it is never trusted.
    """
    there = {file.stem: file for file in folder.glob("*-*-*.parquet")}
    trusted = min(max(there, default=""), night.isoformat())
    return [
        day
        for day, wanted in made_from.items()
        if not wanted
        or day.isoformat() >= trusted
        or day.isoformat() not in there
        or _metadata(there[day.isoformat()]) != wanted
    ]


def _metadata(file: Path) -> str | None:
    """What a feature file says it was made from."""
    found = (pq.read_metadata(file).metadata or {}).get(b"made_from")
    return found.decode() if found is not None else None


def _views_built_by(builder: str) -> list[FeatureView]:
    return [view for view in definitions.VIEWS if view.tags["built_by"] == builder]


def open_store(paths: Paths) -> FeatureStore:
    """The shop's Feast store, as the profile's `feature_store.yaml` says."""
    file = settings_file(_CONFIG)
    known = {"PERENNIAL_SHOP": paths.shop, "PERENNIAL_SHOP_HOME": str(paths.home)}
    settings = yaml.safe_load(Template(file.read_text()).substitute({**os.environ, **known}))
    paths.feast.mkdir(parents=True, exist_ok=True)
    # it would rather have the scheme postgresql+psycopg, which Dagster's storage does not know
    logging.getLogger("feast.repo_config").setLevel(logging.ERROR)
    return FeatureStore(config=RepoConfig(repo_path=file.parent, **settings))


@contextlib.contextmanager
def _opened(paths: Paths) -> Iterator[FeatureStore]:
    """The store, and no open connection afterwards: Feast itself closes none."""
    store = open_store(paths)
    try:
        with servers():
            yield store
    finally:
        if engine := getattr(store._registry, "write_engine", None):
            engine.dispose()


def apply(shop_name: str, paths: Paths) -> None:
    """Make the registry hold exactly the entities, views and services of `definitions`."""
    if shop_name != paths.shop:
        raise FeatureError(f"these are the paths of {paths.shop}, not of {shop_name}")
    wanted: list[FeastObject] = [*definitions.ENTITIES, *definitions.VIEWS, *definitions.SERVICES]
    for more in (*definitions.fine_tuned(paths.features), *definitions.told(paths.features)):
        wanted.extend(more)
    names = {thing.name for thing in wanted}
    with _opened(paths) as store, contextlib.redirect_stdout(io.StringIO()):
        there: list[FeastObject] = [*store.list_feature_services(), *store.list_feature_views()]
        gone = [thing for thing in there if thing.name not in names]
        store.apply(wanted, objects_to_delete=gone, partial=False)


def training_set(paths: Paths, service: str, entities: pa.Table) -> pa.Table:
    """`entities` with the service's features as they were known at each row's event_timestamp.

    `entities` has the service's ids and event_timestamp (naive means UTC); every row comes back
    once, in its place, its columns untouched. What was not known then is NULL.
    """
    with _opened(paths) as store:
        return store.get_historical_features(entities, _service(store, service)).to_arrow()  # type: ignore[arg-type]


def _service(store: FeatureStore, name: str) -> FeatureService:
    try:
        return store.get_feature_service(name)
    except FeatureServiceNotFoundException as error:
        known = ", ".join(sorted(service.name for service in store.list_feature_services()))
        raise FeatureError(
            f"no feature service '{name}' in {store.project}; "
            + (f"there are: {known}" if known else "nothing was applied yet: call apply first")
        ) from error


def materialize(paths: Paths, night: date) -> dict[str, int]:
    """Bring the night's features online; returns the entities written, by view.

    Always the whole range of what is still valid, never incrementally: Feast would miss a late row
    without a word.
    """
    end, rows = night_end(night), {}
    with _opened(paths) as store:
        for view in sorted(store.list_feature_views(), key=lambda view: view.name):
            start = end - view.ttl if view.ttl else _FIRST
            with contextlib.redirect_stdout(io.StringIO()):
                store.materialize(start, end, feature_views=[view.name])
            rows[view.name] = _entities_between(paths, view, start, end)
    return rows


def _entities_between(paths: Paths, view: FeatureView, start: datetime, end: datetime) -> int:
    key, source = view.join_keys[0], view.batch_source
    assert source is not None
    with connect() as duck:
        found = duck.execute(
            f"""
            SELECT count(*) FROM (
                FROM read_parquet($files) WHERE event_timestamp BETWEEN $start AND $end
                QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY event_timestamp DESC) = 1
                    AND ({source.tags.get(ONLINE, "true")})
            )
            """,
            {
                "files": str(paths.features / view.name / "*.parquet"),
                "start": start.replace(tzinfo=None),
                "end": end.replace(tzinfo=None),
            },
        ).fetchone()
    assert found is not None
    return int(found[0])


def online(
    paths: Paths, service: str, ids: dict[str, list[str]], at: datetime | None = None
) -> pa.Table:
    """The service's features in the online store: one row an id, in the order asked.

    `ids` holds the service's join keys, such as `{"user_id": [...]}`. A feature that is missing is
    NULL, and so is one that is not valid at `at`: not yet known then, or its time to live over.
    Feast would return those all the same. Without `at` everything that is there is known, and the
    time to live ends at the end of the night that was brought online last: while a night is being
    written, its rows are served beside those of the night before.
    """
    with _opened(paths) as store:
        chosen = _service(store, service)
        projections = chosen.feature_view_projections
        views = {p.name: store.get_feature_view(p.name) for p in projections}
        keys = {key for view in views.values() for key in view.join_keys}
        if set(ids) != keys or len({len(values) for values in ids.values()}) != 1:
            raise FeatureError(f"{service} wants as many values each of: {', '.join(sorted(keys))}")
        moment = int((at or _last_online(views)).timestamp())
        newest = moment if at else _FOREVER
        read = _read_online(store, chosen, ids)
    columns = {key: pa.array(values, pa.string()) for key, values in ids.items()}
    for projection in projections:
        ttl = views[projection.name].ttl
        oldest = moment - int(ttl.total_seconds()) if ttl else 0
        for field in projection.features:
            values = [
                feast_value_type_to_python_type(value) if oldest <= stamp <= newest else None
                for value, stamp in read[field.name]
            ]
            # from_pandas: Feast turned NULL into NaN on the way in
            type_ = from_feast_to_pyarrow_type(field.dtype)
            columns[field.name] = pa.array(values, type_, from_pandas=True)
    return pa.table(columns)


def _last_online(views: dict[str, FeatureView]) -> datetime:
    """The end of the range that was materialized last."""
    ranges = [view.materialization_intervals[-1:] for view in views.values()]
    if not all(ranges):
        raise FeatureError(f"{', '.join(sorted(views))}: nothing is online, call materialize first")
    return max(end for ((_, end),) in ranges)


def _read_online(
    store: FeatureStore, service: FeatureService, ids: dict[str, list[str]]
) -> dict[str, list[tuple[Any, int]]]:
    """By feature, a (value, seconds since 1970) an id; read in portions a database can bind."""
    read: dict[str, list[tuple[Any, int]]] = {
        field.name: [] for view in service.feature_view_projections for field in view.features
    }
    total = len(next(iter(ids.values())))
    for start in range(0, total, _IDS_PER_READ):
        portion = {key: values[start : start + _IDS_PER_READ] for key, values in ids.items()}
        proto = store.get_online_features(service, portion).proto
        for name, result in zip(proto.metadata.feature_names.val, proto.results, strict=True):
            if name in read:
                stamps = (stamp.seconds for stamp in result.event_timestamps)
                read[name].extend(zip(result.values, stamps, strict=True))
    return read
