"""The model that a recipe would leave, without its weights: modules on torch's meta device, shapes alone.

The settings of every method on the model say what shapes it leaves, so nothing need be trained to know them.
What a method would refuse is refused here in the same words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.compression.architecture import ranker_as, retriever_as
from leanrec.compression.footprint import Weight
from leanrec.compression.method import DENSE, TABLES
from leanrec.compression.methods import MODEL_METHODS
from leanrec.compression.reshaping import require_plain
from leanrec.config import Recipe, TrainingSettings
from leanrec.config.fit import ATTENTION, KNOWN, RESHAPING, misfit_of, reshaped
from leanrec.config.methods import MODEL, Distil
from leanrec.config.recipes import Step
from leanrec.errors import CompressionError
from leanrec.models.forms import reform
from leanrec.models.forms.shared_items import ItemsOfFeatures
from leanrec.models.inputs import blank_items
from leanrec.models.layers import SparseArch
from leanrec.models.ranking.behaviour_sequence_transformer import BehaviourSequenceTransformer
from leanrec.models.ranking.dcn_v2 import DCNv2Ranker
from leanrec.models.recommender import Recommender
from leanrec.models.retrieval.sasrec import SASRec
from leanrec.models.retrieval.two_tower import TwoTower
from leanrec.schema import ModelSpec

LAYER_NODES = 3_000
"""Bytes that describe a layer with attention in a graph, beyond those that describe any graph."""
OTHERS = "others"
"""The kind of what no method on the graph rewrites."""
SIZED: dict[str, tuple[str, ...]] = {part: (KNOWN[part], ATTENTION[part]) for part in KNOWN}
"""Part -> the architectures whose weights are known."""
OF_ITEMS_ALONE = ("category",)
"""Tables whose rows are folded into the item vectors and item features, which are tables of the graph."""


def blueprint(recipe: Recipe, spec: ModelSpec, settings: TrainingSettings) -> Recommender:
    """The model after the model methods of `recipe`; a CompressionError says what a method would refuse."""
    with torch.device("meta"):
        model = _blank(spec, settings)
        for step in recipe.of_kind(MODEL):
            model = _after(step, model)
    return model


def weights_of(model: Recommender) -> list[Weight]:
    """Every matrix of both graphs of a `model` of architectures in `SIZED`, as export would write them."""
    num_items, wide = model.spec.num_items, model.retriever.width
    return [
        *_of_retriever(model),
        *_of_ranker(model),
        Weight(name="item_features", rows=num_items, columns=model.ranker.item_width, kind=TABLES, copies=2),
        Weight(  # retrieval multiplies by all of them
            name="recommender.item_vectors",
            rows=wide,
            columns=num_items,
            kind=DENSE,
            turned_from="retriever.item" if isinstance(model.retriever, SASRec) else None,
        ),
    ]


def _of_retriever(model: Recommender) -> list[Weight]:
    """What the user's vector is made of, and the item vectors that the ranker gathers for its candidates."""
    if isinstance(model.retriever, SASRec):  # histories are looked up in the item vectors
        retriever = model.retriever
        return [
            *_tables("retriever", retriever.sparse, ()),
            *_matrices("retriever", retriever.layers),
            _others("retriever", retriever.layers.layers, retriever.position),
        ]
    tower = retriever_as(TwoTower, model, "compress plan")
    return [
        *_tables("retriever", tower.sparse, (*OF_ITEMS_ALONE, "item")),
        *_matrices("retriever.user_mlp", tower.user_mlp),
        *_matrices("retriever.user_out", tower.user_out),
        Weight(name="ranker.item_vectors", rows=model.spec.num_items, columns=tower.width, kind=TABLES),
    ]


def _of_ranker(model: Recommender) -> list[Weight]:
    """The tables of the user's side, and the layers."""
    if isinstance(model.ranker, BehaviourSequenceTransformer):
        ranker = model.ranker
        ages, dim = ranker.event_vectors.age.shape
        return [
            *_tables("ranker", ranker.sparse, OF_ITEMS_ALONE),
            Weight(name="ranker.age", rows=ages, columns=dim, kind=TABLES, copies=2),
            *_matrices("ranker.layers", ranker.layers),
            *_matrices("ranker.deep", ranker.deep),
            *_matrices("ranker.over", ranker.over),
            _others("ranker", ranker.layers),
        ]
    crossing = ranker_as(DCNv2Ranker, model, "compress plan")
    with torch.device("meta"):
        by_side = crossing.split_by_side()
    layers = [by_side] if by_side is not None else [crossing.cross, crossing.over]
    return [
        *_tables("ranker", crossing.sparse, OF_ITEMS_ALONE),
        *(weight for number, layer in enumerate(layers) for weight in _matrices(f"ranker.{number}", layer)),
    ]


def table_weights(name: str, table: nn.Module, copies: int = 1) -> list[Weight]:
    """The matrices of one table, plain or in another form."""
    if isinstance(table, ItemsOfFeatures):  # served from the item features
        return []
    return [
        Weight(name=name, rows=part.num_embeddings, columns=part.embedding_dim, kind=TABLES, copies=copies)
        for part in table.modules()
        if isinstance(part, nn.Embedding)
    ] + _matrices(name, table, copies)


def _blank(spec: ModelSpec, settings: TrainingSettings) -> Recommender:
    return Recommender(spec, settings, blank_items(spec.num_items, 1))


def _after(step: Step, model: Recommender) -> Recommender:
    settings = step.parsed()
    misfit = misfit_of(step.method, settings, model.settings)
    if misfit is not None:
        raise CompressionError(misfit)
    if isinstance(settings, RESHAPING):
        if not isinstance(settings, Distil):  # a student begins anew, plain
            require_plain(model)
        return _blank(model.spec, reshaped(settings, model.settings))
    forms = MODEL_METHODS[step.method].forms
    if forms is not None:
        model.forms |= reform(model, forms(model, settings))
    return model


def _tables(part: str, sparse: SparseArch, folded: tuple[str, ...]) -> list[Weight]:
    return [
        weight
        for name, table in sparse.tables.items()
        if name not in folded
        for weight in table_weights(f"{part}.{name}", table, copies=2)
    ]


def _others(part: str, layers: nn.ModuleList, *more: Tensor) -> Weight:
    """What no method rewrites of layers with attention: biases, norms, `more`, and their description."""
    numbers = sum(value.numel() for value in layers.parameters() if value.dim() == 1)
    numbers += sum(value.numel() for value in more)
    described = len(layers) * LAYER_NODES // 4
    return Weight(name=f"{part}.others", rows=1, columns=numbers + described, kind=OTHERS, copies=2)


def _matrices(name: str, root: nn.Module, copies: int = 2) -> list[Weight]:
    """What is multiplied, one row an input."""
    found: list[Weight] = []
    for path, module in root.named_modules():
        if isinstance(module, nn.Embedding):
            continue
        for own, value in module.named_parameters(recurse=False):
            if value.dim() == 2:
                turned = isinstance(module, nn.Linear | nn.MultiheadAttention)  # one row an output
                rows, columns = reversed(value.shape) if turned else value.shape
                full = ".".join(filter(None, (name, path, own)))
                found.append(Weight(name=full, rows=rows, columns=columns, kind=DENSE, copies=copies))
    return found
