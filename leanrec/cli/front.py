"""What every command shares: the application, its options, and how an answer is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from leanrec.config import RunSettings, load_settings
from leanrec.errors import ConfigError
from leanrec.files import read_json


def in_order(*names: str) -> type[TyperGroup]:
    """A group of commands whose help lists `names` first, in this order."""

    class InOrder(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            known = super().list_commands(ctx)
            return sorted(known, key=lambda name: names.index(name) if name in names else len(names))

    return InOrder


app = typer.Typer(
    cls=in_order(
        *("doctor", "run", "report", "serve", "gateway", "recommend"),
        *("release", "retrain", "online"),
        *("ingest", "validate", "features", "train", "evaluate", "export", "compress"),
        *("compile", "submit", "bench"),
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From raw interactions to a compressed recommender in Triton.",
)
console = Console(highlight=False)

ConfigArgument = Annotated[Path, typer.Argument(help="A file of configs/.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
WorkOption = Annotated[Path, typer.Option("--work", help="Folder of artifacts.")]
RunOption = Annotated[Path, typer.Option("--run", help="Folder of a run.")]

LATEST = Path("runs/latest")
BY_HAND = Path("runs/by-hand")


class StoppedByHand(BaseException):
    """Ctrl-C or SIGTERM; no `except Exception` on the way out may swallow it."""


def settings_of(run_folder: Path) -> RunSettings:
    """The settings of a finished run, or of a configuration file."""
    if run_folder.suffix in (".yaml", ".yml"):
        return load_settings(run_folder)
    saved = run_folder / "settings.json"
    if not saved.exists():
        raise ConfigError(f"{run_folder}: no run lies there; `leanrec run CONFIG` makes one")
    return RunSettings.parse(read_json(saved))


def print_recommendations(user: dict[str, Any]) -> None:
    """What one user is recommended, as a table."""
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
