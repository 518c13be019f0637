"""The words of texts as vectors."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ml.words import DIMENSIONS, Lexicon

COLOURS = ("red", "green", "blue", "white", "black", "pink")
BRANDS = ("Acme", "Borealis", "Cumulus", "Delta", "Eos", "Fabula")
TEXTS = pa.array([f"{brand} lipstick {colour}" for brand in BRANDS for colour in COLOURS])


def nearest(lexicon: Lexicon, text: str) -> list[str]:
    """The known texts, the likeliest first."""
    alike = lexicon.vectors(TEXTS) @ lexicon.vectors(pa.array([text]))[0]
    return [TEXTS[int(i)].as_py() for i in np.argsort(-alike)]


def test_texts_of_the_same_brand_or_colour_are_alike() -> None:
    lexicon = Lexicon.fit(TEXTS)
    assert nearest(lexicon, "ACME, lipstick: red!")[0] == "Acme lipstick red"
    assert nearest(lexicon, "something red by Borealis")[0] == "Borealis lipstick red"
    brand = nearest(lexicon, "Borealis eyeliner")[: len(COLOURS)]
    assert all(text.startswith("Borealis") for text in brand)


def test_the_same_texts_give_the_same_numbers_and_new_texts_do_not_move_them() -> None:
    first, second = Lexicon.fit(TEXTS), Lexicon.fit(TEXTS)
    assert first.terms == second.terms
    np.testing.assert_array_equal(first.directions, second.directions)
    alone = first.vectors(TEXTS[:3])
    np.testing.assert_allclose(alone, first.vectors(TEXTS)[:3], atol=1e-7)
    assert alone.dtype == np.float32 and alone.shape[1] <= DIMENSIONS


def test_unknown_words_and_empty_shops_are_zeros() -> None:
    assert not Lexicon.fit(TEXTS).vectors(pa.array(["etwas ganz anderes", ""])).any()
    for bare in ([], ["one"], ["", "", ""], ["a b", "c d"]):
        none = Lexicon.fit(pa.array(bare, pa.string()))
        assert none.vectors(TEXTS).shape == (len(TEXTS), 0)
