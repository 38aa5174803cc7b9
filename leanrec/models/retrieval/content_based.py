"""Content-based: items whose words are like those of the user's past; what others do has no part in it.

The words of titles and categories become TF-IDF rows (Salton and Buckley 1988), narrowed by a truncated
SVD; with `content_based.encoder`, sentence embeddings of a local encoder take their place. An item's score
is the cosine to the user's mean item. A new item can be recommended before anybody has taken it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from leanrec.config import RetrieverSettings
from leanrec.errors import ConfigError, TrainingError
from leanrec.models.inputs import ItemInputs, UserInputs
from leanrec.models.retrieval.fitted_retriever import TableRetriever
from leanrec.schema import ModelSpec


class ContentBased(TableRetriever):
    """D = settings.dim."""

    item_words: Tensor

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items, width=settings.dim)
        self.register_buffer("item_words", torch.zeros(spec.num_items, settings.dim))

    def fit(self, interactions: sp.csr_matrix, texts: Sequence[str] = ()) -> None:
        """Turn `texts`, one an item, into vectors of length 1."""
        if len(texts) != self.spec.num_items:
            raise TrainingError(
                f"content_based needs the words of {self.spec.num_items} items and got {len(texts)}; "
                "build the features again"
            )
        encoder = self.settings.content_based.encoder
        words = tf_idf(texts) if encoder is None else encoded(texts, encoder)
        self.item_words.copy_(torch.from_numpy(narrowed(words, self.width, self.settings.content_based.seed)))
        self.item_words[0] = 0.0
        self.take(self.item_words)

    def user_vectors(self, user: UserInputs) -> Tensor:
        """The mean words of the histories of B users, of length 1, [B, D]."""
        summed = self.past(user, self.item_words)
        return summed / summed.square().sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt()


def tf_idf(texts: Sequence[str]) -> sp.csr_matrix:
    """[N, words], rows of length 1; a text without words has zeros."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        return TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    except ValueError:
        raise TrainingError(
            "content_based: no item has a title or a category; give the items table some, "
            "or choose another model"
        ) from None


def encoded(texts: Sequence[str], encoder: str) -> np.ndarray:
    """[N, width] sentence embeddings by the encoder that lies in the folder `encoder`.

    Raises a ConfigError where there is no such folder, no encoder in it, or no package to run one.
    """
    named = f"training.retriever.content_based.encoder {encoder!r}"
    if not Path(encoder).is_dir():
        raise ConfigError(f"{named} is no folder; give the one that holds the encoder's files")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ConfigError(
            f"{named} needs the package sentence-transformers; install it, "
            "or leave the encoder out for TF-IDF"
        ) from None
    try:
        model = SentenceTransformer(encoder, device="cpu", local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{named} holds no sentence encoder ({reason}); give its folder") from None
    return np.asarray(model.encode(list(texts), normalize_embeddings=True))


def narrowed(words: sp.csr_matrix | np.ndarray, width: int, seed: int) -> np.ndarray:
    """The rows of `words` in `width` columns, of length 1; what is narrower already is filled with zeros."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    if words.shape[1] > width:
        words = TruncatedSVD(width, random_state=seed).fit_transform(words)
    dense = np.asarray(words.todense()) if isinstance(words, sp.spmatrix | sp.sparray) else words
    padded = np.pad(dense, ((0, 0), (0, width - dense.shape[1])))
    return np.asarray(normalize(padded), np.float32)
