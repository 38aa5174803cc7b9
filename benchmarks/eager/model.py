"""A Triton python-backend model: the trained `Recommender`, eager and in float32, as one first serves it.

Its folder holds `model.safetensors` and `model.json` as training wrote them. Parameters: `code`, the folder
that `leanrec` is imported from, `part`, recommender or ranker, and `threads`, 0 for
PyTorch's own choice.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One model, loaded once; each request is one forward pass."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the weights."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        sys.path.insert(0, parameters["code"])
        import torch

        from leanrec.models.recommender import load_model

        self._torch = torch
        if int(parameters["threads"]):
            torch.set_num_threads(int(parameters["threads"]))
        model = load_model(Path(args["model_repository"]) / args["model_version"])
        self._module = (model if parameters["part"] == "recommender" else model.served_ranker()).eval()
        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        arrays = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs]
        with self._torch.inference_mode():
            answers = self._module(*(self._torch.from_numpy(array.copy()) for array in arrays))
        tensors = [
            pb_utils.Tensor(name, np.ascontiguousarray(value.numpy()))
            for name, value in zip(self._outputs, answers, strict=True)
        ]
        return pb_utils.InferenceResponse(tensors)
