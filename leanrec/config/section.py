"""A section of settings: frozen, unknown keys refused, errors that name the key and the way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leanrec.errors import ConfigError

Widths = tuple[Annotated[int, Field(ge=1)], ...]
"""Of hidden layers, the first one first."""


class Section(BaseModel):
    """Settings that cannot change and take no key they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """The section in `values`; a ConfigError names the first key at fault and the way out."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(cls, error)) from None


def nearest(name: str, known: Iterable[str], what: str = "known") -> str:
    """What to say of an unknown name: the nearest of those known, or all of them."""
    lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"did you mean {lower[near[0]]!r}?" if near else f"{what}: {', '.join(lower.values())}"


def _explain(section: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or section.__name__
    if first["type"] == "extra_forbidden":
        hint = nearest(str(first["loc"][-1]), _known_keys(section, first["loc"][:-1]), "known keys")
        return f"unknown setting {where!r}; {hint}"
    if first["type"] == "missing":
        return f"setting {where!r} is missing; add it"
    said, seen = first["msg"].removeprefix("Value error, "), first["input"]
    if first["type"] == "literal_error":
        near = difflib.get_close_matches(str(seen), re.findall("'([^']*)'", first["ctx"]["expected"]), n=1)
        said += f"; did you mean {near[0]!r}?" if near else ""
    # What is wrong of a section as a whole is said; all of it would hide that.
    return f"setting {where!r}: {said}" + ("" if isinstance(seen, dict) else f" (seen: {seen!r})")


def _known_keys(section: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        field = section.model_fields.get(str(part))
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            section = inner
    return list(section.model_fields)
