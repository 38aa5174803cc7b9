"""Two processes of which one is slow: samples a second with equal shares of a batch, and with measured ones.

The training of benchmarks/scaling.py with its popular ids; the last process waits a while for each of its
samples, as a slower host would compute longer. Beside both stand two processes of which none waits.
"""

from __future__ import annotations

import os
import statistics
from typing import Any

from benchmarks.scaling import SETTINGS, samples_per_s

SLOW_US = 300
"""Microseconds that the slow process waits for each sample."""
ROUNDS = 3


def measure(rounds: int = ROUNDS, slow_us: float = SLOW_US, **settings: Any) -> dict[str, Any]:
    """Samples a second of both."""
    job = {**SETTINGS, **settings}
    ways = {
        "measured": {"slow_us": slow_us, "balance": "measured"},
        "equal": {"slow_us": slow_us, "balance": "equal"},
        "none slow": {"slow_us": 0, "balance": "equal"},
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(samples_per_s([2], job | way))
    ratios = [ours / theirs for ours, theirs in zip(found["measured"], found["equal"], strict=True)]
    return {
        "name": "uneven",
        "ours": statistics.median(found["measured"]),
        "baseline": statistics.median(found["equal"]),
        "ratio": statistics.median(ratios),
        "unit": "samples a second of two processes, one of them slow: measured shares beside equal ones",
        "none_slow": statistics.median(found["none slow"]),
        "rounds": found,
        "settings": {**job, "slow_us": slow_us, "rounds": rounds, "cores": os.cpu_count()},
    }
