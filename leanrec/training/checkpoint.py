"""The state of training on disk: the newest few, each whole or not there, each proven before it is taken up.

    <folder>/000007/checkpoint.json     schema, identity, progress, SHA-256 of each file
                    *.safetensors       what each process holds of weights, optimizers, the best so far

torch.distributed.checkpoint writes and reads them: every process its own parts, and after a restart with
another number of processes those that it then holds.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import WriteItem

from leanrec.errors import LeanRecError, TrainingError
from leanrec.files import atomic_directory, read_json, sha256_of
from leanrec.training.sparse import Held

SCHEMA = 3
MANIFEST_FILE = "checkpoint.json"


@dataclass
class Progress:
    """How far a model's training has come."""

    epochs_done: int = 0
    step: int = 0
    """Steps done of the epoch after those."""
    loss_sum: float = 0.0
    """Of these steps, the mean over processes."""
    seconds: float = 0.0
    """That these steps took."""
    best_epoch: int = -1
    best_figure: float = float("-inf")
    speeds: list[float] = field(default_factory=list)
    """Of each process in this epoch, where batches are shared out by them."""
    finished: bool = False
    curves: list[dict[str, Any]] = field(default_factory=list)


def identity_of(settings: dict[str, Any], *files: Path) -> str:
    """A digest of settings and of the files trained on."""
    described = json.dumps(settings, sort_keys=True) + "".join(sha256_of(file) for file in files)
    return hashlib.sha256(described.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one model, numbered as they were made."""

    folder: Path
    identity: str
    """Of settings and data: a checkpoint of others is not taken up."""
    at_any_pace: str = ""
    """The same without what says how fast is learnt."""
    takes_other_pace: bool = False
    """Whether a checkpoint made at another pace is taken up, too."""
    keep: int
    """How many of the newest stay."""
    log: Callable[[str], None]
    """Told of every checkpoint that cannot be taken up, or not be written."""

    def save(self, progress: Progress, held: Held) -> None:
        """Write the next checkpoint, then remove those beyond `keep`; every process must call it.

        Where it cannot be written (a full disk) those before stay, and training goes on: that is logged.
        """
        numbers = self._numbers()
        path = self._path(max(numbers, default=0) + 1)
        try:
            with _beside(path) as beside:
                dcp.save(_contiguous(held), storage_writer=_Writer(str(beside), save_distributed=True))
                self._seal(beside, progress)
        except (OSError, LeanRecError, CheckpointException) as error:
            kept = f"{self._path(max(numbers))} stays" if numbers else "there is none before it"
            self.log(
                f"checkpoint {path} could not be written ({_cause(error)}); {kept}, and training goes on"
            )
            return
        if dist.get_rank() == 0:
            for number in sorted(numbers)[: max(0, len(numbers) + 1 - self.keep)]:
                shutil.rmtree(self._path(number), ignore_errors=True)

    def _seal(self, beside: Path, progress: Progress) -> None:
        """Write the manifest, on rank 0, of what all processes have written; every process must call it."""
        everybody: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everybody, _digests(beside))
        if dist.get_rank() != 0:
            return
        digests: dict[str, str] = {}
        for rank, own in enumerate(everybody):
            if own is None or not all((beside / name).exists() for name in own):
                raise OSError(
                    f"what process {rank} wrote cannot be read; every process must see the folder "
                    "training.checkpoint"
                )
            digests |= own
        manifest = {
            "schema": SCHEMA,
            "identity": self.identity,
            "at_any_pace": self.at_any_pace,
            "files": digests,
            "progress": asdict(progress),
        }
        (beside / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")

    def newest(self) -> int | None:
        """The number of the newest checkpoint that is whole and of this identity; None without one.

        Raises a TrainingError where it was written in another schema.
        """
        for number in sorted(self._numbers(), reverse=True):
            path = self._path(number)
            try:
                manifest = read_json(path / MANIFEST_FILE)
                schema, identity = manifest["schema"], manifest["identity"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._pass_over(path, f"{MANIFEST_FILE} cannot be read ({error!r})")
                continue
            if schema != SCHEMA:
                raise TrainingError(
                    f"{path}: the checkpoint has schema {schema}, this code reads {SCHEMA}; end that "
                    f"training with the code that began it, or remove {self.folder} to begin anew"
                )
            if identity != self.identity and not self._takes(path, manifest):
                return None
            fault = _fault(path, manifest)
            if fault is None:
                return number
            self._pass_over(path, fault)
        return None

    def load(self, number: int, parts: Held) -> tuple[Progress, Held]:
        """What `save` was given under `number`; every process must call it.

        A tensor that `parts` names is read into the memory there, each process its own part, however it was
        divided when it was saved. All others come whole.

        Raises a TrainingError where this process cannot read it.
        """
        path = self._path(number)
        try:
            progress = Progress(**read_json(path / MANIFEST_FILE)["progress"])
            reader = HuggingFaceStorageReader(str(path))
            stored = reader.read_metadata().state_dict_metadata
            held = {
                name: parts[name] if name in parts else torch.empty(of.size, dtype=of.properties.dtype)
                for name, of in stored.items()
                if isinstance(of, TensorStorageMetadata)
            }
            dcp.load(held, storage_reader=reader)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, CheckpointException) as error:
            raise TrainingError(
                f"{path}: the checkpoint cannot be read ({_cause(error)}); every process must see the folder "
                "training.checkpoint"
            ) from None
        return progress, held

    def _takes(self, path: Path, manifest: dict[str, Any]) -> bool:
        """Whether a checkpoint of another identity is gone on from all the same; either is said."""
        if not self.at_any_pace or manifest.get("at_any_pace") != self.at_any_pace:
            self.log(f"checkpoint {path} is of other settings or data, so training begins anew")
            return False
        if self.takes_other_pace:
            self.log(f"checkpoint {path} was made at another pace, and is gone on from at the one set now")
            return True
        self.log(
            f"checkpoint {path} was made at another pace (learning rates and the like), so training begins "
            "anew; with training.resume: other_pace it would go on from there"
        )
        return False

    def _pass_over(self, path: Path, fault: str) -> None:
        self.log(f"checkpoint {path} is not taken up: {fault}; the one before it is tried")

    def _numbers(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}"


class _Writer(HuggingFaceStorageWriter):
    """A safetensors file for each group of tensors ("weights/..."), of each process.

    A file is put together in memory, and names a tensor once: of several parts of one table that a process
    holds, the second goes into a file of its own, and so on.
    """

    def _split_by_storage_plan(
        self, storage_plan: dict[str, int] | None, items: list[WriteItem]
    ) -> dict[int, list[WriteItem]]:
        files: dict[tuple[str, int], list[WriteItem]] = {}
        seen: Counter[str] = Counter()
        for item in items:
            name = item.index.fqn
            files.setdefault((name.split("/")[0], seen[name]), []).append(item)
            seen[name] += 1
        return dict(enumerate(files.values(), start=1))


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder that all processes write into; rank 0 makes it, and puts it at `path` in the end."""
    with ExitStack() as held:
        made: list[Any] = [None]
        if dist.get_rank() == 0:
            try:
                made = [str(held.enter_context(atomic_directory(path)))]
            except (OSError, LeanRecError) as error:
                made = [error]
        dist.broadcast_object_list(made, src=0)
        if isinstance(made[0], Exception):
            raise made[0]
        yield Path(made[0])


def _contiguous(held: Held) -> Held:
    """As safetensors takes them; the parts of tables are so in any case."""
    return {n: v if isinstance(v, ShardedTensor) else v.contiguous() for n, v in held.items()}


def _digests(folder: Path) -> dict[str, str] | None:
    """File -> SHA-256 of what this process wrote; None where it cannot be read."""
    try:
        return {file.name: sha256_of(file) for file in folder.glob(f"shard-{dist.get_rank() + 1:05d}-*")}
    except OSError:
        return None


def _fault(path: Path, manifest: dict[str, Any]) -> str | None:
    """What is wrong with the files of a checkpoint; None where they are what was written."""
    if not manifest.get("files"):
        return f"{MANIFEST_FILE} names no files"
    for name, digest in manifest["files"].items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256_of(path / name) != digest:
            return f"{name} is not what was written (its SHA-256 differs)"
    return None


def _cause(error: BaseException) -> BaseException:
    """The error itself, or the first that a process met."""
    if isinstance(error, CheckpointException):
        return next(iter(error.failures.values()))[0]
    return error
