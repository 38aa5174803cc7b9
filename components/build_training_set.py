"""Join every event with the features as they were just before it."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def build_training_set(
    feature_store: dict,
    events: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    training_set: dsl.Output[dsl.Dataset],
) -> None:
    """Ask Feast for the point-in-time join; as many rows come out as events went in.

    Args:
        feature_store: Settings of the section `feature_store`.
    """
    from pathlib import Path

    from leanrec.config import FeatureStoreSettings
    from leanrec.features.store import build_training_set

    build_training_set(
        FeatureStoreSettings.parse(feature_store),
        events=Path(events.path),
        features=Path(features.path),
        output=Path(training_set.path),
    )
