"""Will it fit? What each recipe would hold, by arithmetic over the weights, before anything is trained.

    served bytes     both graphs as they would lie in the model repository
    resident bytes   what a server would hold to answer from them, the weights as ONNX Runtime keeps them

Served bytes are exact up to the graphs' own description (`NODES`, `NAMES`), which does not grow with tables.
Resident bytes are those of the weights and of an empty runtime; what a batch needs comes on top.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from typing import Any

from leanrec.compression.footprint import FOOTPRINTS, RESTORED_AT_LOAD, Footprint, Weight, as_float
from leanrec.compression.method import DENSE, MIN_BYTES, MIN_BYTES_RESTORED, TABLES
from leanrec.config import Recipe, TrainingSettings
from leanrec.config.fit import KNOWN, RESHAPING, check_fit, reshaped
from leanrec.config.methods import GRAPH, METHODS, MODEL
from leanrec.errors import CompressionError
from leanrec.schema import ITEM_STATISTICS, USER_STATISTICS, ModelSpec

NODES, NAMES = 9_000, 250
"""Bytes that describe a graph, and further bytes for each weight that a method rewrites."""
RUNTIME = 6_000_000
"""Resident bytes of one loaded graph without weights."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What one recipe would hold."""

    recipe: str
    bytes: int
    """Served from the repository."""
    resident_bytes: int
    """Held by a server that has loaded it."""
    misses: str | None
    """Which limit it misses and by how much; None when it fits."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every recipe, smallest first, with the answer in words."""

    recipes: tuple[Planned, ...]
    nearest: str
    """The first recipe, in the order asked, that fits; else the one that comes nearest."""
    answer: str
    unplanned: tuple[str, ...]
    """Recipes whose bytes only training decides."""

    def to_json(self) -> dict[str, Any]:
        """As one JSON value."""
        return asdict(self)


Weigh = Callable[[Recipe], list[Weight] | None]
"""The weights of a recipe's model in float32; None where only training decides what they are."""


def plan(
    recipes: Sequence[Recipe],
    weigh: Weigh,
    *,
    max_bytes: int | None = None,
    max_resident_bytes: int | None = None,
) -> Plan:
    """What each of `recipes` would hold, and which fit.

    Raises a CompressionError when there is no recipe that arithmetic can foresee, and for one that cannot be
    applied.
    """
    weighed = [(recipe, _foreseen(recipe, weigh)) for recipe in recipes]
    known = [(recipe, weights) for recipe, weights in weighed if weights]
    if not known:
        names = ", ".join(recipe.name for recipe in recipes)
        raise CompressionError(
            f"compress plan: the bytes of {names} are decided by training; add fp32 or int8"
        )
    limits = {"bytes served": max_bytes, "bytes resident": max_resident_bytes}
    planned = [_planned(recipe, weights, limits) for recipe, weights in known]
    fitting = [p for p in planned if p.misses is None]
    nearest = fitting[0] if fitting else min(planned, key=lambda p: _excess(p, limits))
    return Plan(
        recipes=tuple(sorted(planned, key=lambda p: p.bytes)),
        nearest=nearest.recipe,
        answer=_in_words(nearest, fitting, limits),
        unplanned=tuple(recipe.name for recipe, weights in weighed if not weights),
    )


def weigh_tables(sizes: Mapping[str, tuple[int, int]]) -> Weigh:
    """Gathered tables by name, each (rows, columns), held once; no recipe may change the model."""
    for name, (rows, columns) in sizes.items():
        if rows < 1 or columns < 1:
            raise CompressionError(f"table {name}: {rows}x{columns}; give rows x columns, both at least 1")
    tables = [Weight(name=name, rows=r, columns=c, kind=TABLES) for name, (r, c) in sizes.items()]
    return lambda recipe: None if recipe.of_kind(MODEL) else tables


def weigh_release(spec: ModelSpec, settings: TrainingSettings) -> Weigh:
    """All of a release of this architecture; what a recipe makes narrower before training is narrower.

    Raises a CompressionError when the architecture is none that `weights_of_release` knows, and for a recipe
    that does not suit it.
    """
    for part, known in KNOWN.items():
        model = getattr(settings, part).model
        if model != known:
            raise CompressionError(
                f"compress plan: the sizes of {known} alone are known, and the {part} is {model!r}; give its "
                "tables by themselves: --table NAME=ROWSxCOLUMNS"
            )

    def weigh(recipe: Recipe) -> list[Weight] | None:
        try:
            check_fit(recipe, settings)
        except ValueError as error:
            raise CompressionError(f"compress plan: {error}") from None
        small = settings
        for step in recipe.of_kind(MODEL):
            method = step.parsed()
            if not isinstance(method, RESHAPING):
                return None
            small = reshaped(method, small)
        return weights_of_release(spec, small)

    return weigh


def weights_of_release(spec: ModelSpec, settings: TrainingSettings) -> list[Weight]:
    """Every matrix of both graphs of a release of two_tower and dcn_v2, as export writes them."""
    wide, narrow = settings.retriever.dim, settings.ranker.dim
    attributes = list(spec.attribute_cardinalities.values())
    user_row = [("user", spec.num_users), *((f"attribute_{i}", n) for i, n in enumerate(attributes))]
    item_width = 2 * narrow + len(ITEM_STATISTICS)
    width = narrow * (2 + len(attributes)) + len(USER_STATISTICS) + item_width + 2
    tower = [wide * (2 + len(attributes)) + len(USER_STATISTICS), *settings.retriever.hidden, wide]
    user, item = width - item_width - 2, item_width + 2
    deep = list(pairwise([width, *settings.ranker.hidden]))
    shared = [
        *((f"retriever.{name}", rows, wide, TABLES) for name, rows in user_row),
        ("retriever.history", spec.num_items, wide, TABLES),
        *((f"retriever.tower.{i}", *shape, DENSE) for i, shape in enumerate(pairwise(tower))),
        *((f"ranker.{name}", rows, narrow, TABLES) for name, rows in user_row),
        ("ranker.item", spec.num_items, narrow, TABLES),
        ("item_features", spec.num_items, item_width, TABLES),
        *(
            (f"ranker.cross.{i}.{rows}.{columns}", rows, columns, DENSE)
            for i in range(settings.ranker.cross_layers)
            for rows, columns in product((user, item), repeat=2)
        ),
        *((f"ranker.deep.0.{side}", side, deep[0][1], DENSE) for side in (user, item)),
        *((f"ranker.deep.{i}", *shape, DENSE) for i, shape in enumerate(deep[1:], 1)),
        *((f"ranker.over.{side}", side, 3, DENSE) for side in (user, item, deep[-1][1])),
    ]
    weights = [
        Weight(name=name, rows=rows, columns=columns, kind=kind, copies=2)
        for name, rows, columns, kind in shared
    ]
    # Retrieval multiplies by all item vectors; the ranker gathers those of its candidates.
    vectors = Weight(name="recommender.item_vectors", rows=wide, columns=spec.num_items, kind=DENSE)
    gathered = Weight(name="ranker.item_vectors", rows=spec.num_items, columns=wide, kind=TABLES)
    return [*weights, vectors, gathered]


def _foreseen(recipe: Recipe, weigh: Weigh) -> list[Weight] | None:
    known = all(step.method in FOOTPRINTS for step in recipe.of_kind(GRAPH))
    return weigh(recipe) if known else None


def _planned(recipe: Recipe, weights: Sequence[Weight], limits: Mapping[str, int | None]) -> Planned:
    graphs = max(weight.copies for weight in weights)
    served, resident = graphs * NODES, graphs * RUNTIME
    for weight in weights:
        stored = _footprint(weight, recipe)
        served += weight.copies * (stored.served + (NAMES if stored != as_float(weight) else 0))
        resident += weight.copies * stored.resident
    held = dict(zip(limits, (served, resident), strict=True))
    misses = [
        f"{held[what] / limit:.2f} times the limit of {limit:,} {what}"
        for what, limit in limits.items()
        if limit is not None and held[what] > limit
    ]
    return Planned(
        recipe=recipe.name, bytes=served, resident_bytes=resident, misses="; ".join(misses) or None
    )


def _footprint(weight: Weight, recipe: Recipe) -> Footprint:
    """What is held of `weight` in the form that the recipe gives to its kind."""
    stored = as_float(weight)
    size = stored.served
    for step in recipe.of_kind(GRAPH):
        worth = MIN_BYTES_RESTORED if step.method in RESTORED_AT_LOAD else MIN_BYTES
        if size >= worth and weight.kind in METHODS[step.method]().rewrites():
            stored = FOOTPRINTS[step.method](weight, step.parsed())
    return stored


def _excess(planned: Planned, limits: Mapping[str, int | None]) -> float:
    held = dict(zip(limits, (planned.bytes, planned.resident_bytes), strict=True))
    return max(held[what] / max(1, limit) for what, limit in limits.items() if limit is not None)


def _in_words(nearest: Planned, fitting: Sequence[Planned], limits: Mapping[str, int | None]) -> str:
    size = f"{nearest.recipe} with {nearest.bytes:,} bytes served, {nearest.resident_bytes:,} resident"
    if all(limit is None for limit in limits.values()):
        return f"no limit is given; {size} comes first"
    if not fitting:
        return f"nothing fits; the nearest is {nearest.recipe}: {nearest.misses}"
    others = len(fitting) - 1
    return f"{size} fits" + (f", and so do {others} more" if others else "")
