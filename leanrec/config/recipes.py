"""Recipes: sequences of compression methods, as YAML writes them.

recipes:
  - int8                                  # a recipe of `RECIPES`, by name
  - name: small                           # or one of your own
    steps:
      - distil: {retriever_dim: 32}       # a method with settings
      - int4_tables                       # a method as it comes
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import field_validator, model_serializer, model_validator

from leanrec.config.methods import METHODS, MODEL, Int4Tables, Int8Tables, MethodSettings, QuantizationAware
from leanrec.config.section import Section, nearest
from leanrec.errors import ConfigError


class Step(Section):
    """One method with its settings: `name` or `{name: {setting: value}}`."""

    method: str
    """A name of `leanrec.config.methods.METHODS`."""
    settings: dict[str, Any]
    """All settings of the method, defaults included, so that the recipe can be replayed later."""

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {value: {}}
        if not isinstance(value, dict) or len(value) != 1:
            raise ValueError("a step is a method's name, or {name: settings}: {int4_tables: {block: 16}}")
        ((method, settings),) = value.items()
        if method not in METHODS:
            raise ValueError(f"there is no method {method!r}; {nearest(str(method), METHODS)}")
        if not isinstance(settings, dict | None):
            raise ValueError(f"the settings of {method} are a mapping, such as {{{method}: {{}}}}")
        try:
            parsed = METHODS[method].parse(settings or {})
        except ConfigError as error:
            raise ValueError(f"{method}: {error}") from None
        return {"method": method, "settings": parsed.written()}

    @model_serializer
    def _to_yaml(self) -> dict[str, Any]:
        return {self.method: self.settings}

    def parsed(self) -> Any:
        """The method's own section of settings."""
        return METHODS[self.method].parse(self.settings)


class Recipe(Section):
    """A named sequence of methods: those that change the model, then those that rewrite the graph."""

    name: str
    """How figures and releases call it."""
    steps: tuple[Step, ...] = ()
    """Applied one after another."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in RECIPES:
            raise ValueError(f"there is no recipe {value!r}; {nearest(value, RECIPES)}")
        return RECIPES[value].model_dump()

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not name or not all(letter.isalnum() or letter in "_-." for letter in name) or name[0] == ".":
            raise ValueError("a recipe's name is made of letters, digits, '_', '-' and '.'")
        return name

    @model_validator(mode="after")
    def _composes(self) -> Self:
        check_composition(self)
        return self

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of its methods, in order."""
        return tuple(step.method for step in self.steps)

    @property
    def scales_by_batch(self) -> bool:
        """Whether a user's scores depend on who shares the batch; a server then must not merge requests."""
        return any(METHODS[method].scales_by_batch for method in self.methods)

    def of_kind(self, kind: str) -> tuple[Step, ...]:
        """Its steps on the model, or those on the graph."""
        return tuple(step for step in self.steps if METHODS[step.method].kind == kind)


def check_composition(recipe: Recipe) -> None:
    """Raise a ValueError where the steps of `recipe` do not go together.

    When their kinds are out of order, something is rewritten twice, or tables are served in another rounding
    than the one they were fine-tuned for.
    """
    rewritten: dict[str, str] = {}
    exported_by: str | None = None
    for step in recipe.steps:
        settings: MethodSettings = step.parsed()
        if settings.kind != MODEL:
            exported_by = step.method
        elif exported_by is not None:
            raise ValueError(
                f"recipe {recipe.name}: {step.method} changes the model, but {exported_by} before it works "
                f"on the exported graph, whose tables are folded already; put {step.method} first"
            )
        for what in sorted(settings.rewrites()):
            if what in rewritten:
                raise ValueError(
                    f"recipe {recipe.name}: {rewritten[what]} and {step.method} both rewrite the {what} "
                    "weights, which have one form; drop one of them"
                )
            rewritten[what] = step.method
    _check_rounding(recipe)


def _check_rounding(recipe: Recipe) -> None:
    served = [step.parsed() for step in recipe.steps if step.method in ("int8_tables", "int4_tables")]
    for step in recipe.steps:
        settings = step.parsed()
        if not isinstance(settings, QuantizationAware):
            continue
        foreseen = settings.form_of_tables()
        for form in served:
            if form != foreseen:
                raise ValueError(
                    f"recipe {recipe.name}: quantization_aware rounds tables as {_in_words(foreseen)}, but "
                    f"{_in_words(form)} follows; let both say the same (by table_bits, and block or "
                    "int8_block and int8_symmetric, of quantization_aware)"
                )


def _in_words(form: Int8Tables | Int4Tables) -> str:
    """As `int8_tables (block 0, symmetric True)`."""
    name = next(name for name, known in METHODS.items() if type(form) is known)
    return f"{name} ({', '.join(f'{key} {value}' for key, value in form.written().items())})"


BASELINE = "fp32"
"""The uncompressed export, which all others are held against."""

_AS_IT_WAS = {"retriever_epochs": 0, "ranker_epochs": 0}
"""No fine-tuning yet: a later step does it."""

_EIGHT_EPOCHS = {"retriever_epochs": 4, "ranker_epochs": 4}

_LEAN: tuple[Any, ...] = (
    {"prune_dimensions": {"retriever_dim": 22, **_AS_IT_WAS}},
    {"prune_cross_layers": {"cross_layers": 1, **_AS_IT_WAS}},
    {"prune_neurons": {"share": 0.75, "parts": ["ranker"], **_AS_IT_WAS}},
    {"share_items": {"retriever": False, **_AS_IT_WAS}},
    {"low_rank": {"cross_rank": 16, "teacher_weight": 0.75, **_EIGHT_EPOCHS}},
)
"""The model of `lean` and `lean4`."""

_LEAST: tuple[Any, ...] = (
    {"prune_dimensions": {"retriever_dim": 12, "ranker_dim": 16, **_AS_IT_WAS}},
    {"prune_cross_layers": {"cross_layers": 1, **_AS_IT_WAS}},
    {"share_items": _AS_IT_WAS},
    {"low_rank": {"cross_rank": 8, "deep_rank": 8, "rate": 1, "retriever_epochs": 2, "ranker_epochs": 2}},
)

_EXACT = {"factorize_tables": {"energy": 0.9999}}
"""Item features have fewer ranks than columns, for a category's columns are the same in all its items."""

RECIPES: dict[str, Recipe] = {}
RECIPES.update(
    (name, Recipe.parse({"name": name, "steps": steps}))
    for name, steps in {
        BASELINE: (),
        "fp16": ("fp16",),
        "int8_tables": ("int8_tables",),
        "int8_mlp": ("int8_mlp",),
        "int8": ("int8_tables", "int8_mlp"),
        "int8_static": ("int8_tables", "int8_static"),
        "int4": ({"int4_tables": {"block": 32}}, "int8_static"),
        "lean": (*_LEAN, _EXACT, "int8_tables", "int8_dense"),
        "lean4": (*_LEAN, {"int4_tables": {"block": 32}}, "int8_dense"),
        "least": (
            *_LEAST,
            {"factorize_tables": {"energy": 0.9}},
            "int4_tables",
            {"int4_dense": {"block": 0}},
        ),
    }.items()
)
"""Recipes with names of their own."""

DEFAULT_RECIPES = tuple(RECIPES[name] for name in (BASELINE, "fp16", "int8_tables", "int8_mlp", "int8"))
"""Tried where a configuration names none: those that train nothing."""
