"""The DuckDB that runs the expressions on one machine."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator

import ibis
from ibis.backends.duckdb import Backend


@contextlib.contextmanager
def duckdb_engine() -> Iterator[Backend]:
    """A fresh in-memory DuckDB in UTC; what outgrows memory spills to a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="leanrec-duckdb-") as spill, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # ibis's use of DuckDB's Python interface
        engine = ibis.duckdb.connect(temp_directory=spill)
        try:
            engine.raw_sql("SET TimeZone = 'UTC'")
            engine.raw_sql("SET enable_external_file_cache = false")  # files change under one name
            engine.raw_sql("SET enable_progress_bar = false")
            yield engine
        finally:
            engine.disconnect()
