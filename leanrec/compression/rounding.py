"""Matrices rounded to few bits, a row at a time or a block of its columns: what 8 and 4 bits share.

    symmetric     x ~ columns * scale[block] * q,                   q in -levels..levels
    asymmetric    x ~ columns * (least[block] + scale[block] * q),  q in 0..levels

A block of 0 is the whole row; where the width is no multiple of the block, the last one is shorter.
`columns` evens out columns of different size before the rows are scaled (as SmoothQuant does for layers, Xiao
et al. 2023); it is left out where it would not lower the error, or is one power of two for all columns where
an asymmetric matrix would else be beyond the range of a half. Only operators of ONNX's own restore the
numbers, which every ONNX Runtime has, old Triton images included.

A symmetric block has one float32; an asymmetric one has two halves in the same four bytes, rounded outward so
that the block stays within them.

Error: |x - x'| <= columns * scale / 2, element by element, for a block of numbers divided by `columns`. The
scale is max|block| / levels where symmetric. Where asymmetric it covers the span from the rounded least
value: in 8 bits |x - x'| <= columns * ((max - min + 2^-10 * |min| of the block) / 510 + 2^-25), and a half
rounds the scale by 2^-10 of itself on top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from leanrec.compression.storage import Nodes

TINY = np.finfo(np.float32).tiny
"""Below it a float32 loses digits, so no symmetric scale is smaller; such blocks become zeros."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundedMatrix:
    """A matrix [N, D] as integers, M blocks a row."""

    codes: np.ndarray
    """[N, D] int8 where symmetric, uint8 where not."""
    levels: int
    """The largest code there may be."""
    scale: np.ndarray
    """[N, M] float32 where symmetric, else float16."""
    least: np.ndarray | None
    """[N, M] like `scale`: what the code 0 means; None where symmetric, so that it means 0."""
    block: np.ndarray
    """[D] int32: the block of each column."""
    columns: np.ndarray | None
    """[D] float32, or None where all columns count alike."""

    def restored(self) -> np.ndarray:
        """[N, D] float32: what the graph computes, operation by operation."""
        values = self.codes.astype(np.float32) * _of_columns(self.scale.astype(np.float32), self.block)
        if self.least is not None:
            values = values + _of_columns(self.least.astype(np.float32), self.block)
        return values if self.columns is None else values * self.columns

    def largest_error(self) -> np.ndarray:
        """The bound on |matrix - restored|, element by element, [N, D]; a few float32 roundings on top."""
        scale = self.scale.astype(np.float64)
        most = self.levels * scale + (0 if self.least is None else np.abs(self.least.astype(np.float64)))
        error = scale / 2 + 4 * np.finfo(np.float32).eps * most
        columns = np.ones(len(self.block)) if self.columns is None else self.columns.astype(np.float64)
        return np.asarray(_of_columns(error, self.block) * columns + TINY)

    def by_row(self) -> dict[str, np.ndarray]:
        """The parts beside the codes that have a row for each of the matrix, as they lie in a graph."""
        if self.least is None:
            return {"scale": self.scale}
        return {"span": np.concatenate([self.scale, self.least], axis=1)}

    def by_block(self) -> dict[str, np.ndarray]:
        """The part that says which block a column is of; none where there is but one."""
        return {"block": self.block} if self.scale.shape[1] > 1 else {}

    def by_column(self) -> dict[str, np.ndarray]:
        """The part that evens out columns; none where it is left out."""
        return {} if self.columns is None else {"columns": self.columns}


def restore(nodes: Nodes, codes: str, parts: dict[str, str]) -> str:
    """Append what computes float32 [..., D] from `codes` [..., D] and the `parts` beside them, by name."""
    scale, least = parts.get("scale", ""), ""
    if "span" in parts:
        span = nodes.add("Cast", parts["span"], to=TensorProto.FLOAT)
        scale, least = nodes.add_with_outputs(2, "Split", span, num_outputs=2, axis=-1)
    if "block" in parts:
        scale = nodes.add("Gather", scale, parts["block"], axis=-1)
        least = nodes.add("Gather", least, parts["block"], axis=-1) if least else ""
    values = nodes.add("Mul", nodes.add("Cast", codes, to=TensorProto.FLOAT), scale)
    values = nodes.add("Add", values, least) if least else values
    return nodes.add("Mul", values, parts["columns"]) if "columns" in parts else values


def round_symmetric(matrix: np.ndarray, levels: int, block: int = 0) -> RoundedMatrix:
    """`matrix` [N, D] float32 in -levels..levels, `block` columns a scale, columns evened where it helps."""

    def rounded(evened: np.ndarray, columns: np.ndarray | None) -> RoundedMatrix:
        of_column, starts = _blocks(evened.shape[1], block)
        largest = np.maximum.reduceat(np.abs(evened), starts, axis=1)
        scale = np.where(largest / levels >= TINY, largest / levels, 1).astype(np.float32)
        codes = np.clip(np.rint(evened / _of_columns(scale, of_column)), -levels, levels).astype(np.int8)
        return RoundedMatrix(
            codes=codes, levels=levels, scale=scale, least=None, block=of_column, columns=columns
        )

    return _the_better(matrix, rounded)


def round_asymmetric(
    matrix: np.ndarray, levels: int, block: int = 0, *, smallest: np.float16
) -> RoundedMatrix:
    """`matrix` [N, D] float32 in 0..levels, `block` columns a scale, columns evened where it helps.

    No scale is below `smallest`, in units of `columns`.
    """

    def rounded(evened: np.ndarray, columns: np.ndarray | None) -> RoundedMatrix:
        evened = evened.astype(np.float64)
        of_column, starts = _blocks(evened.shape[1], block)
        low, high = (reduce.reduceat(evened, starts, axis=1) for reduce in (np.minimum, np.maximum))
        least = _outward(low, -np.inf)
        scale = np.maximum(_outward((high - least) / levels, np.inf), smallest)
        steps = _of_columns(scale.astype(np.float64), of_column)
        codes = np.clip(np.rint((evened - _of_columns(least, of_column)) / steps), 0, levels)
        return RoundedMatrix(
            codes=codes.astype(np.uint8),
            levels=levels,
            scale=scale,
            least=least,
            block=of_column,
            columns=columns,
        )

    return _the_better(matrix, rounded, _within_half(matrix))


def _within_half(matrix: np.ndarray) -> np.ndarray | None:
    """[D] float32: the power of two that brings `matrix` within a half's range; None where it lies there."""
    largest = np.abs(matrix).max()
    if largest < np.finfo(np.float16).max:
        return None
    return np.full(matrix.shape[1], 2.0 ** (np.frexp(largest)[1] - 15), np.float32)


def _the_better(
    matrix: np.ndarray,
    rounded: Callable[[np.ndarray, np.ndarray | None], RoundedMatrix],
    common: np.ndarray | None = None,
) -> RoundedMatrix:
    """Of `matrix` over what is `common` to its columns, and with them evened, what is restored better."""
    columns = np.abs(matrix).max(axis=0)
    columns = np.where(columns >= TINY, columns, 1).astype(np.float32)
    plain = rounded(matrix if common is None else matrix / common, common)
    evened = rounded(matrix / columns, columns)
    return evened if _squared_error(matrix, evened) < 0.8 * _squared_error(matrix, plain) else plain


def _blocks(width: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The block of each column, [D] int32, and the column that each begins with, [M]."""
    of_column = (np.arange(width) // (block or width)).astype(np.int32)
    return of_column, np.flatnonzero(np.diff(of_column, prepend=-1))


def _of_columns(parts: np.ndarray, block: np.ndarray) -> np.ndarray:
    """`parts` [N, M] of blocks by column, [N, D]; [N, 1] where there is but one block."""
    return parts if parts.shape[1] == 1 else parts[:, block]


def _outward(values: np.ndarray, toward: float) -> np.ndarray:
    """`values` as halves, rounded toward minus or plus infinity."""
    nearest: np.ndarray = values.astype(np.float16)
    beyond = nearest > values if toward < 0 else nearest < values
    return np.where(beyond, np.nextafter(nearest, np.float16(toward)), nearest)


def _squared_error(matrix: np.ndarray, rounded: RoundedMatrix) -> float:
    return float(np.square(matrix.astype(np.float64) - rounded.restored()).sum())
