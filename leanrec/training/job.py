"""What the parent and the training processes agree on; free of heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ERROR_FILE = "error.json"
SUMMARY_FILE = "summary.json"
CURVES_FILE = "curves.json"
PROGRESS_FILE = "progress.txt"


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
