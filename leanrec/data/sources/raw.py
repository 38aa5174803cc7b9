"""What a source hands to ingest: three raw tables under our column names, types as they came."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from leanrec.config import DataSettings
from leanrec.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns of one raw table: those that must be there and those that may."""

    table: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


EVENTS = Layout(
    table="events", required=("user_id", "item_id", "timestamp", "rating"), optional=("event_id",)
)
ITEMS = Layout(table="items", required=("item_id", "title"), optional=("categories", "release_year"))


def users_layout(user_attributes: tuple[str, ...]) -> Layout:
    """The users table for the attributes that the configuration names."""
    return Layout(table="users", required=("user_id", *user_attributes))


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """One table as its source has it.

    origin: what messages call it, such as "ratings.csv". table: our column names, the source's types.
    names: our column name -> the source's, where a message should show the source's.
    """

    origin: str
    table: pa.Table
    names: dict[str, str]

    def place(self, column: str) -> str:
        """How a message names a column of this table."""
        return f"{self.origin}: column '{self.names.get(column, column)}'"


@dataclass(frozen=True, kw_only=True)
class RawTables:
    """What a source read; `users` is None when it knows nothing about users but their ids.

    notice: terms of use that whoever runs the source should see.
    """

    events: RawTable
    items: RawTable
    users: RawTable | None
    notice: str = ""


def read_files(
    settings: DataSettings, read_table: Callable[[Path, Layout, dict[str, str]], RawTable]
) -> RawTables:
    """The files that the settings name, each by `read_table(path, layout, columns)`."""
    if settings.events is None or settings.items is None:  # the settings' own rule, told to mypy
        raise DataError(f"source {settings.source} needs the files 'events' and 'items'")
    for name in ("events", "items", "users"):
        file = getattr(settings, name)
        if file is not None and not Path(file).exists():
            raise DataError(f"{file}: no such file; mend data.{name}")
    users = settings.users
    return RawTables(
        events=read_table(Path(settings.events), EVENTS, settings.columns),
        items=read_table(Path(settings.items), ITEMS, settings.columns),
        users=read_table(Path(users), users_layout(settings.user_attributes), settings.columns)
        if users is not None
        else None,
    )


def find_columns(
    origin: str, layout: Layout, available: Iterable[str], columns: dict[str, str]
) -> dict[str, str]:
    """Our name -> the file's name for each column of `layout` that the file has.

    A name in `columns` goes before ours. A column that is missing though required or named in
    `columns`, or a name that the file has twice, is a DataError.
    """
    available = list(available)
    found: dict[str, str] = {}
    for ours in (*layout.required, *layout.optional):
        theirs = columns.get(ours, ours)
        name = theirs if theirs in available else ours
        if available.count(name) > 1:
            raise DataError(f"{origin}: column '{name}' appears {available.count(name)} times; rename one")
        if name in available:
            found[ours] = name
        elif ours in layout.required or ours in columns:
            raise DataError(_missing(origin, ours, theirs, available))
    return found


def _missing(origin: str, ours: str, theirs: str, available: list[str]) -> str:
    lowered = {name.lower(): name for name in available}
    near = difflib.get_close_matches(theirs.lower(), lowered, n=1)
    hint = f"did you mean '{lowered[near[0]]}'?" if near else f"it has {', '.join(available) or 'none'};"
    renamed = f" (our '{ours}')" if theirs != ours else ""
    return f"{origin}: column '{theirs}'{renamed} is missing; {hint} name it under data.columns.{ours}"
