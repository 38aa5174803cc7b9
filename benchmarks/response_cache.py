"""When Triton's response cache pays.

The stable release's `recommender` under two names in one Triton, one of them with the cache: the same request
again and again, and requests that are all different (golden users with statistics of their own). Both names
get the same requests, in turns, one user a request.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from leanrec.export.golden import read_golden
from leanrec.export.runtime import rows_of
from leanrec.release.repository import ModelRepository
from leanrec.release.requests import read_spec
from leanrec.schema import RECOMMENDER
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import embedded_server
from leanrec.triton.model_configuration import ModelConfiguration
from leanrec.triton.staging import stage_model

CACHED = f"{RECOMMENDER}_cached"
CACHE_BYTES = 64 << 20
ROUNDS = 6
NUM_REQUESTS = 400
"""Of each kind, in each round."""

Request = dict[str, np.ndarray]


def measure(repository: Path) -> dict[str, Any]:
    """Milliseconds at the median, of the stable release in the model repository `repository`."""
    served = ModelRepository(Path(repository).absolute())
    version = served.required_state().stable
    golden = read_golden(served.release_folder(version)).inputs[RECOMMENDER]
    with tempfile.TemporaryDirectory(prefix="leanrec-bench-") as work:
        models = Path(work) / "models"
        _stage(models, served, version)
        with (
            embedded_server(
                models, Path(work) / "announcement.json", response_cache_bytes=CACHE_BYTES
            ) as server,
            TritonClient(server.grpc) as triton,
        ):
            p50 = _medians(triton, golden)
    return {
        "name": "response-cache",
        "ours": p50["repeated_cached"],
        "baseline": p50["repeated"],
        "ratio": p50["repeated"] / p50["repeated_cached"],
        "ratio_different": p50["different"] / p50["different_cached"],
        "unit": "ms at the median, one user, one caller, the same request again and again",
        "settings": {
            "version": version,
            "requests": ROUNDS * NUM_REQUESTS,
            **{f"{name}_ms": value for name, value in p50.items()},
        },
    }


def _stage(models: Path, served: ModelRepository, version: int) -> None:
    """A repository with the release's recommender under both names."""
    spec = read_spec(served.release_folder(version) / "spec.json")
    plain = ModelConfiguration.of_model(RECOMMENDER, spec, (1,))
    for configuration in (plain, replace(plain, name=CACHED, response_cache=True)):
        stage_model(models, configuration, {1: served.version_folder(RECOMMENDER, version)})


def _medians(triton: TritonClient, golden: Request) -> dict[str, float]:
    """Milliseconds by kind of request, `_cached` for the model with the cache."""
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {}
    for turn in range(ROUNDS):
        different = [_different(golden, n, rng) for n in range(NUM_REQUESTS)]
        kinds = {"repeated": [rows_of(golden, slice(0, 1))] * NUM_REQUESTS, "different": different}
        for model in (RECOMMENDER, CACHED) if turn % 2 else (CACHED, RECOMMENDER):
            for kind, requests in kinds.items():
                triton.infer(model, requests[0])  # what a change of model costs is not measured
                name = f"{kind}_cached" if model == CACHED else kind
                times.setdefault(name, []).extend(_time(triton, model, r) for r in requests[1:])
    return {name: float(np.median(values)) for name, values in times.items()}


def _different(golden: Request, number: int, rng: np.random.Generator) -> Request:
    """One golden user with statistics that no other request has."""
    row = number % len(golden["user_index"])
    request = rows_of(golden, slice(row, row + 1))
    statistics = request["user_statistics"]
    return {**request, "user_statistics": rng.random(statistics.shape, dtype=statistics.dtype)}


def _time(triton: TritonClient, model: str, request: Request) -> float:
    started = time.perf_counter()
    triton.infer(model, request)
    return (time.perf_counter() - started) * 1e3
