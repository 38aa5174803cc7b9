"""What the parent and the training processes agree on; free of heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from leanrec.files import read_json

ERROR_FILE = "error.json"
SUMMARY_FILE = "summary.json"
CURVES_FILE = "curves.json"
PROGRESS_FILE = "progress.txt"
MODELS = ("retriever", "ranker")
"""What is trained, in this order; each keeps its checkpoints in a folder of this name."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the parent asks of the processes; paths are absolute."""

    settings: dict[str, Any]
    features: str
    training_set: str
    output: str
    """Empty folder for the model."""
    checkpoints: str
    folder: str
    """Where errors and the summary are left for the parent."""
    warm_start: str
    """The release folder that training goes on from; empty: none."""
    parent: int
    """Process id of the parent, without which the processes end; 0: it runs on another machine."""
    progress: str = ""
    """File that rank 0 adds its lines to, for a parent that cannot read its output; empty: none."""


class Word(NamedTuple):
    """Why a process ended."""

    message: str
    final: bool
    """It would end so again; a process that was killed, or lost another, may not."""


def last_word(folder: Path) -> Word | None:
    """What the processes have left in `folder`: of who found the fault, before who lost him."""
    words = [Word(**read_json(file)) for file in sorted(folder.glob(f"*{ERROR_FILE}"))]
    return min(words, key=lambda word: not word.final, default=None)
