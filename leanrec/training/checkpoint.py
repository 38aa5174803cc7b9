"""The state after an epoch, in one safetensors file, whole or not at all; a killed run goes on from it.

Tensors are stored in full, so a run may go on with another number of processes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from leanrec.files import atomic_file, sha256_of


@dataclass
class Progress:
    """How far a model's training has come."""

    identity: str
    """Of settings and data: a checkpoint of other settings or data is not taken up."""
    epochs_done: int = 0
    best_epoch: int = -1
    best_figure: float = float("-inf")
    finished: bool = False
    curves: list[dict[str, Any]] = field(default_factory=list)


def identity_of(settings: dict[str, Any], *files: Path) -> str:
    """A digest of settings and of the files trained on."""
    described = json.dumps(settings, sort_keys=True) + "".join(sha256_of(file) for file in files)
    return hashlib.sha256(described.encode()).hexdigest()


def save_checkpoint(path: Path, progress: Progress, tensors: dict[str, dict[str, Tensor]]) -> None:
    """Write `progress` and groups of tensors ("weights", "optimizers", "best") to `path`, atomically."""
    flat = {
        f"{group}:{name}": value.contiguous().clone()
        for group, members in tensors.items()
        for name, value in members.items()
    }
    with atomic_file(path) as beside:
        save_file(flat, beside, metadata={"progress": json.dumps(asdict(progress))})


def load_checkpoint(path: Path, identity: str) -> tuple[Progress, dict[str, dict[str, Tensor]]] | None:
    """What `save_checkpoint` wrote, or None where there is nothing of this identity."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stream:
            progress = Progress(**json.loads(stream.metadata()["progress"]))
            if progress.identity != identity:
                return None
            groups: dict[str, dict[str, Tensor]] = {}
            for key in stream.keys():  # noqa: SIM118 - a safetensors handle is not iterable
                group, name = key.split(":", 1)
                groups.setdefault(group, {})[name] = stream.get_tensor(key)
            return progress, groups
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
