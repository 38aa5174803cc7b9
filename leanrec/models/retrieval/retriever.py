"""The contract of a retriever: one vector a user, one vector an item, their dot product is the score.

Every retriever of the zoo fits it, the ones without gradients too: popularity has vectors of one number, EASE
gives a user his history as a row over the catalogue and an item its column of weights. So one graph retrieves
for them all, and an index over the item vectors serves them all.

Shapes: B users · M items asked for · N items · D width of the vectors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import scipy.sparse as sp
from torch import Tensor

from leanrec.config import RetrieverSettings
from leanrec.models.inputs import UserInputs
from leanrec.models.layers import Lookups, SparseArch


class Retriever(Lookups):
    """What `Recommender` asks of a retriever. Subclass one of the two below."""

    width: int
    """D."""

    @abstractmethod
    def user_vectors(self, user: UserInputs) -> Tensor:
        """The user row of B users; answers [B, D]."""

    @abstractmethod
    def item_vectors(self, item_index: Tensor | None = None) -> Tensor:
        """The vectors of the items in item_index [M], or of all; [M or N, D]."""

    def freeze(self) -> None:
        """Compute what both then read as constants; to be called when weights changed. Most have nothing."""


class LearnedRetriever(Retriever):
    """A retriever whose tables (`sparse`) and dense part learn by gradient.

    A tower takes what `sparse` answered for its indices, so that training can look both sides up at once and
    put sharded tables in the place of `sparse`.
    """

    sparse: SparseArch

    @abstractmethod
    def user_tower(self, user: UserInputs, vectors: dict[str, Tensor]) -> Tensor:
        """[B, D] from the user row and the vectors of `user_indices`."""

    @abstractmethod
    def item_tower(self, item_index: Tensor, vectors: dict[str, Tensor]) -> Tensor:
        """[..., D] from item_index [...] and the vectors of `item_indices`."""

    def towers(
        self, user: UserInputs, item_index: Tensor, vectors: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Both towers from the vectors of both sides' indices; work that they share may be done once."""
        return self.user_tower(user, vectors), self.item_tower(item_index, vectors)

    def connect(self, interactions: sp.csr_matrix) -> None:
        """Take what the model keeps of the training events, users x items [U, N], besides its weights.

        Called before it trains; most models keep nothing.
        """

    def user_vectors(self, user: UserInputs) -> Tensor:
        """The user row of B users; answers [B, D]."""
        return self.user_tower(user, self.sparse(self.user_indices(user)))

    def item_vectors(self, item_index: Tensor | None = None) -> Tensor:
        """The vectors of the items in item_index [M], or of all; [M or N, D]."""
        if item_index is None:
            item_index = self.every_item()
        return self.item_tower(item_index, self.sparse(self.item_indices(item_index)))


class FittedRetriever(Retriever):
    """A retriever that one pass over the interactions determines; its buffers hold what was found."""

    settings: RetrieverSettings

    @abstractmethod
    def fit(self, interactions: sp.csr_matrix, texts: Sequence[str] = ()) -> None:
        """Find the weights from users x items [U, N]: the training events' strengths, 0 where there was none.

        Row u is user_index u, column i item_index i; row and column 0 are empty. `texts` are the words of
        each item, for models that read them.
        """

    @abstractmethod
    def scale(self, factor: float) -> None:
        """Multiply every score: so training makes scores log-probabilities, as a learned model's are."""
