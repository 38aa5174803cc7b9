"""Training by hand, and what it would hold before it starts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from leanrec import steps
from leanrec.cli.front import BY_HAND, ConfigArgument, JsonOption, WorkOption, console
from leanrec.config import RunSettings, load_settings
from leanrec.errors import ConfigError

if TYPE_CHECKING:
    from leanrec.training.footprint import TrainingPlan

SIZES = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def train(
    config: ConfigArgument,
    work: WorkOption = BY_HAND,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what each process would hold.")] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="With --plan: so many processes.")] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="With --plan: on what.")] = "cpu",
    device_memory: Annotated[
        str | None, typer.Option(help="With --plan: of each device (80GiB), or of the host of CPUs.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Folder for a profiler's trace of some steps (chrome://tracing).")
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard events.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Train the retriever and the ranker."""
    settings = load_settings(config)
    if plan:
        memory = size_of(device_memory) if device_memory else None
        _show_plan(settings, work, processes or settings.training.num_processes, device, memory, json_output)
        return
    given = {"profile": profile, "tensorboard": tensorboard}
    watched = {name: str(folder.absolute()) for name, folder in given.items() if folder}
    training = settings.training.model_copy(update=watched)
    figures = steps.train(settings.model_copy(update={"training": training}), steps.WorkFolder(path=work))
    if json_output:
        print(json.dumps(figures))
    else:
        console.print("train: " + ", ".join(f"{key} {value}" for key, value in figures.items()))


def size_of(text: str) -> int:
    """Bytes of "80GiB" and the like; a ConfigError names what is wrong."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]iB)?", text)
    if found is None:
        raise ConfigError(f"--device-memory {text!r} is not a size; write 80GiB, or a number of bytes")
    return int(float(found[1]) * SIZES[found[2] or ""])


def _show_plan(
    settings: RunSettings, work: Path, processes: int, device: str, memory: int | None, json_output: bool
) -> None:
    from leanrec.files import read_json
    from leanrec.models.inputs import read_item_inputs
    from leanrec.schema import ModelSpec
    from leanrec.training.fits import Room, does_not_fit, refusal
    from leanrec.training.footprint import plan_training
    from leanrec.training.memory import available_memory
    from leanrec.training.sharded_model import quiet_planner

    quiet_planner()
    features = steps.WorkFolder(path=work).made("features")
    spec = ModelSpec(**{**read_json(features / "spec.json"), "top_k": settings.training.top_k})
    items = read_item_inputs(features / "items.parquet")
    found = plan_training(settings.training, spec, items, num_processes=processes, device=device)
    there = available_memory()
    room = Room(device=memory, host=there) if device == "cuda" else Room(device=None, host=memory or there)
    fault = refusal(found, settings.training, spec, items, room)
    if json_output:
        print(json.dumps({**found.to_json(), "fits": fault is None, "answer": fault or "it fits"}))
    else:
        _print_plan(found)
        console.print(f"{processes} processes on {device}: {fault or 'it fits'}.")
    if fault is not None:
        raise does_not_fit(found, fault)


def _print_plan(plan: TrainingPlan) -> None:
    from leanrec.training.memory import size_in_words

    table = Table("model", "table", "rows x width", "sharding", "ranks", "a rank holds at most")
    for line in plan.tables:
        first, last = line.ranks[0], line.ranks[-1]
        in_a_row = 1 < len(line.ranks) == last - first + 1
        ranks = f"{first} to {last}" if in_a_row else ", ".join(map(str, line.ranks))
        most = size_in_words(max(part.held for part in line.parts.values()))
        table.add_row(line.model, line.table, f"{line.rows:,} x {line.dim}", line.sharding, ranks, most)
    console.print(table)
    for name, size in (
        ("tables and their sums on a rank's device, at most", max(plan.table_bytes)),
        ("on a rank's host behind its device's cache, at most", max(plan.behind_cache_bytes)),
        ("dense part with gradients and averages, a rank", plan.dense_bytes),
        ("plain models on the host, a rank", plan.plain_bytes),
        ("of them on its device", plan.plain_device_bytes),
        ("the best and a checkpoint on the host, a rank", max(plan.kept_bytes)),
        ("Adagrad's sums in full, on rank 0's host", plan.gathered_bytes),
        ("sent by a rank in a step of equal shares, at most", plan.sent_bytes),
        ("sent by a rank when replicas are averaged", plan.averaged_bytes),
        ("in all on the fullest device", plan.on_device),
        ("in all on the host", plan.on_host),
    ):
        console.print(f"{name:<50} {size_in_words(size):>12}")
