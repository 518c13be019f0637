"""The Arrow tables that the models of a night are given, read from the warehouse and from Feast."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

from core.duck import connect
from core.shop import ShopError, load_shop
from orchestration.lib.night import Night

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

    from ml.encoder.nightly import EncoderInputs
    from ml.nightly import NightInputs
    from ml.recommender.files import Learned

_log = logging.getLogger(__name__)
SEED = 20
"""Of every model that a night trains."""
RECOMMENDER_SERVICE = "recommender_v1"
"""The recommender's item features with the texts as the encoder came."""


def recommender_service(night: Night) -> str:
    """What tonight's challenger is trained with; the champion keeps what it was trained with."""
    if night.shop.fine_tune.mode == "frozen":
        return RECOMMENDER_SERVICE
    from feature_repo.definitions import service_of
    from ml.encoder.nightly import in_use

    version = in_use(night.paths.models, night.night)
    return service_of(version) if version else RECOMMENDER_SERVICE


def end_of(night: Night, days_before: int = 0) -> datetime:
    """The moment after the last event that a night, or one some days before, knows; naive UTC."""
    return datetime.combine(night.night, time()) + timedelta(days=1 - days_before)


def item_texts(night: Night) -> pa.Table:
    """Every version of every item's texts valid by the night: one row per item and version."""
    with connect() as connection:
        return connection.execute(
            """
            SELECT item_id, title, description, category_path, brand, valid_from
            FROM read_parquet($files, hive_partitioning = false)
            WHERE valid_from < $end
            ORDER BY item_id, valid_from
            """,
            {"files": f"{night.paths.landing}/items/*/*.parquet", "end": end_of(night)},
        ).to_arrow_table()


def encoder_inputs(night: Night) -> EncoderInputs:
    """What the text encoder may learn from tonight: texts and events before the held-out days."""
    from ml import text
    from ml.encoder.nightly import EncoderInputs

    settings = night.shop.recommender
    with connect(night.paths.warehouse, read_only=True) as connection:
        events = behaviour(connection, night)
    with connect() as connection:
        items: pa.Table = connection.execute(
            """
            SELECT item_id, title, description, category_path, brand
            FROM read_parquet($files, hive_partitioning = false)
            WHERE valid_from < $cutoff
            QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY valid_from DESC) = 1
            ORDER BY item_id
            """,
            {
                "files": f"{night.paths.landing}/items/*/*.parquet",
                "cutoff": end_of(night, settings.holdout_days),
            },
        ).to_arrow_table()
    return EncoderInputs(
        events=events,
        texts=items.select(["item_id"]).append_column("text", text.item_texts(items)),
        night=night.night,
        input_events=tuple(settings.input_events),
        target_events=tuple(settings.target_events),
        holdout_days=settings.holdout_days,
    )


def behaviour(connection: DuckDBPyConnection, night: Night) -> pa.Table:
    """The events that the shop's models learn from."""
    settings = night.shop.recommender
    kinds = sorted({*settings.input_events, *settings.target_events})
    return connection.execute(
        """
        WITH wanted AS (
            SELECT user_id, item_id, event_type, event_ts, event_id
            FROM marts.fct_events
            WHERE user_id IS NOT NULL AND is_known_item AND list_contains($kinds, event_type)
        ),
        days AS (
            SELECT event_ts::DATE AS day,
                sum(count(*)) OVER (ORDER BY day DESC) AS n_since,
                row_number() OVER (ORDER BY day DESC) AS place
            FROM wanted GROUP BY day
        )
        SELECT user_id, item_id, event_type, event_ts
        FROM wanted
        WHERE event_ts >= (SELECT min(day) FROM days WHERE n_since <= $most OR place = 1)
        ORDER BY user_id, event_ts, event_id
        """,
        {"kinds": kinds, "most": settings.max_events},
    ).to_arrow_table()


def night_inputs(night: Night, service: str = RECOMMENDER_SERVICE) -> NightInputs:
    """What the recommender may know tonight, and what it knew when the held-out days began.

    `service` is the feature service that its item features come from.
    """
    from ml.nightly import NightInputs

    settings = night.shop.recommender
    with connect(night.paths.warehouse, read_only=True) as connection:
        events = behaviour(connection, night)
        users = connection.execute(
            "SELECT user_id FROM marts.dim_users ORDER BY user_id"
        ).to_arrow_table()
        items = connection.execute(
            """
            SELECT item_id, title, category_path, brand, is_catalogued, is_sold_out
            FROM marts.dim_items ORDER BY item_id
            """
        ).to_arrow_table()
    at_cutoff, at_night = item_features(night, items, service)
    return NightInputs(
        events=events,
        users=users,
        items=items,
        item_features_at_cutoff=at_cutoff,
        item_features_at_night=at_night,
        night=night.night,
        input_events=tuple(settings.input_events),
        target_events=tuple(settings.target_events),
        holdout_days=settings.holdout_days,
        max_length=settings.max_length,
        max_steps=settings.max_steps,
        settings=dict(settings.settings),
    )


def champion_inputs(night: Night, inputs: NightInputs, service: str | None = None) -> NightInputs:
    """`inputs`, which are of `service`, as tonight's champion knows them: of its own service."""
    from ml.nightly import champion_service

    theirs = champion_service(night.paths.models, night.night)
    if theirs is None or theirs == (service or RECOMMENDER_SERVICE):
        return inputs
    at_cutoff, at_night = item_features(night, inputs.items, theirs)
    return replace(inputs, item_features_at_cutoff=at_cutoff, item_features_at_night=at_night)


def other_shops_model(
    night: Night, service: str, events: int, log: Callable[[str], object] = _log.info
) -> tuple[str, Learned] | None:
    """What the shop's model begins with: its name, and the network; None for a cold start.

    It is the champion that the shop named by `start_from` had on this night, so that a night which
    is run again begins with the same. None as long as that has none, while its champion is due for
    retraining, and once this shop has as many `events` to learn from as that champion had: `log` is
    told which. Raises ModelError for a shop that is not here, and for a model that reads other
    texts.
    """
    from core.paths import Paths
    from ml import ModelError, registry
    from ml.nightly import MODEL
    from ml.recommender.files import Learned

    name = night.shop.recommender.start_from
    if name is None:
        return None
    try:
        models = Paths(load_shop(name).name).models
    except ShopError as error:
        raise ModelError(f"recommender.start_from in shop.yml: {error}") from error
    version = registry.champion(models, MODEL, night.night)
    if version is None:
        log(f"the training starts from nothing: {name} had no champion on {night.night}")
        return None
    if registry.is_due(models, MODEL, version):
        log(
            f"the training starts from nothing: {version} of {name} learned from somebody who has "
            f"been erased; it is trained anew with the next night of {name}"
        )
        return None
    card = registry.card(models, MODEL, version)
    if events >= card.get("events", 0):
        log(f"the training starts from nothing: {version} of {name} has no more events")
        return None
    theirs, own = (
        (card["feature_service"], card["text_encoder"]),
        (service, night.shop.text_encoder),
    )
    if theirs != own:
        raise ModelError(
            f"recommender.start_from in shop.yml: {version} of {name} reads the texts of "
            f"{' by '.join(theirs)}, this shop those of {' by '.join(own)}. Give both the same "
            "text_encoder, not fine-tuned, or take start_from out"
        )
    log(f"the training starts from {version} of {name}")
    return registry.model_of(name, version), Learned.load(registry.folder(models, MODEL, version))


def item_features(night: Night, items: pa.Table, service: str) -> tuple[pa.Table, pa.Table]:
    """The items' features, as known when the held-out days began and at the night's end."""
    import pyarrow as pa

    from feature_repo import FeatureError
    from feature_repo.store import training_set
    from ml import ModelError

    tables = []
    for days_before in (night.shop.recommender.holdout_days, 0):
        moment = end_of(night, days_before).replace(tzinfo=UTC)
        stamps = pa.array([moment] * items.num_rows, pa.timestamp("us", tz="UTC"))
        entities = items.select(["item_id"]).append_column("event_timestamp", stamps)
        try:
            tables.append(training_set(night.paths, service, entities))
        except FeatureError as error:
            raise ModelError(
                f"the recommender needs the features it was trained with: {error}. Bring {service} "
                "back in feature_repo/definitions.py, or roll back to a model of another service"
            ) from error
    return tables[0], tables[1]
