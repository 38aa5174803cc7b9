"""Candidates in the real Triton: latency at one and at eight callers, resident memory, and the same answers.

All of them stand in one repository of one server, each under a name of its own and configured as a release of
it would be, and are asked in turns. Memory is that of a server for each, which holds nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from leanrec.compression.measure import Candidate
from leanrec.export.runtime import Tensors, rows_of
from leanrec.schema import RECOMMENDER, ModelSpec
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import embedded_server
from leanrec.triton.load import Load, in_turns
from leanrec.triton.model_configuration import ModelConfiguration
from leanrec.triton.staging import stage_model

FEW, MANY = 1, 8
"""Callers."""
NUM_REQUESTS, WARM_UP, NUM_COMPARED = 160, 10, 32
"""Requests a candidate and number of callers; before that; and held against ONNX Runtime in this process."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What one candidate showed in Triton."""

    latency_ms: dict[str, float]
    """p50, p95, p99 at one caller, gRPC included."""
    latency_many_ms: dict[str, float]
    """The same at eight."""
    resident_bytes: int
    """Of a server that holds this candidate's `recommender` alone, Triton and the runtime included."""
    bit_equal: bool
    """Whether Triton's answers are those of ONNX Runtime in this process, bit for bit."""

    def to_json(self) -> dict[str, Any]:
        """As in front.json."""
        return dict(vars(self))


def measure_in_triton(
    candidates: Sequence[Candidate], requests: Tensors, spec: ModelSpec, *, merged: Mapping[str, bool]
) -> dict[str, Served]:
    """Every candidate's `recommender` under the same requests [B, ...].

    `merged` says of each recipe whether a server may merge requests into one batch.
    Raises a ServingError when Triton does not serve one of them.
    """
    names = {candidate.recipe: f"candidate_{n}" for n, candidate in enumerate(candidates)}
    with tempfile.TemporaryDirectory(prefix="leanrec-front-") as work:
        models = Path(work) / "models"
        for candidate in candidates:
            _stage(models, names[candidate.recipe], candidate, spec, merged[candidate.recipe])
        with (
            embedded_server(models, Path(work) / "announcement.json") as server,
            TritonClient(server.grpc, timeout_s=60) as triton,
        ):
            asks = {recipe: partial(triton.infer, name) for recipe, name in names.items()}
            in_turns(asks, requests, callers=MANY, num_requests=WARM_UP, turns=1)
            equal = {c.recipe: _bit_equal(c, triton, names[c.recipe], requests) for c in candidates}
            few = in_turns(asks, requests, callers=FEW, num_requests=NUM_REQUESTS)
            many = in_turns(asks, requests, callers=MANY, num_requests=NUM_REQUESTS)
        resident = {
            candidate.recipe: _resident_bytes(candidate, Path(work) / f"alone_{n}", spec, requests)
            for n, candidate in enumerate(candidates)
        }
    return {recipe: _served(few[recipe], many[recipe], resident[recipe], equal[recipe]) for recipe in names}


def _served(few: Load, many: Load, resident: int, bit_equal: bool) -> Served:
    return Served(
        latency_ms=few.percentiles(),
        latency_many_ms=many.percentiles(),
        resident_bytes=resident,
        bit_equal=bit_equal,
    )


def _stage(models: Path, name: str, candidate: Candidate, spec: ModelSpec, merge: bool) -> None:
    configuration = replace(ModelConfiguration.of_model(RECOMMENDER, spec, (1,), merge=merge), name=name)
    stage_model(models, configuration, {1: candidate.folder / RECOMMENDER})


def _bit_equal(candidate: Candidate, triton: TritonClient, name: str, requests: Tensors) -> bool:
    for row in range(min(NUM_COMPARED, len(requests["user_index"]))):
        request = rows_of(requests, slice(row, row + 1))
        here, there = candidate.recommender.run(request), triton.infer(name, request).outputs
        if any(not np.array_equal(here[output], there[output]) for output in here):
            return False
    return True


def _resident_bytes(candidate: Candidate, work: Path, spec: ModelSpec, requests: Tensors) -> int:
    """What all processes of a Triton hold that serves the candidate alone and has answered for it."""
    models = work / "models"
    _stage(models, RECOMMENDER, candidate, spec, merge=False)
    with (
        embedded_server(models, work / "announcement.json") as server,
        TritonClient(server.grpc, timeout_s=60) as triton,
    ):
        for row in range(min(WARM_UP, len(requests["user_index"]))):
            triton.infer(RECOMMENDER, rows_of(requests, slice(row, row + 1)))
        below = psutil.Process(server.pid).children(recursive=True)
        return sum(process.memory_info().rss for process in below)
