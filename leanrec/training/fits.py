"""Will it fit? A plan held against the memory that is there, and the nearest plan that does fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from leanrec.config import TrainingSettings
from leanrec.errors import TrainingError
from leanrec.models.inputs import ItemInputs
from leanrec.schema import ModelSpec
from leanrec.training.footprint import TrainingPlan, plan_training
from leanrec.training.layout import Layout
from leanrec.training.memory import size_in_words

NUMBERS = (1, 2, 4, 8, 16, 32, 64)
"""Of processes, to be proposed."""
CACHED = 0.2
"""The share of a table's rows that is proposed for a GPU's cache; TorchRec's own."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """The memory that is there, in bytes, and for how many processes."""

    device: int | None
    """Of each device; None for CPUs, whose memory is the host's."""
    host: int
    """Of the one host."""
    most: int | None = None
    """Processes that may be proposed; None: any number."""


def misfit(plan: TrainingPlan, room: Room) -> str | None:
    """What does not fit; None where all does."""
    if room.device is not None and plan.on_device > room.device:
        return (
            f"the fullest device needs {size_in_words(plan.on_device)}, each has {size_in_words(room.device)}"
        )
    if plan.on_host > room.host:
        return f"the host needs {size_in_words(plan.on_host)}, {size_in_words(room.host)} are there"
    return None


def refusal(
    plan: TrainingPlan, settings: TrainingSettings, spec: ModelSpec, items: ItemInputs, room: Room
) -> str | None:
    """What does not fit, and the nearest plan that does; None where all fits. See `nearest_that_fits`."""
    fault = misfit(plan, room)
    if fault is None:
        return None
    return f"{fault}; {nearest_that_fits(plan, settings, spec, items, room)}"


def does_not_fit(plan: TrainingPlan, fault: str) -> TrainingError:
    """The error with which training, and the plan of it, end for what `refusal` says."""
    return TrainingError(f"training with {plan.num_processes} processes does not fit: {fault}")


def nearest_that_fits(
    plan: TrainingPlan, settings: TrainingSettings, spec: ModelSpec, items: ItemInputs, room: Room
) -> str:
    """Another number of processes, with settings as they are or with the fewest changes that make it fit.

    Where no plan does, what would help.
    """
    of_device = room.device is not None and plan.on_device > room.device
    others = [n for n in NUMBERS if n != plan.num_processes and (room.most is None or n <= room.most)]
    for tried, changes in _ways(settings, plan.device):
        for number in (plan.num_processes, *others):
            if number % tried.replicas or not _may_fit(plan, tried, number, room):
                continue
            other = plan
            if changes or number != plan.num_processes:
                other = plan_training(tried, spec, items, num_processes=number, device=plan.device)
            if other is not plan and misfit(other, room) is None:
                return _proposed(number, changes)
            if of_device and misfit(replace(other, plain_on_host=True), room) is None:
                return _proposed(number, [*changes, "training.plain_tables: host"])
    return (
        f"no number of processes on one host fits, not with {SUMS_A_ROW.name} and {HALF.name} either: lower "
        "training.retriever.dim and training.ranker.dim"
    )


def _proposed(number: int, changes: list[str]) -> str:
    how = f" with {' and '.join(changes)}" if changes else ""
    return f"training.num_processes: {number}{how} fits"


def _may_fit(plan: TrainingPlan, tried: TrainingSettings, number: int, room: Room) -> bool:
    """Whether `number` processes may fit at all: they do not where tables dealt out to the byte would not.

    A plan of many processes takes the planner seconds, this none.
    """
    layout, of_models = Layout.of(tried), Counter[str]()
    for table in plan.tables:
        optimizer = getattr(tried, table.model).optimizer.tables
        part = layout.part(table.rows, table.dim, optimizer=optimizer, device=plan.device)
        of_models[table.model] += part.on_device
    tables = max(of_models.values()) * tried.replicas
    if room.device is not None:
        return tables / number + plan.dense_bytes + plan.plain_bytes - plan.gathered_bytes <= room.device
    return tables + number * (plan.dense_bytes + plan.plain_bytes) <= room.host


@dataclass(frozen=True)
class _Change:
    """Of the settings, so that less memory is needed."""

    name: str
    made: Callable[[TrainingSettings], TrainingSettings]


def _with(**values: Any) -> Callable[[TrainingSettings], TrainingSettings]:
    return lambda settings: settings.model_copy(update=values)


def _with_sums_a_row(settings: TrainingSettings) -> TrainingSettings:
    """`settings` with row-wise Adagrad for the tables of both models."""

    def changed(part: Any) -> Any:
        optimizer = part.optimizer.model_copy(update={"tables": "rowwise_adagrad"})
        return part.model_copy(update={"optimizer": optimizer})

    return _with(retriever=changed(settings.retriever), ranker=changed(settings.ranker))(settings)


ONCE = _Change("training.replicas: 1", _with(replicas=1))
CACHE = _Change(f"training.table_cache: {CACHED}", _with(table_cache=CACHED))
SUMS_A_ROW = _Change("optimizer.tables: rowwise_adagrad", _with_sums_a_row)
HALF = _Change("training.table_precision: fp16", _with(table_precision="fp16"))
WAYS = ((), (CACHE,), (SUMS_A_ROW,), (SUMS_A_ROW, HALF), (CACHE, SUMS_A_ROW, HALF))
"""Changes to try, those first that leave what is learnt as it is."""


def _ways(settings: TrainingSettings, device: str) -> Iterator[tuple[TrainingSettings, list[str]]]:
    """The settings to try, each with what is other in words; first as they are."""
    ways = WAYS if settings.replicas == 1 else ((), *((ONCE, *way) for way in WAYS))
    seen: list[TrainingSettings] = []
    for way in ways:
        tried, changes = settings, []
        for change in way:
            if change is CACHE and (device == "cpu" or settings.table_cache is not None):
                continue
            before, tried = tried, change.made(tried)
            changes += [change.name] if tried != before else []
        if tried not in seen:
            seen.append(tried)
            yield tried, changes
