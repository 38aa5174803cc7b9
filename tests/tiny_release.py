"""A tiny but real release: two ONNX graphs, and the artifacts that `publish_release` takes.

The scores of a release are those of release 1 times its `factor`, so an answer tells which release gave it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from leanrec.data.vocabulary import Vocabularies, Vocabulary
from leanrec.export.golden import Golden
from leanrec.export.golden import write_golden as export_golden
from leanrec.files import write_json
from leanrec.gates import above, at_most, write_gate
from leanrec.schema import RANKER, RECOMMENDER, ModelSpec

SPEC = ModelSpec(
    num_users=9,
    num_items=21,
    num_categories=3,
    attribute_cardinalities={"gender": 3, "occupation": 4},
    history_length=4,
    top_k=12,
    liked_threshold=4.0,
)
STEPS = [{"int8_tables": {}}, {"int8_mlp": {}}]
ONNX_TYPES = {"INT64": TensorProto.INT64, "FP32": TensorProto.FLOAT}


def user_row(batch: int = 1, seen: int = 2, spec: ModelSpec = SPEC) -> dict[str, np.ndarray]:
    """Inputs of `recommender` for `batch` users; user b has index b + 1 and has seen items 1..seen."""
    return {
        "user_index": np.arange(1, batch + 1, dtype=np.int64)[:, None],
        "user_attributes": np.ones((batch, len(spec.attribute_cardinalities)), np.int64),
        "user_statistics": np.ones((batch, 3), np.float32),
        "history": np.zeros((batch, spec.history_length), np.int64),
        "history_ratings": np.zeros((batch, spec.history_length), np.float32),
        "seen": np.tile(np.arange(1, seen + 1, dtype=np.int64), (batch, 1)),
    }


def expected_scores(inputs: dict[str, np.ndarray], factor: float, spec: ModelSpec = SPEC) -> np.ndarray:
    """What the recommender's matrix of scores is before the top K: [B, num_items]."""
    bias = np.linspace(0, 1, spec.num_items, dtype=np.float32)
    users = inputs["user_index"].astype(np.float32)
    scores = (users * 0.125 + bias[None]) * np.float32(factor)
    for row, seen in zip(scores, inputs["seen"], strict=True):
        row[seen] = -1e4
        row[0] = -1e4
    return scores


def top_k(inputs: dict[str, np.ndarray], factor: float, spec: ModelSpec = SPEC) -> dict[str, np.ndarray]:
    """What the recommender answers."""
    scores = expected_scores(inputs, factor, spec)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : spec.top_k]
    return {"item_index": order.astype(np.int64), "score": np.take_along_axis(scores, order, axis=1)}


def write_graphs(folder: Path, factor: float = 1.0, spec: ModelSpec = SPEC) -> Path:
    """Fill `folder` as a `graphs` artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    for model, graph in ((RECOMMENDER, _recommender(factor, spec)), (RANKER, _ranker(factor, spec))):
        (folder / model).mkdir()
        onnx.save(graph, folder / model / "model.onnx")
    write_json(folder / "spec.json", asdict(spec))
    vectors = np.eye(spec.num_items, 8, dtype=np.float32) + 0.1
    items = {
        "item_index": list(range(spec.num_items)),
        "item_id": [""] + [f"i{n}" for n in range(1, spec.num_items)],
        "title": ["unknown"] + [f"Title {n}" for n in range(1, spec.num_items)],
        "categories": [["Drama"]] * spec.num_items,
        "num_events": list(range(spec.num_items)),
        "num_liked": [n // 2 for n in range(spec.num_items)],
        "mean_rating": [3.5] * spec.num_items,
        "embedding": [row.tolist() for row in vectors],
    }
    pq.write_table(pa.table(items), folder / "items.parquet")
    return folder


def write_golden(
    folder: Path, recipe: str, bound: float, factor: float = 1.0, spec: ModelSpec = SPEC
) -> None:
    """Golden requests of three users and the answers of a trainer whose scores have `factor`."""
    inputs = user_row(batch=3, spec=spec)
    candidates = np.array([[1, 2, 3, 0], [4, 5, 6, 7], [8, 0, 0, 0]])
    scores = np.linspace(0, 1, spec.num_items, dtype=np.float32)[candidates] * np.float32(factor)
    ranker_inputs = {**{t.name: inputs[t.name] for t in spec.user_inputs()}, "candidates": candidates}
    golden = Golden(
        inputs={RECOMMENDER: inputs, RANKER: ranker_inputs},
        outputs={
            RECOMMENDER: top_k(inputs, factor, spec),
            RANKER: dict.fromkeys(("score", "like", "rating"), scores),
        },
        recipe=recipe,
        bound=bound,
        how="given by the test",
    )
    export_golden(golden, folder)


def write_artifacts(folder: Path, factor: float = 1.0, spec: ModelSpec = SPEC) -> dict[str, Path]:
    """The artifacts `compressed`, `features`, `evaluation` and `parity` below `folder`."""
    write_graphs(folder / "compressed" / "chosen", factor, spec)
    write_golden(folder / "compressed" / "chosen", "int8", 0.01, factor, spec)
    write_json(folder / "compressed" / "front.json", {"chosen": "int8", "steps": STEPS})
    write_gate(folder / "compressed", "compression", [above("ndcg@10", 0.2, 0.1)])
    Vocabularies(items=Vocabulary().extended([f"i{n}" for n in range(1, spec.num_items)])).save(
        folder / "features" / "vocabulary"
    )
    write_json(folder / "evaluation" / "evaluation.json", {})
    write_json(folder / "parity" / "parity.json", {})
    write_gate(folder / "parity", "parity", [at_most("difference", 0.0, 1e-5)])
    return {name: folder / name for name in ("compressed", "features", "evaluation", "parity")}


def _recommender(factor: float, spec: ModelSpec) -> onnx.ModelProto:
    constants = {
        "bias": np.linspace(0, 1, spec.num_items, dtype=np.float32)[None],
        "eighth": np.array(0.125, np.float32),
        "factor": np.array(factor, np.float32),
        "k": np.array([spec.top_k], np.int64),
        "zero": np.zeros((1, 1), np.int64),
        "low": np.array(-1e4, np.float32),
        "ones": np.ones(spec.num_items, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["user_index"], ["user"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["user", "eighth"], ["shift"]),
        helper.make_node("Add", ["shift", "bias"], ["plain"]),
        helper.make_node("Mul", ["plain", "factor"], ["scores"]),
        helper.make_node("Mul", ["user_index", "zero"], ["unknown"]),
        helper.make_node("Concat", ["seen", "unknown"], ["hidden"], axis=1),
        helper.make_node("Cast", ["hidden"], ["hidden_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["hidden_float", "zero_float"], ["zeros"]),
        helper.make_node("Add", ["zeros", "low"], ["lows"]),
        helper.make_node("ScatterElements", ["scores", "hidden", "lows"], ["masked"], axis=1),
        helper.make_node("TopK", ["masked", "k"], ["score", "item_index"], axis=1),
    ]
    constants["zero_float"] = np.array(0.0, np.float32)
    return _model(RECOMMENDER, nodes, constants, spec)


def _ranker(factor: float, spec: ModelSpec) -> onnx.ModelProto:
    constants = {
        "bias": np.linspace(0, 1, spec.num_items, dtype=np.float32),
        "factor": np.array(factor, np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["bias", "candidates"], ["plain"]),
        helper.make_node("Mul", ["plain", "factor"], ["score"]),
        helper.make_node("Identity", ["score"], ["like"]),
        helper.make_node("Identity", ["score"], ["rating"]),
    ]
    return _model(RANKER, nodes, constants, spec)


def _model(name: str, nodes: list, constants: dict[str, np.ndarray], spec: ModelSpec) -> onnx.ModelProto:
    def described(tensors: tuple) -> list:
        return [
            helper.make_tensor_value_info(
                t.name, ONNX_TYPES[t.dtype], ["batch", *(f"{t.name}_length" if a < 0 else a for a in t.shape)]
            )
            for t in tensors
        ]

    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        name,
        described(spec.inputs(name)),
        described(spec.outputs(name)),
        [numpy_helper.from_array(value, key) for key, value in constants.items() if key in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model
