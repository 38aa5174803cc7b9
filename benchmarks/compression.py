"""What compression buys: the stable release beside the straightforward way to serve what was trained.

Ours: the release as it is served, configuration included. Baseline: the trained model in eager float32
PyTorch, in the python backend of the very same Triton process. One user x 500 candidates through gRPC, some
requests each in turns, so that the machine's moods meet both alike. With them goes a model of the release's
inputs, outputs and configuration that computes nothing: what is left to win ends there. Bytes are those that
the repository holds for both models, `recommender` and `ranker`. Whether the baseline answers what was
trained is checked on the golden requests.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.eager.environment import eager_python, versions_in
from benchmarks.empty_model import EMPTY, stage_empty
from leanrec.errors import ConfigError, ServingError
from leanrec.export.golden import Golden, read_golden
from leanrec.export.runtime import GraphSession, Tensors, rows_of
from leanrec.files import read_json, size_in_bytes
from leanrec.journal import read_journal
from leanrec.models.recommender import load_model
from leanrec.release.repository import ModelRepository
from leanrec.release.requests import FRONT, read_spec
from leanrec.release.tuning import present
from leanrec.schema import MODELS, RANKER, ModelSpec
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import embedded_server
from leanrec.triton.load import Ask, in_turns
from leanrec.triton.model_configuration import ModelConfiguration
from leanrec.triton.staging import stage_model

EAGER, ONE_THREAD = "eager_", "eager_one_thread_"
"""The baseline with PyTorch's own number of threads and with one; the quicker of both counts."""
NUM_CANDIDATES, NUM_REQUESTS = 500, 400
IN_A_ROW = 20
"""Requests that a model gets before the next one's turn: a server of one model keeps it in its caches, which
another model's weights would empty at every request."""
MAX_BASELINE_DIFFERENCE = 1e-4
SERVING_PYTHON = "LEANREC_SERVING_PYTHON"


def measure(repository: Path, run: Path) -> dict[str, Any]:
    """p50 in milliseconds of the stable release in `repository` and of the baseline.

    `run` is the folder of the run that trained it, whose journal says where the model lies.
    """
    served = ModelRepository(Path(repository).absolute())
    version = served.required_state().stable
    release = served.release_folder(version)
    golden, spec = read_golden(release), read_spec(release / "spec.json")
    model = trained_model(run)
    python = eager_python()
    requests = many_candidates(golden.inputs[RANKER], spec.num_items)
    with tempfile.TemporaryDirectory(prefix="leanrec-bench-") as work, served_by(python):
        models = Path(work) / "models"
        for name in MODELS:
            _stage_release(models, served, name, version)
            stage_eager(models, model, spec, name)
        stage_eager(models, model, spec, RANKER, threads=1)
        stage_empty_beside_ranker(models)
        with (
            embedded_server(models, Path(work) / "announcement.json") as server,
            TritonClient(server.grpc, timeout_s=60) as triton,
        ):
            _check_baseline(triton, golden)
            times = ask_in_turns(triton, requests, (RANKER, EMPTY, EAGER + RANKER, ONE_THREAD + RANKER))
        baseline_bytes = sum(size_in_bytes(models / (EAGER + name) / "1") for name in MODELS)
    quicker = quicker_of(times)
    held = sum(served.version_folder(name, version).joinpath("model.onnx").stat().st_size for name in MODELS)
    return {
        "name": "compression",
        "ours": float(np.median(times[RANKER])),
        "baseline": float(np.median(times[quicker])),
        "ratio": float(np.median(times[quicker] / times[RANKER])),
        "unit": f"ms at the median, one user x {NUM_CANDIDATES} candidates, one caller, gRPC",
        "ceiling": ceiling(times[EMPTY], times[quicker]),
        "settings": {
            "version": version,
            "requests": NUM_REQUESTS,
            "baseline_threads": "PyTorch's choice" if quicker == EAGER + RANKER else 1,
            "bytes": held,
            "baseline_bytes": baseline_bytes,
            "bytes_ratio": baseline_bytes / held,
            "in_process": _in_process(served.version_folder(RANKER, version), model, requests),
            **_quality(release),
            "baseline_versions": versions_in(python),
        },
    }


def trained_model(run: Path) -> Path:
    """The model folder that the run in `run` trained, or was given; a ConfigError when it is gone."""
    for record in reversed(read_journal(Path(run) / "journal.jsonl")):
        key = "output" if record.step == "train_models" else "model"
        path = Path(record.paths.get(key, ""))
        if (path / "model.safetensors").exists():
            return path
    by_hand = Path(run) / "model"
    if by_hand.exists():
        return by_hand
    raise ConfigError(f"{run}: no trained model is left of it; train again with `leanrec run CONFIG`")


def many_candidates(requests: Tensors, num_items: int) -> Tensors:
    """The requests, each with as many candidates as are measured."""
    rows = len(requests["candidates"])
    drawn = np.random.default_rng(0).integers(1, num_items, (rows, NUM_CANDIDATES))
    return {**requests, "candidates": drawn}


def ask_in_turns(
    triton: TritonClient, requests: Tensors, models: tuple[str, ...], num_requests: int = NUM_REQUESTS
) -> dict[str, np.ndarray]:
    """Milliseconds of each request, by model, all models asked the same ones in the same order."""
    return _milliseconds({name: partial(triton.infer, name) for name in models}, requests, num_requests)


def _milliseconds(asks: dict[str, Ask], requests: Tensors, num_requests: int) -> dict[str, np.ndarray]:
    in_turns(asks, requests, callers=1, num_requests=IN_A_ROW, turns=1)
    turns = num_requests // IN_A_ROW
    loads = in_turns(asks, requests, callers=1, num_requests=num_requests, turns=turns)
    return {name: load.milliseconds for name, load in loads.items()}


def _in_process(version: Path, trained: Path, requests: Tensors) -> dict[str, float]:
    """The same without gRPC and Triton: ONNX Runtime and eager PyTorch in this process, one thread each."""
    graph, module = GraphSession(version / "model.onnx"), load_model(trained).served_ranker().eval()

    def eager(request: Tensors) -> None:
        with torch.inference_mode():
            module(**{name: torch.from_numpy(value) for name, value in request.items()})

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = _milliseconds({"ours": graph.run, "baseline": eager}, requests, NUM_REQUESTS)
    finally:
        torch.set_num_threads(threads)
    ratio = float(np.median(times["baseline"] / times["ours"]))
    return {**{name: float(np.median(values)) for name, values in times.items()}, "ratio": ratio}


def quicker_of(times: dict[str, np.ndarray]) -> str:
    """The baseline with the lower median: threads of PyTorch that wait for each other can cost a lot."""
    return min((EAGER + RANKER, ONE_THREAD + RANKER), key=lambda name: float(np.median(times[name])))


def stage_empty_beside_ranker(models: Path) -> None:
    """Put a model into `models` that is configured as the ranker there, and computes nothing."""
    configuration = replace(present(ModelRepository(models), RANKER), name=EMPTY)
    stage_empty(models, configuration, dict.fromkeys((o.name for o in configuration.outputs), "candidates"))


def ceiling(empty: np.ndarray, baseline: np.ndarray) -> dict[str, Any]:
    """How much quicker than the baseline a model is that computes nothing; milliseconds of each request."""
    return {
        "ms": float(np.median(empty)),
        "ratio": float(np.median(baseline / empty)),
        "what": "a model of the same interface that computes nothing, through the same Triton",
    }


@contextmanager
def served_by(python: Path) -> Iterator[None]:
    """Let the launcher of Triton take `python` as its serving environment."""
    before = os.environ.get(SERVING_PYTHON)
    os.environ[SERVING_PYTHON] = str(python)
    try:
        yield
    finally:
        if before is None:
            del os.environ[SERVING_PYTHON]
        else:
            os.environ[SERVING_PYTHON] = before


def _stage_release(models: Path, served: ModelRepository, model: str, version: int) -> None:
    """The release under the configuration that it is served with."""
    configuration = replace(present(served, model), versions=(1,))
    stage_model(models, configuration, {1: served.version_folder(model, version)})


def stage_eager(models: Path, trained: Path, spec: ModelSpec, model: str, threads: int = 0) -> None:
    """Put the baseline of one model beside the others in `models`; 0 threads: as many as PyTorch takes."""
    configuration = replace(
        ModelConfiguration.of_model(model, spec, (1,)),
        name=(ONE_THREAD if threads else EAGER) + model,
        backend="python",
        parameters={"code": str(Path(__file__).parents[1]), "part": model, "threads": str(threads)},
    )
    stage_model(models, configuration, {})
    folder = models / configuration.name / "1"
    folder.mkdir()
    shutil.copyfile(Path(__file__).parent / "eager" / "model.py", folder / "model.py")
    for name in ("model.safetensors", "model.json"):
        shutil.copyfile(trained / name, folder / name)


def _check_baseline(triton: TritonClient, golden: Golden) -> None:
    """A ServingError unless the baseline answers what the trained model answered."""
    expected = golden.outputs[RANKER]["score"][:8]
    answered = triton.infer(EAGER + RANKER, rows_of(golden.inputs[RANKER], slice(0, 8))).outputs["score"]
    difference = float(np.abs(expected - answered).max())
    if not difference <= MAX_BASELINE_DIFFERENCE:
        raise ServingError(
            f"the baseline's scores differ from the trained model's by {difference:.3g}: the release was not "
            "trained by this run; name its run with --run"
        )


def _quality(release: Path) -> dict[str, Any]:
    """What the release loses on the test split, as its front measured it."""
    front = read_json(release / FRONT)
    rows = {row["recipe"]: row for row in front["candidates"]}
    chosen = rows[front["chosen"]]
    return {
        "recipe": front["chosen"],
        "auc_loss": chosen["test"]["auc_loss"],
        "ndcg_loss": chosen["test"]["ndcg_loss"],
        "fp32_graphs_bytes": rows[front["baseline"]]["bytes"],
        "smallest": min(
            ({name: row[name] for name in ("recipe", "bytes", "auc_loss")} for row in rows.values()),
            key=lambda row: row["bytes"],
        ),
    }
