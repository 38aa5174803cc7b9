"""Recommendations from Triton with nothing but the tritonclient package.

python python_tritonclient.py HOST:PORT [ITEM_INDEX ...]

ITEM_INDEX: what the user liked, oldest first. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

LIKED = 5.0
DEADLINE_S = 5.0
DTYPES = {"INT64": np.int64, "FP32": np.float32}


def user_row(inputs: list[Any], liked: list[int]) -> dict[str, np.ndarray]:
    """A user of whom nothing is stored but the items given: zeros everywhere else, a batch of one.

    `inputs` are those of the model's metadata; each has a name, a datatype and a shape.
    """
    row = {t.name: np.zeros((1, max(1, t.shape[1])), DTYPES[t.datatype]) for t in inputs}
    liked = liked[-row["history"].shape[1] :]
    if liked:
        row["history"][0, : len(liked)] = liked
        row["history_ratings"][0, : len(liked)] = LIKED
        row["user_statistics"][0] = len(liked), len(liked), LIKED
        row["seen"] = np.array([liked], np.int64)
    return row


def main(address: str, liked: list[int]) -> None:
    """Ask and print."""
    with grpcclient.InferenceServerClient(address) as triton:
        tensors = []
        inputs = triton.get_model_metadata("recommender", client_timeout=DEADLINE_S).inputs
        datatypes = {t.name: t.datatype for t in inputs}
        for name, values in user_row(list(inputs), liked).items():
            tensor = grpcclient.InferInput(name, list(values.shape), datatypes[name])
            tensor.set_data_from_numpy(values)
            tensors.append(tensor)
        answer = triton.infer("recommender", tensors, client_timeout=DEADLINE_S)
    items, scores = answer.as_numpy("item_index")[0], answer.as_numpy("score")[0]
    best = [{"item_index": int(i), "score": float(s)} for i, s in zip(items, scores, strict=True)]
    print(json.dumps({"release": int(answer.get_response().model_version), "items": best}))


if __name__ == "__main__":
    try:
        main(sys.argv[1], [int(item) for item in sys.argv[2:]])
    except InferenceServerException as error:
        print(f"error: {sys.argv[1]}: {error.message()}", file=sys.stderr)
        sys.exit(2)
