"""Will it fit? What each recipe would hold, by arithmetic over the weights, before anything is trained.

    served bytes     both graphs as they would lie in the model repository
    resident bytes   what a server would hold to answer from them, the weights as ONNX Runtime keeps them

Served bytes are exact up to the graphs' own description (`NODES`, `NAMES`), which does not grow with tables.
Resident bytes are those of the weights and of the runtime; what a batch needs comes on top.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from leanrec.compression.blueprint import SIZED, blueprint, table_weights, weights_of
from leanrec.compression.footprint import (
    FOOTPRINTS,
    RESTORED_AT_LOAD,
    STORED_ALIKE,
    Footprint,
    Weight,
    as_float,
)
from leanrec.compression.method import MIN_BYTES, MIN_BYTES_RESTORED
from leanrec.compression.methods.reform_tables import describe
from leanrec.compression.shapes import Parts, shapes_of
from leanrec.config import Recipe, TrainingSettings
from leanrec.config.methods import (
    GRAPH,
    MODEL,
    FactorizeTables,
    MethodSettings,
    MixedTables,
    PruneRows,
    QuantizationAware,
    ReformTables,
)
from leanrec.errors import CompressionError
from leanrec.models.forms import FORMS
from leanrec.schema import ModelSpec

NODES, NAMES = 9_000, 250
"""Bytes that describe a graph, and further bytes for each weight that a method rewrites."""
RUNTIME, MORE_GRAPHS = 9_200_000, 4_000_000
"""Resident bytes of a process with one loaded graph without weights, and of each further graph in it."""
OPERATORS = {"int8_static": 2_300_000, "int8_mlp": 700_000}
"""Method -> resident bytes of the operators that multiply in 8 bits."""
RESHAPING_TABLES = {"factorize_tables", "prune_rows"}
"""Methods after which a table's rows are not what was turned from them."""
AT_MOST = "at most "


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What one recipe would hold."""

    recipe: str
    bytes: int
    """Served from the repository."""
    resident_bytes: int
    """Held by a server that has loaded it."""
    at_most: bool
    """Whether weights or data decide how much smaller it becomes, so that both are bounds."""
    misses: str | None
    """Which limit it misses and by how much; None when it fits."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every recipe, smallest first, with the answer in words."""

    recipes: tuple[Planned, ...]
    nearest: str
    """The first recipe, in the order asked, that fits; else the one that comes nearest."""
    fits: bool
    """Whether there is one that fits."""
    answer: str
    unplanned: tuple[str, ...]
    """Recipes that change more of a model than is given."""
    refused: dict[str, str]
    """Recipes that could not be applied, with the reason."""

    def to_json(self) -> dict[str, Any]:
        """As one JSON value."""
        return asdict(self)


Weigh = Callable[[Recipe], list[Weight] | None]
"""The weights of a recipe's model in float32; None where it changes more of a model than is given."""


def plan(
    recipes: Sequence[Recipe],
    weigh: Weigh,
    *,
    max_bytes: int | None = None,
    max_resident_bytes: int | None = None,
) -> Plan:
    """What each of `recipes` would hold, and which fit.

    Raises a CompressionError when there is none that arithmetic can foresee.
    """
    limits = {"bytes served": max_bytes, "bytes resident": max_resident_bytes}
    planned: list[Planned] = []
    unplanned: list[str] = []
    refused: dict[str, str] = {}
    for recipe in recipes:
        try:
            shapes = _foreseen(recipe, weigh)
        except CompressionError as error:
            refused[recipe.name] = str(error)
            continue
        if shapes is None:
            unplanned.append(recipe.name)
        else:
            planned.append(_planned(recipe, shapes, limits))
    if not planned:
        raise CompressionError(f"compress plan: {_none_foreseen(unplanned, refused)}; add fp32 or int8")
    fitting = [p for p in planned if p.misses is None]
    nearest = fitting[0] if fitting else min(planned, key=lambda p: _excess(p, limits))
    return Plan(
        recipes=tuple(sorted(planned, key=lambda p: p.bytes)),
        nearest=nearest.recipe,
        fits=bool(fitting),
        answer=_in_words(nearest, fitting, limits),
        unplanned=tuple(unplanned),
        refused=refused,
    )


def weigh_tables(sizes: Mapping[str, tuple[int, int]]) -> Weigh:
    """Gathered tables by name, each (rows, columns), held once.

    Of methods on the model, those on tables alone can be foreseen; their settings name the tables.
    """
    for name, (rows, columns) in sizes.items():
        if rows < 1 or columns < 1:
            raise CompressionError(f"table {name}: {rows}x{columns}; give rows x columns, both at least 1")

    def weigh(recipe: Recipe) -> list[Weight] | None:
        with torch.device("meta"):
            tables: dict[str, nn.Module] = {name: nn.Embedding(*size) for name, size in sizes.items()}
            for step in recipe.of_kind(MODEL):
                settings = step.parsed()
                if isinstance(settings, ReformTables):
                    for name, sizes_of_form in describe(step.method, settings, tables).items():
                        values = dict(sizes_of_form)
                        tables[name] = FORMS[values.pop("form")](tables[name], None, **values)
                elif not isinstance(settings, QuantizationAware):
                    return None
        return [weight for name, table in tables.items() for weight in table_weights(name, table)]

    return weigh


def weigh_release(spec: ModelSpec, settings: TrainingSettings) -> Weigh:
    """All of a release of this architecture, as a recipe's methods on the model leave it.

    Raises a CompressionError when the architecture is none that `weights_of` knows.
    """
    for part, known in SIZED.items():
        model = getattr(settings, part).model
        if model not in known:
            raise CompressionError(
                f"compress plan: the sizes of {' and '.join(known)} alone are known, and the {part} is "
                f"{model!r}; give its tables by themselves: --table NAME=ROWSxCOLUMNS"
            )
    return lambda recipe: weights_of(blueprint(recipe, spec, settings))


def _foreseen(recipe: Recipe, weigh: Weigh) -> list[list[Parts]] | None:
    """What may stand of each weight before it is stored in another form; None where more decides."""
    weights = weigh(recipe)
    return None if weights is None else shapes_of(weights, [step.parsed() for step in recipe.of_kind(GRAPH)])


def _none_foreseen(unplanned: Sequence[str], refused: Mapping[str, str]) -> str:
    reasons = [f"{name} is refused: {reason}" for name, reason in refused.items()]
    if unplanned:
        reasons.insert(0, f"tables by themselves do not tell the bytes of {', '.join(unplanned)}")
    return "; ".join(reasons)


def _planned(recipe: Recipe, shapes: list[list[Parts]], limits: Mapping[str, int | None]) -> Planned:
    graphs = max(part.copies for forms in shapes for parts in forms for part in parts)
    served, resident = graphs * NODES, RUNTIME + (graphs - 1) * MORE_GRAPHS
    resident += sum(OPERATORS.get(method, 0) for method in recipe.methods)
    at_most = any(_leaves_open(step.parsed()) for step in recipe.steps)
    steps = [(step.method, step.parsed()) for step in recipe.of_kind(GRAPH)]
    for forms in shapes:
        copies = forms[0][0].copies
        stored = [_stored(parts, steps) for parts in forms]
        if not _held_as_a_table(forms[0][0], dict(steps)):
            served += copies * max(each.served for each in stored)
        resident += copies * max(each.resident for each in stored)
    held = dict(zip(limits, (served, resident), strict=True))
    misses = [
        f"{AT_MOST if at_most else ''}{held[what] / limit:.2f} times the limit of {limit:,} {what}"
        for what, limit in limits.items()
        if limit is not None and held[what] > limit
    ]
    return Planned(
        recipe=recipe.name,
        bytes=served,
        resident_bytes=resident,
        at_most=at_most,
        misses="; ".join(misses) or None,
    )


def _leaves_open(settings: Any) -> bool:
    """Factors as wide as the weights' energy asks; rows and forms that requests decide."""
    by_energy = isinstance(settings, FactorizeTables) and settings.rank is None
    return by_energy or isinstance(settings, PruneRows | MixedTables)


def _held_as_a_table(weight: Weight, methods: Mapping[str, MethodSettings]) -> bool:
    """Whether the table that `weight` is turned from is stored in the very same bytes, held once."""
    if weight.turned_from is None or 4 * weight.size < MIN_BYTES or methods.keys() & RESHAPING_TABLES:
        return False
    return any(
        dense in methods
        and table in methods
        and getattr(methods[dense], "block", 0) == getattr(methods[table], "block", 0)
        and getattr(methods[table], "symmetric", True)
        for dense, table in STORED_ALIKE.items()
    )


def _stored(parts: Sequence[Weight], steps: Sequence[tuple[str, MethodSettings]]) -> Footprint:
    """What is held of a weight that stands as `parts`, names and the places of its rows included."""
    held = [(part, _footprint(part, steps)) for part in parts]
    named = NAMES * sum(
        len(parts) > 1 or part.places > 0 or stored != as_float(part) for part, stored in held
    )
    return Footprint(
        served=named + sum(stored.served + part.places for part, stored in held),
        resident=sum(stored.resident + part.places for part, stored in held),
    )


def _footprint(weight: Weight, steps: Sequence[tuple[str, MethodSettings]]) -> Footprint:
    """What is held of `weight` in the form that `steps`, methods with their settings, give to its kind."""
    stored = as_float(weight)
    size = stored.served
    for method, settings in steps:
        worth = MIN_BYTES_RESTORED if method in RESTORED_AT_LOAD else MIN_BYTES
        if size >= worth and weight.kind in settings.rewrites():
            stored = FOOTPRINTS[method](weight, settings)
    return stored


def _excess(planned: Planned, limits: Mapping[str, int | None]) -> float:
    held = dict(zip(limits, (planned.bytes, planned.resident_bytes), strict=True))
    return max(held[what] / max(1, limit) for what, limit in limits.items() if limit is not None)


def _in_words(nearest: Planned, fitting: Sequence[Planned], limits: Mapping[str, int | None]) -> str:
    bound = AT_MOST if nearest.at_most else ""
    size = f"{nearest.recipe} with {bound}{nearest.bytes:,} bytes served, {nearest.resident_bytes:,} resident"
    if all(limit is None for limit in limits.values()):
        return f"no limit is given; {size} comes first"
    if not fitting:
        return f"nothing fits; the nearest is {nearest.recipe}: {nearest.misses}"
    others = len(fitting) - 1
    return f"{size} fits" + (f", and so do {others} more" if others else "")
