"""The models that `--only` asks for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from leanrec.config.section import nearest
from leanrec.errors import ConfigError


def those(names: Collection[str], only: Sequence[str]) -> set[str]:
    """The names `only`, or all; a ConfigError for one that is not among `names`."""
    for name in only:
        if name not in names:
            raise ConfigError(f"--only {name!r} is no model to choose here; {nearest(name, names)}")
    return set(only or names)
