"""How sure one may be of a share."""

from __future__ import annotations

import math


def wilson_interval(share: float, total: float, z: float) -> tuple[float, float]:
    """The ends of the Wilson interval of a share seen in `total` trials, `z` standard deviations each way.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    shrink = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / shrink
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / shrink
    return centre - half, centre + half
