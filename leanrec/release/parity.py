"""Parity: the same input, the same score, trainer against Triton."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from leanrec.config import ReleaseSettings
from leanrec.errors import ServingError
from leanrec.export.agreement import Differences, compare_ranker, compare_recommender, histogram
from leanrec.export.golden import Golden, check_golden, read_golden
from leanrec.files import atomic_directory, write_json, write_text
from leanrec.gates import at_least, at_most, write_gate
from leanrec.journal import step
from leanrec.release.embedded_server import embedded_server
from leanrec.release.model_configuration import ModelConfiguration
from leanrec.release.repository import CONFIGURATION, SPEC, read_spec, same_tensors
from leanrec.schema import MODELS, RECOMMENDER
from leanrec.triton import TritonClient

UNCOMPRESSED, CHOSEN = 1, 2
"""The two forms stand in one temporary repository, as two versions of each model."""


@step("check_parity")
def check_parity(settings: ReleaseSettings, *, graphs: Path, compressed: Path, output: Path) -> bool:
    """Send every golden request to a real Triton and hold the differences from the trainer to their bounds.

    Both the uncompressed graphs and the chosen ones are asked, over gRPC, in full batches. Bounds: for the
    uncompressed form `max_score_difference` and `min_same_top_10` of the settings; for the chosen one the
    bound in its golden.json. How lists are compared is told in `leanrec/export/agreement.py`.

    Args:
        settings: the bounds.
        graphs: artifact with both graphs in float32 and the golden requests.
        compressed: artifact whose `chosen/` is laid out like `graphs`.
        output: folder that gets `parity.json` (num_golden; for each graph its recipe, model,
            max_score_difference, bound, same_top_10; a histogram of the chosen form's differences)
            and `gate.json`.

    Returns whether every bound is kept. Raises ServingError when Triton does not serve the graphs.
    """
    folders = {UNCOMPRESSED: Path(graphs), CHOSEN: Path(compressed) / "chosen"}
    golden = {version: read_golden(folder) for version, folder in folders.items()}
    for version, folder in folders.items():
        check_golden(golden[version], read_spec(folder / SPEC), folder)
    bounds = {UNCOMPRESSED: settings.max_score_difference, CHOSEN: golden[CHOSEN].bound}
    differences = _ask_triton(folders, golden, ties=bounds)
    lines = [
        {
            "recipe": golden[version].recipe,
            "model": model,
            "max_score_difference": _finite(found.largest),
            "bound": bounds[version],
            "same_top_10": found.same_top_10,
        }
        for (version, model), found in differences.items()
    ]
    checks = [
        at_most(
            f"{model} ({golden[version].recipe}) |trainer - Triton|",
            found.largest,
            bounds[version],
            "the export, the recipe or the server changes what the model computes",
        )
        for (version, model), found in differences.items()
    ]
    same = differences[UNCOMPRESSED, RECOMMENDER].same_top_10
    assert same is not None
    checks.append(at_least("users with the same ten items, uncompressed", same, settings.min_same_top_10))
    shown = np.concatenate([found.scores for (version, _), found in differences.items() if version == CHOSEN])
    report = {
        "num_golden": golden[UNCOMPRESSED].num_requests,
        "graphs": lines,
        "histogram": histogram(shown),
    }
    with atomic_directory(output) as folder:
        write_json(folder / "parity.json", report)
        return write_gate(folder, "parity", checks)


def _ask_triton(
    folders: dict[int, Path], golden: dict[int, Golden], ties: dict[int, float]
) -> dict[tuple[int, str], Differences]:
    """The differences by version and model."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="leanrec-parity-") as work:
        repository = Path(work) / "models"
        _stage(repository, folders)
        with (
            embedded_server(repository, Path(work) / "announcement.json") as server,
            TritonClient(server.grpc, timeout_s=60) as triton,
        ):
            for version in folders:
                for model in MODELS:
                    expected = golden[version].outputs[model]
                    answered = _answers(triton, model, version, golden[version].inputs[model])
                    if model == RECOMMENDER:
                        compared = compare_recommender(expected, answered, ties[version])
                    else:
                        compared = compare_ranker(expected, answered)
                    found[version, model] = compared
    return found


def _stage(repository: Path, folders: dict[int, Path]) -> None:
    if not same_tensors(list(folders.values())):
        raise ServingError(
            f"{folders[CHOSEN]}: its tensors are not those of {folders[UNCOMPRESSED]};"
            " compress the same export"
        )
    spec = read_spec(folders[UNCOMPRESSED] / SPEC)
    for model in MODELS:
        configuration = ModelConfiguration.of_model(model, spec, tuple(folders))
        write_text(repository / model / CONFIGURATION, configuration.to_pbtxt())
        for version, folder in folders.items():
            (repository / model / str(version)).symlink_to((folder / model).absolute())


def _answers(
    triton: TritonClient, model: str, version: int, inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Triton's outputs for all requests, sent in batches as large as the configuration allows."""
    size = ModelConfiguration.max_batch_size
    rows = len(next(iter(inputs.values())))
    parts: list[dict[str, Any]] = [
        triton.infer(
            model, {name: tensor[start : start + size] for name, tensor in inputs.items()}, version=version
        ).outputs
        for start in range(0, rows, size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
