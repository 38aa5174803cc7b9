"""Will it fit? A plan held against the memory that is there, and the nearest plan that does fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from leanrec.config import TrainingSettings
from leanrec.errors import TrainingError
from leanrec.models.inputs import ItemInputs
from leanrec.schema import ModelSpec
from leanrec.training.footprint import TrainingPlan, plan_training
from leanrec.training.memory import size_in_words

MORE_PROCESSES = (2, 4, 8, 16, 32, 64)


def misfit(plan: TrainingPlan, *, device: int | None, host: int) -> str | None:
    """What does not fit into the bytes of each `device` and of the one `host`; None where all does.

    `device` is None for CPUs, whose memory is the host's.
    """
    if device is not None and plan.on_device > device:
        return f"the fullest device needs {size_in_words(plan.on_device)}, each has {size_in_words(device)}"
    if plan.on_host > host:
        return f"the host needs {size_in_words(plan.on_host)}, {size_in_words(host)} are there"
    return None


def refusal(
    plan: TrainingPlan,
    settings: TrainingSettings,
    spec: ModelSpec,
    items: ItemInputs,
    *,
    device: int | None,
    host: int,
    most: int | None = None,
) -> str | None:
    """What does not fit, and the nearest plan that does; None where all fits. See `nearest_that_fits`."""
    fault = misfit(plan, device=device, host=host)
    if fault is None:
        return None
    nearest = nearest_that_fits(plan, settings, spec, items, device=device, host=host, most=most)
    return f"{fault}; {nearest}"


def does_not_fit(plan: TrainingPlan, fault: str) -> TrainingError:
    """The error with which training, and the plan of it, end for what `refusal` says."""
    return TrainingError(f"training with {plan.num_processes} processes does not fit: {fault}")


def nearest_that_fits(
    plan: TrainingPlan,
    settings: TrainingSettings,
    spec: ModelSpec,
    items: ItemInputs,
    *,
    device: int | None,
    host: int,
    most: int | None = None,
) -> str:
    """The plain tables on the host, more or fewer processes (of `most`), one sum a row for the tables'
    optimizer, or several of these; else what would help."""
    numbers = {number for number in (1, *MORE_PROCESSES) if most is None or number <= most}
    room: dict[str, Any] = {"device": device, "host": host}
    spared = " with training.plain_tables: host"
    of_device = device is not None and plan.on_device > device
    for tried, how in _ways(settings):
        for number in (plan.num_processes, *sorted(numbers - {plan.num_processes})):
            if number % tried.replicas:
                continue
            other = plan
            if how or number != plan.num_processes:
                other = plan_training(tried, spec, items, num_processes=number, device=plan.device)
            if other is not plan and misfit(other, **room) is None:
                return f"training.num_processes: {number}{how} fits"
            if of_device and misfit(replace(other, plain_on_host=True), **room) is None:
                return f"training.num_processes: {number}{how}{' and' if how else ''}{spared} fits"
    return (
        "no number of processes on one host fits, not with optimizer.tables: rowwise_adagrad either: lower "
        "training.retriever.dim and training.ranker.dim"
    )


def _ways(settings: TrainingSettings) -> list[tuple[TrainingSettings, str]]:
    """The settings to try, each with what is other in words: nothing, tables once, a sum a row as well."""
    as_it_is, by_rows = (settings, ""), "optimizer.tables: rowwise_adagrad"
    if settings.replicas == 1:
        return [as_it_is, (_a_sum_a_row(settings), f" with {by_rows}")]
    once = settings.model_copy(update={"replicas": 1})
    how = " with training.replicas: 1"
    return [as_it_is, (once, how), (_a_sum_a_row(once), f"{how} and {by_rows}")]


def _a_sum_a_row(settings: TrainingSettings) -> TrainingSettings:
    """`settings` with row-wise Adagrad for the tables of both models."""

    def changed(part: Any) -> Any:
        optimizer = part.optimizer.model_copy(update={"tables": "rowwise_adagrad"})
        return part.model_copy(update={"optimizer": optimizer})

    return settings.model_copy(
        update={"retriever": changed(settings.retriever), "ranker": changed(settings.ranker)}
    )
