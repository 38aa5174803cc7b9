"""Popularity: the items with the most events, for everybody alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from leanrec.config import RetrieverSettings
from leanrec.models.inputs import ItemInputs, UserInputs
from leanrec.models.retrieval.fitted_retriever import TableRetriever
from leanrec.schema import ModelSpec


class Popularity(TableRetriever):
    """D = 1: the score is the log of what an item's events count together, so its softmax is their share."""

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items, width=1)

    def fit(self, interactions: sp.csr_matrix, texts: Sequence[str] = ()) -> None:
        """Add up the events of each item."""
        counts = np.asarray(interactions.sum(axis=0)).reshape(-1, 1)
        self.take(torch.from_numpy(np.log1p(counts)))

    def user_vectors(self, user: UserInputs) -> Tensor:
        """1 for each of B users, [B, 1]."""
        return torch.ones_like(user.user_index, dtype=self.item_table.dtype)
