"""Other forms of an embedding table, of a linear layer and of attention, which hold less than the plain ones.

A model is built plain, then `reform` puts forms into the places that its description names:

    {"ranker.sparse.tables.user": {"form": "quotient_remainder", "remainders": 64}, "ranker.over": {...}}

A form of a table answers vectors for indices as nn.Embedding does; it is exported as a few gathers. `imitate`
fills it so that it answers what a plain weight would, as nearly as it can; fine-tuning does the rest.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from leanrec.errors import ExportError
from leanrec.models.forms.form import Form
from leanrec.models.forms.heads import HEADS
from leanrec.models.forms.low_rank import LowRankLinear
from leanrec.models.forms.shared_items import ItemsOfFeatures, ItemsOfTower
from leanrec.models.forms.tables import TABLES

Description = dict[str, dict[str, Any]]
"""Path of a module -> its form's name (`form`) and sizes."""


FORMS: dict[str, type[Form]] = {
    "low_rank": LowRankLinear,
    "items_of_tower": ItemsOfTower,
    "items_of_features": ItemsOfFeatures,
    **TABLES,
    **HEADS,
}
"""Every form by its name in a description."""


def reform(model: nn.Module, description: Description) -> Description:
    """Put the forms of `description` into `model`, in place and still to be filled; answers `description`.

    Raises an ExportError when a form is not known.
    """
    for path, sizes in description.items():
        values = dict(sizes)
        form = FORMS.get(values.pop("form"))
        if form is None:
            raise ExportError(f"model.json: there is no form {sizes['form']!r}; known: {', '.join(FORMS)}")
        model.set_submodule(path, form(model.get_submodule(path), model, **values))
    return description
