"""SASRec (Kang & McAuley 2018, arXiv:1808.09781): causal self-attention over the history.

Layer norms come before attention and network (Xiong et al. 2020, arXiv:2002.04745), which trains steadily
without warm-up. Positions count from the oldest item and are learnt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RetrieverSettings
from leanrec.models.inputs import ItemInputs
from leanrec.models.retrieval.sequence_retriever import SequenceRetriever
from leanrec.schema import ModelSpec


class SASRec(SequenceRetriever):
    """Transformer layers under a causal mask; the last one's normed output is the user vector."""

    causal: Tensor

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items)
        own, dim, length = settings.sasrec, settings.dim, spec.history_length
        layer = nn.TransformerEncoderLayer(
            dim, own.heads, own.hidden or dim, settings.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, own.layers, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.position = nn.Parameter(torch.randn(length, dim) * dim**-0.5)
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(length), False)

    def encode(self, vectors: Tensor) -> Tensor:
        """[B, H, D] to [B, H, D]."""
        answered: Tensor = self.layers(vectors + self.position, mask=self.causal, is_causal=True)
        return answered
