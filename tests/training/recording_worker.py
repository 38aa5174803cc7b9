"""The training worker, which writes down every share of the events that it takes; one process may be slow.

recording_worker.py JOB.json, with the folder RECORDS and, for the last process, SLOW_S in the environment:
seconds that it waits for each event, in training as where its speed is measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from torch import Tensor

from leanrec.training import worker
from leanrec.training.examples import Examples

RANK, LAST = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]) - 1
RECORD = Path(os.environ["RECORDS"]) / f"{os.getppid()}-{RANK}.jsonl"
"""One file a process; the parent is the torchrun that started it."""

take = Examples.take


def recorded(self: Examples, rows: Tensor) -> Examples:
    """`take`, a line in the record first."""
    with RECORD.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"of": len(self), "rows": rows.tolist()}) + "\n")
    if RANK == LAST:
        time.sleep(len(rows) * float(os.environ["SLOW_S"]))
    return take(self, rows)


if __name__ == "__main__":
    Examples.take = recorded  # type: ignore[method-assign]
    sys.exit(worker.main(sys.argv[1]))
