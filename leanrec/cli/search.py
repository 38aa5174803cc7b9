"""Search for hyper-parameters: here with Optuna, in a cluster with Katib."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
import yaml

from leanrec.cli.front import BY_HAND, ConfigArgument, JsonOption, WorkOption, app, console
from leanrec.cli.pipeline import IMAGE, VOLUME
from leanrec.config import load_settings
from leanrec.errors import ConfigError
from leanrec.files import write_text
from leanrec.steps import WorkFolder, inputs_of

search_app = typer.Typer(help="Search for hyper-parameters.", no_args_is_help=True)
app.add_typer(search_app, name="search")


@search_app.command("run")
def run_search(config: ConfigArgument, work: WorkOption = BY_HAND, json_output: JsonOption = False) -> None:
    """Train again and again with other settings; the best go into WORK/search/best.yaml."""
    from leanrec.training.search import search_settings

    settings = load_settings(config)
    made = WorkFolder(path=work)
    report = search_settings(
        settings.search,
        settings.training,
        **inputs_of(made),
        output=made.new("search"),
    )
    if json_output:
        print(json.dumps(report))
        return
    best, figure = report["best"], report["figure"]
    found = ", ".join(f"training.{name} {value}" for name, value in best["parameters"].items())
    was = "failed" if report["as_it_was"] is None else f"{report['as_it_was']:.4f}"
    console.print(f"best {figure} {best[figure]:.4f} (as it was: {was}) with {found}")
    console.print(f"{work / 'search' / 'best.yaml'}: the section for {config}")


@search_app.command()
def trial(
    config: ConfigArgument,
    work: WorkOption = BY_HAND,
    given: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE below `training`.")] = None,
) -> None:
    """Train once with some settings replaced and print the figures: what a trial of Katib runs."""
    from leanrec.training.search import with_parameters
    from leanrec.training.train import train_models

    settings = load_settings(config)
    values = {}
    for assignment in given or []:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: write NAME=VALUE, such as retriever.dim=32")
        values[name] = yaml.safe_load(value)
    with tempfile.TemporaryDirectory(prefix="leanrec-trial-") as folder:
        summary = train_models(
            with_parameters(settings.training, values),
            **inputs_of(WorkFolder(path=work)),
            output=Path(folder) / "model",
        )
    for name, value in summary.items():
        if name.startswith("valid_"):
            print(f"{name}={value}", flush=True)


@search_app.command()
def manifest(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="YAML to write.")] = Path("experiment.yaml"),
    namespace: Annotated[str, typer.Option(help="Namespace of the Experiment.")] = "leanrec",
    image: Annotated[str, typer.Option(help="The pipeline image; pin it by digest.")] = IMAGE,
    volume: Annotated[str, typer.Option(help="PersistentVolumeClaim of the workspace.")] = VOLUME,
    configuration: Annotated[
        str, typer.Option(help="ConfigMap that holds the configuration as run.yaml.")
    ] = "release-configuration",
    work: Annotated[Path, typer.Option(help="Work folder in the workspace.")] = Path("/workspace/by-hand"),
) -> None:
    """Write the search as a Katib Experiment."""
    from leanrec.training.katib import katib_experiment

    settings = load_settings(config)
    experiment = katib_experiment(
        settings.search,
        settings.training,
        name=f"{settings.name}-search",
        namespace=namespace,
        image=image,
        volume=volume,
        configuration=configuration,
        work=work,
    )
    write_text(output, yaml.safe_dump(experiment, sort_keys=False))
    console.print(f"{output}: a Katib Experiment of {settings.search.trials} trials")
