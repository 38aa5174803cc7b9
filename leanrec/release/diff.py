"""What changed between two releases: figures, items, vocabularies, settings, and the answers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from leanrec.data.vocabulary import Vocabularies
from leanrec.export.agreement import compare_recommender
from leanrec.export.golden import read_golden
from leanrec.export.graph_file import GRAPH_FILE
from leanrec.export.runtime import GraphSession
from leanrec.release.catalogue import ITEMS_FILE
from leanrec.release.lineage import served_metrics
from leanrec.release.repository import ModelRepository
from leanrec.release.requests import same_tensors
from leanrec.schema import RECOMMENDER

SHOWN = 20
"""Item ids named of each kind of change."""


def diff_releases(repository: Path, before: int, after: int) -> dict[str, Any]:
    """What `after` has that `before` has not; every pair is [before, after].

    Both graphs answer the golden requests of `after` in this process, one user at a time. `golden` is None
    when the two take different tensors, for then no request suits both.
    """
    store = ModelRepository(Path(repository).absolute())
    manifests = [store.manifest(version) for version in (before, after)]
    folders = [store.release_folder(version) for version in (before, after)]
    metrics = [served_metrics(folder) for folder in folders]
    settings = [_flat((manifest.get("lineage") or {}).get("settings") or {}) for manifest in manifests]
    return {
        "versions": [before, after],
        **{key: [m.get(key) for m in manifests] for key in ("recipe", "bytes", "published_at")},
        "code_version": [(m.get("lineage") or {}).get("code_version") for m in manifests],
        "data": [(m.get("lineage") or {}).get("data") for m in manifests],
        "metrics": _pairs(*metrics),
        "items": _items(*folders),
        "vocabulary": _vocabularies(*folders),
        "settings": {key: pair for key, pair in _pairs(*settings).items() if pair[0] != pair[1]},
        "golden": _golden(store, before, after) if same_tensors(folders) else None,
    }


def _pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: [first.get(key), second.get(key)] for key in sorted({*first, *second})}


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested settings as `section.key`; lists are values."""
    if not isinstance(value, dict):
        return {path: value}
    return {
        key: leaf
        for name, part in value.items()
        for key, leaf in _flat(part, f"{path}.{name}" if path else name).items()
    }


def _items(before: Path, after: Path) -> dict[str, Any]:
    old, new = (
        set(pq.read_table(folder / ITEMS_FILE, columns=["item_id"])["item_id"].to_pylist())
        for folder in (before, after)
    )
    added, gone = sorted(new - old), sorted(old - new)
    return {
        "num_added": len(added),
        "num_gone": len(gone),
        "added": added[:SHOWN],
        "gone": gone[:SHOWN],
    }


def _vocabularies(before: Path, after: Path) -> dict[str, list[Any]]:
    """The number of ids in each vocabulary."""
    sizes = []
    for folder in (before, after):
        held = Vocabularies.load(folder / "vocabulary")
        named = {"users": held.users, "items": held.items, "categories": held.categories}
        named |= {f"attributes.{name}": vocabulary for name, vocabulary in held.attributes.items()}
        sizes.append({name: len(vocabulary.ids) for name, vocabulary in named.items()})
    return _pairs(*sizes)


def _golden(store: ModelRepository, before: int, after: int) -> dict[str, Any]:
    requests = read_golden(store.release_folder(after)).inputs[RECOMMENDER]
    old, new = (
        GraphSession(store.version_folder(RECOMMENDER, version) / GRAPH_FILE).run_in_batches(requests, 1)
        for version in (before, after)
    )
    found = compare_recommender(old, new)
    means = [float(np.mean(answer["score"][:, :10])) for answer in (old, new)]
    return {
        "num_requests": len(old["score"]),
        "overlap@10": found.shared_top_10,
        "mean_score@10": means,
        "largest_score_ratio": found.largest_ratio if found.ratios.size else None,
    }
