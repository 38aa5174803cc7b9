"""When the next release is trained, and how much the world may change before it is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leanrec.config.section import Section


class RetrainingSettings(Section):
    """When a run trains, and the bounds of drift: new events against those that the newest release knew."""

    trigger: Literal["always", "new-events", "drift"] = "always"
    """What a run needs to go on to training: nothing, events new to every release, or drift among them."""
    compare_with_full: bool = False
    """Where training starts from a release, train a second model from nothing beside it and compare both."""
    max_feature_psi: float = Field(default=0.25, gt=0)
    """Bound on the population stability index of each input feature, beyond chance."""
    max_score_psi: float = Field(default=0.25, gt=0)
    """Bound on the same index of the serving release's P(like), beyond chance."""
    max_unknown_items: float = Field(default=0.05, ge=0, le=1)
    """Share of new events on items that the serving release does not know."""
    max_unknown_users: float = Field(default=0.2, ge=0, le=1)
    """Share of new events of users that the serving release does not know."""
    max_click_through_loss: float = Field(default=0.2, ge=0, le=1)
    """Share of the click-through before that the new impressions may lose, beyond chance."""
