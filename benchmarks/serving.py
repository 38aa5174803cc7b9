"""What Triton adds to a recommendation.

Ours: the stable release's `recommender`, one user a request, over gRPC. Baseline: the same graph in this
process with one thread, plus the round trip of a graph that computes nothing through the same Triton. The
three are asked in turn, so that the machine's moods meet all alike.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.empty_model import EMPTY, stage_empty
from leanrec.export.golden import read_golden
from leanrec.export.graph_file import GRAPH_FILE
from leanrec.export.runtime import GraphSession, rows_of
from leanrec.release.repository import ModelRepository
from leanrec.release.requests import read_spec
from leanrec.schema import RECOMMENDER, TensorSpec
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import embedded_server
from leanrec.triton.model_configuration import ModelConfiguration
from leanrec.triton.staging import stage_model

NUM_REQUESTS = 500
NUM_WARM_UP = 50


def measure(repository: Path) -> dict[str, Any]:
    """Milliseconds at the median, of the stable release in the model repository `repository`."""
    served = ModelRepository(Path(repository).absolute())
    version = served.required_state().stable
    requests = read_golden(served.release_folder(version)).inputs[RECOMMENDER]
    graph = served.version_folder(RECOMMENDER, version) / GRAPH_FILE
    session = GraphSession(graph, num_threads=1)
    nothing = {"nothing": np.zeros((1, 1), np.float32)}
    with tempfile.TemporaryDirectory(prefix="leanrec-bench-") as work:
        models = Path(work) / "models"
        _stage(models, served, version)
        with (
            embedded_server(models, Path(work) / "announcement.json") as server,
            TritonClient(server.grpc) as triton,
        ):
            p50 = _medians(
                requests,
                {
                    "triton": lambda request: triton.infer(RECOMMENDER, request),
                    "graph": session.run,
                    "empty": lambda _: triton.infer(EMPTY, nothing),
                },
            )
    baseline = p50["graph"] + p50["empty"]
    return {
        "name": "serving",
        "ours": p50["triton"],
        "baseline": baseline,
        "ratio": baseline / p50["triton"],
        "unit": "ms at the median, one user, one caller",
        "settings": {"version": version, "requests": NUM_REQUESTS, **{f"{k}_ms": v for k, v in p50.items()}},
    }


def _stage(models: Path, served: ModelRepository, version: int) -> None:
    """A repository with the release's recommender and with a graph that hands its input back."""
    spec = read_spec(served.release_folder(version) / "spec.json")
    recommender = ModelConfiguration.of_model(RECOMMENDER, spec, (1,))
    stage_model(models, recommender, {1: served.version_folder(RECOMMENDER, version)})
    tensors = [TensorSpec(name=name, dtype="FP32", shape=(1,)) for name in ("nothing", "again")]
    empty = ModelConfiguration(name=EMPTY, inputs=(tensors[0],), outputs=(tensors[1],), versions=(1,))
    stage_empty(models, empty, {"again": "nothing"})


def _medians(requests: dict[str, np.ndarray], askers: dict[str, Callable[..., Any]]) -> dict[str, float]:
    milliseconds: dict[str, list[float]] = {name: [] for name in askers}
    num_rows = len(next(iter(requests.values())))
    for turn in range(NUM_WARM_UP + NUM_REQUESTS):
        row = turn % num_rows
        request = rows_of(requests, slice(row, row + 1))
        for name, ask in askers.items():
            clock = time.perf_counter()
            ask(request)
            milliseconds[name].append((time.perf_counter() - clock) * 1e3)
    return {name: float(np.median(values[NUM_WARM_UP:])) for name, values in milliseconds.items()}
