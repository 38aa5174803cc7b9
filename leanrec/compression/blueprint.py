"""The model that a recipe would leave, without its weights: modules on torch's meta device, shapes alone.

The settings of every method on the model say what shapes it leaves, so nothing need be trained to know them.
What a method would refuse is refused here in the same words.
"""

from __future__ import annotations

import torch
from torch import nn

from leanrec.compression.architecture import ranker_as, retriever_as
from leanrec.compression.footprint import Weight
from leanrec.compression.method import DENSE, TABLES
from leanrec.compression.methods import MODEL_METHODS
from leanrec.compression.reshaping import require_plain
from leanrec.config import Recipe, TrainingSettings
from leanrec.config.fit import RESHAPING, misfit_of, reshaped
from leanrec.config.methods import MODEL, Distil
from leanrec.config.recipes import Step
from leanrec.errors import CompressionError
from leanrec.models.forms import reform
from leanrec.models.forms.shared_items import ItemsOfFeatures
from leanrec.models.inputs import blank_items
from leanrec.models.layers import SparseArch
from leanrec.models.ranking.dcn_v2 import DCNv2Ranker
from leanrec.models.recommender import Recommender
from leanrec.models.retrieval.two_tower import TwoTower
from leanrec.schema import ModelSpec

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
    """Every matrix of both graphs of a two_tower and dcn_v2 `model`, as export would write them."""
    tower = retriever_as(TwoTower, model, "compress plan")
    ranker = ranker_as(DCNv2Ranker, model, "compress plan")
    with torch.device("meta"):
        layers: list[nn.Module] = [tower.user_mlp, tower.user_out]
        by_side = ranker.split_by_side()
        layers += [by_side] if by_side is not None else [ranker.cross, ranker.over]
    num_items, wide = model.spec.num_items, tower.width
    return [
        *_tables("retriever", tower.sparse, (*OF_ITEMS_ALONE, "item")),
        *_tables("ranker", ranker.sparse, OF_ITEMS_ALONE),
        Weight(name="item_features", rows=num_items, columns=ranker.item_width, kind=TABLES, copies=2),
        *(weight for number, layer in enumerate(layers) for weight in _matrices(f"layers.{number}", layer)),
        # Retrieval multiplies by all item vectors; the ranker gathers those of its candidates.
        Weight(name="recommender.item_vectors", rows=wide, columns=num_items, kind=DENSE),
        Weight(name="ranker.item_vectors", rows=num_items, columns=wide, kind=TABLES),
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


def _matrices(name: str, root: nn.Module, copies: int = 2) -> list[Weight]:
    """What is multiplied, one row an input."""
    found: list[Weight] = []
    for path, module in root.named_modules():
        if isinstance(module, nn.Embedding):
            continue
        for own, value in module.named_parameters(recurse=False):
            if value.dim() == 2:
                rows, columns = reversed(value.shape) if isinstance(module, nn.Linear) else value.shape
                full = ".".join(filter(None, (name, path, own)))
                found.append(Weight(name=full, rows=rows, columns=columns, kind=DENSE, copies=copies))
    return found
