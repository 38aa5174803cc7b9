"""Training that goes on from a release: its weights, grown where the vocabularies have grown.

Vocabularies are append-only, so row i of a table means what it meant: old rows go on bit for bit, or rounded
where training.table_precision is fp16. A new row starts as the mean of the rows known so far (the unknown row
0 is not among them, for it is hardly ever trained). The tables' optimizer goes on too: Adagrad's sums of
squared gradients (Duchi et al. 2011) keep well-known rows almost where they are, while a new row, whose sum
is 0, learns at the full rate. The dense part's Adam starts afresh, for its averages forget within a hundred
steps or so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from leanrec.config import TrainingSettings
from leanrec.data.vocabulary import Vocabularies
from leanrec.errors import ConfigError, TrainingError
from leanrec.files import read_json
from leanrec.models.recommender import SPEC_FILE, WEIGHTS_FILE, Recommender
from leanrec.training.job import MODELS

WEIGHTS_FOLDER = "model"
"""Of a release: what training needs to go on from it."""
SUMS_FILE = "optimizer.safetensors"
"""Adagrad's sums: "retriever/item" -> [rows, dim], and so on."""

TABLE, WEIGHT = ".sparse.tables.", ".weight"
WAY_OUT = "retrain in full once (training.warm_start: null, or `leanrec retrain --full`)"

Sums = dict[str, Tensor]
"""Table -> Adagrad's sums [rows, dim], of one part."""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What training goes on from, in the shapes of the new model."""

    weights: dict[str, Tensor]
    """The state of a whole `Recommender`."""
    sums: dict[str, Sums]
    """Part ("retriever", "ranker") -> its tables' sums; empty where the release has none."""


def load_warm_start(release: Path, recommender: Recommender, features: Path) -> WarmStart:
    """The weights in the folder `release` of a release, grown to the shapes of `recommender`.

    Args:
        release: `<repository>/recommender/N/release`.
        recommender: The new model, freshly made: its item table (categories, popularity) is kept.
        features: The features folder that the new model is made for.

    Raises a ConfigError that names the setting when the release's model is another one, and a TrainingError
    when the release carries no weights or an index would change its meaning.
    """
    folder = Path(release) / WEIGHTS_FOLDER
    try:
        described = read_json(folder / SPEC_FILE)
        old = load_file(folder / WEIGHTS_FILE)
        sums = load_file(folder / SUMS_FILE) if (folder / SUMS_FILE).exists() else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(
            f"{folder}: the release has no weights to go on from ({error}); {WAY_OUT}"
        ) from None
    _refuse_another_model(described, recommender, folder)
    _refuse_other_meanings(Path(release), Path(features))
    new = recommender.state_dict()
    # Buffers describe the items, the graph, what was fitted: they are made from the new events.
    described_now = {name for name, _ in recommender.named_buffers(remove_duplicate=False)}
    weights = {
        name: value if name in described_now else _grown(name, old.get(name), value, folder)
        for name, value in new.items()
    }
    return WarmStart(
        weights=weights,
        sums={
            part: {
                table: grow_rows(sums[key], len(new[_table_name(part, table)]), fill=0.0)
                for key in sums
                for owner, table in [key.split("/", 1)]
                if owner == part
            }
            for part in MODELS
        },
    )


def save_sums(sums: dict[str, Sums], folder: Path) -> None:
    """Write Adagrad's sums of both parts beside the weights in `folder`."""
    flat = {f"{part}/{table}": value for part, tables in sums.items() for table, value in tables.items()}
    save_file(flat, Path(folder) / SUMS_FILE)
    (Path(folder) / SUMS_FILE).chmod(0o644)  # safetensors leaves it to the owner alone


def grow_rows(rows: Tensor, num_rows: int, fill: float | None = None) -> Tensor:
    """`rows` [R, D] with new ones appended up to `num_rows`: `fill`, or the mean of rows 1 to R - 1."""
    if fill is None:
        known = rows[1:] if len(rows) > 1 else rows
        row = known.mean(dim=0, keepdim=True)
    else:
        row = torch.full((1, rows.shape[1]), fill)
    return torch.cat([rows, row.to(rows.dtype).expand(max(0, num_rows - len(rows)), -1)])


def _table_name(part: str, table: str) -> str:
    return f"{part}{TABLE}{table}{WEIGHT}"


def _grown(name: str, old: Tensor | None, new: Tensor, folder: Path) -> Tensor:
    """The learnt weights `name` of the release, in the shape of the new model's."""
    if old is not None and TABLE in name and old.shape[1:] == new.shape[1:] and len(old) <= len(new):
        return grow_rows(old, len(new))
    if old is not None and old.shape == new.shape:
        return old
    seen = "missing" if old is None else f"of shape {tuple(old.shape)}"
    raise ConfigError(
        f"{folder / WEIGHTS_FILE}: {name} is {seen}, the model's is {tuple(new.shape)}, so "
        f"training.warm_start cannot go on from it; {WAY_OUT}"
    )


def _refuse_another_model(described: dict[str, Any], recommender: Recommender, folder: Path) -> None:
    # What an older release does not name yet has the default, which was the only choice then.
    theirs = TrainingSettings.parse(described.get("settings", {})).model_dump(mode="json")
    ours, spec = recommender.settings.model_dump(mode="json"), described.get("spec", {})
    kept = {
        "retriever": ("model", "dim", "hidden"),
        "ranker": ("model", "task", "dim", "cross_layers", "hidden"),
    }
    before_and_now = {
        **{
            f"training.{part}.{name}": (theirs[part][name], ours[part][name])
            for part, names in kept.items()
            for name in names
        },
        **{
            f"training.{part}.{ours[part]['model']}.{name}": (before.get(name), value)
            for part in kept
            for before in [theirs[part].get(ours[part]["model"], {})]
            for name, value in ours[part].get(ours[part]["model"], {}).items()
            if name in ("heads", "layers")  # shapes do not tell them apart
        },
        "features.history_length": (spec.get("history_length"), recommender.spec.history_length),
        "features.liked_threshold": (spec.get("liked_threshold"), recommender.spec.liked_threshold),
        "data.user_attributes": (
            list(spec.get("attribute_cardinalities", {})),
            list(recommender.spec.attribute_cardinalities),
        ),
    }
    for name, (before, now) in before_and_now.items():
        if before != now:
            raise ConfigError(
                f"training.warm_start: {name} is {now}, but the release in {folder.parent} was trained with "
                f"{before}; set it back, or {WAY_OUT}"
            )


def _refuse_other_meanings(release: Path, features: Path) -> None:
    before = Vocabularies.load(release / "vocabulary")
    changed = Vocabularies.load(features / "vocabulary").first_change_since(before)
    if changed:
        raise TrainingError(
            f"{features}: the {changed} vocabulary does not go on from that of {release}, so a row would "
            f"change its meaning; build the features again, from the newest release, or {WAY_OUT}"
        )
