"""What another form of a table or layer has to offer."""

from __future__ import annotations

from typing import Any

from torch import nn


class Form(nn.Module):
    """What stands in the place of a plain module: `__init__(plain, model, **sizes)`, all plain values."""

    def imitate(self, plain: Any) -> None:
        """Fill the weights so that it answers what `plain` answers, as nearly as it can."""
        raise NotImplementedError
