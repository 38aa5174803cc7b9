"""What shapes the tables of a model have once `prune_rows` and `factorize_tables` have cut them.

Where weights or data decide, every shape that they may leave: what is held of the largest is a bound.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

from leanrec.compression.footprint import Weight
from leanrec.compression.method import DENSE, MIN_BYTES, TABLES
from leanrec.compression.methods import factorize_tables, prune_rows
from leanrec.compression.methods.mixed_tables import num_hot
from leanrec.compression.methods.product_quantized_tables import pays
from leanrec.compression.storage import bytes_of_places
from leanrec.compression.whole_tables import MAX_NUMBERS, MAX_ROWS
from leanrec.config.methods import FactorizeTables, MixedTables, ProductQuantizedTables, PruneRows

Parts = list[Weight]
"""What stands in the place of one weight: itself, or its factors."""


def shapes_of(weights: Sequence[Weight], steps: Sequence[Any]) -> list[list[Parts]]:
    """For each of `weights`, what may stand in its place after the methods of these settings, in order.

    Raises a CompressionError as the methods would: nothing to cut, nothing that would become smaller.
    """
    shapes: list[list[Parts]] = [[[weight]] for weight in weights]
    for number, settings in enumerate(steps):
        match settings:
            case FactorizeTables():
                shapes = _after(shapes, _factorizing(shapes, settings))
            case PruneRows():
                shapes = _after(shapes, _pruning(shapes, settings, steps[number + 1 :]))
    return shapes


Cut = Callable[[Weight], list[Parts]]
"""What a method may leave of one matrix."""


def _after(shapes: list[list[Parts]], cut: Cut) -> list[list[Parts]]:
    def each(parts: Parts) -> Iterator[Parts]:
        for left in product(*map(cut, parts)):
            yield [part for parts_of_one in left for part in parts_of_one]

    return [[after for parts in of_one for after in each(parts)] for of_one in shapes]


def _large_tables(shapes: list[list[Parts]]) -> list[Weight]:
    return [part for of_one in shapes for parts in of_one for part in parts if _is_large_table(part)]


def _is_large_table(weight: Weight) -> bool:
    return weight.kind == TABLES and 4 * weight.size >= MIN_BYTES


def _factorizing(shapes: list[list[Parts]], settings: FactorizeTables) -> Cut:
    """Factors of the rank that is asked for, where those are smaller; of any rank where energy decides."""
    saves, tables = factorize_tables.saves, _large_tables(shapes)
    if settings.rank is not None:
        factorize_tables.require_rank(settings.rank, max((table.columns for table in tables), default=0))
        factorize_tables.require_smaller([t for t in tables if saves(t.rows, t.columns, settings.rank)])

    @cache
    def cut(weight: Weight) -> list[Parts]:
        if not _is_large_table(weight):
            return [[weight]]
        ranks = range(1, min(weight.rows, weight.columns) + 1) if settings.rank is None else [settings.rank]
        factors = [_factors(weight, rank) for rank in ranks if saves(weight.rows, weight.columns, rank)]
        return factors if factors and settings.rank is not None else [[weight], *factors]

    return cut


def _factors(weight: Weight, rank: int) -> Parts:
    left = replace(weight, columns=rank, restored_columns=weight.columns)
    return [left, replace(weight, rows=rank, kind=DENSE, places=0)]


def _pruning(shapes: list[list[Parts]], settings: PruneRows, later: Sequence[Any]) -> Cut:
    """Rows that stay: those beyond the share, and of the others those that data shows to be warm."""
    tables = [table for table in _large_tables(shapes) if table.rows >= prune_rows.MIN_ROWS]
    prune_rows.require_tables(tables)

    @cache
    def cut(weight: Weight) -> list[Parts]:
        if weight not in tables:
            return [[weight]]
        return [[weight], *([_pruned(weight, kept)] for kept in _rows_kept(weight, settings, later))]

    prune_rows.require_smaller([table for table in tables if len(cut(table)) > 1])
    return cut


def _pruned(weight: Weight, kept: int) -> Weight:
    return replace(weight, rows=kept, places=bytes_of_places(weight.rows, kept - 1))


def _rows_kept(table: Weight, settings: PruneRows, later: Sequence[Any]) -> set[int]:
    """How many rows may be left, the shared one included: the fewest, the most, and what turns in between.

    What is held grows with the rows, but where a method begins to store a table in another form.
    """
    fewest = table.rows - int(settings.share * table.rows) + 1

    def is_beyond(rows: int) -> bool:
        return not prune_rows.saves(table.rows, table.columns, rows)

    @cache
    def num_begun(rows: int) -> int:
        return sum(_begun(replace(table, rows=rows), later))

    kept = range(fewest, fewest + bisect_left(range(fewest, table.rows + 1), True, key=is_beyond))
    begun = range(num_begun(kept[0]), num_begun(kept[-1]) + 1) if kept else ()
    turns = {kept.start, kept.stop, *(fewest + bisect_left(kept, number, key=num_begun) for number in begun)}
    return {rows for turn in turns for rows in (turn - 1, turn) if rows in kept}


def _begun(table: Weight, later: Sequence[Any]) -> Iterator[bool]:
    """What holds of `table` from some number of rows on, and decides how `later` methods store it."""
    rows, columns = table.rows, table.columns
    restored = table.restored_columns or columns
    widths = {columns}
    for settings in later:
        if isinstance(settings, FactorizeTables):
            widths |= set(range(1, columns + 1)) if settings.rank is None else {settings.rank}
    yield rows > MAX_ROWS
    yield rows * restored > MAX_NUMBERS
    yield bytes_of_places(1, rows - 1) > bytes_of_places(1, 0)
    for width in widths:
        yield 4 * rows * width >= MIN_BYTES
        yield factorize_tables.saves(rows, columns, width)
    for settings in later:
        if isinstance(settings, ProductQuantizedTables):
            yield from (pays(rows, width, settings) for width in widths)
        elif isinstance(settings, MixedTables):
            hot = num_hot(rows, settings)
            yield hot > 0
            for side in (hot, rows - hot if hot else 0):
                yield from (side > MAX_ROWS, side * restored > MAX_NUMBERS)
