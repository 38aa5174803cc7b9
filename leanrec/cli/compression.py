"""Plan a compression before anything is trained, beside the step `leanrec compress CONFIG`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from leanrec.cli.front import BY_HAND, JsonOption, WorkOption, app, console
from leanrec.config import RunSettings, load_settings
from leanrec.errors import CompressionError, ConfigError
from leanrec.files import read_json
from leanrec.schema import ModelSpec

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
ASSUMED_CARDINALITY = 64
"""Rows of an attribute's or the categories' table while no data says how many."""


class RunsByDefault(TyperGroup):
    """`leanrec compress CONFIG` runs the step; any other word is a command of the group."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the step's command before arguments that name none."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


compress_app = typer.Typer(
    cls=RunsByDefault,
    no_args_is_help=True,
    help="Try every recipe and choose one (compress CONFIG), or plan what each would hold (compress plan).",
)
app.add_typer(compress_app, name="compress")


@compress_app.command()
def plan(
    config: Annotated[
        Path | None, typer.Argument(help="A file of configs/: its recipes and release.")
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option(help="Tables by themselves in the release's place: users=10000000x64.")
    ] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Users; else those of the data in --work.")] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Items; else those of the data in --work.")] = None,
    max_bytes: Annotated[str | None, typer.Option(help="Budget of bytes served, such as 500MB.")] = None,
    device: Annotated[str | None, typer.Option(help="Memory of the device that serves, such as 8GB.")] = None,
    work: WorkOption = BY_HAND,
    json_output: JsonOption = False,
) -> None:
    """Will it fit? What each recipe would hold for tables of given sizes, before anything is trained.

    Where none fits, it ends with exit status 2. The recipes are those of CONFIG, or without it those that
    have names of their own.
    """
    from leanrec.compression.plan import plan, weigh_release, weigh_tables
    from leanrec.config.recipes import RECIPES

    if config is None and not table:
        raise ConfigError(
            "compress plan: give a file of configs/, or --table NAME=ROWSxCOLUMNS, one of both at least"
        )
    tables = _tables(table or [])
    settings = load_settings(config) if config is not None else None
    recipes, budget = tuple(RECIPES.values()), size_of(max_bytes)
    if settings is not None:
        recipes, budget = settings.compression.recipes, budget or settings.compression.max_bytes
    if tables or settings is None:
        weigh = weigh_tables(tables)
    else:
        weigh = weigh_release(_spec(settings, work, users, items), settings.training)
    answer = plan(recipes, weigh, max_bytes=budget, max_resident_bytes=size_of(device))
    print(json.dumps(answer.to_json())) if json_output else _show(answer)
    if not answer.fits:
        raise CompressionError(f"compress plan: {answer.answer}")


def size_of(text: str | None) -> int | None:
    """Bytes in '500MB' (or None); a ConfigError when it is no size."""
    if text is None:
        return None
    found = re.fullmatch(r"([\d.]+)\s*([a-z]*)", text.strip().lower())
    if not found or found[2] not in UNITS or found[1].count(".") > 1:
        raise ConfigError(f"{text!r} is no size; write it as 500MB, 2GiB or a number of bytes")
    return round(float(found[1]) * UNITS[found[2]])


def _table(text: str) -> tuple[str, tuple[int, int]]:
    number = r"(\d+(?:_\d+)*)"  # 10_000 as Python reads it
    found = re.fullmatch(rf"([\w.-]+)={number}x{number}", text)
    if not found:
        raise ConfigError(f"--table {text!r}: write it as NAME=ROWSxCOLUMNS, such as users=10000000x64")
    return found[1], (int(found[2]), int(found[3]))


def _tables(texts: list[str]) -> dict[str, tuple[int, int]]:
    """Name -> (rows, columns); a ConfigError for a name given twice."""
    tables: dict[str, tuple[int, int]] = {}
    for text in texts:
        name, size = _table(text)
        if name in tables:
            raise ConfigError(f"--table {text!r}: {name} is given twice; name each table once")
        tables[name] = size
    return tables


def _spec(settings: RunSettings, work: Path, users: int | None, items: int | None) -> ModelSpec:
    """The sizes that the data in `work` has, or would have with so many users and items."""
    built = work / "features" / "spec.json"
    if built.exists():
        spec = ModelSpec(**{"top_k": settings.training.top_k, **read_json(built)})
    elif users and items:
        spec = ModelSpec(
            num_users=users + 1,
            num_items=items + 1,
            num_categories=ASSUMED_CARDINALITY,
            attribute_cardinalities=dict.fromkeys(settings.data.user_attributes, ASSUMED_CARDINALITY),
            history_length=settings.features.history_length,
            top_k=settings.training.top_k,
            liked_threshold=settings.features.liked_threshold,
        )
    else:
        raise ConfigError(
            f"{work}: it holds no features to count users and items in; give --users and --items"
        )
    return replace(
        spec,
        num_users=users + 1 if users else spec.num_users,
        num_items=items + 1 if items else spec.num_items,
    )


def _show(answer: Any) -> None:
    shown = Table("recipe", "bytes served", "resident", "")
    for row in answer.recipes:
        bound = "at most " if row.at_most else ""
        sizes = (f"{bound}{size:,}" for size in (row.bytes, row.resident_bytes))
        shown.add_row(row.recipe, *sizes, row.misses or "fits")
    console.print(shown)
    if answer.fits:
        console.print(f"{answer.answer}.")
    for name, reason in answer.refused.items():
        console.print(f"{name} is refused: {reason}.", markup=False)
    if answer.unplanned:
        console.print(
            f"Not foreseen: {', '.join(answer.unplanned)}. Layers decide their bytes, of which tables by "
            "themselves tell nothing."
        )
