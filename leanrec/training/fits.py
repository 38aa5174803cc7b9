"""Will it fit? A plan held against the memory that is there, and the nearest plan that does fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from leanrec.config import TrainingSettings
from leanrec.errors import TrainingError
from leanrec.models.inputs import ItemInputs
from leanrec.schema import ModelSpec
from leanrec.training.footprint import TrainingPlan, on_a_host, plan_training
from leanrec.training.layout import Layout, whole_part
from leanrec.training.memory import size_in_words

NUMBERS = (1, 2, 4, 8, 16, 32, 64)
"""Of processes, to be proposed."""


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
    names: dict[str, None] = {}
    for way in _ways(settings, plan.device):
        tried, changes = _changed(settings, way), [change.name for change in way]
        names |= dict.fromkeys(changes)
        for number in (plan.num_processes, *others):
            if number % tried.replicas or not may_fit(plan, tried, number, room):
                continue
            other = plan
            if changes or number != plan.num_processes:
                other = plan_training(tried, spec, items, num_processes=number, device=plan.device)
            if other is not plan and misfit(other, room) is None:
                return _proposed(number, changes)
            if of_device and misfit(replace(other, plain_on_host=True), room) is None:
                return _proposed(number, [*changes, PLAIN_ON_HOST])
    changes = [*names, *([PLAIN_ON_HOST] if of_device else [])]
    either = f", not with {_listed(changes)} either" if changes else ""
    return (
        f"no number of processes on one host fits{either}: lower training.retriever.dim and "
        "training.ranker.dim"
    )


def _proposed(number: int, changes: Sequence[str]) -> str:
    return f"training.num_processes: {number}{f' with {_listed(changes)}' if changes else ''} fits"


def _listed(names: Sequence[str]) -> str:
    """One and one, or one, one and one."""
    return " and ".join((", ".join(names[:-1]), names[-1]) if len(names) > 1 else names)


def may_fit(plan: TrainingPlan, tried: TrainingSettings, number: int, room: Room) -> bool:
    """Whether the settings `tried` may fit with `number` processes at all, by `plan` of the same models.

    They do not where tables dealt out to the byte would not. A plan of many processes takes the planner
    seconds, this none.
    """
    layout = Layout.of(tried)
    on_device, on_host = Counter[str](), Counter[str]()
    for table in plan.tables:
        optimizer = getattr(tried, table.model).optimizer.tables
        if table.is_everywhere:
            part, times = whole_part(table.rows, table.dim, optimizer=optimizer), number
            on_host[table.model] += part.kept * number
        else:
            part = layout.part(table.rows, table.dim, optimizer=optimizer, device=plan.device, rows_a_set=1)
            times = tried.replicas
            on_host[table.model] += part.kept + part.on_host * times
        on_device[table.model] += part.on_device * times
    here = on_a_host(number, plan.device)
    tables, beside = max(on_device.values()), max(on_host.values())
    host = here * plan.plain_bytes + plan.gathered_bytes + beside * here / number
    if plan.device == "cpu":
        return host + tables + here * plan.dense_bytes <= room.host
    device = tables / number + plan.dense_bytes + plan.plain_bytes - plan.gathered_bytes
    return host <= room.host and (room.device is None or device <= room.device)


@dataclass(frozen=True)
class Change:
    """Of the settings, so that less memory is needed in one place or the other."""

    name: str
    made: Callable[[TrainingSettings], TrainingSettings]


def _changed(settings: TrainingSettings, way: Sequence[Change]) -> TrainingSettings:
    for change in way:
        settings = change.made(settings)
    return settings


def _set(**value: Any) -> Change:
    """A change of one setting of `training`."""
    ((key, new),) = value.items()
    written = "null" if new is None else new
    return Change(f"training.{key}: {written}", lambda settings: settings.model_copy(update=value))


def _with_sums_a_row(settings: TrainingSettings) -> TrainingSettings:
    """`settings` with row-wise Adagrad for the tables of both models."""

    def changed(part: Any) -> Any:
        optimizer = part.optimizer.model_copy(update={"tables": "rowwise_adagrad"})
        return part.model_copy(update={"optimizer": optimizer})

    return settings.model_copy(
        update={"retriever": changed(settings.retriever), "ranker": changed(settings.ranker)}
    )


PLAIN_ON_HOST = "training.plain_tables: host"
CACHES = tuple(_set(table_cache=share) for share in (None, 0.2, 0.05))
"""Leave what is learnt as it is. TorchRec's own share, and a small one."""
ONCE = _set(replicas=1)
SUMS_A_ROW = Change("optimizer.tables: rowwise_adagrad", _with_sums_a_row)
HALF = _set(table_precision="fp16")


def _ways(settings: TrainingSettings, device: str) -> Iterator[tuple[Change, ...]]:
    """The changes to try together: first none, and first those with the fewest that change what is learnt."""

    def differs(change: Change) -> bool:
        return change.made(settings) != settings

    caches = [(), *((cache,) for cache in CACHES if device != "cpu" and differs(cache))]
    learnt = [change for change in (ONCE, SUMS_A_ROW, HALF) if differs(change)]
    for number in range(len(learnt) + 1):
        for some in combinations(learnt, number):
            yield from ((*some, *cache) for cache in caches)
