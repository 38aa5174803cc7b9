"""The same comparison with a table of 10 M rows x 64, 2.5 GB in float32, which no data set here fills.

Ours: the ranker with its large tables product-quantized and everything else in 8 bits (`RECIPE`). Baseline:
the same ranker in eager float32 PyTorch. The weights are random, which is the hardest case: normal numbers
have no structure that fewer bits could use. What is liked is drawn from the float32 model's own P(like), so
the AUC that quantization loses has a meaning although nothing was trained. The large tables are made,
quantized and written piece by piece, and the same pieces go into the baseline.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
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
from leanrec.compression.whole_tables import restore_small_tables
from leanrec.config import RankerSettings, Recipe, RetrieverSettings, TrainingSettings
from leanrec.evaluation import metrics
from leanrec.export.graph_file import GRAPH_FILE, WEIGHTS_FILE
from leanrec.export.graphs import export_graph
from leanrec.export.runtime import rows_of
from leanrec.files import size_in_bytes, write_json, write_text
from leanrec.models.inputs import ItemInputs
from leanrec.models.recommender import Recommender, save_model
from leanrec.schema import RANKER, USER_STATISTICS, ModelSpec
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import embedded_server
from leanrec.triton.model_configuration import ModelConfiguration

RECIPE = Recipe.parse(
    {
        "name": "product_quantized_int8",
        "steps": [{"product_quantized_tables": {"bits": 3.875, "min_rows": 50_000}}, "int8_mlp"],
    }
)
BITS = RECIPE.steps[0].parsed().bits
NUM_ROWS, PIECE, NUM_ITEMS = 10_000_000, 200_000, 20_000
NUM_USERS, NUM_REQUESTS = 200, 100
STAND_IN = 50_021
"""Rows of the user tables while the graph is made; a number that nothing else in the graph is."""
SPREAD = 1.5
"""Standard deviation of the logit of P(like)."""
SETTINGS = TrainingSettings(
    num_candidates=NUM_CANDIDATES,
    retriever=RetrieverSettings(dim=4, hidden=(16,)),
    ranker=RankerSettings(dim=64, hidden=(256, 128)),
)


def measure(num_rows: int = NUM_ROWS) -> dict[str, Any]:
    """p50 in milliseconds of both. Needs 10 GB of memory and 6 GB of disk."""
    python = eager_python()
    with tempfile.TemporaryDirectory(prefix="leanrec-bench-large-") as work, served_by(python):
        models = Path(work) / "models"
        model = _stand_in()
        spec = replace(model.spec, num_users=num_rows)
        ours = _write_ours(models, model, spec)
        trained = _write_trained(Path(work) / "trained", model, spec)
        # One thread: where other work runs beside it, PyTorch's threads wait for each other.
        stage_eager(models, trained, spec, RANKER, threads=1)
        stage_empty_beside_ranker(models)
        requests = _requests(spec)
        with (
            embedded_server(models, Path(work) / "announcement.json") as server,
            TritonClient(server.grpc, timeout_s=120) as triton,
        ):
            times = ask_in_turns(triton, requests, (RANKER, EMPTY, ONE_THREAD + RANKER), NUM_REQUESTS)
            like = {name: _likes(triton, name, requests) for name in (RANKER, ONE_THREAD + RANKER)}
        held, baseline_bytes = size_in_bytes(ours), size_in_bytes(models / (ONE_THREAD + RANKER) / "1")
    truth, approximate = like[ONE_THREAD + RANKER], like[RANKER]
    liked = np.random.default_rng(2).uniform(size=truth.size) < truth
    auc = metrics.auc(liked, truth)
    return {
        "name": "compression-large",
        "ours": float(np.median(times[RANKER])),
        "baseline": float(np.median(times[ONE_THREAD + RANKER])),
        "ratio": float(np.median(times[ONE_THREAD + RANKER] / times[RANKER])),
        "unit": f"ms at the median, one user x {NUM_CANDIDATES} candidates, one caller, gRPC",
        "ceiling": ceiling(times[EMPTY], times[ONE_THREAD + RANKER]),
        "settings": {
            "rows": num_rows,
            "recipe": RECIPE.model_dump(mode="json")["steps"],
            "bytes": held,
            "baseline_bytes": baseline_bytes,
            "bytes_ratio": baseline_bytes / held,
            "auc": auc,
            "auc_loss": auc - metrics.auc(liked, approximate),
            "pairs": int(truth.size),
            "baseline_versions": versions_in(python),
        },
    }


def _stand_in() -> Recommender:
    """The model with few users, whose P(like) spreads as a trained one's does."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    spec = ModelSpec(
        num_users=STAND_IN,
        num_items=NUM_ITEMS,
        num_categories=20,
        attribute_cardinalities={"group": 8},
        history_length=50,
        top_k=100,
        liked_threshold=4.0,
    )
    items = ItemInputs(
        category_indices=torch.from_numpy(random.integers(1, 20, (NUM_ITEMS, 2))),
        release_year=torch.full((NUM_ITEMS,), 1995.0),
        statistics=torch.ones(NUM_ITEMS, 3),
    )
    model = Recommender(spec, SETTINGS, items).freeze_items().eval()
    rows = {name: torch.from_numpy(value) for name, value in _requests(spec).items()}
    with torch.no_grad():
        like = torch.logit(model.served_ranker()(**rows)[1])
        model.ranker.over.weight[1] *= SPREAD / like.std()
        model.ranker.over.bias[1] = -like.mean() * SPREAD / like.std()
    return model.eval()


def _requests(spec: ModelSpec) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        "user_index": random.integers(1, spec.num_users, (NUM_USERS, 1)),
        "user_attributes": random.integers(1, 8, (NUM_USERS, 1)),
        "user_statistics": np.full((NUM_USERS, len(USER_STATISTICS)), 3.0, np.float32),
        "history": random.integers(1, spec.num_items, (NUM_USERS, spec.history_length)),
        "history_ratings": random.integers(1, 6, (NUM_USERS, spec.history_length)).astype(np.float32),
        "candidates": random.integers(1, spec.num_items, (NUM_USERS, NUM_CANDIDATES)),
    }


def _pieces(num_rows: int, width: int) -> Iterator[np.ndarray]:
    """The large table of one width, piece by piece; always the same."""
    for number, start in enumerate(range(0, num_rows, PIECE)):
        random = np.random.default_rng((width, number))
        size = min(PIECE, num_rows - start)
        yield random.standard_normal((size, width), np.float32) * np.float32(width**-0.5)


def _write_trained(folder: Path, model: Recommender, spec: ModelSpec) -> Path:
    """The float32 model as training would have left it, with the large tables."""
    save_model(model, folder)
    described = {
        "spec": asdict(spec),
        "settings": SETTINGS.model_dump(mode="json"),
        "num_categories_per_item": 2,
    }
    write_json(folder / "model.json", described)
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    for name, value in tensors.items():
        if value.ndim and len(value) == STAND_IN:
            pieces = list(_pieces(spec.num_users, value.shape[1]))
            tensors[name] = torch.from_numpy(np.concatenate(pieces))
            del pieces
    save_file(tensors, folder / "model.safetensors")
    return folder


def _write_ours(models: Path, model: Recommender, spec: ModelSpec) -> Path:
    """The quantized ranker, its user tables replaced by the large ones; its version folder."""
    graph = export_graph(model, RANKER)
    for step in RECIPE.steps:  # not `cook`, which makes names short: by their names tables are found here
        graph = GRAPH_METHODS[step.method].apply(graph, step.parsed())
    restore_small_tables(graph.graph)
    folder = models / RANKER / "1"
    folder.mkdir(parents=True)
    kept = [tensor for tensor in graph.graph.initializer if list(tensor.dims)[:1] != [STAND_IN]]
    for tensor in kept:
        if tensor.data_type == TensorProto.INT64 and numpy_helper.to_array(tensor).tolist() == STAND_IN:
            tensor.CopyFrom(numpy_helper.from_array(np.array(spec.num_users), tensor.name))
    grown = [t.name.removesuffix("/codes") for t in graph.graph.initializer if t not in kept]
    codebooks = {f"{name}/codebook" for name in grown}
    kept = [tensor for tensor in kept if tensor.name not in codebooks]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    with (folder / WEIGHTS_FILE).open("wb") as stream:
        for name in grown:
            width = model.state_dict()[name.removeprefix("recommender.")].shape[1]
            _write_table(stream, graph.graph, name, spec.num_users, width)
    (folder / GRAPH_FILE).write_bytes(graph.SerializeToString())
    write_text(
        models / RANKER / "config.pbtxt",
        ModelConfiguration.of_model(RANKER, spec, (1,), merge=False).to_pbtxt(),
    )
    return folder


def _write_table(stream: Any, graph: onnx.GraphProto, name: str, num_rows: int, width: int) -> None:
    """Append a table's codes to `stream`, and refer to them in `graph`; codebooks are of the first piece."""
    start, codebook = stream.tell(), None
    for piece in _pieces(num_rows, width):
        codebook = codebook or Codebook.learn(piece, BITS)
        stream.write(codebook.encode(piece).tobytes())
    assert codebook is not None
    shared = codebook.stored(np.empty((0, num_codes(width, BITS)), np.uint8)).shared
    graph.initializer.append(numpy_helper.from_array(shared["codebook"], f"{name}/codebook"))
    codes = TensorProto(
        name=f"{name}/codes", data_type=TensorProto.UINT8, dims=[num_rows, num_codes(width, BITS)]
    )
    codes.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_FILE), ("offset", start), ("length", stream.tell() - start)):
        codes.external_data.add(key=key, value=str(value))
    graph.initializer.append(codes)


def _likes(triton: TritonClient, model: str, requests: dict[str, np.ndarray]) -> np.ndarray:
    found = [
        triton.infer(model, rows_of(requests, slice(n, n + 1))).outputs["like"] for n in range(NUM_USERS)
    ]
    return np.concatenate(found).ravel().astype(np.float64)
