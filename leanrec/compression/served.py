"""Candidates in the real Triton: latency at one and at eight callers, resident memory, and the same answers.

Both models of each stand in one repository of one server, under names of their own and configured as a
release of it would be, and are asked in turns. Memory is that of a server for each, which holds nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from leanrec.compression.measure import Candidate
from leanrec.export.runtime import GraphSession, Tensors, rows_of
from leanrec.schema import MODELS, RANKER, RECOMMENDER, ModelSpec
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import EmbeddedServer, embedded_server
from leanrec.triton.load import in_turns
from leanrec.triton.model_configuration import ModelConfiguration
from leanrec.triton.staging import stage_model

FEW, MANY = 1, 8
"""Callers."""
NUM_REQUESTS, WARM_UP, NUM_COMPARED = 160, 10, 32
"""Requests a graph and number of callers; before that; and held against ONNX Runtime in this process."""
NUM_CANDIDATE_ITEMS = 500
"""Items of the catalogue that the ranker is asked about at once, at most."""


@dataclass(frozen=True, kw_only=True)
class ServedGraph:
    """What one graph of a candidate showed in Triton."""

    latency_ms: dict[str, float]
    """p50, p95, p99 at one caller, gRPC included."""
    latency_many_ms: dict[str, float]
    """The same at eight."""
    bit_equal: bool
    """Whether Triton's answers are those of ONNX Runtime in this process, bit for bit."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What one candidate showed in Triton."""

    recommender: ServedGraph
    ranker: ServedGraph
    resident_bytes: int
    """Of a server that holds both graphs of this candidate alone, Triton and the runtime included."""

    def to_json(self) -> dict[str, Any]:
        """As in front.json."""
        return asdict(self)


def requests_of(users: Tensors, spec: ModelSpec) -> dict[str, Tensors]:
    """What `recommender` and `ranker` are asked: the same `users`, recommender's inputs [B, ...].

    The ranker is asked about `NUM_CANDIDATE_ITEMS` items of each, drawn from the whole catalogue.
    """
    draw, num_items = np.random.default_rng(0), spec.num_items - 1
    size = min(NUM_CANDIDATE_ITEMS, num_items)
    drawn = [1 + draw.choice(num_items, size, replace=False) for _ in users["user_index"]]
    rows = {tensor.name: users[tensor.name] for tensor in spec.user_inputs()}
    return {RECOMMENDER: users, RANKER: {**rows, "candidates": np.array(drawn, dtype=np.int64)}}


def measure_in_triton(
    candidates: Sequence[Candidate], users: Tensors, spec: ModelSpec, *, merged: Mapping[str, bool]
) -> dict[str, Served]:
    """Both graphs of every candidate under the same requests of `users` [B, ...].

    `merged` says of each recipe whether a server may merge requests into one batch.
    Raises a ServingError when Triton does not serve one of them.
    """
    requests = requests_of(users, spec)
    with tempfile.TemporaryDirectory(prefix="leanrec-front-") as work:
        models = Path(work) / "models"
        for number, candidate in enumerate(candidates):
            _stage(models, candidate, spec, merged[candidate.recipe], partial(_name, number))
        with _triton(models) as (_, triton):
            found = {model: _measure(model, candidates, requests[model], triton) for model in MODELS}
        return {
            candidate.recipe: Served(
                **{model: found[model][candidate.recipe] for model in MODELS},
                resident_bytes=_resident_bytes(candidate, Path(work) / f"alone_{number}", spec, requests),
            )
            for number, candidate in enumerate(candidates)
        }


def _measure(
    model: str, candidates: Sequence[Candidate], requests: Tensors, triton: TritonClient
) -> dict[str, ServedGraph]:
    names = {candidate.recipe: _name(number, model) for number, candidate in enumerate(candidates)}
    asks = {recipe: partial(triton.infer, name) for recipe, name in names.items()}
    in_turns(asks, requests, callers=MANY, num_requests=WARM_UP, turns=1)
    equal = {c.recipe: _bit_equal(c.graph(model), triton, names[c.recipe], requests) for c in candidates}
    few = in_turns(asks, requests, callers=FEW, num_requests=NUM_REQUESTS)
    many = in_turns(asks, requests, callers=MANY, num_requests=NUM_REQUESTS)
    return {
        recipe: ServedGraph(
            latency_ms=few[recipe].percentiles(),
            latency_many_ms=many[recipe].percentiles(),
            bit_equal=equal[recipe],
        )
        for recipe in names
    }


@contextmanager
def _triton(models: Path) -> Iterator[tuple[EmbeddedServer, TritonClient]]:
    with (
        embedded_server(models, models.with_name(f"{models.name}.json")) as server,
        TritonClient(server.grpc, timeout_s=60) as triton,
    ):
        yield server, triton


def _name(number: int, model: str) -> str:
    return f"candidate_{number}_{model}"


def _stage(
    models: Path, candidate: Candidate, spec: ModelSpec, merge: bool, name: Callable[[str], str] = str
) -> None:
    for model in MODELS:
        configuration = replace(ModelConfiguration.of_model(model, spec, (1,), merge=merge), name=name(model))
        stage_model(models, configuration, {1: candidate.folder / model})


def _bit_equal(graph: GraphSession, triton: TritonClient, name: str, requests: Tensors) -> bool:
    for row in range(min(NUM_COMPARED, len(requests["user_index"]))):
        request = rows_of(requests, slice(row, row + 1))
        here, there = graph.run(request), triton.infer(name, request).outputs
        if any(not np.array_equal(here[output], there[output]) for output in here):
            return False
    return True


def _resident_bytes(
    candidate: Candidate, models: Path, spec: ModelSpec, requests: Mapping[str, Tensors]
) -> int:
    _stage(models, candidate, spec, merge=False)
    with _triton(models) as (server, triton):
        for model, asked in requests.items():
            for row in range(min(WARM_UP, len(asked["user_index"]))):
                triton.infer(model, rows_of(asked, slice(row, row + 1)))
        return resident_in(server)


def resident_in(server: EmbeddedServer) -> int:
    """The bytes that all processes of `server` hold together."""
    below = psutil.Process(server.pid).children(recursive=True)
    return sum(process.memory_info().rss for process in below)
