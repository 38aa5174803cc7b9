"""Benchmarks: each measures us beside a baseline in one run, side by side, and answers

name, ours, baseline, ratio (above 1: we are better), unit, settings.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import serving

BENCHMARKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "serving": serving.measure,
}
"""Name -> what measures, given the folder of the model repository."""
