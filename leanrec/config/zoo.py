"""The models by name, and the options that only one of them has. leanrec/models holds what the names mean."""

from __future__ import annotations

import difflib
from typing import Annotated

from pydantic import AfterValidator

RETRIEVERS = ("two_tower",)
RANKERS = ("dcn_v2",)


def _one_of(names: tuple[str, ...]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
            raise ValueError(f"there is no such model; {hint}")
        return name

    return AfterValidator(check)


RetrieverName = Annotated[str, _one_of(RETRIEVERS)]
RankerName = Annotated[str, _one_of(RANKERS)]
