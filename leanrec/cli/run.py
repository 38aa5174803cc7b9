"""Look the machine over, run everything here, look at a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from leanrec.cli.front import (
    LATEST,
    ConfigArgument,
    JsonOption,
    RunOption,
    app,
    console,
    print_recommendations,
    settings_of,
)
from leanrec.config import load_settings
from leanrec.config.section import nearest
from leanrec.console import RunDisplay
from leanrec.errors import ConfigError


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
    if outcome.answers is None:
        console.print(f"No new release: {outcome.figures['drift']['reason']}.")
        return
    for user in outcome.answers["users"]:
        print_recommendations(user)
    console.print(
        f"\nRelease [bold]{outcome.figures['release']['version']}[/] is in {settings.release.repository}."
    )
    console.print(f"The run's report: [bold]{outcome.report}[/]")


@app.command()
def report(run_folder: Annotated[Path, typer.Argument(help="Folder of a run.")] = LATEST) -> None:
    """Draw a run's report again from what the run left."""
    from pipelines.local import redraw_report

    console.print(f"The run's report: [bold]{redraw_report(run_folder)}[/]")


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="A benchmark of benchmarks/.")],
    run_folder: RunOption = LATEST,
    only: Annotated[
        list[str] | None, typer.Option(help="zoo, quality: these of its models alone; may be given again.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Measure us beside a peer in one run and print the ratio."""
    from benchmarks import BENCHMARKS, OF_A_RELEASE, OF_A_RUN, OF_SOME_MODELS

    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark {name!r}; {nearest(name, BENCHMARKS)}")
    if only and name not in OF_SOME_MODELS:
        raise ConfigError(f"bench {name} has no models to choose from; leave --only out")
    given: list[Path] = []
    if name in OF_A_RELEASE | OF_A_RUN:
        given.append(Path(settings_of(run_folder).release.repository))
    if name in OF_A_RUN:
        given.append(run_folder)
    outcome = BENCHMARKS[name](*given, **({"only": only} if only else {}))
    if json_output:
        print(json.dumps(outcome))
    else:
        console.print_json(data=outcome)
