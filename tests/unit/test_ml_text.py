"""Embeddings: normalised, meaningful, and made only of texts that changed."""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from ml import ModelError, text
from ml.text import DEFAULT_ENCODER, embed, embed_changed, encoder_folder


def items(*rows):
    names = ("item_id", "title", "description", "category_path", "brand", "valid_from")
    columns = zip(*rows, strict=True)
    table = pa.table({name: list(column) for name, column in zip(names, columns, strict=True)})
    return table.set_column(5, "valid_from", table["valid_from"].cast(pa.timestamp("us")))


def test_only_changed_texts_are_embedded():
    january, june = datetime(2026, 1, 1), datetime(2026, 6, 1)
    mug = ("a", "Red mug", "For tea", "Home > Kitchen", "Fern", january)
    dearer = ("a", "Red mug", "For tea", "Home > Kitchen", "Fern", june)  # another price only
    lamp = ("b", "Reading lamp", None, None, None, january)
    first, count = embed_changed(items(lamp, dearer, mug))
    assert (count, first["item_id"].to_pylist()) == (2, ["a", "a", "b"])
    assert first["event_timestamp"].to_pylist() == [january, june, january]
    vectors = np.array(first["embedding"].to_pylist(), np.float32)
    assert vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    renamed = ("b", "Desk lamp", None, None, None, june)
    second, count = embed_changed(items(mug, dearer, lamp, renamed), first)
    assert count == 1
    assert second.slice(0, 3).equals(first)
    again, count = embed_changed(items(mug, dearer, lamp, renamed), second)
    assert count == 0 and again.equals(second)


def test_texts_alike_are_near_whatever_batch_they_are_in():
    texts = ["a blue ceramic tea cup", "blue porcelain cup for tea", "steel hammer", "x " * 50]
    vectors = embed(texts)
    assert vectors[0] @ vectors[1] > 0.7 > 0.4 > vectors[0] @ vectors[2]
    assert np.array_equal(embed(texts), vectors)
    alone = embed(texts[::-1], batch_tokens=1)[::-1]
    assert (alone * vectors).sum(axis=1).min() > 0.999


def test_vectors_are_those_of_the_library_and_said_to_be_of_their_precision(monkeypatch):
    from sentence_transformers import SentenceTransformer

    texts = ["a blue ceramic tea cup", "steel hammer", "of many words " * 100]
    model = SentenceTransformer(encoder_folder(DEFAULT_ENCODER))
    plain = model.encode(texts, normalize_embeddings=True)
    made = {}
    for half in (False, True):
        monkeypatch.setattr(text, "half_precision", lambda half=half: half)
        close = (embed(texts) * plain).sum(axis=1).min()
        assert close > (0.999 if half else 0.999999)
        table, _ = embed_changed(items(("a", "Mug", None, None, None, datetime(2026, 1, 1))))
        made[half] = table["text_hash"][0].as_py()
    assert made[False] != made[True]  # a vector is not reused where another precision is at work


def test_an_encoder_that_is_not_there_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot load the text encoder"):
        embed(["a"], str(tmp_path / "empty"))
