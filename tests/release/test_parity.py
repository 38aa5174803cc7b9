"""What the parity gate lets through and what it stops, with real graphs in ONNX Runtime in Triton's place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from leanrec.compression.method import no_requests
from leanrec.compression.methods import GRAPH_METHODS
from leanrec.config import ReleaseSettings
from leanrec.config.methods import GRAPH
from leanrec.config.recipes import RECIPES
from leanrec.export.agreement import Tensors, compare_ranker, compare_recommender
from leanrec.export.golden import Golden, read_golden
from leanrec.export.graph_file import graphs_in, write_graph
from leanrec.export.runtime import GraphSession
from leanrec.release.parity import ALONE, CHOSEN, TOGETHER, UNCOMPRESSED, Compared, decide
from leanrec.schema import MODELS, RECOMMENDER

SETTINGS = ReleaseSettings(repository="unused", num_golden=24)
Graphs = dict[str, onnx.ModelProto]


@pytest.fixture(scope="module")
def exported(tiny_export) -> Path:
    return tiny_export.graphs


@pytest.fixture(scope="module")
def int8(exported: Path) -> Graphs:
    """Both graphs with int8 applied; not yet compacted, so that constants still say what they are."""
    graphs = graphs_in(exported)
    for step in RECIPES["int8"].of_kind(GRAPH):
        method = GRAPH_METHODS[step.method]
        graphs = {model: method.apply(graph, step.parsed(), no_requests) for model, graph in graphs.items()}
    return graphs


def answers_of(graphs: Graphs, golden: Golden, folder: Path) -> dict[tuple[str, int], Tensors]:
    answers = {}
    for model, graph in graphs.items():
        write_graph(graph, folder / model / "model.onnx")
        session = GraphSession(folder / model / "model.onnx")
        for size in (ALONE, TOGETHER):
            answers[model, size] = session.run_in_batches(golden.inputs[model], size)
    return answers


def missed(
    exported: Path,
    chosen: Graphs,
    folder: Path,
    *,
    here: Callable[[Tensors], Tensors] = dict,
    over_grpc: Callable[[Tensors], Tensors] = dict,
) -> set[str]:
    """The figures that miss their bound when `chosen` is released; both sides' answers may be changed."""
    golden = read_golden(exported)
    found = {}
    for version, graphs in ((UNCOMPRESSED, graphs_in(exported)), (CHOSEN, chosen)):
        answers = answers_of(graphs, golden, folder / str(version))
        for model in MODELS:
            compare = compare_recommender if model == RECOMMENDER else compare_ranker
            server, trainer = {}, {}
            for size in (ALONE, TOGETHER):
                local, served = here(answers[model, size]), over_grpc(answers[model, size])
                server[size] = compare(local, served)
                trainer[size] = compare(golden.outputs[model], served)
            found[version, model] = Compared(server=server, trainer=trainer)
    checks = decide(SETTINGS, {UNCOMPRESSED: "fp32", CHOSEN: "int8"}, found)
    return {check.figure for check in checks if not check.passed}


def corrupted(graphs: Graphs, ending: str, change: Callable[[np.ndarray], np.ndarray]) -> Graphs:
    """Copies of `graphs` with every constant whose name ends in `ending` changed."""
    copies, count = {}, 0
    for model, graph in graphs.items():
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        for tensor in copy.graph.initializer:
            if tensor.name.endswith(ending):
                value = numpy_helper.to_array(tensor).copy()
                tensor.CopyFrom(numpy_helper.from_array(change(value).astype(value.dtype), tensor.name))
                count += 1
        copies[model] = copy
    assert count, f"no constant ends in {ending}"
    return copies


def shuffled(rows: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).permutation(rows)


def test_an_honest_int8_form_passes(exported: Path, int8: Graphs, tmp_path: Path) -> None:
    assert missed(exported, int8, tmp_path) == set()


@pytest.mark.parametrize(
    ("ending", "change"),
    [
        pytest.param("/scale", lambda scale: scale * 2, id="wrong table scales"),
        pytest.param("/int8", shuffled, id="shuffled tables"),
        pytest.param("_scale", lambda scale: scale * 1.5, id="wrong layer scales"),
        pytest.param("_zero_point", lambda zero: zero + 20, id="wrong zero points"),
        pytest.param("_quantized", np.zeros_like, id="empty layers"),
    ],
)
def test_a_form_with_other_weights_is_stopped(
    exported: Path, int8: Graphs, tmp_path: Path, ending: str, change: Callable
) -> None:
    assert missed(exported, corrupted(int8, ending, change), tmp_path)


def reversed_lists(answer: Tensors) -> Tensors:
    return {name: value[:, ::-1] for name, value in answer.items()}


def without_scores(answer: Tensors) -> Tensors:
    return {**answer, "score": np.zeros_like(answer["score"])}


def of_the_next_user(answer: Tensors) -> Tensors:
    return {name: np.roll(value, 1, axis=0) for name, value in answer.items()}


def a_little_off(answer: Tensors) -> Tensors:
    return {**answer, "score": answer["score"] + np.float32(1e-4)}


@pytest.mark.parametrize("change", [reversed_lists, without_scores, of_the_next_user])
def test_other_answers_are_stopped_even_where_every_server_gives_them(
    exported: Path, int8: Graphs, tmp_path: Path, change: Callable[[Tensors], Tensors]
) -> None:
    found = missed(exported, int8, tmp_path, here=change, over_grpc=change)
    assert any("int8" in figure for figure in found)
    assert any("fp32" in figure or "uncompressed" in figure for figure in found)


@pytest.mark.parametrize("change", [without_scores, of_the_next_user, a_little_off])
def test_a_server_that_answers_something_else_than_its_graph_is_stopped(
    exported: Path, int8: Graphs, tmp_path: Path, change: Callable[[Tensors], Tensors]
) -> None:
    found = missed(exported, int8, tmp_path, over_grpc=change)
    for model in MODELS:
        for recipe in ("fp32", "int8"):
            assert f"{model} ({recipe}) |Triton - the same graph here|" in found
