"""Events, items and users from CSV files: UTF-8, a header line, categories separated by '|'.

A file that ends in .tsv is separated by tabs; .gz, .bz2 and .zst are unpacked as they are read.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from leanrec.config import DataSettings
from leanrec.data.sources.raw import Layout, RawTable, RawTables, find_columns, read_files
from leanrec.errors import DataError


def read(settings: DataSettings) -> RawTables:
    """The CSV files that the settings name."""
    return read_files(settings, read_table)


def read_table(path: Path, layout: Layout, columns: dict[str, str]) -> RawTable:
    """One file as a table of strings: "007" stays what it is, and an empty field is null."""
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; it needs a header line and rows")
    parsing = pa.csv.ParseOptions(
        delimiter="\t" if ".tsv" in path.suffixes else ",",
        newlines_in_values=True,
    )
    try:
        with pa.csv.open_csv(path, parse_options=parsing) as header:
            available = header.schema.names
        found = find_columns(str(path), layout, available, columns)
        table = parse(path, list(found.values()), parsing)
    except (UnicodeDecodeError, pa.ArrowInvalid):
        raise DataError(_explain(path, parsing)) from None
    return RawTable(origin=str(path), table=table.rename_columns(list(found)), names=found)


def parse(source: Any, names: list[str], parsing: pa.csv.ParseOptions) -> pa.Table:
    """The columns `names` of `source` (a path or a binary stream), all as strings."""
    conversion = pa.csv.ConvertOptions(
        include_columns=names,
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    return pa.csv.read_csv(source, parse_options=parsing, convert_options=conversion)


def _explain(path: Path, parsing: pa.csv.ParseOptions) -> str:
    """Why the file cannot be read, found by reading it once more, slowly; shows no row's content."""
    line = _first_line_not_utf8(path)
    if line is not None:
        return f"{path}: line {line} is not UTF-8 text; save the file as UTF-8"
    try:
        one_by_one = pa.csv.ReadOptions(use_threads=False)
        pa.csv.read_csv(path, read_options=one_by_one, parse_options=parsing)
    except pa.ArrowInvalid as error:
        found = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error))
        if found:
            row, expected, got = found.groups()
            return (
                f"{path}: line {row} has {got} fields and the header {expected}; "
                "mend the line, or quote fields that hold a separator"
            )
    return f"{path}: not a whole CSV file; look for an unclosed quotation mark"


def _first_line_not_utf8(path: Path) -> int | None:
    with pa.input_stream(str(path)) as stream:
        for number, line in enumerate(io.BufferedReader(stream), start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return None
