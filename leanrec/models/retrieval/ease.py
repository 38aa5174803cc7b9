"""EASE (Steck 2019, arXiv:1905.03375): each item as a weighted sum of the others, in closed form.

    min ||X - X B||^2 + l2 ||B||^2 with diag(B) = 0   has   B = I - P / diag(P), P = (X'X + l2 I)^-1

A user's score of item j is his profile times column j of B.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch

from leanrec.models.retrieval.fitted_retriever import ItemWeightsRetriever


class EASE(ItemWeightsRetriever):
    """D = N: row j of the item table is column j of B."""

    def fit(self, interactions: sp.csr_matrix, texts: Sequence[str] = ()) -> None:
        """Invert the regularized Gram matrix of the items."""
        gram = (interactions.T @ interactions).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += self.settings.ease.l2
        inverse = np.linalg.inv(gram)
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0.0)
        self.take(torch.from_numpy(weights.T.astype(np.float32)))
