"""Puts this folder on the import path, so that tests of several rooms can share `tiny_release`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest

# No test asserts a time, and the machine that runs them may be busy.
# Without a seed of the moment a change is never judged by what another run did not meet.
hypothesis.settings.register_profile(
    "leanrec", deadline=None, derandomize="LEANREC_FUZZ_REQUESTS" not in os.environ
)
hypothesis.settings.load_profile("leanrec")


class TinyExport(NamedTuple):
    """An untrained model, what it belongs to, and its graphs with 24 golden requests: for reading only."""

    model: Path
    features: Path
    training_set: Path
    graphs: Path


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> TinyExport:
    """Made once a process, because exporting is slow."""
    from tiny_model import make_tiny_model

    from leanrec.config import ReleaseSettings
    from leanrec.export.graphs import export_graphs

    folder = tmp_path_factory.mktemp("tiny_export")
    tiny = make_tiny_model(folder)
    settings = ReleaseSettings(repository="unused", num_golden=24)
    export_graphs(settings, **tiny._asdict(), output=folder / "graphs")
    return TinyExport(*tiny, graphs=folder / "graphs")
