"""Events, items and users from Parquet: a file, or a folder of files with the same columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset

from leanrec.config import DataSettings
from leanrec.data.sources.raw import Layout, RawTable, RawTables, find_columns, read_files
from leanrec.errors import DataError


def read(settings: DataSettings) -> RawTables:
    """The Parquet files that the settings name."""
    return read_files(settings, read_table)


def read_table(path: Path, layout: Layout, columns: dict[str, str]) -> RawTable:
    """One file or folder; only the columns that we use are read."""
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; write it again")
    try:
        dataset = pa.dataset.dataset(path, format="parquet")
        found = find_columns(str(path), layout, dataset.schema.names, columns)
        table = dataset.to_table(columns=list(found.values()))
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: not a whole Parquet file ({reason[:200]}); it may be cut short: write or copy it again"
        ) from None
    return RawTable(origin=str(path), table=table.rename_columns(list(found)), names=found)
