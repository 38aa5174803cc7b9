"""Tune how the stable release is served: measured in the real Triton under a stated load, beside what is now.

First instances and threads are tried, then preferred batch size and queue delay with the best of those. All
configurations of a stage stand in one server as models of different names and get the same load in turns, so
that a round's ratios to the present configuration hold whatever the machine's mood was. The worse half leaves
after each round (successive halving, Jamieson and Talwalkar 2016) until two are left.

Triton's own load generator, perf_analyzer, is not in the wheel that serves here, so the load
is ours (`leanrec/triton/load.py`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from leanrec.config import ReleaseSettings, TuningSettings
from leanrec.errors import ReleaseError
from leanrec.export.golden import read_golden
from leanrec.files import write_json, write_text
from leanrec.release.repository import ModelRepository, now
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import embedded_server
from leanrec.triton.load import Load, Tensors, in_turns
from leanrec.triton.model_configuration import (
    CONFIGURATION,
    THREADS,
    DynamicBatching,
    ModelConfiguration,
)
from leanrec.triton.staging import stage_model

TUNING_FILE = "tuning.json"
PRESENT = "present"
FINALISTS = 2


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The fields of a configuration that tuning sets."""

    instances: int
    threads: int
    """Of each instance; 0: one a core."""
    batch_size: int
    """Users a batch that the server likes to put together; 0: what waits."""
    queue_delay_us: int | None
    """Microseconds that a request may wait for others; None: requests are not merged."""

    @classmethod
    def of(cls, configuration: ModelConfiguration) -> Tuned:
        """Those of `configuration`."""
        batching = configuration.dynamic_batching
        return cls(
            instances=configuration.instance_count,
            threads=int(configuration.parameters.get(THREADS, "0")),
            batch_size=max(batching.preferred_batch_sizes, default=0) if batching else 0,
            queue_delay_us=None if batching is None else batching.max_queue_delay_us,
        )

    def within(self, configuration: ModelConfiguration) -> ModelConfiguration:
        """`configuration` with these fields; all others stay as they are."""
        batching = None
        if self.queue_delay_us is not None:
            batching = replace(
                configuration.dynamic_batching or DynamicBatching(),
                preferred_batch_sizes=(self.batch_size,) if self.batch_size else (),
                max_queue_delay_us=self.queue_delay_us,
            )
        others = {key: value for key, value in configuration.parameters.items() if key != THREADS}
        return replace(
            configuration,
            instance_count=self.instances,
            parameters={**others, **({THREADS: str(self.threads)} if self.threads else {})},
            dynamic_batching=batching,
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What tuning one model came to."""

    chosen: Tuned
    changed: bool
    ratio: float
    """The figure of the chosen configuration over the present one's, median of the rounds."""
    reason: str


def tune_serving(release: ReleaseSettings, settings: TuningSettings) -> dict[str, Any]:
    """Measure, choose, write config.pbtxt where something better was found, and `tuning.json` beside it.

    A running server follows by itself. Returns the content of tuning.json. Raises a ReleaseError without a
    release, and a ServingError when Triton does not serve it.
    """
    repository = ModelRepository(Path(release.repository).absolute())
    version = repository.required_state().stable
    found = {model: tune_model(repository, model, version, settings) for model in settings.models}
    report = {
        "version": version,
        "at": now(),
        "cores": cores(),
        "load": {
            name: getattr(settings, name) for name in ("callers", "figure", "rounds", "requests", "margin")
        },
        "models": {model: {**asdict(outcome), "tried": tried} for model, (outcome, tried) in found.items()},
    }
    with repository.exclusive():
        if repository.required_state().stable != version:
            raise ReleaseError(
                f"{repository.path}: another release came while {version} was tuned; tune again"
            )
        for model, (outcome, _) in found.items():
            if outcome.changed:
                write_text(
                    repository.path / model / CONFIGURATION,
                    outcome.chosen.within(present(repository, model)).to_pbtxt(),
                )
        write_json(repository.path / TUNING_FILE, report)
    return report


def tune_model(
    repository: ModelRepository, model: str, version: int, settings: TuningSettings
) -> tuple[Outcome, list[dict[str, Any]]]:
    """The best configuration of one model, and what was measured of each that was tried."""
    before = present(repository, model)
    requests = read_golden(repository.release_folder(version)).inputs[model]
    folder = repository.version_folder(model, version)
    first, tried = _stage(
        before, compute_grid(Tuned.of(before), settings, cores()), folder, requests, settings
    )
    outcome, more = first, list[dict[str, Any]]()
    grid = batching_grid(first.chosen, settings) if before.dynamic_batching is not None else []
    if grid:
        second, more = _stage(first.chosen.within(before), grid, folder, requests, settings)
        outcome = both_stages(first, second, settings)
    return outcome, [*tried, *more]


def present(repository: ModelRepository, model: str) -> ModelConfiguration:
    """The configuration that serves `model` now."""
    configuration = repository.configuration(model)
    if configuration is None:
        raise ReleaseError(f"{repository.path}: no configuration of {model}; publish a release first")
    return configuration


def compute_grid(now: Tuned, settings: TuningSettings, num_cores: int) -> list[Tuned]:
    """Instances x threads that together take no more than the cores, besides the present ones."""
    powers = tuple(2**n for n in range(num_cores.bit_length()))
    grid = [
        replace(now, instances=instances, threads=threads)
        for instances in settings.instances or powers
        for threads in settings.threads or powers
        if instances * threads <= num_cores
    ]
    return [tuned for tuned in grid if tuned != now]


def batching_grid(now: Tuned, settings: TuningSettings) -> list[Tuned]:
    """Preferred batch sizes x queue delays; none where requests must not be merged."""
    if now.queue_delay_us is None:
        return []
    grid = [
        replace(now, batch_size=size, queue_delay_us=delay)
        for size in settings.batch_sizes
        for delay in settings.queue_delays_us
    ]
    return [tuned for tuned in grid if tuned != now]


def survivors(ratios: Mapping[str, Sequence[float]]) -> list[str]:
    """The better half by the median of the ratios so far, at least two; a pure function."""
    ranked = sorted(ratios, key=lambda name: float(np.median(ratios[name])))
    return ranked[: max(FINALISTS, (len(ranked) + 1) // 2)]


def decide(ratios: Mapping[str, Sequence[float]], margin: float) -> tuple[str, float]:
    """The name and median ratio of what wins; `PRESENT` and 1 unless one is better by `margin`.

    `ratios`: name -> its figure over the present configuration's, by round. Three quarters of the rounds
    must be better at all, so that one lucky median does not decide.
    """
    for name in sorted(ratios, key=lambda name: float(np.median(ratios[name]))):
        median = float(np.median(ratios[name]))
        if median <= 1 - margin and float(np.quantile(ratios[name], 0.75)) < 1:
            return name, median
    return PRESENT, 1.0


def both_stages(first: Outcome, second: Outcome, settings: TuningSettings) -> Outcome:
    """What both stages came to; `second` was measured beside what `first` chose."""
    if not (first.changed and second.changed):
        return second if second.changed else first
    ratio = first.ratio * second.ratio
    return replace(
        second,
        ratio=ratio,
        reason=f"{_load(settings)} is {ratio:.2f} times that of the present configuration: "
        f"{first.ratio:.2f} times with other instances and threads, and {second.ratio:.2f} times that with "
        f"other batches, medians of {settings.rounds} rounds each",
    )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _stage(
    before: ModelConfiguration,
    grid: Sequence[Tuned],
    folder: Path,
    requests: Tensors,
    settings: TuningSettings,
) -> tuple[Outcome, list[dict[str, Any]]]:
    """Measure `grid` beside `before`; the outcome, and a row for each configuration."""
    tried = {PRESENT: Tuned.of(before), **{f"try_{n}": tuned for n, tuned in enumerate(grid)}}
    loads = _measure(before, tried, folder, requests, settings)
    figures = {
        name: [load.percentiles()[settings.figure] for load in rounds] for name, rounds in loads.items()
    }
    ratios = {
        name: [a / b for a, b in zip(values, figures[PRESENT], strict=False)]
        for name, values in figures.items()
        if name != PRESENT
    }
    finalists = {name: values for name, values in ratios.items() if len(values) == settings.rounds}
    name, ratio = decide(finalists, settings.margin)
    rows = [
        {
            **asdict(tuned),
            "rounds": len(loads[key]),
            "ratio": float(np.median(ratios[key])) if key in ratios else 1.0,
            **Load.of(loads[key]).percentiles(),
            "requests_per_s": Load.of(loads[key]).requests_per_s,
        }
        for key, tuned in tried.items()
    ]
    return Outcome(
        chosen=tried[name], changed=name != PRESENT, ratio=ratio, reason=_reason(name, ratio, settings)
    ), rows


def _measure(
    before: ModelConfiguration,
    tried: Mapping[str, Tuned],
    folder: Path,
    requests: Tensors,
    settings: TuningSettings,
) -> dict[str, list[Load]]:
    """The loads of each configuration, round by round; one that left has fewer."""
    with tempfile.TemporaryDirectory(prefix="leanrec-tune-") as work:
        models = Path(work) / "models"
        for name, tuned in tried.items():
            configuration = replace(tuned.within(before), name=name, versions=(1,))
            stage_model(models, configuration, {1: folder})
        with (
            embedded_server(models, Path(work) / "announcement.json") as server,
            TritonClient(server.grpc, timeout_s=60) as triton,
        ):
            asks = {name: partial(triton.infer, name) for name in tried}
            load = partial(in_turns, requests=requests, callers=settings.callers, turns=1)
            load(asks, num_requests=4 * settings.callers)
            loads: dict[str, list[Load]] = {name: [] for name in tried}
            left = [name for name in tried if name != PRESENT]
            for _ in range(settings.rounds):
                for name, found in load(
                    {n: asks[n] for n in (PRESENT, *left)}, num_requests=settings.requests
                ).items():
                    loads[name].append(found)
                left = survivors({name: _ratios(loads, name, settings.figure) for name in left})
    return loads


def _ratios(loads: Mapping[str, Sequence[Load]], name: str, figure: str) -> list[float]:
    pairs = zip(loads[name], loads[PRESENT], strict=True)
    return [ours.percentiles()[figure] / theirs.percentiles()[figure] for ours, theirs in pairs]


def _reason(name: str, ratio: float, settings: TuningSettings) -> str:
    load = _load(settings)
    if name == PRESENT:
        return (
            f"nothing tried lowers {load} by {settings.margin:.0%} or more; the present configuration stays"
        )
    return (
        f"{load} is {ratio:.2f} times that of the present configuration, median of {settings.rounds} rounds"
    )


def _load(settings: TuningSettings) -> str:
    return f"{settings.figure} at {settings.callers} callers"
