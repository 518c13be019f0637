"""The words of texts as vectors: what a sentence encoder blurs (brands, sizes, shades) is kept.

TF-IDF of words and pairs of neighbouring words, reduced to few directions by a singular value
decomposition (latent semantic analysis, Deerwester et al. 1990). The directions are fitted to the
texts of a training and kept with the model that learned from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

DIMENSIONS = 256
MIN_TEXTS = 2
"""A term of one text tells nothing about another."""
MAX_SHARE = 0.2
"""A term of more texts than this share tells little about any."""


@dataclass(frozen=True)
class Lexicon:
    """The terms that are known, what each weighs, and the directions they are reduced to."""

    terms: list[str]
    weight: np.ndarray
    """float32 [terms]: inverse document frequency"""
    directions: np.ndarray
    """float32 [terms, d]"""

    @staticmethod
    def fit(texts: pa.Array, seed: int = 0) -> Lexicon:
        """From the texts of a shop; of too few or too bare ones a lexicon without directions."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        model = TfidfVectorizer(**_TERMS, min_df=MIN_TEXTS, max_df=MAX_SHARE, dtype=np.float32)
        try:
            counted = model.fit_transform(texts.to_pylist())
        except ValueError:  # no term is left
            return NO_WORDS
        size = min(DIMENSIONS, *(n - 1 for n in counted.shape))
        if size < 1:
            return NO_WORDS
        reduced = TruncatedSVD(size, random_state=seed).fit(counted)
        return Lexicon(
            list(model.get_feature_names_out()),
            model.idf_.astype(np.float32),
            np.ascontiguousarray(reduced.components_.T, np.float32),
        )

    def vectors(self, texts: pa.Array) -> np.ndarray:
        """float32 [texts, d]; zeros for a text without a known term."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        if not self.terms:
            return np.zeros((len(texts), 0), np.float32)
        model = TfidfVectorizer(**_TERMS, vocabulary=self.terms, dtype=np.float32)
        model.idf_ = self.weight
        counted = model.transform(texts.to_pylist())
        return np.asarray(counted @ self.directions, np.float32)


NO_WORDS = Lexicon([], np.zeros(0, np.float32), np.zeros((0, 0), np.float32))
_TERMS = {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b", "sublinear_tf": True}
