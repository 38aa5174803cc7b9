"""Exported graphs: what they hold, that they answer what the model answers, and what is said of bad input."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from tiny_model import NUM_ITEMS, make_tiny_model

from leanrec.config import ReleaseSettings
from leanrec.errors import ExportError
from leanrec.export import graphs as step
from leanrec.export.agreement import compare_recommender
from leanrec.export.golden import read_golden
from leanrec.export.graph_file import check_interface, graph_path, read_graph, write_graph
from leanrec.export.graphs import export_graph, export_graphs
from leanrec.export.onnx_export import OPSET, export_module
from leanrec.export.runtime import GraphSession
from leanrec.models.recommender import load_model
from leanrec.schema import MODELS, RANKER, RECOMMENDER, ModelSpec

SETTINGS = ReleaseSettings(repository="unused", num_golden=20)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "graphs"
    figures = export_graphs(SETTINGS, **tiny._asdict(), output=output)
    assert figures["max_score_difference"] <= SETTINGS.max_score_difference
    assert figures["num_golden"] == 20
    return output


@pytest.mark.parametrize("model", MODELS)
def test_a_graph_has_the_served_tensors_shared_constants_and_no_trace_of_this_machine(tiny, exported, model):
    graph = read_graph(graph_path(exported, model))
    check_interface(graph, load_model(tiny.model).spec, model)
    assert graph.opset_import[0].version == OPSET and len(graph.opset_import) == 1
    held = [
        (t.data_type, tuple(t.dims), onnx.numpy_helper.to_array(t).tobytes()) for t in graph.graph.initializer
    ]
    assert len(held) == len(set(held))
    operators = {node.op_type for node in graph.graph.node}
    assert "Gather" in operators and not operators & {"GatherND", "Loop", "If"}
    assert b".py" not in graph_path(exported, model).read_bytes()
    assert [file.name for file in (exported / model).iterdir()] == ["model.onnx"]


def test_the_same_weights_give_the_same_bytes(tiny, exported, tmp_path):
    trained = load_model(tiny.model)
    write_graph(export_graph(trained, RANKER), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == graph_path(exported, RANKER).read_bytes()


def test_golden_requests_hold_the_unknown_user_the_empty_history_and_the_eager_answers(tiny, exported):
    golden = read_golden(exported)
    request = golden.inputs[RECOMMENDER]
    assert golden.num_requests == 20 and golden.recipe == "fp32"
    assert request["user_index"][0, 0] == 0 and not request["history"][:2].any()
    assert request["user_index"][1, 0] != 0 and request["history"][2:].any(axis=1).all()
    spec = load_model(tiny.model).spec
    for model in MODELS:
        assert set(golden.inputs[model]) == {tensor.name for tensor in spec.inputs(model)}
    with torch.no_grad():
        names = [tensor.name for tensor in spec.inputs(RECOMMENDER)]
        answer = load_model(tiny.model)(*(torch.from_numpy(request[name]) for name in names))
    np.testing.assert_allclose(golden.outputs[RECOMMENDER]["score"], answer[1].numpy(), atol=1e-6)


def test_graphs_answer_other_batch_sizes_and_lengths_alike(exported):
    golden = read_golden(exported)
    session = GraphSession(graph_path(exported, RECOMMENDER))
    one, many = (session.run_in_batches(golden.inputs[RECOMMENDER], size) for size in (1, 20))
    assert compare_recommender(one, many, tie=0.0).largest <= 1e-6
    longer = {**golden.inputs[RECOMMENDER]}
    longer["seen"] = np.pad(longer["seen"], ((0, 0), (0, 37)))
    assert compare_recommender(session.run(longer), many, tie=0.0).largest <= 1e-6


def test_a_user_row_is_checked_once_however_many_columns_it_has(exported):
    graph = read_graph(graph_path(exported, RECOMMENDER))
    asks = {node.input[0] for node in graph.graph.node if node.op_type == "Less"}
    assert len(asks) == 3  # the row, the history and what was seen


def test_the_item_table_carries_titles_and_the_vectors_of_the_retriever(tiny, exported):
    items = pq.read_table(exported / "items.parquet")
    assert items["title"].to_pylist()[3] == "Item 3"
    vectors = np.array(items["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, load_model(tiny.model).item_vectors.numpy())


def test_an_export_that_computes_something_else_is_refused_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    def shifted(module, spec, model):
        graph = export_module(module, spec, model)
        for tensor in graph.graph.initializer:
            if tensor.name.endswith("ranker.by_side.bias"):
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(3, 0.5, np.float32), tensor.name))
        return graph

    monkeypatch.setattr(step, "export_module", shifted)
    with pytest.raises(ExportError, match=r"differ from the trained model's by 0\.\d+, bound 1e-05"):
        export_graphs(SETTINGS, **tiny._asdict(), output=tmp_path / "graphs")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_damaged_model_folder_is_named(tiny, tmp_path, file):
    shutil.copytree(tiny.model, tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(b"\x00damaged")
    paths = tiny._replace(model=tmp_path / "model")
    with pytest.raises(ExportError, match=file):
        export_graphs(SETTINGS, **paths._asdict(), output=tmp_path / "graphs")


def test_features_of_another_catalogue_are_refused(tiny, tmp_path):
    shutil.copytree(tiny.features, tmp_path / "features")
    items = pq.read_table(tiny.features / "items.parquet").slice(0, NUM_ITEMS - 1)
    pq.write_table(items, tmp_path / "features" / "items.parquet")
    paths = tiny._replace(features=tmp_path / "features")
    with pytest.raises(ExportError, match="59 items, but the model has 60"):
        export_graphs(SETTINGS, **paths._asdict(), output=tmp_path / "graphs")


def test_a_truncated_graph_and_missing_golden_requests_are_named(exported, tmp_path):
    whole = graph_path(exported, RANKER).read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExportError, match=r"model\.onnx"):
        read_graph(path)
    with pytest.raises(ExportError, match=r"model\.onnx"):
        GraphSession(path)
    with pytest.raises(ExportError, match="no golden requests"):
        read_golden(tmp_path)


def test_a_graph_with_other_tensors_than_the_spec_is_refused(tiny, exported):
    spec: ModelSpec = dataclasses.replace(load_model(tiny.model).spec, top_k=5)
    with pytest.raises(ExportError, match="outputs"):
        check_interface(read_graph(graph_path(exported, RECOMMENDER)), spec, RECOMMENDER)
