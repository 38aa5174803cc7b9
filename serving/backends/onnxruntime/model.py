"""A Triton python-based backend named `onnxruntime`: it serves `<version>/model.onnx`.

Triton lays this file out as `<backend directory>/onnxruntime/model.py` and runs it in one process for
each model version, so a repository written for Triton's native ONNX Runtime backend serves unchanged.
It reads the native backend's own parameters: `intra_op_thread_count` and `inter_op_thread_count`. Without the
first, the instances of a model share the cores of this host, where each of the native backend's takes all.

Source: Triton python backend, "Python-based backends", github.com/triton-inference-server/python_backend
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

MODEL_FILE = "model.onnx"
Tensors = dict[str, np.ndarray]


class TritonPythonModel:
    """One version of one model: an ONNX Runtime session and the names that its configuration serves."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph. Whatever is wrong with it fails the load, and Triton keeps the older version."""
        _exit_with_parent()
        config = json.loads(args["model_config"])
        graph = Path(args["model_repository"]) / args["model_version"] / MODEL_FILE
        self._batches = config.get("max_batch_size", 0) > 0
        instances = sum(group.get("count", 1) for group in config.get("instance_group", ())) or 1
        threads = max(1, len(os.sched_getaffinity(0)) // instances)
        self._session = _open(graph, config.get("parameters", {}), threads)
        _give_back_free_memory()
        self._dtypes = {
            entry["name"]: pb_utils.triton_string_to_numpy(entry["data_type"]) for entry in config["output"]
        }
        self._inputs = [entry["name"] for entry in config["input"]]
        _check_names(graph, "input", set(self._inputs), {i.name for i in self._session.get_inputs()})
        _check_names(graph, "output", set(self._dtypes), {o.name for o in self._session.get_outputs()})

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request; those of one shape run as one batch, and a fault fails its request only."""
        feeds = [self._feed(request) for request in requests]
        groups: dict[tuple, list[int]] = defaultdict(list)
        for position, feed in enumerate(feeds):
            groups[_row_shapes(feed) if self._batches else (position,)].append(position)
        answers: list[Any] = [None] * len(requests)
        for positions in groups.values():
            for position, answer in self._answer(positions, feeds):
                answers[position] = _response(answer, requests[position], self._dtypes)
        return answers

    def _feed(self, request: Any) -> Tensors:
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}

    def _answer(self, positions: list[int], feeds: list[Tensors]) -> list[tuple[int, Tensors | Exception]]:
        """Run the requests at `positions` together; where that fails, each one alone."""
        if len(positions) == 1:
            return [(positions[0], self._run(feeds[positions[0]]))]
        together = self._run(
            {name: np.concatenate([feeds[p][name] for p in positions]) for name in self._inputs}
        )
        if isinstance(together, Exception):
            return [(position, self._run(feeds[position])) for position in positions]
        ends = np.cumsum([len(feeds[p][self._inputs[0]]) for p in positions])[:-1]
        parts = {name: np.split(tensor, ends) for name, tensor in together.items()}
        return [(p, {name: part[n] for name, part in parts.items()}) for n, p in enumerate(positions)]

    def _run(self, feed: Tensors) -> Tensors | Exception:
        names = list(self._dtypes)
        try:
            return dict(zip(names, self._session.run(names, feed), strict=True))
        except Exception as error:  # whatever the runtime raises concerns this request alone
            return error


def _open(graph: Path, parameters: dict[str, Any], threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin between two requests would take the cores from Triton itself.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = _integer(parameters, "intra_op_thread_count", threads)
    options.inter_op_num_threads = _integer(parameters, "inter_op_thread_count", 1)
    if not graph.is_file():
        raise pb_utils.TritonModelException(f"{graph}: no such file; a version directory holds {MODEL_FILE}")
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise pb_utils.TritonModelException(f"{graph}: ONNX Runtime refuses it: {error}") from None


def _give_back_free_memory() -> None:
    """What restoring compressed tables left behind; glibc would keep it for as long as the process lives."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _integer(parameters: dict[str, Any], key: str, default: int) -> int:
    text = parameters.get(key, {}).get("string_value", "0")
    if not text.isdigit():
        raise pb_utils.TritonModelException(
            f"parameter {key} is {text!r}; give a whole number, 0 for the default"
        )
    return int(text) or default


def _check_names(graph: Path, kind: str, configured: set[str], present: set[str]) -> None:
    unknown = configured - present
    missing = present - configured if kind == "input" else set()
    if unknown or missing:
        raise pb_utils.TritonModelException(
            f"{graph}: the graph has the {kind}s {sorted(present)}, config.pbtxt names {sorted(configured)}"
        )


def _row_shapes(feed: Tensors) -> tuple:
    return tuple(tensor.shape[1:] for tensor in feed.values())


def _response(answer: Tensors | Exception, request: Any, dtypes: dict[str, Any]) -> Any:
    if isinstance(answer, Exception):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{MODEL_FILE}: {answer}"))
    wanted = request.requested_output_names()
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor(name, np.ascontiguousarray(tensor, dtype=dtypes[name]))
            for name, tensor in answer.items()
            if name in wanted
        ]
    )


def _exit_with_parent() -> None:
    """End this process when the server that started it is gone, however it went (SIGKILL too)."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="exit-with-parent", daemon=True).start()
