"""A graph in ONNX Runtime, in this process: what measurements and checks run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from leanrec.errors import ExportError

Tensors = dict[str, np.ndarray]


class GraphSession:
    """One graph, loaded; `run` answers its outputs by name."""

    def __init__(self, path: Path, num_threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises its own types, which share no base of theirs
            reason = str(error).strip().splitlines()[0]
            raise ExportError(
                f"{path}: ONNX Runtime cannot load the graph ({reason}); export again"
            ) from None
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, inputs: Mapping[str, np.ndarray]) -> Tensors:
        """The outputs for `inputs`, both by name; tensors that the graph does not take are left out."""
        taken = {name: inputs[name] for name in self.inputs}
        return dict(zip(self.outputs, self._session.run(None, taken), strict=True))

    def run_in_batches(self, inputs: Mapping[str, np.ndarray], size: int) -> Tensors:
        """As `run`, at most `size` rows at a time."""
        num_rows = len(next(iter(inputs.values())))
        parts = [self.run(rows_of(inputs, slice(at, at + size))) for at in range(0, num_rows, size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}

    def warm_up(self, inputs: Mapping[str, np.ndarray], times: int = 5) -> None:
        """Run a few times, so that memory is planned before anything is timed."""
        for _ in range(times):
            self.run(inputs)


def rows_of(inputs: Mapping[str, np.ndarray], rows: slice) -> Tensors:
    """The same rows of every tensor, contiguous in memory."""
    return {name: np.ascontiguousarray(value[rows]) for name, value in inputs.items()}
