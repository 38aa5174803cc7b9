"""Serve releases and ask them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from leanrec.cli.front import (
    LATEST,
    JsonOption,
    RunOption,
    app,
    console,
    print_recommendations,
    settings_of,
)

NUM_EFFECTS = 3
"""Parts shown of each item's explanation."""


@app.command()
def serve(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a run, or a file of configs/.")] = LATEST,
    verbose: Annotated[bool, typer.Option(help="Show Triton's own log.")] = False,
) -> None:
    """Serve a run's model repository with the real Triton until Ctrl-C."""
    from serving import embedded

    settings = settings_of(run_folder)
    serving = settings.serving
    arguments = ["--repository", settings.release.repository, "--host", serving.host]
    for port in ("http", "grpc", "metrics"):
        arguments += [f"--{port}-port", str(getattr(serving, f"{port}_port"))]
    arguments += ["--response-cache-bytes", str(serving.response_cache_bytes)]
    raise typer.Exit(embedded.main([*arguments, *(["--verbose"] if verbose else [])]))


@app.command()
def gateway(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a run, or a file of configs/.")] = LATEST,
    triton: Annotated[bool, typer.Option(help="Start Triton too, for this gateway alone.")] = False,
) -> None:
    """Answer over HTTP, with a page for people, until Ctrl-C."""
    from serving.gateway.server import main

    settings = settings_of(run_folder)
    if not triton:
        raise typer.Exit(main(settings))
    from leanrec.triton.embedded_server import embedded_server

    with (
        tempfile.TemporaryDirectory(prefix="leanrec-gateway-") as work,
        embedded_server(
            Path(settings.release.repository),
            Path(work) / "triton.json",
            response_cache_bytes=settings.serving.response_cache_bytes,
        ) as server,
    ):
        asks = settings.gateway.model_copy(update={"triton": (server.grpc,)})
        status = main(settings.model_copy(update={"gateway": asks}))
    raise typer.Exit(status)


@app.command()
def recommend(
    user: Annotated[str, typer.Option(help="User id, as in the raw data.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    run_folder: RunOption = LATEST,
    server: Annotated[str | None, typer.Option(help="Triton's gRPC address.")] = None,
    explain: Annotated[bool, typer.Option(help="What each part of the user row does for a score.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Ask a running Triton what to recommend to a user, and why."""
    from leanrec.data.pseudonyms import load_key, pseudonym_of
    from leanrec.release.recommendation import recommend_to

    settings = settings_of(run_folder)
    address = server or f"{settings.serving.host}:{settings.serving.grpc_port}"
    answer = recommend_to(
        pseudonym_of(user, load_key()),
        k,
        release=settings.release,
        store=settings.feature_store,
        server=address,
        explain=explain,
    )
    if json_output:
        print(json.dumps(answer))
    else:
        print_recommendations({**answer, "user": user})
        if explain:
            _print_effects(answer["recommendations"])
        console.print(
            f"Release {answer['version']}; {answer['latency_ms']:.1f} ms with opening both connections."
        )


def _print_effects(recommendations: list[dict[str, Any]]) -> None:
    """The parts of the user row that each score leans on most."""
    table = Table("", "item", "without it the score would change by")
    for line in recommendations:
        effects = [f"{-effect['share']:+.0%} {effect['part']}" for effect in line["effects"][:NUM_EFFECTS]]
        table.add_row(str(line["rank"]), line["title"], " · ".join(effects))
    console.print(table)
