"""The training worker, whose first process writes down its steps, averages and checkpoints in their order.

syncing_worker.py JOB.json, with the file RECORD in the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leanrec.training import worker
from leanrec.training.checkpoint import Checkpoints
from leanrec.training.sharded_model import ShardedModel


def told(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, a word in the record first."""

    def calling(*arguments: Any, **named: Any) -> Any:
        if os.environ["RANK"] == "0":
            with Path(os.environ["RECORD"]).open("a", encoding="utf-8") as file:
                file.write(name + "\n")
        return call(*arguments, **named)

    return calling


if __name__ == "__main__":
    ShardedModel.step = told("step", ShardedModel.step)  # type: ignore[method-assign]
    ShardedModel.average_replicas = told("average", ShardedModel.average_replicas)  # type: ignore[method-assign]
    Checkpoints.save = told("save", Checkpoints.save)  # type: ignore[method-assign]
    sys.exit(worker.main(sys.argv[1]))
