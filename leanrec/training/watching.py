"""Training as one may watch it: seconds by phase, TensorBoard events, a profiler's trace.

Phases are taken by the clock of each process. On a GPU work goes on after a phase has ended; since the loss
is read in every step, what is left of it counts for the next phase that waits.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

EVERY_STEPS = 10
"""Steps between two points of TensorBoard's curves."""
TRACED = {"wait": 1, "warmup": 1, "active": 5, "repeat": 1}
"""Steps of the first epoch that the profiler leaves out, warms up in, and traces."""


class EpochWatch:
    """Times the phases of one epoch's steps; `seconds` holds them."""

    def __init__(self, watch: Watch, epoch: int, num_steps: int) -> None:
        self._watch = watch
        self._first = epoch * num_steps
        self._since = time.perf_counter()
        self._seen = 0
        self.profiler: Any = None
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of the block as `name`'s."""
        started = time.perf_counter()
        with torch.profiler.record_function(name) if self.profiler else ExitStack():
            yield
        self.seconds[name] += time.perf_counter() - started

    def step(self, done: int, loss: float, learning_rate: float, samples: int) -> None:
        """After the step that makes `done` of this epoch: the points of the curves, the profiler's turn."""
        self._seen += samples
        if self.profiler:
            self.profiler.step()
        if done % EVERY_STEPS:
            return
        now = time.perf_counter()
        rate, self._seen, self._since = self._seen / (now - self._since), 0, now
        figures = {"loss": loss, "learning_rate": learning_rate, "samples_per_s": rate}
        self._watch.write("step", figures, self._first + done)


class Watch:
    """Watches one model's training; `tensorboard` and `profile` name folders, None where nobody looks."""

    def __init__(self, name: str, *, tensorboard: str | None = None, profile: str | None = None) -> None:
        self._name = name
        self._writer: Any = None
        self._profile = Path(profile) if profile else None
        if tensorboard:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(Path(tensorboard) / name))

    @contextmanager
    def epoch(self, epoch: int, num_steps: int) -> Iterator[EpochWatch]:
        """Watch the steps in the block."""
        watch = EpochWatch(self, epoch, num_steps)
        with ExitStack() as stack:
            if self._profile and epoch == 0:
                watch.profiler = stack.enter_context(self._profiler(self._profile))
            yield watch

    def close_epoch(self, curve: dict[str, Any]) -> None:
        """The figures of an epoch, its phases among them."""
        figures = {name: value for name, value in curve.items() if isinstance(value, float)}
        self.write("epoch", figures, curve["epoch"])
        self.write("seconds", curve["phases"], curve["epoch"])
        if self._writer:
            self._writer.flush()

    def write(self, group: str, figures: dict[str, float], step: int) -> None:
        """Points of TensorBoard's curves, where it is asked for."""
        for name, value in figures.items() if self._writer else ():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def _profiler(self, folder: Path) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        trace = str(folder / f"{self._name}.json")
        return torch.profiler.profile(
            schedule=torch.profiler.schedule(**TRACED),
            on_trace_ready=lambda profiler: profiler.export_chrome_trace(trace),
        )
