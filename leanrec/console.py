"""What a person sees while a run goes on: a live line a step on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

TITLES = {
    "ingest_events": "Ingest events",
    "validate_tables": "Validate tables",
    "enforce_gate": "Gate",
    "build_features": "Build features",
    "build_training_set": "Build training set",
    "materialize_features": "Materialize features",
    "check_drift": "Check drift",
    "train_models": "Train models",
    "evaluate_models": "Evaluate models",
    "export_graphs": "Export graphs",
    "compress_models": "Compress models",
    "check_parity": "Check parity in Triton",
    "judge_release": "Judge release",
    "publish_release": "Publish release",
    "smoke_test_release": "Smoke-test release",
    "write_report": "Write report",
    "roll_out_release": "Roll out release",
}

QUIET_STEPS = ("enforce_gate",)
"""Steps too short to be worth a line unless they fail."""


class RunDisplay:
    """Shows the journal's lines as they come; use it as a context manager."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._live = self._console.is_terminal and not quiet
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[message]}"),
            console=self._console,
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}
        self._told: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._progress.stop()

    def tell(self, text: str) -> None:
        """Show what a person should read before the run, such as a data set's terms of use."""
        if text:
            self._console.print(text, style="dim")

    def show(self, line: dict[str, Any]) -> None:
        """Show one line of the journal."""
        shows = {
            "started": self._started,
            "progress": self._advanced,
            "finished": self._finished,
        }
        shows[line["kind"]](line)

    def _started(self, line: dict[str, Any]) -> None:
        if line["step"] not in QUIET_STEPS and self._live:
            title = TITLES.get(line["step"], line["step"])
            self._bars[line["step"]] = self._progress.add_task(title, total=None, message="")

    def _advanced(self, line: dict[str, Any]) -> None:
        name = line["step"]
        if name in self._bars:
            self._progress.update(
                self._bars[name], completed=line["done"], total=line["total"], message=line["message"]
            )
        elif not self._live and time.monotonic() - self._told.get(name, 0.0) > 5.0:
            self._told[name] = time.monotonic()
            title = TITLES.get(name, name)
            self._console.print(f"  {title}: {line['done']}/{line['total']} {line['message']}")

    def _finished(self, line: dict[str, Any]) -> None:
        name = line["step"]
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))
        if name in QUIET_STEPS and not line["error"]:
            return
        mark = "[red]failed[/red]" if line["error"] else "[green]done[/green]"
        self._console.print(f"{TITLES.get(name, name):<24} {line['seconds']:6.1f} s  {mark}")
