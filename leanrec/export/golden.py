"""Golden requests: inputs and what the trained float32 module answered to them.

They travel with every form of the model, so that any later form, on any server, can be held against the
trainer. A recipe that changes the model itself makes another model on purpose: its graphs are held against
that one's answers (`changed`), and how much worse it is, the gates of quality say. B requests; inputs are
named and shaped as served (`ModelSpec`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from leanrec.errors import ExportError
from leanrec.evaluation.protocol import Protocol
from leanrec.export.runtime import Tensors
from leanrec.features.rows import stack_user_rows, unknown_user
from leanrec.files import read_json, write_json
from leanrec.models.recommender import Recommender
from leanrec.schema import MODELS, RANKER, RECOMMENDER, ModelSpec

TENSORS_FILE = "golden.safetensors"
FACTS_FILE = "golden.json"
NUM_CANDIDATES = 100
"""Candidates of each ranker request, half of them what the recommender answers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """B requests for each model, the trainer's answers, and how far a server may be off."""

    inputs: dict[str, Tensors]
    """Model -> inputs [B, ...] by served name."""
    outputs: dict[str, Tensors]
    """Model -> the trainer's outputs [B, ...] by served name."""
    recipe: str
    """The compression recipe of the graphs that lie beside it."""
    bound: float
    """Largest difference of `score` that a server may show from the same graph in this process."""
    how: str
    """What the graphs may show beside `expected`, in words."""
    changed: dict[str, Tensors] | None = None
    """Model -> outputs [B, ...] of the float32 module that the recipe made of the trained one; None where it
    left that as it was."""

    @property
    def expected(self) -> dict[str, Tensors]:
        """Model -> what the graphs beside it should answer: `changed`, else the trainer's outputs."""
        return self.outputs if self.changed is None else self.changed

    @property
    def num_requests(self) -> int:
        """B."""
        return len(self.inputs[RECOMMENDER]["user_index"])

    def of_recipe(self, recipe: str, changed: Recommender | None) -> Golden:
        """The same requests and answers beside graphs of `recipe`, and those of the model that it changed."""
        if changed is None:
            return replace(self, recipe=recipe)
        answers = {name: answer_eagerly(changed, name, inputs) for name, inputs in self.inputs.items()}
        return replace(self, recipe=recipe, changed=answers)


def draw_golden(model: Recommender, protocol: Protocol, num_requests: int, bound: float) -> Golden:
    """`num_requests` requests: somebody unknown, a user without history, and users of `protocol`.

    The answers are those of `model`, the plain eager module.
    """
    rows = _spread(len(protocol.user), max(0, num_requests - 2))
    known = {name: values[rows] for name, values in protocol.requests.items()}
    unknown = stack_user_rows([unknown_user()], model.spec)
    first = {name: values[:1].copy() for name, values in protocol.requests.items()}
    for name in ("history", "history_ratings", "user_statistics"):
        first[name] = np.zeros_like(first[name])
    width = max(unknown["seen"].shape[1], known["seen"].shape[1])
    parts = [{**part, "seen": _widen(part["seen"], width)} for part in (unknown, first, known)]
    request = {
        tensor.name: np.concatenate([part[tensor.name] for part in parts])[:num_requests]
        for tensor in model.spec.inputs(RECOMMENDER)
    }
    answer = answer_eagerly(model, RECOMMENDER, request)
    user = {name: request[name] for name in request if name != "seen"}
    ranked = {**user, "candidates": _candidates(answer["item_index"], model.spec.num_items)}
    return Golden(
        inputs={RECOMMENDER: request, RANKER: ranked},
        outputs={RECOMMENDER: answer, RANKER: answer_eagerly(model, RANKER, ranked)},
        recipe="fp32",
        bound=bound,
        how="from the trainer too: float32 throughout, so only the order of additions differs",
    )


@torch.inference_mode()
def answer_eagerly(model: Recommender, name: str, inputs: Tensors) -> Tensors:
    """What the plain module `name` (recommender or ranker) answers, without any graph."""
    module = model if name == RECOMMENDER else model.served_ranker().eval()
    values = [torch.from_numpy(inputs[tensor.name]) for tensor in model.spec.inputs(name)]
    answers = module(*values)
    return {
        tensor.name: value.contiguous().numpy()
        for tensor, value in zip(model.spec.outputs(name), answers, strict=True)
    }


def write_golden(golden: Golden, folder: Path) -> None:
    """Write `golden.safetensors` and `golden.json` into `folder`."""
    tensors = {
        f"{side}.{model}.{name}": np.ascontiguousarray(value)
        for side, models in (
            ("inputs", golden.inputs),
            ("outputs", golden.outputs),
            ("changed", golden.changed or {}),
        )
        for model, named in models.items()
        for name, value in named.items()
    }
    save_file(tensors, Path(folder) / TENSORS_FILE)
    write_json(
        Path(folder) / FACTS_FILE,
        {
            "num_requests": golden.num_requests,
            "recipe": golden.recipe,
            "max_score_difference": golden.bound,
            "how": golden.how,
        },
    )


def read_golden(folder: Path) -> Golden:
    """The golden requests in a `graphs` folder. Raises an ExportError when they are missing or damaged."""
    folder = Path(folder)
    try:
        tensors = load_file(folder / TENSORS_FILE)
        facts = read_json(folder / FACTS_FILE)
        recipe, bound, how = facts["recipe"], float(facts["max_score_difference"]), facts["how"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"{folder}: no golden requests in it ({reason}); export the graphs again") from None
    sides: dict[str, dict[str, Tensors]] = {
        side: {model: {} for model in MODELS} for side in ("inputs", "outputs", "changed")
    }
    for key, value in tensors.items():
        side, model, name = key.split(".")
        sides[side][model][name] = value
    return Golden(
        inputs=sides["inputs"],
        outputs=sides["outputs"],
        recipe=recipe,
        bound=bound,
        how=how,
        changed=sides["changed"] if any(sides["changed"].values()) else None,
    )


def check_golden(golden: Golden, spec: ModelSpec, folder: Path) -> None:
    """Raise an ExportError unless `golden` holds every tensor of `spec`."""
    for model in MODELS:
        for side, wanted in (
            (golden.inputs, spec.inputs(model)),
            (golden.outputs, spec.outputs(model)),
            (golden.expected, spec.outputs(model)),
        ):
            missing = sorted({tensor.name for tensor in wanted} - side[model].keys())
            if missing:
                raise ExportError(f"{folder}: the golden requests of {model} lack {', '.join(missing)}")


def _candidates(recommended: np.ndarray, num_items: int) -> np.ndarray:
    """[B, C]: the best items of each list, then items drawn from all."""
    half = min(NUM_CANDIDATES // 2, recommended.shape[1])
    drawn = np.random.default_rng(0).integers(1, num_items, (len(recommended), NUM_CANDIDATES - half))
    return np.concatenate([recommended[:, :half], drawn], axis=1)


def _spread(size: int, wanted: int) -> np.ndarray:
    """`wanted` of 0..size-1, evenly spread, each at most once."""
    return np.unique(np.linspace(0, size - 1, min(size, wanted)).round().astype(np.int64))


def _widen(lists: np.ndarray, width: int) -> np.ndarray:
    return np.pad(lists, ((0, 0), (0, width - lists.shape[1])))
