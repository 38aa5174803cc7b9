"""A caller's values as a request can carry them.

What none can carry is refused here, by a ServingError that names the field; the gateway judges the rest.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from leanrec.errors import ServingError
from serving.gateway.api import MAX_ID_LENGTH, NO_CONTROL_CHARACTERS
from serving.gateway.event_models import Event

CheckedT = TypeVar("CheckedT")


def text(field: str, value: object) -> str:
    """Text that UTF-8 can hold."""
    if not isinstance(value, str) or not _is_utf8(value):
        raise refused(field, value, "is no text in UTF-8; give a str without lone surrogates")
    return value


def identifier(field: str, value: object) -> str:
    """A user's or an item's id, as the gateway takes it."""
    if not (
        isinstance(value, str)
        and len(value) <= MAX_ID_LENGTH
        and re.fullmatch(NO_CONTROL_CHARACTERS, value)
        and _is_utf8(value)
    ):
        rule = f"is no id: a str of 1 to {MAX_ID_LENGTH} characters, no control character, no lone surrogate"
        raise refused(field, value, f"{rule}; give it as in the raw data")
    return value


def identifiers(field: str, values: object) -> list[str]:
    """Several ids, in whatever holds them: a list, a tuple, a set, an array."""
    return several(field, values, identifier)


def several(field: str, values: object, check: Callable[[str, object], CheckedT]) -> list[CheckedT]:
    """Each of `values` as `check` lets it through; a text or an event alone is not several."""
    if isinstance(values, str | Event) or not isinstance(values, Iterable):
        raise refused(field, values, "is not several; give a list, also of one alone")
    return [check(f"{field}[{n}]", value) for n, value in enumerate(values)]


def whole(field: str, value: object) -> int:
    """An int, or what stands for one without loss, such as numpy's integers."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise refused(field, value, "is no whole number; give an int") from None


def release(field: str, value: object) -> int | None:
    """A release's number; none: the user's own."""
    return None if value is None else whole(field, value)


def share(field: str, value: Any) -> float:
    """A number from 0 to 1."""
    try:
        if not isinstance(value, bool) and 0 <= value <= 1:
            return float(value)
    except (TypeError, ValueError):
        pass
    raise refused(field, value, "is no number from 0 to 1; give one")


def flag(field: str, value: object) -> bool:
    """Yes or no."""
    if not isinstance(value, bool):
        raise refused(field, value, "is neither True nor False; give one of them")
    return value


def named(checks: Mapping[str, Callable[[str, Any], Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    """Each of `values` as the check of its name lets it through."""
    for name in values:
        if name not in checks:
            raise ServingError(f"there is no option {name!r}; there are {', '.join(checks)}")
    return {name: checks[name](name, value) for name, value in values.items()}


def event(field: str, value: object) -> dict[str, Any]:
    """An event as JSON holds it; checked again, for pydantic lets one be made or changed unchecked."""
    if not isinstance(value, Event):
        raise refused(field, value, "is no event; give an Event")
    try:
        return Event.model_validate(dict(value)).model_dump(mode="json", exclude_none=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([field, *(str(part) for part in first["loc"])])
        rule = first["msg"].removeprefix("Value error, ")
        raise refused(where, first["input"], f"does not pass: {rule}; make it by Event(...)") from None


def refused(field: str, value: object, rule: str) -> ServingError:
    """The error that says which field holds what, and why that does not do."""
    try:
        seen = f"{value!r:.80}"
    except Exception:  # an int of thousands of digits has none, nor need another's class
        seen = f"({type(value).__name__})"
    return ServingError(f"{field} {seen} {rule}")


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
