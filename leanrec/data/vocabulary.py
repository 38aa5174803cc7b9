"""Stable, append-only vocabularies: an index never changes its meaning; 0 is "unknown".

A release carries its vocabularies, and the next run extends them, so that an embedding row means
the same user, item, category or attribute value in every release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leanrec.errors import DataError
from leanrec.files import atomic_file, read_json, sha256_of, write_json
from leanrec.schema import RECOMMENDER

Ids: TypeAlias = pa.Array | pa.ChunkedArray | Sequence[str | None]
"""Ids as Arrow strings or any sequence of str; null and "" are unknown."""


def _no_ids() -> pa.Array:
    return pa.array([], type=pa.string())


@dataclass(frozen=True)
class Vocabulary:
    """Distinct ids; the id at position i of `ids` has index i + 1.

    >>> genres = Vocabulary().extended(["Drama", "Comedy"])
    >>> genres.index_of(["Comedy", "Opera"])
    array([2, 0])
    """

    ids: pa.Array = field(default_factory=_no_ids)

    @property
    def cardinality(self) -> int:
        """How many indices there are, unknown counted: the rows of an embedding table."""
        return len(self.ids) + 1

    def index_of(self, ids: Ids) -> np.ndarray:
        """The index of each id (int64), 0 where the vocabulary lacks it."""
        positions = pc.index_in(_strings(ids), value_set=self.ids)
        indices: np.ndarray = pc.fill_null(positions, -1).to_numpy(zero_copy_only=False)
        return indices.astype(np.int64) + 1

    def extended(self, ids: Ids) -> Vocabulary:
        """This vocabulary followed by the ids that it lacks, in the order of their first appearance."""
        found = pc.unique(_strings(ids))
        is_new = pc.and_(
            pc.invert(pc.is_in(found, value_set=self.ids)), pc.greater(pc.binary_length(found), 0)
        )
        new = found.filter(is_new)  # a null compares as null, and a filter drops it
        return self if len(new) == 0 else Vocabulary(pa.concat_arrays([self.ids, new]))

    def to_table(self) -> pa.Table:
        """Columns id and index (int64), in the order of the index; unknown has no row."""
        return pa.table({"id": self.ids, "index": np.arange(1, self.cardinality, dtype=np.int64)})


@dataclass(frozen=True, kw_only=True)
class Vocabularies:
    """Every vocabulary of a model: users, items, categories, and one for each user attribute."""

    users: Vocabulary = field(default_factory=Vocabulary)
    items: Vocabulary = field(default_factory=Vocabulary)
    categories: Vocabulary = field(default_factory=Vocabulary)
    attributes: dict[str, Vocabulary] = field(default_factory=dict)

    def extend(
        self, events: pa.Table, items: pa.Table, users: pa.Table, user_attributes: tuple[str, ...]
    ) -> Vocabularies:
        """These vocabularies with whatever is new in the canonical tables appended.

        An item needs a row in `items`: the served graph holds its title and categories. A user who
        appears only in `events` is a user. The attributes in `user_attributes` come first, in that
        order; those of earlier configurations follow as they were, to go on from if they come back.
        """
        return Vocabularies(
            users=self.users.extended(users["user_id"]).extended(events["user_id"]),
            items=self.items.extended(items["item_id"]),
            categories=self.categories.extended(pc.list_flatten(items["categories"])),
            attributes={
                **{
                    name: self.attributes.get(name, Vocabulary()).extended(users[name])
                    for name in user_attributes
                },
                **{name: kept for name, kept in self.attributes.items() if name not in user_attributes},
            },
        )

    def first_change_since(self, before: Vocabularies) -> str | None:
        """The vocabulary that does not begin with `before`'s ids, in their order; None when each does."""
        pairs = {
            "users": (before.users, self.users),
            "items": (before.items, self.items),
            "categories": (before.categories, self.categories),
            **{
                f"attribute {name!r}": (vocabulary, self.attributes.get(name, Vocabulary()))
                for name, vocabulary in before.attributes.items()
            },
        }
        changed = (
            name for name, (old, new) in pairs.items() if not new.ids.slice(0, len(old.ids)).equals(old.ids)
        )
        return next(changed, None)

    def save(self, folder: Path) -> None:
        """Write users.parquet, items.parquet (id, index), attributes.json and categories.json."""
        folder = Path(folder)
        for name, vocabulary in (("users", self.users), ("items", self.items)):
            with atomic_file(folder / f"{name}.parquet") as beside:
                pq.write_table(vocabulary.to_table(), beside)
        write_json(folder / "categories.json", self.categories.ids.to_pylist())
        write_json(
            folder / "attributes.json",
            {name: vocabulary.ids.to_pylist() for name, vocabulary in self.attributes.items()},
        )

    @classmethod
    def load(cls, folder: Path) -> Vocabularies:
        """The vocabularies that `save` wrote; a DataError when a file is missing or not as written."""
        folder = Path(folder)
        try:
            return cls(
                users=_read_parquet(folder / "users.parquet"),
                items=_read_parquet(folder / "items.parquet"),
                categories=_from_list(read_json(folder / "categories.json"), folder / "categories.json"),
                attributes={
                    name: _from_list(ids, folder / "attributes.json")
                    for name, ids in read_json(folder / "attributes.json").items()
                },
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
            raise DataError(
                f"{folder}: not a vocabulary folder ({error}); restore the release that it belongs to"
            ) from None


def latest_vocabulary(release_repository: Path) -> Path | None:
    """The vocabulary folder of the newest release in the model repository; None before the first.

    The newest, not the stable one: after a rollback the indices of the newest are still taken.
    """
    versions = (Path(release_repository) / RECOMMENDER).glob("*/release/vocabulary")
    numbered = [
        (int(folder.parts[-3]), folder)
        for folder in versions
        if folder.parts[-3].isdecimal() and folder.is_dir()
    ]
    return max(numbered)[1] if numbered else None


def vocabulary_fingerprint(release_repository: Path, inputs: str = "") -> str:
    """What a run's features go on from, in a few characters; "" before the first release.

    The features depend on the newest vocabulary, which a pipeline's cache cannot see: this makes it a
    parameter. It is the digest of the newest release's vocabulary. Where that release came from the same
    `inputs` (a digest, in the release's lineage beside the fingerprint that its run was given), it is the
    fingerprint of that run: the features of that run end in the newest vocabulary, and may be used again.
    """
    folder = latest_vocabulary(release_repository)
    if folder is None:
        return ""
    lineage = _lineage(folder.parent / "manifest.json")
    if inputs and lineage.get("inputs") == inputs:
        return str(lineage.get("vocabulary_fingerprint", ""))
    digests = [f"{file.name} {sha256_of(file)}" for file in sorted(folder.iterdir())]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:12]


def _lineage(manifest: Path) -> dict[str, Any]:
    try:
        return dict(read_json(manifest).get("lineage", {}))
    except (OSError, ValueError):
        return {}  # a release that does not say what it came from came from something else


def _strings(ids: Ids) -> pa.Array:
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if not isinstance(ids, pa.Array):
        ids = pa.array(ids, type=pa.string())
    return ids if ids.type == pa.string() else ids.cast(pa.string())


def _from_list(ids: list[str], path: Path) -> Vocabulary:
    vocabulary = Vocabulary().extended(ids)
    if len(vocabulary.ids) != len(ids):
        raise ValueError(f"{path.name} holds an empty or repeated id")
    return vocabulary


def _read_parquet(path: Path) -> Vocabulary:
    table = pq.read_table(path)
    if not np.array_equal(table["index"].to_numpy(), np.arange(1, len(table) + 1)):
        raise ValueError(f"the indices in {path.name} do not count from 1")
    vocabulary = Vocabulary().extended(table["id"])
    if len(vocabulary.ids) != len(table):
        raise ValueError(f"{path.name} holds an empty or repeated id")
    return vocabulary
