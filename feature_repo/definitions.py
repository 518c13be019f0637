"""Entities, feature views and feature services, each by its explicit version.

A view that dbt builds takes its fields, their types and their descriptions from the model's yml in
`dbt_project/models/features/`, so there is one list of them. Paths are relative to the offline
store's `root`; the registry holds no path of a machine.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, FeastType, Float32, Float64, Int64, String

from feature_repo.asof_offline_store import ONLINE

_MODELS = Path(__file__).resolve().parent.parent / "dbt_project" / "models" / "features"
_TYPES: dict[str, FeastType] = {"bigint": Int64, "double": Float64, "varchar": String}

OWNER = "data-science"
SNAPSHOT_TTL = timedelta(days=14)
"""Snapshots are weekly; what is older than two of them is stale and reads as missing."""

ONLINE_DAYS = 365
"""Shoppers who were not seen for longer are not brought online: a night costs what the shoppers of
a year cost, however many there ever were."""
_SEEN = f"coalesce(days_since_last_event, tenure_days) <= {ONLINE_DAYS}"


def _source(view: str, online: str | None = None) -> FileSource:
    return FileSource(
        name=view,
        path=f"{view}/*.parquet",
        timestamp_field="event_timestamp",
        tags={ONLINE: online} if online else {},
        description=f"the parquet files in features/{view}",
        owner=OWNER,
    )


def _view_of_model(name: str, entity: Entity, online: str | None = None) -> FeatureView:
    """The feature view of a dbt model: every column of its yml but the moment."""
    model: dict[str, Any] = yaml.safe_load((_MODELS / f"{name}.yml").read_text())["models"][0]
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=SNAPSHOT_TTL,
        schema=[
            Field(
                name=column["name"],
                dtype=_TYPES[column["data_type"]],
                description=column["description"],
            )
            for column in model["columns"]
            if column["name"] != "event_timestamp"
        ],
        source=_source(name, online),
        description=" ".join(model["description"].split()),
        tags={"built_by": "dbt", "grain": f"{entity.join_key}, snapshot day"},
        owner=OWNER,
    )


user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.STRING,
    description="A shopper, by pseudonym.",
    owner=OWNER,
)
item = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=ValueType.STRING,
    description="Something sold.",
    owner=OWNER,
)

user_behaviour_v1 = _view_of_model("user_behaviour_v1", user, online=_SEEN)
user_purchases_v1 = _view_of_model("user_purchases_v1", user)
item_stats_v1 = _view_of_model("item_stats_v1", item)


def _embedding_view(name: str, encoder: str) -> FeatureView:
    """What an encoder makes of the items' texts."""
    return FeatureView(
        name=name,
        entities=[item],
        ttl=timedelta(0),  # a text holds until it changes
        schema=[
            Field(name="item_id", dtype=String, description="The shop's id of the item"),
            Field(
                name="embedding",
                dtype=Array(Float32),
                description="Direction of the item's text in the encoder's space, length 1",
            ),
        ],
        source=_source(name),
        description="One row per item and version of its text, from the moment that version held: "
        f"what {encoder} makes of title, brand, category and description.",
        tags={"built_by": "ml/text.py", "grain": "item_id, text version"},
        owner=OWNER,
    )


def _recommender_service(name: str, embedding: FeatureView) -> FeatureService:
    return FeatureService(
        name=name,
        features=[embedding, item_stats_v1],
        description="What the recommender knows of an item.",
        owner=OWNER,
    )


item_text_embedding_minilm_v1 = _embedding_view("item_text_embedding_minilm_v1", "the text encoder")
recommender_v1 = _recommender_service("recommender_v1", item_text_embedding_minilm_v1)
user_state_v1 = FeatureService(
    name="user_state_v1",
    features=[user_behaviour_v1],
    description="What a model knows of a shopper.",
    owner=OWNER,
)
user_value_v1 = FeatureService(
    name="user_value_v1",
    features=[user_behaviour_v1, user_purchases_v1],
    description="What the value models know of a shopper.",
    owner=OWNER,
)

_EMBEDDING, _RECOMMENDER = "item_text_embedding_", "recommender_"


def view_of(version: str) -> str:
    """The feature view of a fine-tuned text encoder, as `enc-20260629-0123456789`."""
    return _EMBEDDING + version.replace("-", "_")


def service_of(version: str) -> str:
    """The recommender's feature service with that view."""
    return _RECOMMENDER + version.replace("-", "_")


def version_of(service: str) -> str | None:
    """The fine-tuned encoder of a feature service; None when it has none."""
    name = service.removeprefix(_RECOMMENDER)
    return name.replace("_", "-") if name.startswith("enc_") else None


def fine_tuned(features: Path) -> tuple[list[FeatureView], list[FeatureService]]:
    """The views of the shop's fine-tuned encoders whose embeddings are there, and their services.

    Each encoder is a version of its own, so each has a view and a service of its own: a model goes
    on with the one it was trained with.
    """
    folders = sorted(path.name for path in features.glob(f"{_EMBEDDING}enc_*"))
    views = [_embedding_view(name, f"the fine-tuned {name[len(_EMBEDDING) :]}") for name in folders]
    services = [
        _recommender_service(_RECOMMENDER + view.name.removeprefix(_EMBEDDING), view)
        for view in views
    ]
    return views, services


PREDICTIONS_VIEW = "user_predictions_v1"
PREDICTION_FIELDS = [
    ("purchase_7d", "purchase", 7, "Probability of an order in the next 7 days"),
    ("purchase_30d", "purchase", 30, "Probability of an order in the next 30 days"),
    ("churn", "churn", None, "Probability of no order within the shop's churn horizon"),
    ("repurchase_90d", "repurchase", 90, "Probability of a customer's order in 90 days"),
    ("spend_90d", "spend", 90, "Net revenue to expect in the next 90 days, currency"),
    ("spend_180d", "spend", 180, "Net revenue to expect in the next 180 days, currency"),
    ("spend_365d", "spend", 365, "Net revenue to expect in the next 365 days, currency"),
]
"""Name, target, days (None: the only ones there are), description; NULL where nothing was told."""


def told(features: Path) -> tuple[list[FeatureView], list[FeatureService]]:
    """What the value models have told of shoppers, once a night has published any of it."""
    if not any((features / PREDICTIONS_VIEW).glob("*.parquet")):
        return [], []
    view = FeatureView(
        name=PREDICTIONS_VIEW,
        entities=[user],
        ttl=SNAPSHOT_TTL,
        schema=[
            Field(name="user_id", dtype=String, description="Pseudonym of the user"),
            *(
                Field(name=name, dtype=Float64, description=description)
                for name, _, _, description in PREDICTION_FIELDS
            ),
        ],
        source=_source(PREDICTIONS_VIEW),
        description="One row per user and published night: marts.user_predictions of that night.",
        tags={"built_by": "ml/value", "grain": "user_id, night"},
        owner=OWNER,
    )
    service = FeatureService(
        name=PREDICTIONS_VIEW,
        features=[view],
        description="What a storefront may ask about a shopper's future.",
        owner=OWNER,
    )
    return [view], [service]


ENTITIES = [user, item]
VIEWS = [user_behaviour_v1, user_purchases_v1, item_stats_v1, item_text_embedding_minilm_v1]
SERVICES = [recommender_v1, user_state_v1, user_value_v1]
