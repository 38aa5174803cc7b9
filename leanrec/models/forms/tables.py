"""Embedding tables that hold less than a row for each index, each a form of nn.Embedding.

    hashed               several indices share a row: the hashing trick (Weinberger et al. 2009,
                         arXiv:0902.2206)
    quotient_remainder   row i is Q[i // m] * R[i % m]: compositional embeddings (Shi et al. 2020,
                         arXiv:1909.02107)
    robe                 row i is made of chunks of one shared array, at hashed places (Desai et al. 2022,
                         arXiv:2108.02191)
    tensor_train         the table as a chain of three small cores (Yin et al. 2021, arXiv:2101.11714)

Index 0, the unknown one, is looked up like any other. `imitate` fills each by least squares where that has a
closed form (means of the rows that share, truncated SVDs), so that fine-tuning starts near.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from leanrec.models.forms.form import Form

PRIME, GENERATOR = 2**31 - 1, 48_271
"""Of the hash (a * i + b) mod PRIME mod places; indices and products stay within int64.

Each a is a power of a primitive root, as large as PRIME: a small one would not wrap around for small indices,
and would leave the places empty that it shares no divisor with.
"""


class HashedTable(Form):
    """`buckets` rows; index i reads row hash(i)."""

    def __init__(self, plain: nn.Embedding, model: Any, buckets: int) -> None:
        super().__init__()
        self.table = nn.Embedding(buckets, plain.embedding_dim)

    def forward(self, index: Tensor) -> Tensor:
        """Indices [...] to [..., dim]."""
        return self.table(_hash(index, 0, self.table.num_embeddings))

    @torch.no_grad()
    def imitate(self, plain: nn.Embedding) -> None:
        """Each row is the mean of those that share it."""
        place = _hash(torch.arange(plain.num_embeddings), 0, self.table.num_embeddings)
        self.table.weight.copy_(_means(plain.weight, place, self.table.num_embeddings))


class QuotientRemainderTable(Form):
    """Q [rows / m, dim] times R [m, dim], element by element."""

    def __init__(self, plain: nn.Embedding, model: Any, remainders: int) -> None:
        super().__init__()
        self.remainders = remainders
        quotients = math.ceil(plain.num_embeddings / remainders)
        self.quotient = nn.Embedding(quotients, plain.embedding_dim)
        self.remainder = nn.Embedding(remainders, plain.embedding_dim)

    def forward(self, index: Tensor) -> Tensor:
        """Indices [...] to [..., dim]."""
        quotient: Tensor = self.quotient(torch.div(index, self.remainders, rounding_mode="trunc"))
        remainder: Tensor = self.remainder(index % self.remainders)
        return quotient * remainder

    @torch.no_grad()
    def imitate(self, plain: nn.Embedding) -> None:
        """Per column the best product of one number a quotient and one a remainder: a rank-1 SVD each."""
        quotients, dim = self.quotient.weight.shape
        padded = functional.pad(plain.weight, (0, 0, 0, quotients * self.remainders - plain.num_embeddings))
        columns = padded.reshape(quotients, self.remainders, dim).permute(2, 0, 1)
        u, s, v = torch.linalg.svd(columns, full_matrices=False)
        root = s[:, :1].sqrt()
        self.quotient.weight.copy_((u[:, :, 0] * root).T)
        self.remainder.weight.copy_((v[:, 0] * root).T)


class RobeTable(Form):
    """One array of `size` numbers; chunk c of row i begins at hash_c(i)."""

    def __init__(self, plain: nn.Embedding, model: Any, size: int, chunk: int) -> None:
        super().__init__()
        if plain.embedding_dim % chunk:
            raise ValueError(f"chunk {chunk} does not divide the width {plain.embedding_dim}")
        self.chunk, self.num_chunks = chunk, plain.embedding_dim // chunk
        self.table = nn.Embedding(math.ceil(size / chunk), chunk)

    def forward(self, index: Tensor) -> Tensor:
        """Indices [...] to [..., dim]."""
        return self.table(self._places(index)).flatten(-2)

    @torch.no_grad()
    def imitate(self, plain: nn.Embedding) -> None:
        """Each chunk of the array is the mean of the chunks that share it."""
        places = self._places(torch.arange(plain.num_embeddings)).reshape(-1)
        chunks = plain.weight.reshape(-1, self.chunk)
        self.table.weight.copy_(_means(chunks, places, self.table.num_embeddings))

    def _places(self, index: Tensor) -> Tensor:
        rows = [_hash(index, c + 1, self.table.num_embeddings) for c in range(self.num_chunks)]
        return torch.stack(rows, dim=-1)


class TensorTrainTable(Form):
    """rows = n1 n2 n3 and dim = d1 d2 d3; row (i1, i2, i3) is G1[i1] G2[i2] G3[i3], of rank `rank`."""

    def __init__(self, plain: nn.Embedding, model: Any, rank: int) -> None:
        super().__init__()
        self.rows, self.widths = _three(plain.num_embeddings), _split_in_three(plain.embedding_dim)
        self.ranks = (1, rank, rank, 1)
        sizes = [self.ranks[k] * self.widths[k] * self.ranks[k + 1] for k in range(3)]
        self.first, self.second, self.third = (
            nn.Embedding(n, size) for n, size in zip(self.rows, sizes, strict=True)
        )

    def forward(self, index: Tensor) -> Tensor:
        """Indices [...] to [..., dim]."""
        _, second, third = self.rows
        digits = (
            torch.div(index, second * third, rounding_mode="trunc"),
            torch.div(index, third, rounding_mode="trunc") % second,
            index % third,
        )
        product = self.first(digits[0]).unflatten(-1, (self.widths[0], self.ranks[1]))
        for k, cores in ((1, self.second), (2, self.third)):
            core = cores(digits[k]).unflatten(-1, (self.ranks[k], self.widths[k] * self.ranks[k + 1]))
            product = torch.matmul(product, core).flatten(-2).unflatten(-1, (-1, self.ranks[k + 1]))
        row: Tensor = product.squeeze(-1)
        return row

    @torch.no_grad()
    def imitate(self, plain: nn.Embedding) -> None:
        """TT-SVD (Oseledets 2011): a truncated SVD for each core in turn."""
        (n1, n2, n3), (d1, d2, d3), rank = self.rows, self.widths, self.ranks[1]
        padded = functional.pad(plain.weight, (0, 0, 0, n1 * n2 * n3 - plain.num_embeddings))
        rest = padded.reshape(n1, n2, n3, d1, d2, d3).permute(0, 3, 1, 4, 2, 5).reshape(n1 * d1, -1)
        first, rest = _truncate(rest, rank)
        second, third = _truncate(rest.reshape(rank * n2 * d2, n3 * d3), rank)
        self.first.weight.copy_(first.reshape(n1, d1 * rank))
        middle = second.reshape(rank, n2, d2, rank).permute(1, 0, 2, 3)
        self.second.weight.copy_(middle.reshape(n2, -1))
        self.third.weight.copy_(third.reshape(rank, n3, d3).permute(1, 0, 2).reshape(n3, -1))


TABLES: dict[str, type[Form]] = {
    "hashed": HashedTable,
    "quotient_remainder": QuotientRemainderTable,
    "robe": RobeTable,
    "tensor_train": TensorTrainTable,
}
"""Every form of a table by its name in a description."""


def _hash(index: Tensor, salt: int, places: int) -> Tensor:
    """A universal hash (Carter and Wegman 1979) of 0 <= index < 2^31; [...] in 0..places-1."""
    factor, offset = pow(GENERATOR, salt + 5, PRIME), 11 + salt * 104_729
    return (index * factor + offset) % PRIME % places


def _means(rows: Tensor, place: Tensor, places: int) -> Tensor:
    total = torch.zeros(places, rows.shape[1]).index_add_(0, place, rows)
    return total / torch.bincount(place, minlength=places).clamp(min=1).unsqueeze(1)


def _truncate(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors [m, rank] and [rank, n] of the truncated SVD; zeros where the matrix has a lower rank."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    left, right = u[:, :rank] * s[:rank].sqrt(), s[:rank, None].sqrt() * v[:rank]
    missing = rank - left.shape[1]
    return functional.pad(left, (0, missing)), functional.pad(right, (0, 0, 0, missing))


def _three(count: int) -> tuple[int, int, int]:
    """Three numbers about equal whose product is at least `count`."""
    first = math.ceil(count ** (1 / 3))
    second = math.ceil(math.sqrt(count / first))
    return first, second, math.ceil(count / (first * second))


def _split_in_three(width: int) -> tuple[int, int, int]:
    """Three numbers about equal whose product is `width`."""
    splits = [
        (a, b, width // (a * b))
        for a in range(1, width + 1)
        for b in range(1, width + 1)
        if width % (a * b) == 0
    ]
    return min(splits, key=lambda split: (max(split) - min(split), split))
