"""How embedding tables lie over the processes and in their memory while they train, as the settings say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field

from leanrec.config import TrainingSettings

FLOAT, INDEX = 4, 8
"""Bytes of a weight in float32, and of an index."""
WIDTHS = {"fp32": FLOAT, "fp16": 2}
"""Bytes of a table's weight."""
ROWS_A_SET = 32
"""Rows of a device's cache come in sets of so many (fbgemm's DEFAULT_ASSOC)."""
TABLE_OF_A_ROW = 4
"""Bytes with which fbgemm's cache tells the table of each row behind it."""


@dataclass(frozen=True)
class Part:
    """What a process holds of a table."""

    weights: int
    held: int
    """Bytes of the weights, of Adagrad's sums, and of gradients where each process has all of the table."""
    kept: int
    """Bytes on its host beside: weights and sums at the best; while a checkpoint is written sums of now, one
    for each weight, and the file in memory."""
    on_device: int
    """Bytes on its device: all that is held, or a cache of it and what is not cached."""
    on_host: int
    """Bytes on its host, behind the device's cache."""


def added(parts: Iterable[Part]) -> Part:
    """All of `parts` together."""
    return Part(*map(sum, zip(*map(astuple, parts), strict=True)))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the tables' parts are, in what numbers they are kept and in what they travel."""

    by_hand: Mapping[str, str] = field(default_factory=dict)
    """Table -> how it is sharded, where the planner shall not choose."""
    exchange: str = "fp32"
    """In what vectors travel between processes."""
    precision: str = "fp32"
    """In what sharded tables are kept; Adagrad's sums, and tables that each process has whole, in float32."""
    cache: float | None = None
    """Share of the rows of sharded tables that a GPU keeps, with all of them on its host; None: no cache."""

    @classmethod
    def of(cls, settings: TrainingSettings) -> Layout:
        """As `settings` say."""
        return cls(
            by_hand=settings.sharding,
            exchange=settings.exchange,
            precision=settings.table_precision,
            cache=settings.table_cache,
        )

    def cache_of(self, device: str) -> float | None:
        """The share of rows that `device` ("cpu", "cuda") caches; a CPU's tables are on the host anyway."""
        return self.cache if device != "cpu" else None

    def part(
        self, rows: int, columns: int, *, optimizer: str, device: str, rows_a_set: int = ROWS_A_SET
    ) -> Part:
        """What `rows` x `columns` of a sharded table take with Adagrad ("adagrad", "rowwise_adagrad").

        A cache has whole sets of rows, one at least, of `rows_a_set`.
        """
        weights, width = rows * columns, WIDTHS[self.precision]
        sums = _sums(rows, columns, optimizer)
        held = weights * width + sums
        kept = weights * (width + 3 * FLOAT)
        share = self.cache_of(device)
        if share is None or not rows:
            return Part(weights, held, kept, held, 0)
        cached_rows = rows_a_set * max(1, math.ceil(int(rows * share) / rows_a_set))
        # Of each row in the cache, which it is and when it was last asked for.
        cache = cached_rows * (columns * width + 2 * INDEX) + rows * TABLE_OF_A_ROW
        beside = sums if optimizer == "rowwise_adagrad" else 0
        return Part(weights, held, kept, cache + beside, held - beside)


def whole_part(rows: int, columns: int, *, optimizer: str) -> Part:
    """What a table takes that each process has whole: DDP keeps a gradient of all of it."""
    weights = rows * columns
    held = 2 * weights * FLOAT + _sums(rows, columns, optimizer)
    return Part(weights, held, weights * 4 * FLOAT, held, 0)


def _sums(rows: int, columns: int, optimizer: str) -> int:
    """Bytes of Adagrad's sums of squared gradients."""
    return FLOAT * rows * (1 if optimizer == "rowwise_adagrad" else columns)
