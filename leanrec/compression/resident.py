"""Resident memory of served graphs, in a process of its own so that nothing else is counted.

As in the server's own backend, free memory is given back once the graphs are loaded: restoring compressed
tables leaves up to four times their size behind. Run as `python -m leanrec.compression.resident GRAPH...`: it
prints the bytes by which loading all of them and answering one request with each raises the process's
resident set.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import psutil

TIMEOUT_S = 120
_DTYPES = {"tensor(int64)": np.int64, "tensor(float)": np.float32}


def resident_bytes(graphs: Sequence[Path]) -> int | None:
    """The resident bytes of `graphs` together, measured in a fresh process; None when that fails."""
    command = [sys.executable, "-m", "leanrec.compression.resident", *map(str, graphs)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        return int(done.stdout)
    except (subprocess.SubprocessError, OSError, ValueError):
        return None


def main(graphs: Sequence[str]) -> int:
    """Load `graphs`, answer one request with each; the growth of the resident set in bytes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    process = psutil.Process()
    before = process.memory_info().rss
    sessions = [
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in graphs
    ]
    with contextlib.suppress(AttributeError):  # no glibc, so nothing was kept
        ctypes.CDLL(None).malloc_trim(0)
    for session in sessions:
        inputs = {
            value.name: np.zeros(
                [axis if isinstance(axis, int) else 1 for axis in value.shape], _DTYPES[value.type]
            )
            for value in session.get_inputs()
        }
        session.run(None, inputs)
    gc.collect()
    return max(0, process.memory_info().rss - before)


if __name__ == "__main__":
    print(main(sys.argv[1:]))
