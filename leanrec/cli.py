"""The front door: `leanrec --help`. The one file that may import every room.

A user's mistake ends with one sentence and exit status 2, a missed gate with 3; never a traceback.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from leanrec import __version__, steps
from leanrec.config import RunSettings, load_settings
from leanrec.console import RunDisplay
from leanrec.errors import ConfigError, LeanRecError, ReleaseError
from leanrec.files import read_json

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
release_app = typer.Typer(no_args_is_help=True, help="Publish, look at, promote and roll back releases.")
app.add_typer(release_app, name="release")
console = Console(highlight=False)

ConfigArgument = Annotated[Path, typer.Argument(help="A file of configs/.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
WorkOption = Annotated[Path, typer.Option("--work", help="Folder of artifacts.")]
RunOption = Annotated[Path, typer.Option("--run", help="Folder of a run.")]

IMAGE = f"leanrec/pipeline:{__version__}"
VOLUME = "leanrec-workspace"
SECRET = "leanrec-pseudonym-key"  # noqa: S105 - the name of a Secret, not a secret

LATEST = Path("runs/latest")
BY_HAND = Path("runs/by-hand")


def main() -> None:
    """Run the command line; every error of ours ends as one sentence."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop_by_hand)
    try:
        app()
    except LeanRecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{(error.strerror or str(error)).lower()}; mend that and run again",
            file=sys.stderr,
        )
        sys.exit(2)
    except StoppedByHand:
        print("error: stopped by hand; nothing half-written was kept, run again to go on", file=sys.stderr)
        sys.exit(2)


class StoppedByHand(BaseException):
    """Ctrl-C or SIGTERM; no `except Exception` on the way out may swallow it."""


def _stop_by_hand(*_: object) -> NoReturn:
    raise StoppedByHand


@app.command()
def doctor(json_output: JsonOption = False) -> None:
    """Look this machine over and say how to mend what is missing."""
    from dataclasses import asdict

    from leanrec.doctor import examine

    findings = examine()
    if json_output:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table("", "what", "seen", "how to mend")
        marks = {"ok": "[green]ok[/]", "warning": "[yellow]look[/]", "error": "[red]bad[/]"}
        for finding in findings:
            mend = "" if finding.state == "ok" else finding.mend
            table.add_row(marks[finding.state], finding.subject, finding.seen, mend)
        console.print(table)
    if any(finding.state == "error" for finding in findings):
        raise typer.Exit(2)


@app.command()
def run(config: ConfigArgument, json_output: JsonOption = False) -> None:
    """Run the whole pipeline here, from raw interactions to answers by Triton."""
    from leanrec.data.sources import NOTICES
    from pipelines.local import run_here

    settings = load_settings(config)
    with RunDisplay(quiet=json_output) as display:
        display.tell(NOTICES.get(settings.data.source, ""))
        outcome = run_here(settings, watch=display.show)
    if json_output:
        print(json.dumps(outcome.figures))
        return
    for user in outcome.answers["users"]:
        _print_recommendations(user)
    console.print(
        f"\nRelease [bold]{outcome.figures['release']['version']}[/] is in {settings.release.repository}."
    )
    console.print(f"The run's report: [bold]{outcome.report}[/]")


def _print_recommendations(user: dict[str, Any]) -> None:
    name = f"[bold]User {user['user'][:12]}[/]"
    if user["known"]:
        console.print(f"\n{name} liked {_titles(user['liked'])}")
    else:
        console.print(f"\n{name} is unknown: here is what most people like.")
    title = "Triton recommends" if user["known"] else "most liked"
    table = Table("", title, "score", "because of")
    for line in user["recommendations"]:
        because = " · ".join(line["because"])
        table.add_row(str(line["rank"]), line["title"], f"{line['score']:.4f}", because)
    console.print(table)


def _titles(liked: list[dict[str, Any]]) -> str:
    return " · ".join(item["title"] for item in liked[:5]) or "nothing yet"


def _step_command(name: str) -> None:
    function = steps.STEPS[name]

    def command(config: ConfigArgument, work: WorkOption = BY_HAND, json_output: JsonOption = False) -> None:
        figures = function(load_settings(config), steps.WorkFolder(path=work))
        if json_output:
            print(json.dumps(figures, default=str))
        else:
            console.print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))

    app.command(name, help=function.__doc__)(command)


for _name in steps.STEPS:
    _step_command(_name)


@app.command()
def serve(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a run, or a file of configs/.")] = LATEST,
    verbose: Annotated[bool, typer.Option(help="Show Triton's own log.")] = False,
) -> None:
    """Serve a run's model repository with the real Triton until Ctrl-C."""
    from serving import embedded

    settings = _settings_of(run_folder)
    serving = settings.serving
    arguments = ["--repository", settings.release.repository, "--host", serving.host]
    for port in ("http", "grpc", "metrics"):
        arguments += [f"--{port}-port", str(getattr(serving, f"{port}_port"))]
    raise typer.Exit(embedded.main([*arguments, *(["--verbose"] if verbose else [])]))


@app.command()
def recommend(
    user: Annotated[str, typer.Option(help="User id, as in the raw data.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    run_folder: RunOption = LATEST,
    server: Annotated[str | None, typer.Option(help="Triton's gRPC address.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Ask a running Triton what to recommend to a user, and why."""
    from leanrec.data.pseudonyms import load_key, pseudonym_of
    from leanrec.release.recommendation import recommend_to

    settings = _settings_of(run_folder)
    address = server or f"{settings.serving.host}:{settings.serving.grpc_port}"
    answer = recommend_to(
        pseudonym_of(user, load_key()),
        k,
        release=settings.release,
        store=settings.feature_store,
        server=address,
    )
    if json_output:
        print(json.dumps(answer))
    else:
        _print_recommendations({**answer, "user": user})
        console.print(
            f"Release {answer['version']}; {answer['latency_ms']:.1f} ms with opening both connections."
        )


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


@app.command()
def report(run_folder: Annotated[Path, typer.Argument(help="Folder of a run.")] = LATEST) -> None:
    """Draw a run's report again from what the run left."""
    from pipelines.local import redraw_report

    console.print(f"The run's report: [bold]{redraw_report(run_folder)}[/]")


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="A benchmark of benchmarks/.")],
    run_folder: RunOption = LATEST,
    json_output: JsonOption = False,
) -> None:
    """Measure us beside a peer in one run and print the ratio."""
    from benchmarks import BENCHMARKS

    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    outcome = BENCHMARKS[name](Path(_settings_of(run_folder).release.repository))
    if json_output:
        print(json.dumps(outcome))
    else:
        console.print_json(data=outcome)


@release_app.command()
def status(config: ConfigArgument, json_output: JsonOption = False) -> None:
    """What the repository holds and which version is stable."""
    from leanrec.release.promote import status

    facts = status(Path(load_settings(config).release.repository))
    if json_output:
        print(json.dumps(facts))
        return
    table = Table("version", "", "published", "recipe", "bytes")
    for line in facts["versions"]:
        number = line["version"]
        role = "stable" if number == facts["stable"] else "served" if number in facts["served"] else "kept"
        size = "" if line["bytes"] is None else f"{line['bytes']:,}"
        table.add_row(str(number), role, str(line["published_at"]), str(line["recipe"]), size)
    console.print(f"{facts['repository']}: version {facts['stable']} is stable")
    console.print(table)
    if not facts["settled"]:
        console.print("A writer is at work or was stopped; the next publish, promote or rollback settles it.")


@release_app.command()
def verify(config: ConfigArgument, version: int, json_output: JsonOption = False) -> None:
    """Hold every file of a version against its checksum; exit status 2 when one is damaged."""
    from leanrec.release.promote import verify

    faults = verify(Path(load_settings(config).release.repository), version)
    if json_output:
        print(json.dumps({"version": version, "ok": not faults, "faults": faults}))
    else:
        print("\n".join(faults) or f"ok: version {version} is as it was published")
    if faults:
        raise ReleaseError(
            f"version {version}: {len(faults)} file(s) differ from what was published; publish it again"
        )


@release_app.command()
def publish(config: ConfigArgument, work: WorkOption = BY_HAND) -> None:
    """Prove parity, then publish what the steps by hand have made as version N+1."""
    from pipelines.code_version import code_version

    figures = steps.publish(load_settings(config), steps.WorkFolder(path=work), code_version=code_version())
    console.print(f"Release {figures['version']} is in {figures['repository']}.")


@release_app.command()
def promote(config: ConfigArgument, version: int, json_output: JsonOption = False) -> None:
    """Make a version of the repository the stable one."""
    from leanrec.release.promote import promote

    stable = promote(Path(load_settings(config).release.repository), version)
    print(json.dumps({"stable": stable}) if json_output else f"Version {stable} is stable.")


@release_app.command()
def rollback(config: ConfigArgument, json_output: JsonOption = False) -> None:
    """Go back to the version that was stable before."""
    from leanrec.release.promote import rollback

    stable = rollback(Path(load_settings(config).release.repository))
    print(json.dumps({"stable": stable}) if json_output else f"Version {stable} is stable again.")


def _settings_of(run_folder: Path) -> RunSettings:
    """The settings of a finished run, or of a configuration file."""
    if run_folder.suffix in (".yaml", ".yml"):
        return load_settings(run_folder)
    saved = run_folder / "settings.json"
    if not saved.exists():
        raise ConfigError(f"{run_folder}: no run lies there; `leanrec run CONFIG` makes one")
    return RunSettings.parse(read_json(saved))
