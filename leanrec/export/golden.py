"""Golden requests: inputs with the trainer's own answers, which every later form must give again.

`golden.safetensors` holds, for each graph, its inputs and the trainer's outputs, named
`<graph>/in/<tensor>` and `<graph>/out/<tensor>`, each [G, ...]. `golden.json` says which recipe the
graphs beside it have and how far their scores may be from the trainer's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from leanrec.errors import ExportError
from leanrec.export.runtime import Tensors
from leanrec.files import atomic_file, read_json, write_json

TENSORS_FILE = "golden.safetensors"
FACTS_FILE = "golden.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class GoldenRequests:
    """G requests of one graph: inputs as served, and what the trainer's float32 module answered."""

    inputs: Tensors
    outputs: Tensors


@dataclass(frozen=True, kw_only=True)
class GoldenFacts:
    """What `golden.json` says of the graphs beside it."""

    num_golden: int
    """G."""
    recipe: str
    """How the graphs were compressed."""
    max_score_difference: float
    """Bound on |trainer - graph| of every score."""
    how: str
    """Where the bound comes from."""

    def to_json(self) -> dict[str, Any]:
        """The content of golden.json."""
        return {
            "num_golden": self.num_golden,
            "recipe": self.recipe,
            "max_score_difference": self.max_score_difference,
            "how": self.how,
        }


def save_golden(folder: Path, golden: dict[str, GoldenRequests], facts: GoldenFacts) -> None:
    """Write both files into `folder`."""
    tensors: Tensors = {}
    for graph, requests in golden.items():
        tensors |= {f"{graph}/in/{name}": value for name, value in requests.inputs.items()}
        tensors |= {f"{graph}/out/{name}": value for name, value in requests.outputs.items()}
    with atomic_file(Path(folder) / TENSORS_FILE) as beside:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, beside)
    save_facts(folder, facts)


def save_facts(folder: Path, facts: GoldenFacts) -> None:
    """Write `golden.json` into `folder`."""
    write_json(Path(folder) / FACTS_FILE, facts.to_json())


def load_golden(folder: Path, graph: str) -> GoldenRequests:
    """The golden requests of `graph` in `folder`."""
    path = Path(folder) / TENSORS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path}: not the golden requests of an export ({error}); export again") from None
    inputs = _below(tensors, f"{graph}/in/")
    if not inputs:
        raise ExportError(f"{path}: it has no requests for the graph {graph!r}; export again")
    return GoldenRequests(inputs=inputs, outputs=_below(tensors, f"{graph}/out/"))


def load_facts(folder: Path) -> GoldenFacts:
    """What `golden.json` in `folder` says."""
    path = Path(folder) / FACTS_FILE
    try:
        return GoldenFacts(**read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(f"{path}: not the facts of golden requests ({error}); export again") from None


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
