"""LightGCN (He et al. 2020, arXiv:2002.02126): vectors smoothed over the graph of users and their items.

A user's layer k + 1 is the sum of his items' layer k, each over sqrt(his number of items * its number of
users), and the other way round; the vector is the mean over all layers, whose weights may shift in training.

The two halves of the normalized adjacency are kept in compressed sparse rows, one the transpose of the other,
so that a step forward and its gradient are each one sparse matrix product. `embedding_bag` with weights is
that product and, of what torch offers, the fastest that is right: gather and scatter-add, PyTorch Geometric's
way, took 40 to 100 times as long for the 80,000 edges of MovieLens-100K on a CPU; a torch CSR tensor took
twice as long, its own gradient far longer, and it silently leaves rows out where OMP_THREAD_LIMIT is below
torch's number of threads (torch 2.13).

What is served is frozen: the smoothed vectors are two tables. A user without edges, one who is new, has the
mean of his history's smoothed item vectors; without a history he is the average user.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from leanrec.config import RetrieverSettings
from leanrec.errors import TrainingError
from leanrec.models.inputs import ItemInputs, UserInputs, known_index
from leanrec.models.layers import SparseArch, mean_of_present
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.schema import ModelSpec


class Rows(NamedTuple):
    """A sparse matrix [R, C] in compressed sparse rows."""

    ends: Tensor
    """[R + 1]: where each row begins, and the end."""
    columns: Tensor
    values: Tensor

    def times(self, dense: Tensor) -> Tensor:
        """The product with dense [C, D]; answers [R, D]."""
        return functional.embedding_bag(
            self.columns,
            dense,
            self.ends,
            mode="sum",
            per_sample_weights=self.values,
            include_last_offset=True,
        )


class Graph:
    """The normalized adjacency of users x items [U, N]; nothing changes it, so copies share it."""

    def __init__(self, interactions: sp.csr_matrix, device: torch.device) -> None:
        """Whatever `interactions` [U, N] stores is an edge, of weight 1."""
        ones = np.ones(interactions.nnz)
        edges = sp.csr_matrix((ones, interactions.indices, interactions.indptr), interactions.shape)
        users, items = (np.maximum(np.asarray(edges.sum(axis=axis)).ravel(), 1.0) for axis in (1, 0))
        half = (sp.diags(users**-0.5) @ edges @ sp.diags(items**-0.5)).astype(np.float32)
        self.to_users = _rows_of(half.tocsr(), device)
        self.to_items = _rows_of(half.T.tocsr(), device)
        self.has_edges = torch.from_numpy(np.diff(edges.indptr) > 0).to(device)

    def __deepcopy__(self, memo: dict[int, object]) -> Graph:
        return self

    def step(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """From a layer of users [U, D] and items [N, D] to the next."""
        return (
            SparseProduct.apply(self.to_users, self.to_items, items),
            SparseProduct.apply(self.to_items, self.to_users, users),
        )


class SparseProduct(torch.autograd.Function):
    """`matrix` @ `dense`, whose gradient is the product with the transpose that is at hand."""

    @staticmethod
    def forward(ctx: FunctionCtx, matrix: Rows, transpose: Rows, dense: Tensor) -> Tensor:
        """[R, C] sparse, [C, R] sparse, [C, D]; answers [R, D]."""
        ctx.transpose = transpose  # type: ignore[attr-defined]
        return matrix.times(dense)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[None, None, Tensor]:
        """The gradient of `dense` [C, D]."""
        return None, None, ctx.transpose.times(grads[0].contiguous())  # type: ignore[attr-defined]


class LightGCN(LearnedRetriever):
    """U users and N items, D = settings.dim; `connect` gives the graph, `freeze` the tables to serve."""

    user_table: Tensor
    item_table: Tensor
    connected: Tensor

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__()
        self.spec = spec
        self.width = settings.dim
        self.layer_weight = nn.Parameter(torch.zeros(settings.light_gcn.layers + 1))
        tables = {"user": spec.num_users, "item": spec.num_items}
        self.sparse = SparseArch(tables, {"user": "user", "item": "item"}, settings.dim)
        self.graph: Graph | None = None
        self.register_buffer("user_table", torch.zeros(spec.num_users, settings.dim))
        self.register_buffer("item_table", torch.zeros(spec.num_items, settings.dim))
        self.register_buffer("connected", torch.zeros(spec.num_users, 1, dtype=torch.bool))
        self.register_buffer("category_indices", items.category_indices)

    def connect(self, interactions: sp.csr_matrix) -> None:
        """Make the graph of the training events, users x items [U, N]."""
        self.graph = Graph(interactions, self.connected.device)
        self.connected.copy_(self.graph.has_edges.unsqueeze(1))

    def user_indices(self, user: UserInputs) -> dict[str, Tensor]:
        """Every user [U] and every item [N]: a vector hears all its neighbours."""
        return self.item_indices(user.user_index)

    def item_indices(self, item_index: Tensor) -> dict[str, Tensor]:
        """Every user [U] and every item [N]: a vector hears all its neighbours."""
        return {
            "user": torch.arange(self.spec.num_users, device=item_index.device),
            "item": torch.arange(self.spec.num_items, device=item_index.device),
        }

    def propagate(self, vectors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The smoothed users [U, D] and items [N, D] from the rows of both tables."""
        if self.graph is None:
            raise TrainingError("light_gcn: there is no graph yet; call connect with the training events")
        weight = torch.softmax(self.layer_weight, dim=0)
        users, items = vectors["user"], vectors["item"]
        all_users, all_items = weight[0] * users, weight[0] * items
        for layer in range(1, len(weight)):
            users, items = self.graph.step(users, items)
            all_users, all_items = all_users + weight[layer] * users, all_items + weight[layer] * items
        return all_users, all_items

    def user_tower(self, user: UserInputs, vectors: dict[str, Tensor]) -> Tensor:
        """[B, D] from the user row and the vectors of `user_indices`."""
        return self._users_of(user, *self.propagate(vectors))

    def item_tower(self, item_index: Tensor, vectors: dict[str, Tensor]) -> Tensor:
        """[..., D] from item_index [...] and the vectors of `item_indices`."""
        return self.propagate(vectors)[1][item_index]

    def towers(
        self, user: UserInputs, item_index: Tensor, vectors: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Both towers from one walk over the graph."""
        users, items = self.propagate(vectors)
        return self._users_of(user, users, items), items[item_index]

    @torch.no_grad()
    def freeze(self) -> None:
        """Walk over the graph once; a loaded model has no graph, and keeps the tables it was saved with."""
        if self.graph is not None:
            users, items = self.propagate(self.sparse(self.item_indices(self.category_indices)))
            self.user_table.copy_(users)
            self.item_table.copy_(items)

    def user_vectors(self, user: UserInputs) -> Tensor:
        """[B, D], out of the frozen tables."""
        return self._users_of(user, self.user_table, self.item_table)

    def item_vectors(self, item_index: Tensor | None = None) -> Tensor:
        """[M or N, D], out of the frozen table."""
        return self.item_table if item_index is None else self.item_table[item_index]

    def _users_of(self, user: UserInputs, users: Tensor, items: Tensor) -> Tensor:
        index = known_index(user.user_index, self.spec.num_users).squeeze(1)
        history = known_index(user.history, self.spec.num_items)
        share = self.connected.to(users.dtype)
        average = (users * share).sum(dim=0, keepdim=True) / share.sum().clamp(min=1.0)
        has_past = (history != 0).any(dim=1, keepdim=True)
        stranger = torch.where(has_past, mean_of_present(items[history], history), average)
        return torch.where(self.connected[index], users[index], stranger)


def _rows_of(matrix: sp.csr_matrix, device: torch.device) -> Rows:
    parts = (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data)
    return Rows(*(torch.from_numpy(part).to(device) for part in parts))
