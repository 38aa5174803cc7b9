"""Training as one may watch it: seconds by phase, TensorBoard events, a profiler's trace.

    data            the batch and the ranker's candidates
    embedding       distinct ids, lookups, and in the backward pass the tables' optimizer
    communication   ids, vectors and gradients on their way, waiting for other processes included
    dense           all else of the forward and the backward pass, and the dense part's optimizer

Phases are taken by the clock of each process. On a GPU work goes on after a phase has ended; since the loss
is read in every step, what is left of it counts for the next phase that waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PHASES = ("data", "embedding", "dense", "communication")
EVERY_STEPS = 10
"""Steps between two points of TensorBoard's curves."""
TRACED = {"wait": 1, "warmup": 1, "active": 5, "repeat": 1}
"""Steps of the first epoch that the profiler leaves out, warms up in, and traces."""


class Phases:
    """A clock that runs for one phase at a time; `seconds` holds what each has taken.

    Example:
        >>> phases = Phases()
        >>> with phases.phase("dense"):
        ...     with phases.phase("embedding"):  # counts for itself alone
        ...         pass
        >>> list(phases.seconds)
        ['data', 'embedding', 'dense', 'communication']
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._now: str | None = None
        self._since = 0.0

    def enter(self, name: str | None) -> None:
        """From now on seconds count as `name`'s; None: as nobody's."""
        now = time.perf_counter()
        if self._now is not None:
            self.seconds[self._now] += now - self._since
        self._now, self._since = name, now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of the block as `name`'s, but for what another phase takes within it."""
        before = self._now
        self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def enter_with_gradients(self, values: Iterable[Tensor], name: str) -> None:
        """Enter `name` in the backward pass, each time that the gradient of one of `values` is there."""
        nodes: set[Any] = {value.grad_fn for value in values if value.grad_fn is not None}
        for node in nodes:
            node.register_prehook(lambda _gradients: self.enter(name))

    def enter_around(self, looked_up: Tensor, during: str, after: str) -> None:
        """Enter `during` before what changes weights in the backward pass of `looked_up`, then `after`."""
        for node in _last_nodes(looked_up.grad_fn):
            node.register_prehook(lambda _gradients: self.enter(during))
            node.register_hook(lambda _inputs, _outputs: self.enter(after))


def _last_nodes(node: Any) -> list[Any]:
    """Of the backward pass from `node` on, those behind which there are weights alone, or nothing."""
    if node is None:
        return []
    behind = [other for other, _ in node.next_functions if other is not None and other.next_functions]
    return [last for other in behind for last in _last_nodes(other)] if behind else [node]


class EpochWatch(Phases):
    """Times the phases of one epoch's steps."""

    def __init__(self, watch: Watch, epoch: int, num_steps: int) -> None:
        super().__init__()
        self._watch = watch
        self._first = epoch * num_steps
        self._started = time.perf_counter()
        self._seen = 0
        self.profiler: Any = None

    def span(self, name: str) -> AbstractContextManager[Any]:
        """Names what the block does in the profiler's trace."""
        return torch.profiler.record_function(name) if self.profiler else nullcontext()

    def step(self, done: int, loss: float, learning_rate: float, samples: int) -> None:
        """After the step that makes `done` of this epoch: the points of the curves, the profiler's turn."""
        self._seen += samples
        if self.profiler:
            self.profiler.step()
        if done % EVERY_STEPS:
            return
        now = time.perf_counter()
        rate, self._seen, self._started = self._seen / (now - self._started), 0, now
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
