"""The next release out of what people did with the last one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from leanrec.cli.front import ConfigArgument, JsonOption, app, console
from leanrec.cli.release import next_step
from leanrec.config import RunSettings, load_settings
from leanrec.console import RunDisplay
from leanrec.errors import ConfigError


@app.command()
def retrain(
    config: ConfigArgument,
    if_drifted: Annotated[bool, typer.Option("--if-drifted", help="Only if new events drift.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Train from nothing, not from the release.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Train from nothing, too, and compare.")] = False,
    to_all: Annotated[bool, typer.Option("--roll-out", help="Then do `leanrec release rollout`.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Train on from the stable release with the events since, pass the gates, publish and roll out.

    Ends with status 0 and "nothing to do" where the event log holds nothing new, or with --if-drifted where
    nothing drifts. With release.strategy canary the new release is a candidate, which --roll-out takes to
    all users; exit status 3 when a bound sends it back.
    """
    from leanrec.release.retraining import nothing_to_learn, refuse_to_start

    settings = _settings_for(
        load_settings(config), if_drifted=if_drifted, full=full, compare=compare, to_all=to_all
    )
    refuse_to_start(settings)
    reason = nothing_to_learn(settings)
    if reason is not None:
        print(json.dumps({"retrain": False, "reason": reason, "release": None}) if json_output else reason)
        return
    _run(settings, json_output)


def _settings_for(
    settings: RunSettings, *, if_drifted: bool, full: bool, compare: bool, to_all: bool
) -> RunSettings:
    if full and compare:
        raise ConfigError(
            "--full trains from nothing alone, so --compare has no warm start to compare with; leave one away"
        )
    if settings.data.feedback is None:
        raise ConfigError(
            "data.feedback is null, so there is no event log to learn from; name the folder that "
            "gateway.event_log writes to"
        )
    trigger = "drift" if if_drifted else "new-events"
    values = settings.model_dump()
    values["training"]["warm_start"] = None if full else "release"
    values["retraining"]["trigger"] = trigger
    values["retraining"]["compare_with_full"] |= compare
    values["rollout"]["after_publish"] |= to_all
    return RunSettings.parse(values)


def _run(settings: RunSettings, json_output: bool) -> None:
    from pipelines.local import run_here

    with RunDisplay(quiet=json_output) as display:
        outcome = run_here(settings, watch=display.show)
    drift, release = outcome.figures["drift"], outcome.figures["release"]
    if json_output:
        print(json.dumps({"retrain": drift["retrain"], "reason": drift["reason"], **outcome.figures}))
        return
    _print_signals(drift["signals"])
    console.print(drift["reason"])
    if release is not None:
        end = next_step(Path(settings.release.repository))
        console.print(f"Release [bold]{release['version']}[/] is in {release['repository']}{end}.")
    console.print(f"The run's report: [bold]{outcome.report}[/]")


def _print_signals(signals: list[dict[str, Any]]) -> None:
    table = Table("new events against the others", "seen", "bound", "chance", "")
    for line in signals:
        mark = "[red]drift[/]" if line["drifted"] else "[green]ok[/]"
        table.add_row(line["name"], *(f"{line[key]:.3f}" for key in ("value", "bound", "chance")), mark)
    console.print(table)


@app.command()
def online(config: ConfigArgument, json_output: JsonOption = False) -> None:
    """Count click-through and ratings by release from the event log, into online.json beside release.json."""
    from leanrec.data.event_log import read_events
    from leanrec.evaluation.online import write_online

    settings = load_settings(config)
    if settings.data.feedback is None:
        raise ConfigError("data.feedback is null, so there is no event log to read; name its folder")
    found = write_online(read_events(Path(settings.data.feedback)), Path(settings.release.repository))
    if json_output:
        print(json.dumps(found))
        return
    table = Table("release", "impressions", "click-through", "95 %", "ratings", "mean")
    for version, line in found["releases"].items():
        table.add_row(
            version,
            f"{line['impressions']:,}",
            _shown(line["click_through"]),
            " to ".join(_shown(end) for end in line["click_through_interval"] or ()),
            f"{line['ratings']:,}",
            _shown(line["mean_rating"]),
        )
    console.print(table)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
