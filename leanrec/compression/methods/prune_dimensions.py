"""prune_dimensions: narrower embeddings; every matrix that they meet becomes narrower with them.

Retriever: scores are products u.i, so a pair of projections is found that keeps most of them: with users
U = Qu Ru and items I = Qi Ri (QR), and Ru Ri^T = A S B^T (SVD), u' = u Ru^-1 A S^1/2 and i' = i Ri^-1 B
S^1/2 keep the best rank-k approximation of the whole score matrix (Eckart and Young 1936). Items weigh as
often as they were taken up. Tables that only feed the user tower are turned to their own principal axes,
weighed by how often each row was looked up. What is folded into tables is taken out of the layers they feed.

Ranker: its cross layers multiply element by element, so axes cannot be turned; of each table the columns stay
whose weights matter most to the loss: sum |weight * gradient| over training events (first-order Taylor,
Molchanov et al. 2017, arXiv:1611.06440).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from leanrec.compression.architecture import ranker_as, retriever_as
from leanrec.compression.fine_tuning import fine_tune
from leanrec.compression.importance import row_counts, taylor_importance
from leanrec.compression.method import ModelMethod
from leanrec.compression.reshaping import layers_of, narrower
from leanrec.compression.source import CompressionSource
from leanrec.config.fit import misfit_of
from leanrec.config.methods import PruneDimensions
from leanrec.errors import CompressionError
from leanrec.models.ranking.dcn_v2 import DCNv2Ranker
from leanrec.models.recommender import Recommender
from leanrec.models.retrieval.two_tower import TwoTower
from leanrec.schema import USER_STATISTICS

METHOD = "prune_dimensions"
USERS = 4096
"""User rows whose retrieval scores are to be kept."""


def change(recommender: Recommender, settings: PruneDimensions, source: CompressionSource) -> Recommender:
    """`recommender` with tables of `retriever_dim` and `ranker_dim` columns, fine-tuned."""
    misfit = misfit_of(METHOD, settings, recommender.settings)
    if misfit is not None:
        raise CompressionError(misfit)
    widths = {
        "retriever": settings.retriever_dim or recommender.settings.retriever.dim,
        "ranker": settings.ranker_dim or recommender.settings.ranker.dim,
    }
    small = narrower(recommender, {part: {"dim": dim} for part, dim in widths.items()})
    with torch.no_grad():
        if widths["retriever"] < recommender.settings.retriever.dim:
            wide = retriever_as(TwoTower, recommender, METHOD)
            _project_retriever(wide, retriever_as(TwoTower, small, METHOD), source)
    if widths["ranker"] < recommender.settings.ranker.dim:
        _slice_ranker(recommender, ranker_as(DCNv2Ranker, small, METHOD), source)
    return fine_tune(small, source, settings)


def _project_retriever(wide: TwoTower, small: TwoTower, source: CompressionSource) -> None:
    dim, new = wide.sparse.dim, small.sparse.dim
    counts = row_counts(source)
    users = wide.user_vectors(source.sample(USERS).user)
    items = wide.item_vectors() * counts["item"].sqrt().unsqueeze(1)
    left, right = (torch.linalg.qr(vectors.double(), mode="r").R for vectors in (users, items))
    a, s, b = torch.linalg.svd(left @ right.T)
    root = s[:new].sqrt()
    for_users = torch.linalg.lstsq(left, a[:, :new] * root).solution.float()
    for_items = torch.linalg.lstsq(right, b[:new].T * root).solution.float()
    for name in wide.sparse.num_rows:
        own = _table(small, name)
        if name in ("item", "category"):
            own.copy_(_table(wide, name) @ for_items)
        elif name == "history":
            own.copy_(_table(wide, name) @ for_users)
    small.item_out.weight.copy_(for_items.T @ wide.item_out.weight)
    small.item_out.bias.copy_(for_items.T @ wide.item_out.bias)
    small.user_out.weight.copy_(for_users.T @ wide.user_out.weight)
    small.user_out.bias.copy_(for_users.T @ wide.user_out.bias)
    first, narrow = layers_of(wide.user_mlp)[0], layers_of(small.user_mlp)[0]
    blocks = list(first.weight.split([dim] * (len(wide.row_features) + 1) + [len(USER_STATISTICS)], dim=1))
    for place, name in enumerate(wide.row_features):
        weight = _table(wide, name)
        weighed = weight * counts[name].sqrt().unsqueeze(1)
        axes = torch.linalg.svd(weighed, full_matrices=True).Vh[:new].T
        _table(small, name).copy_(weight @ axes)
        blocks[place] = blocks[place] @ axes
    blocks[-2] = blocks[-2] @ torch.linalg.pinv(for_users).T
    narrow.weight.copy_(torch.cat(blocks, dim=1))
    narrow.bias.copy_(first.bias)


def _slice_ranker(recommender: Recommender, small: DCNv2Ranker, source: CompressionSource) -> None:
    wide, new = ranker_as(DCNv2Ranker, recommender, METHOD), small.sparse.dim
    importance = taylor_importance(recommender, source)
    kept = {
        name: importance[f"sparse.tables.{name}.weight"].sum(dim=0).topk(new).indices.sort().values
        for name in wide.sparse.num_rows
    }
    with torch.no_grad():
        for name, columns in kept.items():
            _table(small, name).copy_(_table(wide, name)[:, columns])
        inputs = _kept_inputs(wide, kept)
        for ours, theirs in zip(layers_of(small.cross), layers_of(wide.cross), strict=True):
            ours.weight.copy_(theirs.weight[inputs][:, inputs])
            ours.bias.copy_(theirs.bias[inputs])
        layers_of(small.deep)[0].weight.copy_(layers_of(wide.deep)[0].weight[:, inputs])
        layers_of(small.deep)[0].bias.copy_(layers_of(wide.deep)[0].bias)
        width = wide.user_width + wide.item_width + 2
        of_over = torch.cat([inputs, torch.arange(width, wide.over.in_features)])
        small.over.weight.copy_(wide.over.weight[:, of_over])


def _table(part: TwoTower | DCNv2Ranker, name: str) -> Tensor:
    return cast(nn.Embedding, part.sparse.tables[name]).weight


def _kept_inputs(wide: DCNv2Ranker, kept: dict[str, Tensor]) -> Tensor:
    """Which of the ranker's inputs stay, by their place in the row that it is given."""
    dim = wide.sparse.dim
    places, at = [], 0
    for name in (*wide.row_features, "item"):
        places.append(at + kept[name])
        at += dim
    places.append(at + torch.arange(len(USER_STATISTICS)))
    at = wide.user_width
    for name in ("item", "category"):
        places.append(at + kept[name])
        at += dim
    places.append(torch.arange(at, wide.user_width + wide.item_width + 2))
    return torch.cat(places)


PRUNE_DIMENSIONS = ModelMethod(
    name="prune_dimensions",
    change=change,
)
