"""A model in a throwaway repository, to be measured or compared in a Triton of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from leanrec.files import write_text
from leanrec.triton.model_configuration import CONFIGURATION, ModelConfiguration


def stage_model(models: Path, configuration: ModelConfiguration, folders: Mapping[int, Path]) -> None:
    """Put the model that `configuration` names into the repository `models`: its versions are links.

    `folders`: version -> the folder that holds its `model.onnx`; a version left out is the caller's to fill.
    """
    write_text(models / configuration.name / CONFIGURATION, configuration.to_pbtxt())
    for version, folder in folders.items():
        (models / configuration.name / str(version)).symlink_to(Path(folder).absolute())
