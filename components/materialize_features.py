"""Put the newest user rows into the online store."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def materialize_features(
    feature_store: dict,
    features: dsl.Input[dsl.Dataset],
    counts: dsl.Output[dsl.Artifact],
) -> None:
    """Apply the Feast definitions and materialize the user views.

    Args:
        feature_store: Settings of the section `feature_store`.
    """
    from pathlib import Path

    from leanrec.config import FeatureStoreSettings
    from leanrec.features.store import materialize_features

    counts.metadata.update(
        materialize_features(
            FeatureStoreSettings.parse(feature_store),
            features=Path(features.path),
            output=Path(counts.path),
        )
    )
