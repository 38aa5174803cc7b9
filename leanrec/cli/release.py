"""Publish, look at, promote and roll back releases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from leanrec import steps
from leanrec.cli.front import (
    BY_HAND,
    ConfigArgument,
    JsonOption,
    StoppedByHand,
    WorkOption,
    app,
    console,
    in_order,
)
from leanrec.config import load_settings
from leanrec.errors import ReleaseError
from leanrec.release.state import WHY_BY_HAND

if TYPE_CHECKING:
    from leanrec.release.rollout.controller import Observation

release_app = typer.Typer(
    cls=in_order(
        *("status", "list", "diff", "verify"),
        *("publish", "rollout", "abort", "promote", "rollback"),
        *("prune", "push", "pull", "tune"),
    ),
    no_args_is_help=True,
    help="Publish releases, look them over, roll them out and back, and store them.",
)
app.add_typer(release_app, name="release")

ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the history; one line.")]


@release_app.command()
def status(config: ConfigArgument, json_output: JsonOption = False) -> None:
    """What the repository holds, which version is stable, and the rollout under way."""
    from leanrec.release.promote import status

    facts = status(Path(load_settings(config).release.repository))
    if json_output:
        print(json.dumps(facts))
        return
    table = Table("version", "", "published", "recipe", "bytes")
    for line in facts["versions"]:
        size = "" if line["bytes"] is None else f"{line['bytes']:,}"
        cells = (line["version"], line["role"], line["published_at"], line["recipe"], size)
        table.add_row(*map(str, cells))
    console.print(f"{facts['repository']}: version {facts['stable']} is stable")
    console.print(table)
    print_damaged(facts["versions"])
    if facts["rollout"]:
        console.print(_rollout_in_words(facts["rollout"], watched=facts["watched"]))
    if facts["history"]:
        console.print(_transition_in_words(facts["history"][-1]), markup=False)
    if not facts["settled"]:
        console.print("A writer is at work or was stopped; the next publish, promote or rollback settles it.")


@release_app.command()
def verify(config: ConfigArgument, version: int, json_output: JsonOption = False) -> None:
    """Hold every file of a version against its checksum; exit status 2 when one differs."""
    from leanrec.release.integrity import verify

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
def publish(config: ConfigArgument, work: WorkOption = BY_HAND, json_output: JsonOption = False) -> None:
    """Prove parity and hold what the steps by hand have made against what serves; then publish it."""
    from pipelines.code_version import code_version

    figures = steps.publish(load_settings(config), steps.WorkFolder(path=work), code_version=code_version())
    if json_output:
        print(json.dumps(figures))
        return
    repository = Path(figures["repository"])
    console.print(f"Release {figures['version']} is in {repository}{next_step(repository)}.")


@release_app.command()
def promote(
    config: ConfigArgument,
    version: int,
    reason: ReasonOption = WHY_BY_HAND["promote"],
    json_output: JsonOption = False,
) -> None:
    """Make a version that is kept the stable one at once, without a rollout."""
    from leanrec.release.mirror import push_where_stored
    from leanrec.release.promote import promote

    settings = load_settings(config).release
    stable = promote(Path(settings.repository), version, reason)
    push_where_stored(settings)
    print(json.dumps({"stable": stable}) if json_output else f"Version {stable} is stable.")


@release_app.command()
def rollout(
    config: ConfigArgument,
    version: Annotated[int | None, typer.Argument(help="Version to roll out; none: go on.")] = None,
    gateway: Annotated[list[str] | None, typer.Option(help="URL of a gateway replica; repeat it.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Take a candidate to all users step by step; exit status 3 when a bound sends it back."""
    from leanrec.release.rollout.session import roll_out

    settings = load_settings(config)
    try:
        stable = roll_out(
            settings,
            version,
            gateways=gateway or (),
            watch=None if json_output else lambda seen: console.print(_observation_in_words(seen)),
        )
    except StoppedByHand:
        _refuse_to_end_quietly(Path(settings.release.repository))
        raise
    print(json.dumps({"stable": stable}) if json_output else f"Version {stable} is stable.")


@release_app.command()
def abort(
    config: ConfigArgument,
    reason: ReasonOption = WHY_BY_HAND["withdraw"],
    json_output: JsonOption = False,
) -> None:
    """End the rollout under way; the stable version goes on."""
    from leanrec.release.mirror import push_where_stored
    from leanrec.release.promote import withdraw
    from leanrec.release.state import stated_reason

    settings = load_settings(config).release
    stable = withdraw(Path(settings.repository), stated_reason(reason))
    push_where_stored(settings)
    print(
        json.dumps({"stable": stable}) if json_output else f"The candidate is withdrawn; {stable} is stable."
    )


@release_app.command()
def rollback(
    config: ConfigArgument,
    reason: ReasonOption = WHY_BY_HAND["rollback"],
    json_output: JsonOption = False,
) -> None:
    """Go back to the version that was stable before; during a rollout, end that instead."""
    from leanrec.release.mirror import push_where_stored
    from leanrec.release.promote import rollback

    settings = load_settings(config).release
    stable = rollback(Path(settings.repository), reason)
    push_where_stored(settings)
    print(json.dumps({"stable": stable}) if json_output else f"Version {stable} is stable again.")


def print_damaged(versions: list[dict[str, Any]]) -> None:
    """A line for each version whose manifest cannot be read."""
    for line in versions:
        if line["damaged"]:
            console.print(f"Damaged: {line['damaged']}", markup=False)


def next_step(repository: Path) -> str:
    """What a person does with the version just published, if anything, as the end of a sentence."""
    from leanrec.release.repository import ModelRepository

    if ModelRepository(repository.absolute()).required_state().rollout is None:
        return ""
    return "; it is a candidate, and `leanrec release rollout` takes it on"


def _refuse_to_end_quietly(repository: Path) -> None:
    """A ReleaseError where a controller that is stopped leaves a candidate behind that meets users."""
    from leanrec.release.repository import ModelRepository

    rollout = ModelRepository(repository.absolute()).required_state().rollout
    if rollout is not None:
        raise ReleaseError(
            f"stopped by hand; version {rollout.version} stays as it is ({rollout.shown()}), and nobody"
            " watches it: `leanrec release rollout` goes on with it, `leanrec release abort` ends it"
        ) from None


def _transition_in_words(line: dict[str, Any]) -> str:
    before = "" if line["from"] is None else f"{line['from']} → "
    why = f": {line['reason']}" if line.get("reason") else ""
    return f"Last change: {line['action']} {before}{line['to']}, {line['at']}{why}."


def _rollout_in_words(rollout: dict[str, Any], *, watched: bool) -> str:
    from leanrec.release.state import Rollout

    what = f"{Rollout(**rollout).shown()} since {rollout['since']}"
    ways = "" if watched else "; no controller watches it: `rollout` goes on with it, `abort` ends it"
    return f"Version {rollout['version']} is being rolled out: {what}{ways}."


def _observation_in_words(seen: Observation) -> str:
    silent = f"; silent: {', '.join(seen.silent)}" if seen.silent else ""
    return (
        f"{seen.rollout.shown()}, {seen.seconds:.0f} s: candidate {seen.candidate.requests:.0f} requests,"
        f" {seen.candidate.errors:.0f} failed; stable {seen.stable.requests:.0f} requests,"
        f" {seen.stable.errors:.0f} failed{silent}"
    )
