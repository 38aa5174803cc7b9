"""Parity: the same input, the same score, trainer against Triton.

Three questions, each with a bound of its own:

server        Does Triton answer what the same graph answers in this process? Every form, to the last digits.
uncompressed  Does it answer what the trainer computed? To the last digits, and with the same ten items.
compressed    Is it still the same model? Scores keep their proportions, lists their items. That is the
              trained model, or the one that the recipe made of it (pruned, fine-tuned) before export.

Every golden request is sent twice: one user at a time, as clients do, and in full batches. One caller sends
one request at a time, so Triton has nothing to merge, and both sides of a comparison see the same batches.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leanrec.config import ReleaseSettings
from leanrec.errors import ServingError
from leanrec.export.agreement import Differences, Tensors, compare_ranker, compare_recommender, histogram
from leanrec.export.golden import Golden, check_golden, read_golden
from leanrec.export.graph_file import graph_path
from leanrec.export.runtime import GraphSession
from leanrec.files import atomic_directory, finite, write_json
from leanrec.gates import Check, at_least, at_most, write_gate
from leanrec.journal import step
from leanrec.release.requests import SPEC, read_spec, same_tensors
from leanrec.schema import MODELS, RECOMMENDER
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import embedded_server
from leanrec.triton.model_configuration import ModelConfiguration
from leanrec.triton.staging import stage_model

UNCOMPRESSED, CHOSEN = 1, 2
"""The two forms stand in one temporary repository, as two versions of each model."""

ALONE, TOGETHER = 1, ModelConfiguration.max_batch_size
"""Users a request."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """One graph's answers over gRPC, held against both others."""

    server: dict[int, Differences]
    """Users a request -> from the same graph in this process."""
    trainer: dict[int, Differences]
    """Users a request -> from the trainer, or from the model that the recipe made of the trained one."""

    @property
    def server_difference(self) -> float:
        """The largest |Triton - the same graph|."""
        return float(np.max([found.largest for found in self.server.values()]))

    @property
    def trainer_difference(self) -> float:
        """The largest |trainer - Triton|."""
        return float(np.max([found.largest for found in self.trainer.values()]))


@step("check_parity")
def check_parity(settings: ReleaseSettings, *, graphs: Path, compressed: Path, output: Path) -> bool:
    """Send every golden request to a real Triton and hold the answers to their bounds.

    Both the uncompressed graphs and the chosen ones are asked, over gRPC. How lists and scores are compared
    is told in `leanrec/export/agreement.py`.

    Args:
        settings: the bounds.
        graphs: artifact with both graphs in float32 and the golden requests.
        compressed: artifact whose `chosen/` is laid out like `graphs`.
        output: folder that gets `parity.json` (num_golden; for each graph its recipe, model,
            server_difference, max_score_difference from the trainer, score_ratio, same_top_10, shared_top_10
            and bound, null where no difference from the trainer is bound; bounds; a histogram of the chosen
            form's differences from the trainer) and `gate.json`.

    Returns whether every bound is kept. Raises ServingError when Triton does not serve the graphs.
    """
    folders = {UNCOMPRESSED: Path(graphs), CHOSEN: Path(compressed) / "chosen"}
    golden = {version: read_golden(folder) for version, folder in folders.items()}
    for version, folder in folders.items():
        check_golden(golden[version], read_spec(folder / SPEC), folder)
    found = _ask_triton(folders, golden)
    recipes = {version: golden[version].recipe for version in folders}
    shown = [found[CHOSEN, model].trainer[ALONE].scores for model in MODELS]
    report = {
        "num_golden": golden[UNCOMPRESSED].num_requests,
        "graphs": [_line(settings, recipes, *key, compared) for key, compared in found.items()],
        "bounds": {
            name: getattr(settings, name)
            for name in ("max_score_difference", "min_same_top_10", "max_score_ratio", "min_shared_top_10")
        },
        "histogram": histogram(np.concatenate(shown)),
    }
    with atomic_directory(output) as folder:
        write_json(folder / "parity.json", report)
        return write_gate(folder, "parity", decide(settings, recipes, found))


def decide(
    settings: ReleaseSettings, recipes: dict[int, str], found: dict[tuple[int, str], Compared]
) -> list[Check]:
    """The gate's checks; a pure function of values."""
    checks = []
    for (version, model), compared in found.items():
        name = f"{model} ({recipes[version]})"
        checks.append(
            at_most(
                f"{name} |Triton - the same graph here|",
                compared.server_difference,
                settings.max_score_difference,
                "the server changes what the graph computes: look at its version and configuration",
            )
        )
        if version == UNCOMPRESSED:
            checks.append(
                at_most(
                    f"{name} |trainer - Triton|",
                    compared.trainer_difference,
                    settings.max_score_difference,
                    "the export does not compute what the trainer computes",
                )
            )
        else:
            checks.append(
                at_most(
                    f"{name} score ratio, trainer and Triton",
                    compared.trainer[ALONE].largest_ratio,
                    settings.max_score_ratio,
                    "compression changes the scores out of proportion: drop the recipe",
                )
            )
    uncompressed = found[UNCOMPRESSED, RECOMMENDER].trainer
    same = min(float(each.same_top_10 or 0) for each in uncompressed.values())
    checks.append(at_least("users with the same ten items, uncompressed", same, settings.min_same_top_10))
    shared = float(found[CHOSEN, RECOMMENDER].trainer[ALONE].shared_top_10 or 0)
    label = f"share of the trainer's ten items shown ({recipes[CHOSEN]})"
    checks.append(at_least(label, shared, settings.min_shared_top_10))
    return checks


def _line(
    settings: ReleaseSettings, recipes: dict[int, str], version: int, model: str, compared: Compared
) -> dict[str, Any]:
    alone = compared.trainer[ALONE]
    return {
        "recipe": recipes[version],
        "model": model,
        "server_difference": finite(compared.server_difference),
        "max_score_difference": finite(compared.trainer_difference),
        "bound": settings.max_score_difference if version == UNCOMPRESSED else None,
        "score_ratio": finite(alone.largest_ratio),
        "same_top_10": alone.same_top_10,
        "shared_top_10": alone.shared_top_10,
    }


def _ask_triton(folders: dict[int, Path], golden: dict[int, Golden]) -> dict[tuple[int, str], Compared]:
    """What separates Triton from both others, by version and model."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="leanrec-parity-") as work:
        repository = Path(work) / "models"
        _stage(repository, folders)
        with (
            embedded_server(repository, Path(work) / "announcement.json") as server,
            TritonClient(server.grpc, timeout_s=60) as triton,
        ):
            for version, folder in folders.items():
                for model in MODELS:
                    inputs, expected = golden[version].inputs[model], golden[version].expected[model]
                    here = GraphSession(graph_path(folder, model))
                    from_server, from_trainer = {}, {}
                    for size in (ALONE, TOGETHER):
                        answered = _answers(triton, model, version, inputs, size)
                        from_server[size] = _compare(model, here.run_in_batches(inputs, size), answered)
                        from_trainer[size] = _compare(model, expected, answered)
                    found[version, model] = Compared(server=from_server, trainer=from_trainer)
    return found


def _compare(model: str, expected: Tensors, answered: Tensors) -> Differences:
    compare = compare_recommender if model == RECOMMENDER else compare_ranker
    return compare(expected, answered)


def _stage(repository: Path, folders: dict[int, Path]) -> None:
    if not same_tensors(list(folders.values())):
        raise ServingError(
            f"{folders[CHOSEN]}: its tensors are not those of {folders[UNCOMPRESSED]};"
            " compress the same export"
        )
    spec = read_spec(folders[UNCOMPRESSED] / SPEC)
    for model in MODELS:
        configuration = ModelConfiguration.of_model(model, spec, tuple(folders))
        stage_model(repository, configuration, {v: folder / model for v, folder in folders.items()})


def _answers(
    triton: TritonClient, model: str, version: int, inputs: dict[str, np.ndarray], size: int
) -> dict[str, np.ndarray]:
    """Triton's outputs for all requests, `size` users at a time."""
    rows = len(next(iter(inputs.values())))
    parts: list[dict[str, Any]] = [
        triton.infer(
            model, {name: tensor[start : start + size] for name, tensor in inputs.items()}, version=version
        ).outputs
        for start in range(0, rows, size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
