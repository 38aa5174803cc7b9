"""A rollout put together from a run's settings, by a person's command or as the pipeline's last step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from leanrec.config import RunSettings
from leanrec.config.rollout import RolloutSettings
from leanrec.errors import GateError
from leanrec.evaluation.online import read_online
from leanrec.files import read_json, write_json
from leanrec.journal import report_progress, step
from leanrec.release.mirror import push_where_stored
from leanrec.release.repository import ModelRepository
from leanrec.release.rollout.controller import Controller, Observation
from leanrec.release.rollout.observation import GatewayMetrics
from leanrec.release.rollout.verification import fault_of_candidate
from leanrec.release.state import WHY_BY_HAND, ReleaseState

STEP = "roll_out_release"


@step(STEP)
def roll_out_published(settings: RunSettings, *, published: Path, output: Path) -> None:
    """Roll out the release that the run published; write how it went to the file `output`.

    The first release of a repository is stable already: there was none to hold it against.

    Args:
        settings: sections release, rollout, gateway and serving.
        published: what `publish_release` wrote.
        output: JSON to write: version, and the transitions of its rollout.

    Raises what `Controller.run` raises; after a GateError the release before goes on serving. Started again
    after it was killed, it goes on; a candidate that was withdrawn, or rolled back, is not offered again.
    """
    version = int(read_json(published)["version"])
    stages = 1 + len(settings.rollout.canary_percents) + (settings.rollout.shadow_percent > 0)
    passed: list[str] = []

    def watch(seen: Observation) -> None:
        if seen.rollout.shown() not in passed:
            passed.append(seen.rollout.shown())
        requests = f"{seen.candidate.requests:,} requests in {seen.seconds:.0f} s"
        report_progress(STEP, len(passed), stages, f"{passed[-1]}: {requests}")

    repository = ModelRepository(Path(settings.release.repository).absolute())
    state = repository.required_state()
    if state.stable != version:
        refuse_if_withdrawn(state, version)
        roll_out(settings, version, watch=watch)
    history = [line for line in repository.required_state().history if line["to"] == version]
    write_json(output, {"version": version, "history": history})


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
        settings=with_measured_variation(settings.rollout, repository),
        repository=repository.path,
        metrics=GatewayMetrics(urls),
        verify=partial(
            fault_of_candidate,
            settings.release,
            repository,
            tritons=gateway.triton or (f"{serving.host}:{serving.grpc_port}",),
            wait_s=settings.rollout.load_s,
        ),
        share=partial(push_where_stored, settings.release),
    )
    return controller.run(version, watch or (lambda _: None))


def refuse_if_withdrawn(state: ReleaseState, version: int) -> None:
    """A GateError when `version` was a candidate, or stable already, and somebody or a bound sent it back."""
    sent_back = ("withdraw", "rollback")
    ended = [line for line in state.history if line["action"] in sent_back and line["from"] == version]
    if state.rollout is None and ended:
        raise GateError(
            f"the candidate was withdrawn, version {state.stable} goes on serving;"
            f" {_why_sent_back(ended[-1])}"
        )


def _why_sent_back(transition: dict[str, Any]) -> str:
    by_hand = WHY_BY_HAND["rollback"]
    reason = transition["reason"] or by_hand  # older code wrote none
    if transition["action"] != "rollback":
        return str(reason)
    return f"it was stable, and {reason if reason == by_hand else f'rolled back: {reason}'}"


def with_measured_variation(settings: RolloutSettings, repository: ModelRepository) -> RolloutSettings:
    """`settings` with the `click_design_effect` that online.json says of the stable release, if it is more.

    Never less: the effect grows with a user's impressions, and the log may show fewer than a stage will.
    Raises ReleaseError when online.json cannot be read.
    """
    figures = read_online(repository.path).get(str(repository.required_state().stable), {})
    seen = figures.get("click_design_effect")
    if not isinstance(seen, int | float) or not seen > settings.click_design_effect:
        return settings
    return settings.model_copy(update={"click_design_effect": float(seen)})
