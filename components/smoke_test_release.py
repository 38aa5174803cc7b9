"""Ask the published release for recommendations."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def smoke_test_release(
    release: dict,
    feature_store: dict,
    published: dsl.Input[dsl.Artifact],
    events: dsl.Input[dsl.Dataset],
    answers: dsl.Output[dsl.Artifact],
) -> None:
    """Look three users up in Feast and let a real Triton recommend to them.

    Args:
        release: Settings of the section `release`.
        feature_store: Settings of the section `feature_store`.
    """
    from pathlib import Path

    from leanrec.config import FeatureStoreSettings, ReleaseSettings
    from leanrec.release.smoke import smoke_test_release

    smoke_test_release(
        ReleaseSettings.parse(release),
        FeatureStoreSettings.parse(feature_store),
        published=Path(published.path),
        events=Path(events.path),
        output=Path(answers.path),
    )
