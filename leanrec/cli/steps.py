"""The steps one at a time, by hand."""

from __future__ import annotations

import json

from leanrec import steps
from leanrec.cli.compression import compress_app
from leanrec.cli.front import (
    BY_HAND,
    ConfigArgument,
    JsonOption,
    WorkOption,
    app,
    console,
)
from leanrec.cli.training import train
from leanrec.config import load_settings


def _step_command(name: str) -> None:
    function = steps.STEPS[name]

    def command(config: ConfigArgument, work: WorkOption = BY_HAND, json_output: JsonOption = False) -> None:
        figures = function(load_settings(config), steps.WorkFolder(path=work))
        if json_output:
            print(json.dumps(figures, default=str))
        else:
            console.print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))

    if name == "compress":
        compress_app.command("run", help=function.__doc__)(command)
    else:
        app.command(name, help=function.__doc__)(command)


for _name in steps.STEPS:
    if _name == "train":
        app.command(_name)(train)
    else:
        _step_command(_name)
