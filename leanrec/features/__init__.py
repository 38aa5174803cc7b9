"""Features by ibis, the training set and the online rows by Feast.

No other room imports Feast, so each of our processes comes through here first, and gets it without two
things that take most of the time of its import and that nothing here needs: run-time type checks, for which
typeguard compiles Feast's classes anew (it leaves them as they are under `python -O` too; nothing else here
uses it), and PyTorch, which Feast would load in case a caller wants tensors. It must be done at import: Feast
decorates its classes and loads PyTorch when it is imported itself.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import typeguard


def _unchecked(target: Any = None, **_: Any) -> Any:
    """The decorator `typechecked`, which does nothing; with or without options."""
    return target if target is not None else _unchecked


def _torch_when_asked_for() -> ModuleType:
    """Stands for feast.torch_wrapper."""
    wrapper = ModuleType("feast.torch_wrapper", "PyTorch, loaded by whoever asks for it.")
    wrapper.get_torch = lambda: importlib.import_module("torch")  # type: ignore[attr-defined]
    return wrapper


if "feast" not in sys.modules:
    typeguard.typechecked = _unchecked
    sys.modules["feast.torch_wrapper"] = _torch_when_asked_for()
