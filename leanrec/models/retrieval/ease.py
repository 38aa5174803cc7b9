"""EASE (Steck 2019, arXiv:1905.03375): each item as a weighted sum of the others, in closed form.

    min ||X - X B||^2 + l2 ||B||^2 with diag(B) = 0   has   B = I - P / diag(P), P = (X'X + l2 I)^-1

A user's score of item j is his profile times column j of B. The matrix to invert is positive definite, so
Cholesky's factors invert it with half of the work.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import lapack

from leanrec.errors import TrainingError
from leanrec.models.retrieval.fitted_retriever import ItemWeightsRetriever
from leanrec.models.retrieval.gram import gram_of


class EASE(ItemWeightsRetriever):
    """D = N: row j of the item table is column j of B."""

    def fit(self, interactions: sp.csr_matrix, texts: Sequence[str] = ()) -> None:
        """Invert the regularized Gram matrix of the items."""
        gram = gram_of(interactions).astype(np.float64)
        gram[np.diag_indices_from(gram)] += self.settings.ease.l2
        factor, failed = lapack.dpotrf(gram.T, lower=1, overwrite_a=1, clean=0)
        if failed:
            raise TrainingError(
                f"training.retriever.ease.l2 {self.settings.ease.l2:g} is too small to invert the matrix of "
                "these events in double precision; raise it"
            )
        lower, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
        weights = torch.from_numpy(np.ascontiguousarray(lower.T, np.float32))
        weights = weights.triu() + weights.triu(1).T  # P; it is symmetric: row j is column j
        weights /= -weights.diag().unsqueeze(1)
        weights.fill_diagonal_(0.0)
        self.take(weights)
