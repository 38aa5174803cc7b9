"""Serve releases and ask them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from leanrec.cli.front import (
    LATEST,
    JsonOption,
    RunOption,
    app,
    console,
    print_recommendations,
    settings_of,
)


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
        embedded_server(Path(settings.release.repository), Path(work) / "triton.json") as server,
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
    )
    if json_output:
        print(json.dumps(answer))
    else:
        print_recommendations({**answer, "user": user})
        console.print(
            f"Release {answer['version']}; {answer['latency_ms']:.1f} ms with opening both connections."
        )
