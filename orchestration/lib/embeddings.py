"""The embeddings of a night's item texts: by the encoder as it came, and by fine-tuned ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestration.lib.night import Night

if TYPE_CHECKING:
    import pyarrow as pa

FROZEN = "item_text_embedding_minilm_v1"


def embed_items(night: Night) -> tuple[int, int]:
    """Write the embeddings of all item texts; how many there are, and how many were new."""
    table, embedded = _embed(night, FROZEN, night.shop.text_encoder)
    return table.num_rows, embedded


def embed_items_tuned(night: Night, version: str) -> int:
    """The same by a fine-tuned encoder, into the view of its name; how many were new.

    Raises ModelError when the encoder is not there or makes no vectors of length 1.
    """
    import numpy as np
    import pyarrow.compute as pc

    from feature_repo.definitions import view_of
    from ml import ModelError
    from ml.encoder.nightly import folder

    table, embedded = _embed(night, view_of(version), folder(night.paths.models, version), version)
    flat = pc.list_flatten(table["embedding"]).to_numpy().reshape(table.num_rows, -1)
    if not np.allclose(np.linalg.norm(flat, axis=1), 1, atol=1e-3):
        raise ModelError(f"{version} makes vectors that are not of length 1: roll it back")
    return embedded


def embed_for_champion(night: Night) -> None:
    """Keep the embeddings up to date that the champion was trained with, when they were tuned.

    It is scored with them for as long as it is the champion, whatever the shop's setting says now.
    """
    from feature_repo.definitions import version_of
    from ml.nightly import champion_service

    service = champion_service(night.paths.models, night.night)
    version = version_of(service) if service else None
    if version:
        embed_items_tuned(night, version)


def _embed(night: Night, view: str, encoder: str, name: str | None = None) -> tuple[pa.Table, int]:
    import pyarrow.parquet as pq

    from ml.text import embed_changed
    from orchestration.lib.inputs import item_texts

    path = night.paths.features / view / "part.parquet"
    previous = pq.read_table(path) if path.exists() else None
    table, embedded = embed_changed(item_texts(night), previous, encoder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(".part.parquet")
    pq.write_table(table, temporary, coerce_timestamps="us")
    temporary.replace(path)
    return table, embedded
