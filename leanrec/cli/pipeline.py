"""Compile the pipeline and send it to Kubeflow."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from leanrec import __version__
from leanrec.cli.front import (
    ConfigArgument,
    JsonOption,
    app,
    console,
)
from leanrec.config import load_settings
from leanrec.errors import ConfigError

IMAGE = f"leanrec/pipeline:{__version__}"
VOLUME = "leanrec-workspace"
SECRET = "leanrec-pseudonym-key"  # noqa: S105 - the name of a Secret, not a secret


@app.command(name="compile")
def compile_command(
    output: Annotated[Path, typer.Option("-o", "--output", help="IR YAML to write.")] = Path("pipeline.yaml"),
    image: Annotated[str, typer.Option(help="Image of the steps; pin it by digest.")] = IMAGE,
    training_image: Annotated[str | None, typer.Option(help="Image of the training step.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of the training step.")] = 0,
    shared_memory: Annotated[str, typer.Option(help="Shared memory of the training step.")] = "16Gi",
    volume: Annotated[str, typer.Option(help="PersistentVolumeClaim of the workspace.")] = VOLUME,
    secret: Annotated[str, typer.Option(help="Secret that holds the pseudonym key.")] = SECRET,
) -> None:
    """Compile the pipeline for a cluster."""
    from pipelines.compile import compile_pipeline
    from pipelines.placement import Placement

    placement = Placement(
        image=image,
        training_image=training_image,
        num_gpus=gpus,
        shared_memory=shared_memory,
        volume_claim=volume,
        key_secret=secret,
    )
    compile_pipeline(placement, output)
    console.print(f"{output}: the pipeline for KFP, image {image}")


@app.command()
def submit(
    config: ConfigArgument,
    endpoint: Annotated[str, typer.Option(help="KFP endpoint.", envvar="LEANREC_KFP_ENDPOINT")],
    package: Annotated[Path, typer.Option(help="A compiled pipeline.")] = Path("pipeline.yaml"),
    experiment: Annotated[str, typer.Option(help="KFP experiment.")] = "leanrec",
    namespace: Annotated[str | None, typer.Option(help="Profile namespace.")] = None,
    cron: Annotated[str | None, typer.Option(help="Run again and again: six fields.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Send the compiled pipeline to Kubeflow: a run, or with --cron a recurring run."""
    from pipelines.code_version import code_version
    from pipelines.compile import arguments_of
    from pipelines.submit import submit_pipeline

    if not package.exists():
        raise ConfigError(f"{package}: no such file; `leanrec compile -o {package}` writes it")
    settings = load_settings(config)
    name = f"{settings.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    arguments = arguments_of(settings, run=name, code_version=code_version())
    answer = submit_pipeline(
        package,
        arguments,
        endpoint=endpoint.rstrip("/"),
        experiment=experiment,
        run=name,
        namespace=namespace,
        token=os.environ.get("LEANREC_KFP_TOKEN"),
        cron=cron,
    )
    print(json.dumps(answer) if json_output else f"{name}: {answer['page']}")
