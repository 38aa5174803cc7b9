"""The step `export_graphs`: the trained model as the fused graph and the ranker graph, proven equal to it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import pyarrow as pa
import pyarrow.parquet as pq

from leanrec.config import ReleaseSettings
from leanrec.errors import ExportError
from leanrec.evaluation.protocol import load_protocol
from leanrec.export.agreement import compare_ranker, compare_recommender
from leanrec.export.golden import Golden, draw_golden, write_golden
from leanrec.export.graph_file import check_interface, graph_path, write_graph
from leanrec.export.item_index import index_items
from leanrec.export.onnx_export import export_module
from leanrec.export.runtime import GraphSession
from leanrec.files import atomic_directory, size_in_bytes, write_json
from leanrec.journal import report_progress, step
from leanrec.models.recommender import Recommender, load_model
from leanrec.schema import MODELS, RANKER, RECOMMENDER

STEP = "export_graphs"
SPEC_FILE = "spec.json"
ITEMS_FILE = "items.parquet"
INDEX_FILE = "index.json"


@step(STEP)
def export_graphs(
    settings: ReleaseSettings, *, model: Path, features: Path, training_set: Path, output: Path
) -> dict[str, Any]:
    """Write the `graphs` folder: both graphs in float32, spec, item table and golden requests.

    Args:
        settings: `num_golden`, and the bounds that the graphs must keep against the trained module.
        model: the model folder that training wrote.
        features: the features folder, for the item table.
        training_set: the training set, whose test users the golden requests come from.
        output: folder to write.

    Returns num_golden, max_score_difference, same_top_10 and the bytes of both graphs. Raises an ExportError
    when the model cannot be read or exported, or a graph does not answer what the module answers.
    """
    trained = load_model(model)
    protocol = load_protocol(features, training_set, "test", max_users=max(1, settings.num_golden))
    index = index_items(trained, settings.index, protocol.requests)
    golden = draw_golden(trained, protocol, settings.num_golden, settings.max_score_difference)
    report_progress(STEP, 1, 4, f"{golden.num_requests} golden requests answered by the trained model")
    with atomic_directory(output) as folder:
        write_golden(golden, folder)
        write_json(folder / INDEX_FILE, index)
        write_json(folder / SPEC_FILE, asdict(trained.spec))
        _write_items(trained, Path(features) / ITEMS_FILE, folder / ITEMS_FILE)
        for number, name in enumerate(MODELS, 2):
            _write_graph(trained, name, graph_path(folder, name))
            report_progress(STEP, number, 4, f"{name} exported")
        figures = _hold_against_trainer(settings, golden, folder)
        report_progress(STEP, 4, 4, f"|trainer - graph| at most {figures['max_score_difference']:.1e}")
        return {
            **figures,
            **({"index_recall": index["recall"], "probes": index["probes"]} if index else {}),
            "num_golden": golden.num_requests,
            **{f"{name}_bytes": size_in_bytes(folder / name) for name in MODELS},
        }


def export_graph(trained: Recommender, name: str) -> onnx.ModelProto:
    """The graph `name` (recommender or ranker) of a model whose items are frozen, its interface checked."""
    module = trained if name == RECOMMENDER else trained.served_ranker()
    with trained.arranged_by_side():
        graph = export_module(module, trained.spec, name)
    check_interface(graph, trained.spec, name)
    return graph


def _write_graph(trained: Recommender, name: str, path: Path) -> None:
    write_graph(export_graph(trained, name), path)
    onnx.checker.check_model(path, full_check=True)


def _write_items(trained: Recommender, source: Path, target: Path) -> None:
    """The item table with the retriever's vector of each item, which "because you liked" compares."""
    try:
        items = pq.read_table(source).sort_by("item_index")
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ExportError(f"{source}: not an item table ({error}); build the features again") from None
    if items.num_rows != trained.spec.num_items:
        raise ExportError(
            f"{source}: it has {items.num_rows} items, but the model has {trained.spec.num_items}; "
            "export with the features that the model was trained on"
        )
    vectors = pa.array(list(trained.item_vectors.numpy()), pa.list_(pa.float32()))
    pq.write_table(items.append_column("embedding", vectors), target)


def _hold_against_trainer(settings: ReleaseSettings, golden: Golden, folder: Path) -> dict[str, float]:
    answers = {
        name: GraphSession(graph_path(folder, name)).run_in_batches(golden.inputs[name], 64)
        for name in MODELS
    }
    expected = golden.outputs
    bound = settings.max_score_difference
    lists = compare_recommender(expected[RECOMMENDER], answers[RECOMMENDER])
    scores = compare_ranker(expected[RANKER], answers[RANKER])
    differences = {RECOMMENDER: lists.largest, RANKER: scores.largest}
    for name, difference in differences.items():
        if not difference <= bound:
            raise ExportError(
                f"{name}: the graph's scores differ from the trained model's by {difference:.3g}, bound "
                f"{bound:.3g} (release.max_score_difference); the export is not what was trained"
            )
    same = lists.same_top_10
    assert same is not None
    if same < settings.min_same_top_10:
        raise ExportError(
            f"{RECOMMENDER}: {same:.1%} of the golden users get the trained model's ten items, bound "
            f"{settings.min_same_top_10:.1%} (release.min_same_top_10); the export retrieves other items"
        )
    return {"max_score_difference": max(differences.values()), "same_top_10": same}
