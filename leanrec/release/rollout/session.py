"""A rollout put together from a run's settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from leanrec.config import RunSettings
from leanrec.release.repository import ModelRepository
from leanrec.release.rollout.controller import Controller, Observation
from leanrec.release.rollout.observation import GatewayMetrics
from leanrec.release.rollout.verification import fault_of_candidate


def roll_out(
    settings: RunSettings,
    version: int | None,
    *,
    gateways: Sequence[str] = (),
    watch: Callable[[Observation], None] | None = None,
) -> int:
    """Roll `version` out (None: go on with the one under way); returns it once it is stable.

    Raises what `Controller.run` raises. `gateways` are URLs that take the place of those in the settings;
    `watch` is told of every look at them.
    """
    gateway, serving = settings.gateway, settings.serving
    repository = ModelRepository(Path(settings.release.repository).absolute())
    urls = gateways or settings.rollout.gateways or (f"http://{gateway.host}:{gateway.port}",)
    controller = Controller(
        settings=settings.rollout,
        repository=repository.path,
        metrics=GatewayMetrics(urls),
        verify=partial(
            fault_of_candidate,
            settings.release,
            repository,
            tritons=gateway.triton or (f"{serving.host}:{serving.grpc_port}",),
            wait_s=settings.rollout.load_s,
        ),
    )
    return controller.run(version, watch or (lambda _: None))
