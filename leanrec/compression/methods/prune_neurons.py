"""prune_neurons: hidden neurons leave the towers and the deep part; the layers really become smaller.

While the model is fine-tuned, ever more neurons are held at zero, by the cubic schedule of Zhu and Gupta 2017
(arXiv:1710.01878), those of least magnitude |incoming| * |outgoing| first; then they are cut out. Zeros that
stay in a matrix would save neither bytes nor time, so there is no unstructured pruning.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.compression.architecture import ranker_as, retriever_as
from leanrec.compression.fine_tuning import RANKER, RETRIEVER, fine_tune
from leanrec.compression.method import ModelMethod
from leanrec.compression.reshaping import layers_of, narrower, require_plain
from leanrec.compression.source import CompressionSource
from leanrec.config.fit import neurons_left
from leanrec.config.methods import PruneNeurons
from leanrec.models.layers import MLP
from leanrec.models.ranking.dcn_v2 import DCNv2Ranker
from leanrec.models.recommender import Recommender
from leanrec.models.retrieval.two_tower import TwoTower

Pair = tuple[nn.Linear, nn.Linear, int]
RAMP = 0.7
"""Share of the fine-tuning after which the last neuron has gone."""


def change(recommender: Recommender, settings: PruneNeurons, source: CompressionSource) -> Recommender:
    """`recommender` with `share` of each hidden layer's neurons cut out, fine-tuned."""
    require_plain(recommender)
    pairs: dict[str, list[Pair]] = {part: PAIRS[part](recommender) for part in settings.parts}

    def hold(part: str, done: float) -> None:
        share = settings.share * (1 - (1 - min(1.0, done / RAMP)) ** 3)
        with torch.no_grad():
            for incoming, outgoing, first in pairs.get(part, ()):
                gone = _order(incoming, outgoing, first)[: round(share * incoming.out_features)]
                incoming.weight[gone] = 0
                incoming.bias[gone] = 0

    fine_tune(recommender, source, settings, after_step=hold)
    kept = {part: [_kept(settings.share, *pair) for pair in found] for part, found in pairs.items()}
    small = narrower(recommender, {part: {"hidden": tuple(map(len, rows))} for part, rows in kept.items()})
    with torch.no_grad():
        for part, found in pairs.items():
            _cut(found, PAIRS[part](small), kept[part])
    return small.freeze_items().eval()


def _pairs_of_retriever(recommender: Recommender) -> list[Pair]:
    tower = retriever_as(TwoTower, recommender, "prune_neurons")
    return _pairs(tower.user_mlp, tower.user_out, 0)


def _pairs_of_ranker(recommender: Recommender) -> list[Pair]:
    ranker = ranker_as(DCNv2Ranker, recommender, "prune_neurons")
    return _pairs(ranker.deep, ranker.over, ranker.over.in_features - ranker.deep.width)


PAIRS = {RETRIEVER: _pairs_of_retriever, RANKER: _pairs_of_ranker}


def _pairs(mlp: MLP, out: nn.Linear, first: int) -> list[Pair]:
    """Each hidden layer with the layer that it feeds, and the latter's first column of it."""
    linear = [*layers_of(mlp), out]
    places = [0] * (len(linear) - 2) + [first]
    return list(zip(linear[:-1], linear[1:], places, strict=True))


def _order(incoming: nn.Linear, outgoing: nn.Linear, first: int) -> Tensor:
    """The neurons of `incoming`, the least important first."""
    leaving = outgoing.weight[:, first : first + incoming.out_features].norm(dim=0)
    return (incoming.weight.norm(dim=1) * leaving).argsort(stable=True)


def _kept(share: float, incoming: nn.Linear, outgoing: nn.Linear, first: int) -> Tensor:
    gone = incoming.out_features - neurons_left(share, incoming.out_features)
    return _order(incoming, outgoing, first)[gone:].sort().values


def _cut(wide: list[Pair], narrow: list[Pair], kept: list[Tensor]) -> None:
    columns: Tensor | slice = slice(None)
    for (incoming, outgoing, first), (ours, next_of_ours, _), rows in zip(wide, narrow, kept, strict=True):
        ours.weight.copy_(incoming.weight[rows][:, columns])
        ours.bias.copy_(incoming.bias[rows])
        columns = torch.cat([torch.arange(first), first + rows])
        next_of_ours.weight.copy_(outgoing.weight[: len(next_of_ours.weight), columns])
        next_of_ours.bias.copy_(outgoing.bias[: len(next_of_ours.bias)])


PRUNE_NEURONS = ModelMethod(
    name="prune_neurons",
    change=change,
)
