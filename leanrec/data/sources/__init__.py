"""Where raw interactions come from: one file a source, one line in the table below."""

from __future__ import annotations

from collections.abc import Callable

from leanrec.config import DataSettings
from leanrec.data.sources import csv, movielens_100k, parquet, synthetic
from leanrec.data.sources.raw import RawTables

SOURCES: dict[str, Callable[[DataSettings], RawTables]] = {
    "movielens-100k": movielens_100k.read,
    "csv": csv.read,
    "parquet": parquet.read,
    "synthetic": synthetic.read,
}
"""The name in `data.source` -> what reads the raw tables."""

NOTICES = {"movielens-100k": movielens_100k.NOTICE}
"""Terms of use that whoever runs a source should see, at every run."""
