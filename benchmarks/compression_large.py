"""The same comparison with a table of 10 M rows x 64, 2.5 GB in float32, which no data set here fills.

A ranker is trained on a made-up catalogue of `NUM_USERS` people; its user tables are then made longer, up to
10 M rows, by rows drawn as the trained ones are spread. Ours: `RECIPE`, fine-tuned on those events, its large
tables product-quantized; beside it `SMALLEST`, the same layers with tables in as few bits as AUC bears.
Baseline: the trained ranker in eager float32 PyTorch. Times are those of users from all over the table; the
AUC lost is that of the held-out ratings of people who were trained on, all served by Triton out of the long
tables. These are made, quantized and written piece by piece.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from safetensors.torch import save_file

from benchmarks.compression import (
    NUM_CANDIDATES,
    ONE_THREAD,
    ask_in_turns,
    ceiling,
    served_by,
    stage_eager,
    stage_empty_beside_ranker,
)
from benchmarks.eager.environment import eager_python, versions_in
from benchmarks.empty_model import EMPTY
from leanrec.compression.methods import GRAPH_METHODS
from leanrec.compression.methods.product_quantized_tables import Codebook, num_codes
from leanrec.compression.recipes import change_model
from leanrec.compression.source import CompressionSource
from leanrec.compression.whole_tables import restore_small_tables
from leanrec.config import Recipe, RunSettings
from leanrec.config.methods import GRAPH
from leanrec.errors import ExportError, ServingError
from leanrec.evaluation import metrics
from leanrec.evaluation.protocol import Protocol, load_protocol
from leanrec.export.graph_file import GRAPH_FILE, WEIGHTS_FILE
from leanrec.export.graphs import export_graph
from leanrec.export.runtime import Tensors, rows_of
from leanrec.files import read_json, size_in_bytes, write_json, write_text
from leanrec.models.recommender import save_model
from leanrec.schema import RANKER, ModelSpec
from leanrec.steps import WorkFolder, features, ingest, train
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import embedded_server
from leanrec.triton.model_configuration import ModelConfiguration

NUM_ROWS, PIECE = 10_000_000, 200_000
NUM_USERS, NUM_ITEMS, NUM_EVENTS = 5_000, 4_000, 75_000
NUM_REQUESTS, PAIRS_AT_ONCE = 200, 256
BITS, FEWEST_BITS = 3.875, 0.875
USER_TABLE = "sparse.tables.user.weight"
BASELINE = ONE_THREAD + RANKER
_LATER = {"retriever_epochs": 0, "ranker_epochs": 0}
_TUNED = {"retriever_epochs": 0, "ranker_epochs": 3}
_LAYERS: tuple[Any, ...] = (
    {"prune_cross_layers": {"cross_layers": 1, **_LATER}},
    {"prune_neurons": {"share": 0.75, "parts": ["ranker"], **_LATER}},
    {"share_items": {"retriever": False, **_LATER}},
    # Taught by the trained ranker alone: its P(like) is overfitted by more of the same events.
    {"low_rank": {"cross_rank": 16, "deep_rank": 16, "teacher_weight": 1, **_TUNED}},
)
RECIPE, SMALLEST = (
    Recipe.parse(
        {
            "name": name,
            "steps": [
                *_LAYERS,
                {"product_quantized_tables": {"bits": bits, "min_rows": NUM_USERS}},
                "int8_dense",
            ],
        }
    )
    for name, bits in ((RANKER, BITS), ("smallest", FEWEST_BITS))
)
"""What is served, and the least that still answers well; models in Triton are called like them."""


def measure(num_rows: int = NUM_ROWS) -> dict[str, Any]:
    """p50 in milliseconds of both. Needs 10 GB of memory and 6 GB of disk."""
    python = eager_python()
    with tempfile.TemporaryDirectory(prefix="leanrec-bench-large-") as name, served_by(python):
        work, models = WorkFolder(path=Path(name)), Path(name) / "models"
        settings = _settings(Path(name))
        for step in (ingest, features, train):
            step(settings, work)
        source = CompressionSource(
            graphs=work.path / "graphs",
            model=work.made("model"),
            features=work.made("features"),
            training_set=work.made("training_set.parquet"),
        )
        protocol = load_protocol(source.features, source.training_set)
        long = replace(source.recommender.spec, num_users=num_rows)
        ours, smallest = (_write_ours(models, source, long, recipe) for recipe in (RECIPE, SMALLEST))
        trained = _write_trained(Path(name) / "long", source, long)
        # One thread: where other work runs beside it, PyTorch's threads wait for each other.
        stage_eager(models, trained, long, RANKER, threads=1)
        stage_empty_beside_ranker(models)
        with (
            embedded_server(models, Path(name) / "announcement.json") as server,
            TritonClient(server.grpc, timeout_s=120) as triton,
        ):
            requests = _requests(protocol, long)
            asked = (RECIPE.name, SMALLEST.name, BASELINE)
            for model in asked:
                _check_length(triton, model, requests, NUM_USERS)
            times = ask_in_turns(triton, requests, (*asked, EMPTY), NUM_REQUESTS)
            auc = {model: _auc(triton, model, protocol) for model in asked}
        folders = (ours, smallest, models / BASELINE / "1")
        held = dict(zip(asked, map(size_in_bytes, folders), strict=True))

    def lost(recipe: Recipe) -> dict[str, Any]:
        """What `recipe` is, and what it holds and loses."""
        return {
            "recipe": recipe.model_dump(mode="json")["steps"],
            "bytes": held[recipe.name],
            "bytes_ratio": held[BASELINE] / held[recipe.name],
            "auc_loss": auc[BASELINE] - auc[recipe.name],
        }

    return {
        "name": "compression-large",
        "ours": float(np.median(times[RECIPE.name])),
        "baseline": float(np.median(times[BASELINE])),
        "ratio": float(np.median(times[BASELINE] / times[RECIPE.name])),
        "unit": f"ms at the median, one user x {NUM_CANDIDATES} candidates, one caller, gRPC",
        "ceiling": ceiling(times[EMPTY], times[BASELINE]),
        "settings": {
            "rows": num_rows,
            **lost(RECIPE),
            "smallest": {**lost(SMALLEST), "ms": float(np.median(times[SMALLEST.name]))},
            "baseline_bytes": held[BASELINE],
            "auc": auc[BASELINE],
            "pairs": len(protocol.pairs.liked),
            "baseline_versions": versions_in(python),
        },
    }


def _settings(folder: Path) -> RunSettings:
    return RunSettings.parse(
        {
            "name": "large",
            "data": {
                "source": "synthetic",
                "num_users": NUM_USERS,
                "num_items": NUM_ITEMS,
                "num_events": NUM_EVENTS,
                "user_attributes": ["age_group", "gender"],
            },
            "features": {"test_fraction": 0.2},
            "feature_store": {"repository": str(folder / "features_store")},
            "training": {
                "num_candidates": NUM_CANDIDATES,
                "retriever": {"dim": 4, "hidden": [16], "epochs": 3},
                # As long as it gains, so that our fine-tuning does not see what the baseline lacks.
                "ranker": {"dim": 64, "hidden": [256, 128], "epochs": 6, "patience": 1},
            },
            "release": {"repository": str(folder / "releases")},
        }
    )


def _requests(protocol: Protocol, spec: ModelSpec) -> Tensors:
    """User rows of the protocol under indices from all over the long table, each with many candidates."""
    random = np.random.default_rng(1)
    rows = rows_of(protocol.pairs.inputs, slice(0, NUM_REQUESTS))
    return {
        **rows,
        "user_index": random.integers(1, spec.num_users, (NUM_REQUESTS, 1)),
        "candidates": random.integers(1, spec.num_items, (NUM_REQUESTS, NUM_CANDIDATES)),
    }


def _check_length(triton: TritonClient, model: str, requests: Tensors, trained: int) -> None:
    """A ServingError unless users beyond the trained ones have rows of their own."""
    row = rows_of(requests, slice(0, 1))
    beyond = (trained + 10, PIECE + 10, int(requests["user_index"].max()))
    asked = [{**row, "user_index": np.array([[user]])} for user in beyond]
    told = {triton.infer(model, request).outputs["score"].tobytes() for request in asked}
    if len(told) < len(beyond):
        raise ServingError(f"{model} answers users {beyond} alike: its user tables are not the long ones")


def _auc(triton: TritonClient, model: str, protocol: Protocol) -> float:
    """AUC of P(like) over the held-out ratings."""
    pairs = protocol.pairs
    asked = (
        rows_of(pairs.inputs, slice(start, start + PAIRS_AT_ONCE))
        for start in range(0, len(pairs.liked), PAIRS_AT_ONCE)
    )
    like = np.concatenate([triton.infer(model, rows).outputs["like"] for rows in asked])
    return metrics.auc(pairs.liked, like.ravel().astype(np.float64))


def _pieces(trained: np.ndarray, num_rows: int) -> Iterator[np.ndarray]:
    """The long table piece by piece: the trained rows, then others spread as those are; always the same."""
    mean, spread = trained.mean(axis=0), trained.std(axis=0)
    for number, start in enumerate(range(0, num_rows, PIECE)):
        random = np.random.default_rng((trained.shape[1], number))
        size = min(PIECE, num_rows - start)
        piece = random.standard_normal((size, trained.shape[1]), np.float32) * spread + mean
        ours = trained[start : start + size]
        piece[: len(ours)] = ours
        yield piece


def _write_trained(folder: Path, source: CompressionSource, spec: ModelSpec) -> Path:
    """The trained model with the long tables."""
    save_model(source.recommender, folder)
    described = read_json(folder / "model.json")
    write_json(
        folder / "model.json", {**described, "spec": {**described["spec"], "num_users": spec.num_users}}
    )
    tensors = {name: value.clone() for name, value in source.recommender.state_dict().items()}
    for name, value in tensors.items():
        if name.endswith(USER_TABLE):
            tensors[name] = torch.from_numpy(np.concatenate(list(_pieces(value.numpy(), spec.num_users))))
    save_file(tensors, folder / "model.safetensors")
    return folder


def _write_ours(models: Path, source: CompressionSource, spec: ModelSpec, recipe: Recipe) -> Path:
    """The ranker compressed by `recipe`, called like it, with the long tables; its version folder."""
    model = change_model(recipe, source)
    assert model is not None
    graph = export_graph(model, RANKER)
    for step in recipe.of_kind(GRAPH):  # not `cook`, which makes names short: by them tables are found here
        graph = GRAPH_METHODS[step.method].apply(graph, step.parsed())
    restore_small_tables(graph.graph, max_rows=NUM_USERS)
    short = model.spec.num_users
    folder = models / recipe.name / "1"
    folder.mkdir(parents=True)
    bits = next(step.parsed().bits for step in recipe.steps if step.method == "product_quantized_tables")
    kept = [tensor for tensor in graph.graph.initializer if list(tensor.dims)[:1] != [short]]
    grown = [t.name.removesuffix("/codes") for t in graph.graph.initializer if t not in kept]
    _let_indices_grow(kept, short, spec.num_users)
    codebooks = {f"{name}/codebook" for name in grown}
    kept = [tensor for tensor in kept if tensor.name not in codebooks]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    with (folder / WEIGHTS_FILE).open("wb") as stream:
        for name in grown:
            trained = model.state_dict()[name.removeprefix("recommender.")].numpy()
            _write_table(stream, graph.graph, name, trained, spec.num_users, bits)
    (folder / GRAPH_FILE).write_bytes(graph.SerializeToString())
    configuration = ModelConfiguration.of_model(RANKER, spec, (1,), merge=False)
    write_text(models / recipe.name / "config.pbtxt", replace(configuration, name=recipe.name).to_pbtxt())
    return folder


def _let_indices_grow(constants: list[TensorProto], short: int, num_rows: int) -> None:
    """Put the length of the long tables into the one constant that says where user indices end."""
    ends = [
        tensor
        for tensor in constants
        if tensor.data_type == TensorProto.INT64 and short in numpy_helper.to_array(tensor)
    ]
    if len(ends) != 1:
        raise ExportError(f"{len(ends)} constants of the graph hold {short}, the length of the user tables")
    limits = numpy_helper.to_array(ends[0])
    ends[0].CopyFrom(numpy_helper.from_array(np.where(limits == short, num_rows, limits), ends[0].name))


def _write_table(
    stream: Any, graph: onnx.GraphProto, name: str, trained: np.ndarray, num_rows: int, bits: float
) -> None:
    """Append a table's codes to `stream`, and refer to them in `graph`; codebooks are of the first piece."""
    start, codebook, width = stream.tell(), None, trained.shape[1]
    for piece in _pieces(trained, num_rows):
        codebook = codebook or Codebook.learn(piece, bits)
        stream.write(codebook.encode(piece).tobytes())
    assert codebook is not None
    shared = codebook.stored(np.empty((0, num_codes(width, bits)), np.uint8)).shared
    graph.initializer.append(numpy_helper.from_array(shared["codebook"], f"{name}/codebook"))
    codes = TensorProto(
        name=f"{name}/codes", data_type=TensorProto.UINT8, dims=[num_rows, num_codes(width, bits)]
    )
    codes.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_FILE), ("offset", start), ("length", stream.tell() - start)):
        codes.external_data.add(key=key, value=str(value))
    graph.initializer.append(codes)
