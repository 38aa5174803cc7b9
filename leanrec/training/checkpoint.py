"""The state of training on disk: the newest few, each whole or not there, each proven before it is taken up.

    <folder>/000007/checkpoint.json     schema, identity, progress, SHA-256 of the tensors
                    state.safetensors   weights, optimizers, the best so far, random states

Tensors are stored in full, so a run may go on with another number of processes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from leanrec.errors import LeanRecError, TrainingError
from leanrec.files import atomic_directory, read_json, sha256_of

SCHEMA = 2
MANIFEST_FILE, STATE_FILE = "checkpoint.json", "state.safetensors"

Groups = dict[str, dict[str, Tensor]]
"""Tensors by group ("weights", "optimizers", "best", "sums", "random") and name."""


@dataclass
class Progress:
    """How far a model's training has come."""

    epochs_done: int = 0
    step: int = 0
    """Steps done of the epoch after those."""
    loss_sum: float = 0.0
    """Of these steps, over all processes."""
    seconds: float = 0.0
    """That these steps took."""
    best_epoch: int = -1
    best_figure: float = float("-inf")
    finished: bool = False
    curves: list[dict[str, Any]] = field(default_factory=list)


def identity_of(settings: dict[str, Any], *files: Path) -> str:
    """A digest of settings and of the files trained on."""
    described = json.dumps(settings, sort_keys=True) + "".join(sha256_of(file) for file in files)
    return hashlib.sha256(described.encode()).hexdigest()


def _flattened(groups: Groups) -> dict[str, Tensor]:
    """Tensors by "group:name", none of which shares memory with another: safetensors takes no such ones."""
    flat: dict[str, Tensor] = {}
    seen: set[int] = set()
    for group, members in groups.items():
        for name, value in members.items():
            own = value.contiguous()
            flat[f"{group}:{name}"] = own.clone() if own.untyped_storage().data_ptr() in seen else own
            seen.add(own.untyped_storage().data_ptr())
    return flat


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one model, numbered as they were made."""

    folder: Path
    identity: str
    """Of settings and data: a checkpoint of others is not taken up."""
    keep: int
    """How many of the newest stay."""
    log: Callable[[str], None]
    """Told of every checkpoint that cannot be taken up, or not be written."""

    def save(self, progress: Progress, groups: Groups) -> None:
        """Write the next checkpoint, then remove those beyond `keep`.

        Where it cannot be written (a full disk) those before stay, and training goes on: that is logged.
        """
        numbers = self._numbers()
        path = self._path(max(numbers, default=0) + 1)
        flat = _flattened(groups)
        try:
            with atomic_directory(path) as beside:
                save_file(flat, beside / STATE_FILE)
                manifest = {
                    "schema": SCHEMA,
                    "identity": self.identity,
                    "sha256": sha256_of(beside / STATE_FILE),
                    "progress": asdict(progress),
                }
                (beside / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
        except (OSError, SafetensorError, LeanRecError) as error:
            kept = f"{self._path(max(numbers))} stays" if numbers else "there is none before it"
            self.log(f"checkpoint {path} could not be written ({error}); {kept}, and training goes on")
            return
        for number in sorted(numbers)[: max(0, len(numbers) + 1 - self.keep)]:
            shutil.rmtree(self._path(number), ignore_errors=True)

    def newest(self) -> int | None:
        """The number of the newest checkpoint that is whole and of this identity; None without one.

        Raises a TrainingError where it was written in another schema.
        """
        for number in sorted(self._numbers(), reverse=True):
            path = self._path(number)
            try:
                manifest = read_json(path / MANIFEST_FILE)
                schema, identity, digest = (manifest[key] for key in ("schema", "identity", "sha256"))
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._pass_over(path, f"{MANIFEST_FILE} cannot be read ({error!r})")
                continue
            if schema != SCHEMA:
                raise TrainingError(
                    f"{path}: the checkpoint has schema {schema}, this code reads {SCHEMA}; end that "
                    f"training with the code that began it, or remove {self.folder} to begin anew"
                )
            if identity != self.identity:
                self.log(f"checkpoint {path} is of other settings or data, so training begins anew")
                return None
            if not (path / STATE_FILE).is_file():
                self._pass_over(path, f"{STATE_FILE} is missing")
            elif sha256_of(path / STATE_FILE) != digest:
                self._pass_over(path, f"{STATE_FILE} is not what was written (its SHA-256 differs)")
            else:
                return number
        return None

    def load(self, number: int) -> tuple[Progress, Groups]:
        """What `save` wrote under `number`; a TrainingError where this process cannot read it."""
        path = self._path(number)
        try:
            progress = Progress(**read_json(path / MANIFEST_FILE)["progress"])
            flat = load_file(path / STATE_FILE)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{path}: the checkpoint cannot be read ({error}); every process must see the folder "
                "training.checkpoint"
            ) from None
        groups: Groups = {}
        for key, value in flat.items():
            group, name = key.split(":", 1)
            groups.setdefault(group, {})[name] = value
        return progress, groups

    def _pass_over(self, path: Path, fault: str) -> None:
        self.log(f"checkpoint {path} is not taken up: {fault}; the one before it is tried")

    def _numbers(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}"
