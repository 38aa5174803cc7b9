"""Collaborative filtering by neighbours: items like those of the past, or items of users alike.

Similarity, by `neighbours.similarity`: cosine; Pearson, the cosine of the deviations from the mean;
Euclidean, 1 / (1 + distance). All three come from dot products, so one Gram matrix serves them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from leanrec.config import RetrieverSettings
from leanrec.models.inputs import ItemInputs, UserInputs
from leanrec.models.retrieval.fitted_retriever import ItemWeightsRetriever, TableRetriever
from leanrec.models.retrieval.gram import gram_of
from leanrec.schema import ModelSpec

TINY = 1e-9
BLOCK = 64
"""Items compared with all others at once: what is computed of them stays in the processor's cache."""


def similarity(
    kind: str, dot: Tensor, squares: tuple[Tensor, Tensor], sums: tuple[Tensor, Tensor], size: int
) -> Tensor:
    """Similarity of rows a with rows b, [A, B].

    `dot` holds a'b [A, B], `squares` the rows' squared lengths ([A, 1], [1, B]), `sums` their sums, `size`
    the length of a row.
    """
    if kind == "euclidean":
        distance = (squares[0] + squares[1] - 2 * dot).clamp(min=0.0).sqrt()
        return 1.0 / (1.0 + distance)
    if kind == "pearson":
        dot = dot - sums[0] * sums[1] / size
        squares = squares[0] - sums[0].square() / size, squares[1] - sums[1].square() / size
    lengths = (squares[0] * squares[1]).clamp(min=TINY).sqrt()
    return dot / lengths


def nearest(similarities: Tensor, count: int) -> Tensor:
    """`similarities` [A, B] with all but the `count` largest of each row, and those below 0, put to 0."""
    best, place = similarities.topk(min(count, similarities.shape[1]), dim=1)
    return torch.zeros_like(similarities).scatter(1, place, best.clamp(min=0.0))


class ItemNeighbours(ItemWeightsRetriever):
    """Item-based (Sarwar et al. 2001): a score is the similarity to the profile's items, added up; D = N.

    Row j of the item table holds the similarities of item j to its nearest neighbours, 0 elsewhere.
    """

    def fit(self, interactions: sp.csr_matrix, texts: Sequence[str] = ()) -> None:
        """Compare every two items by the users who took them up."""
        gram = torch.from_numpy(gram_of(interactions))
        squares = gram.diag().double()
        sums = torch.from_numpy(np.asarray(interactions.sum(axis=0)).ravel()).double()
        table = torch.empty_like(gram)
        for start in range(0, len(gram), BLOCK):
            rows = slice(start, start + BLOCK)
            table[rows] = self._neighbours(gram, squares, sums, rows, interactions.shape[0])
        self.take(table)

    def _neighbours(self, gram: Tensor, squares: Tensor, sums: Tensor, rows: slice, num_users: int) -> Tensor:
        """Rows of the table, from the Gram matrix [N, N], its diagonal [N] and the sums of the items [N]."""
        options = self.settings.neighbours
        found = similarity(
            options.similarity,
            gram[rows].double(),
            (squares[rows].unsqueeze(1), squares),
            (sums[rows].unsqueeze(1), sums),
            num_users,
        )
        unmet = squares == 0
        found[:, unmet], found[unmet[rows]] = 0.0, 0.0
        found.diagonal(rows.start).zero_()
        return nearest(found.float(), options.count)


class UserNeighbours(TableRetriever):
    """User-based (Resnick et al. 1994): a score adds up what the nearest users took up; D = U.

    Row j of the item table holds what users made of item j. A user is told by his profile, so who has come
    since is compared with those who were there.
    """

    user_squares: Tensor
    user_sums: Tensor
    scaled_by: Tensor

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items, width=spec.num_users)
        self.register_buffer("user_squares", torch.zeros(1, spec.num_users))
        self.register_buffer("user_sums", torch.zeros(1, spec.num_users))
        self.register_buffer("scaled_by", torch.ones(()))

    def fit(self, interactions: sp.csr_matrix, texts: Sequence[str] = ()) -> None:
        """Keep what every user took up."""
        self.user_squares.copy_(torch.from_numpy(interactions.power(2).sum(axis=1)).T)
        self.user_sums.copy_(torch.from_numpy(interactions.sum(axis=1)).T)
        self.take(interactions.T.tocsr())

    def scale(self, factor: float) -> None:
        """Multiply every score, and leave what profiles are compared with as it is."""
        super().scale(factor)
        self.scaled_by.mul_(factor)

    def user_vectors(self, user: UserInputs) -> Tensor:
        """The similarities of B users to their nearest neighbours, [B, U]."""
        options, profile = self.settings.neighbours, self.profile(user)
        dot = (profile @ self.item_table) / self.scaled_by
        squares = profile.square().sum(dim=1, keepdim=True)
        sums = profile.sum(dim=1, keepdim=True)
        found = similarity(
            options.similarity, dot, (squares, self.user_squares), (sums, self.user_sums), self.spec.num_items
        )
        there = (squares > 0) & (self.user_squares > 0)
        return nearest(torch.where(there, found, torch.zeros_like(found)), options.count)
