"""GRU4Rec (Hidasi et al. 2016, arXiv:1511.06939): a recurrent network reads the history event by event."""

from __future__ import annotations

from torch import Tensor, nn

from leanrec.config import RetrieverSettings
from leanrec.models.inputs import ItemInputs
from leanrec.models.retrieval.sequence_retriever import SequenceRetriever
from leanrec.schema import ModelSpec


class GRU4Rec(SequenceRetriever):
    """Gated recurrent units over the history; the state after an event, turned, is the user vector."""

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items)
        layers, hidden = settings.gru4rec.layers, settings.gru4rec.hidden or settings.dim
        between = settings.dropout if layers > 1 else 0.0
        self.gru = nn.GRU(settings.dim, hidden, layers, batch_first=True, dropout=between)
        self.out = nn.Linear(hidden, settings.dim)

    def encode(self, vectors: Tensor) -> Tensor:
        """[B, H, D] to [B, H, D]."""
        # Given, and not left to the network: an exported graph would keep the batch of its example.
        before = vectors.new_zeros(self.gru.num_layers, vectors.shape[0], self.gru.hidden_size)
        states, _ = self.gru(vectors, before)
        answered: Tensor = self.out(states)
        return answered
