"""Raw columns into canonical ones: what cannot be read names its row and value.

Rows are counted from 1, the header line aside. Text is read by DuckDB's TRY_CAST, which marks
the cells that it cannot read instead of giving up at the first.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from leanrec.data.sources.raw import RawTable
from leanrec.errors import DataError

NOT_A_NUMBER = ("", "nan", "na", "n/a", "null", "none")
"""Cells (in any case) that say "no value": a rating becomes NaN, a release year null."""

SECONDS_BELOW = 1e11
"""Epoch numbers below it are seconds (until the year 5138), from it on milliseconds (since 1973)."""
MILLISECONDS_BELOW = 1e14
"""Epoch numbers from it on are neither."""

_TIMESTAMP_RULE = (
    "a time is ISO 8601 (UTC when it names no offset) or a number since 1970: "
    f"seconds below {SECONDS_BELOW:.0e}, milliseconds from there to {MILLISECONDS_BELOW:.0e}"
)

_MISSING = "(" + ", ".join(f"'{word}'" for word in NOT_A_NUMBER) + ")"
_RATING = f"case when lower(trim(x)) in {_MISSING} then 'nan'::double else try_cast(x as double) end"
_YEAR = f"case when lower(trim(x)) in {_MISSING} then null else try_cast(try_cast(x as double) as int) end"
# Only what begins like a date: DuckDB also takes words such as 'epoch' and 'infinity' for times.
_MICROSECONDS = f"""
    case when abs(try_cast(x as double)) < {SECONDS_BELOW} then (try_cast(x as double) * 1e6)::bigint
         when abs(try_cast(x as double)) < {MILLISECONDS_BELOW} then (try_cast(x as double) * 1e3)::bigint
         when regexp_matches(trim(x), '^[0-9]{{4}}-') then epoch_us(try_cast(trim(x) as timestamptz)) end
"""


def read_ids(raw: RawTable, column: str) -> pa.ChunkedArray:
    """A column of ids as strings; a null or empty id is refused, and so are fractions."""
    values = raw.table[column]
    if not (_is_text(values.type) or pa.types.is_integer(values.type)):
        raise DataError(
            f"{raw.place(column)} is of type {values.type}; ids are text or integers: convert the column"
        )
    ids = _as_text(values)
    empty = pc.fill_null(pc.equal(ids, ""), True)
    if (count := pc.sum(empty).as_py() or 0) > 0:
        raise DataError(
            f"{raw.place(column)} is empty in {count:,} of {len(ids):,} rows (first: row "
            f"{_first(empty)}); every row needs an id: drop the rows or fill them"
        )
    return ids


def read_text(raw: RawTable, column: str) -> pa.ChunkedArray:
    """A column of labels as strings; empty is null."""
    values = raw.table[column]
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        raise DataError(f"{raw.place(column)} is of type {values.type}; it must be text or a number")
    text = _as_text(values)
    return pc.if_else(pc.equal(text, ""), None, text)


def read_ratings(raw: RawTable) -> pa.ChunkedArray:
    """Ratings as float32, NaN where there is none: validation decides about those."""
    values = raw.table["rating"]
    if _is_number(values.type):
        return pc.fill_null(pc.cast(values, pa.float32(), safe=False), float("nan"))
    _require_text(raw, "rating", "a rating is a number")
    ratings = _compute(_RATING, values)
    _require_readable(raw, "rating", ratings, values, "a rating is a number")
    return pc.fill_null(pc.cast(ratings, pa.float32(), safe=False), float("nan"))


def read_timestamps(raw: RawTable) -> pa.ChunkedArray:
    """Times as UTC microseconds, from Parquet timestamps, epoch numbers or ISO 8601 text."""
    values = raw.table["timestamp"]
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        times = pc.cast(values, pa.timestamp("us", tz="UTC"), safe=False)
    else:
        if not _is_number(values.type):
            _require_text(raw, "timestamp", _TIMESTAMP_RULE)
        times = pc.cast(_compute(_MICROSECONDS, values), pa.timestamp("us", tz="UTC"))
    unread = pc.is_null(times)
    if pc.any(unread).as_py():
        _refuse(raw, "timestamp", unread, values, _TIMESTAMP_RULE)
    return times


def read_years(raw: RawTable) -> pa.ChunkedArray:
    """Release years as int32, null where there is none."""
    values = raw.table["release_year"]
    if not _is_number(values.type):
        _require_text(raw, "release_year", "a year is a whole number")
    years = _compute(_YEAR, values)
    said = pc.invert(pc.is_in(pc.utf8_lower(_as_text(values)), value_set=pa.array(NOT_A_NUMBER)))
    unread = pc.and_(pc.is_null(years), pc.and_(said, pc.is_valid(values)))
    if pc.any(unread).as_py():
        _refuse(raw, "release_year", unread, values, "a year is a whole number")
    return years


def read_categories(raw: RawTable) -> pa.ChunkedArray:
    """Lists of category names, from lists or from text separated by '|'; none is an empty list."""
    values = raw.table["categories"]
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        _require_text(raw, "categories", "categories are a list, or text separated by '|'")
        values = pc.split_pattern(_as_text(values), "|")
    lists = pc.cast(values, pa.list_(pa.string())).to_pylist()
    return pa.chunked_array(
        [pa.array([[name for name in names or () if name] for names in lists], type=pa.list_(pa.string()))]
    )


def _compute(expression: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """`expression` over the column x, row by row.

    One thread: with more, DuckDB gives Arrow rows back in another order.
    """
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("cells", pa.table({"x": _as_text(values)}))
        return connection.sql(f"select {expression} as y from cells").to_arrow_table()["y"]  # noqa: S608


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values if values.type == pa.string() else pc.cast(values, pa.string())


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _require_text(raw: RawTable, column: str, rule: str) -> None:
    kind = raw.table.schema.field(column).type
    if not (_is_text(kind) or pa.types.is_null(kind)):
        raise DataError(f"{raw.place(column)} is of type {kind}; {rule}: convert the column")


def _require_readable(
    raw: RawTable, column: str, read: pa.ChunkedArray, values: pa.ChunkedArray, rule: str
) -> None:
    unread = pc.and_(pc.is_null(read), pc.is_valid(values))
    if pc.any(unread).as_py():
        _refuse(raw, column, unread, values, rule)


def _refuse(raw: RawTable, column: str, unread: pa.ChunkedArray, values: pa.ChunkedArray, rule: str) -> None:
    row = _first(unread)
    value = values[row - 1].as_py()
    shown = "empty" if value in (None, "") else repr(value)
    count = pc.sum(unread).as_py()
    more = f" (and {count - 1:,} more)" if count > 1 else ""
    raise DataError(f"{raw.place(column)}, row {row}{more} is {shown}; {rule}: mend the row")


def _first(mask: pa.ChunkedArray) -> int:
    """The first row, counted from 1, where `mask` is true."""
    return int(pc.index(mask, pa.scalar(True)).as_py()) + 1
