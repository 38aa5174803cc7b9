"""ALS (Hu, Koren and Volinsky 2008) and BPR (Rendle et al. 2009, arXiv:1205.2618), fitted by `implicit`.

A user who was there when it was fitted has his vector in a table. Who has come since, and who lies outside
of the table, has one made of his history: ALS takes the least-squares solution for fixed item vectors, all
unseen items counting alike (one matrix product, where the exact one would weigh each user's own); BPR the
mean of his items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from torch import Tensor

from leanrec.config import RetrieverSettings
from leanrec.models.inputs import ItemInputs, UserInputs, known_index
from leanrec.models.retrieval.fitted_retriever import TableRetriever
from leanrec.schema import ModelSpec


def liked_only(interactions: sp.csr_matrix) -> sp.csr_matrix:
    """Users x items with the events that were liked; to these models every event is a sign of interest."""
    liked = interactions.copy().tocsr().astype(np.float32)
    liked.data[liked.data < 1.0] = 0.0
    liked.eliminate_zeros()
    return liked


class FactorRetriever(TableRetriever):
    """User and item vectors of width D; `folded` makes a user's out of his history."""

    user_table: Tensor
    history_table: Tensor
    """[N, D]: what an item of the history adds to the vector of a user without a row."""
    there: Tensor

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs, width: int) -> None:
        super().__init__(spec, settings, items, width=width)
        self.register_buffer("user_table", torch.zeros(spec.num_users, width))
        self.register_buffer("history_table", torch.zeros(spec.num_items, width))
        self.register_buffer("there", torch.zeros(spec.num_users, 1, dtype=torch.bool))

    def take_factors(
        self, users: np.ndarray, items: np.ndarray, history: np.ndarray, interactions: sp.csr_matrix
    ) -> None:
        """Take what was fitted: vectors of users [U, D] and items [N, D], and `history` [N, D]."""
        self.take(torch.from_numpy(items))
        self.user_table.copy_(torch.from_numpy(users))
        self.history_table.copy_(torch.from_numpy(history.astype(np.float32)))
        self.there.copy_(torch.from_numpy(np.diff(interactions.indptr) > 0).unsqueeze(1))

    def folded(self, user: UserInputs) -> Tensor:
        """The vectors of B users from their histories, [B, D]."""
        return self.past(user, self.history_table)

    def user_vectors(self, user: UserInputs) -> Tensor:
        """[B, D]: out of the table, or else out of the history."""
        index = known_index(user.user_index.squeeze(1), self.spec.num_users)
        return torch.where(self.there[index], self.user_table[index], self.folded(user))


class ALS(FactorRetriever):
    """Matrix factorization of implicit feedback with confidence 1 + alpha * strength; D = settings.dim."""

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items, width=settings.dim)

    def fit(self, interactions: sp.csr_matrix, texts: Sequence[str] = ()) -> None:
        """Alternate `als.iterations` times."""
        options = self.settings.als
        liked = liked_only(interactions)
        model = AlternatingLeastSquares(
            factors=self.width,
            regularization=options.l2,
            alpha=options.alpha,
            iterations=options.iterations,
            random_state=options.seed,
            num_threads=1,
        )
        model.fit(liked, show_progress=False)
        items = model.item_factors.astype(np.float64)
        # What a user's own items add to his Gram matrix is taken as what those of a mean user add.
        share = liked.nnz / np.prod(liked.shape)
        gram = (1.0 + options.alpha * share) * (items.T @ items) + options.l2 * np.eye(self.width)
        history = (1.0 + options.alpha) * items @ np.linalg.inv(gram)
        self.take_factors(model.user_factors, model.item_factors, history, liked)


class BPR(FactorRetriever):
    """Pairs of an item taken up and one that was not, by stochastic gradient; D = settings.dim + 1.

    `matrix_factorization` with `loss: bpr` is the same model under our own trainer.
    """

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items, width=settings.dim + 1)

    def fit(self, interactions: sp.csr_matrix, texts: Sequence[str] = ()) -> None:
        """Pass `bpr.iterations` times over the events."""
        options = self.settings.bpr
        liked = liked_only(interactions)
        model = BayesianPersonalizedRanking(
            factors=self.width - 1,
            learning_rate=options.learning_rate,
            regularization=options.l2,
            iterations=options.iterations,
            random_state=options.seed,
            num_threads=1,
            verify_negative_samples=True,
        )
        model.fit(liked, show_progress=False)
        history = model.item_factors / np.maximum(1.0, np.diff(liked.indptr).mean())
        history[:, -1] = 0.0
        self.take_factors(model.user_factors, model.item_factors, history, liked)

    def folded(self, user: UserInputs) -> Tensor:
        """The mean of the history's items; the place that an item's bias is multiplied by holds 1."""
        summed = super().folded(user)
        return torch.cat([summed[:, :-1], torch.ones_like(summed[:, -1:])], dim=1)
