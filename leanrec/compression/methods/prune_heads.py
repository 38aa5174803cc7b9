"""prune_heads: whole attention heads leave the layers of SASRec or of the Behaviour Sequence Transformer.

Those leave first whose output matters least to the loss: to first order, what a gate on a head changes when
it closes (Michel et al. 2019, arXiv:1905.10650, equation 2), over training events. Their rows and columns are
cut out of the projections, so the matrices that are served really become smaller; a head that stays keeps its
width. All go at once, as many in each layer, and then the model is fine-tuned. Before that it answers what
the trained one does with the outputs of those heads at zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from leanrec.compression.fine_tuning import RANKER, RETRIEVER, fine_tune
from leanrec.compression.importance import head_importance
from leanrec.compression.method import ModelMethod
from leanrec.compression.source import CompressionSource
from leanrec.config.fit import misfit_of
from leanrec.config.methods import PruneHeads
from leanrec.errors import CompressionError
from leanrec.models.attention import TransformerLayer
from leanrec.models.forms import Description
from leanrec.models.forms.heads import AttentionForm
from leanrec.models.recommender import Recommender

METHOD = "prune_heads"


def change(recommender: Recommender, settings: PruneHeads, source: CompressionSource) -> Recommender:
    """`recommender` with `retriever_heads` and `ranker_heads` heads in each layer, fine-tuned."""
    misfit = misfit_of(METHOD, settings, recommender.settings)
    if misfit is not None:
        raise CompressionError(misfit)
    forms = forms_of(recommender, settings)
    plain = {path: recommender.get_submodule(path) for path in forms}
    importance = _importance(recommender, forms, source)
    recommender.take_forms(forms)
    for path, attention in plain.items():
        form = cast(AttentionForm, recommender.get_submodule(path))
        kept = importance[path].argsort(descending=True, stable=True)[: form.heads]
        form.keep(attention, kept.sort().values)
    return fine_tune(recommender, source, settings)


def forms_of(recommender: Recommender, settings: PruneHeads) -> Description:
    """Attention of as many heads as are to stay, in the layers of the models that have more."""
    left = {RETRIEVER: settings.retriever_heads, RANKER: settings.ranker_heads}
    found: Description = {}
    for path, form, heads in _attention(recommender):
        stay = left[path.split(".")[0]]
        if stay is not None and stay < heads:
            found[path] = {"form": form, "heads": stay}
    return found


def _attention(recommender: Recommender) -> Iterator[tuple[str, str, int]]:
    """Path, the form that may take its place, and heads of each attention."""
    for path, module in recommender.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            yield path, "fewer_heads", module.num_heads
        elif isinstance(module, TransformerLayer):
            yield path, "layer_of_fewer_heads", module.heads


def _importance(recommender: Recommender, forms: Description, source: CompressionSource) -> dict[str, Tensor]:
    """Path of each attention in `forms` -> the importance of the heads that it has now, [heads]."""
    gated = copy.deepcopy(recommender)
    gated.take_forms(
        {path: {"form": form, "heads": heads} for path, form, heads in _attention(gated) if path in forms}
    )
    importance: dict[str, Tensor] = {}
    for part in sorted({path.split(".")[0] for path in forms}):
        importance |= head_importance(part, gated, source)
    return importance


PRUNE_HEADS = ModelMethod(
    name=METHOD,
    change=change,
    forms=forms_of,
)
