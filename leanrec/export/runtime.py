"""ONNX Runtime sessions: how a graph is opened, asked and timed wherever LeanRec does it itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from leanrec.errors import ExportError

Tensors = dict[str, np.ndarray]


class GraphSession:
    """A graph on the CPU; `num_threads` threads work on one request."""

    def __init__(self, path: Path, *, num_threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has no error tree that Python can see
            raise ExportError(
                f"{path}: ONNX Runtime does not load this graph ({_first_line(error)}); export it again"
            ) from None
        self.inputs = tuple(entry.name for entry in self._session.get_inputs())
        self.outputs = tuple(entry.name for entry in self._session.get_outputs())

    def run(self, tensors: Mapping[str, np.ndarray]) -> Tensors:
        """Outputs by name for inputs by name, each [B, ...]."""
        answers = self._session.run(self.outputs, {name: tensors[name] for name in self.inputs})
        return dict(zip(self.outputs, answers, strict=True))

    def run_batches(self, tensors: Mapping[str, np.ndarray], batch_size: int) -> Tensors:
        """`run` in pieces of `batch_size` rows, so that memory stays bounded."""
        num_rows = len(next(iter(tensors.values())))
        parts = [
            self.run({name: value[start : start + batch_size] for name, value in tensors.items()})
            for start in range(0, num_rows, batch_size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
