"""Take the published candidate to all users."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def roll_out_release(
    name: str,
    data: dict,
    feature_store: dict,
    release: dict,
    rollout: dict,
    gateway: dict,
    serving: dict,
    published: dsl.Input[dsl.Artifact],
    outcome: dsl.Output[dsl.Artifact],
) -> None:
    """Golden requests, shadow, canary, everybody; back, and the step fails, where a bound is missed.

    Args:
        name: Name of the run's configuration.
        data: Settings of the section `data`.
        feature_store: Settings of the section `feature_store`.
        release: Settings of the section `release`.
        rollout: Settings of the section `rollout`: the stages, the bounds, the gateways that are watched.
        gateway: Settings of the section `gateway`: the Tritons that it asks.
        serving: Settings of the section `serving`: the Triton of a laptop.
    """
    from pathlib import Path

    from leanrec.config import RunSettings
    from leanrec.release.rollout.session import roll_out_published

    sections = {
        "name": name,
        "data": data,
        "feature_store": feature_store,
        "release": release,
        "rollout": rollout,
        "gateway": gateway,
        "serving": serving,
    }
    roll_out_published(RunSettings.parse(sections), published=Path(published.path), output=Path(outcome.path))
