"""Tune how the stable release is served."""

from __future__ import annotations

import json

from rich.table import Table

from leanrec.cli.front import ConfigArgument, JsonOption, console
from leanrec.cli.release import release_app
from leanrec.config import load_settings


@release_app.command()
def tune(config: ConfigArgument, json_output: JsonOption = False) -> None:
    """Measure configurations of the server under load; the best goes into config.pbtxt."""
    from leanrec.release.tuning import tune_serving

    settings = load_settings(config)
    report = tune_serving(settings.release, settings.tuning)
    if json_output:
        print(json.dumps(report))
        return
    for model, found in report["models"].items():
        table = Table(
            "instances", "threads", "batch", "delay, µs", "p50", "p95", "p99", "requests/s", "ratio"
        )
        for row in found["tried"]:
            figures = (f"{row[name]:.1f}" for name in ("p50", "p95", "p99", "requests_per_s"))
            delay = "not merged" if row["queue_delay_us"] is None else str(row["queue_delay_us"])
            setting = (str(row["instances"]), str(row["threads"] or "cores"), str(row["batch_size"]), delay)
            table.add_row(*setting, *figures, f"{row['ratio']:.2f}")
        console.print(table)
        console.print(f"{model}: {found['reason']}.")
