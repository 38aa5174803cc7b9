"""Compute what was known before each event."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def build_features(
    features: dict,
    data: dict,
    release: dict,
    vocabulary_fingerprint: str,
    events: dsl.Input[dsl.Dataset],
    items: dsl.Input[dsl.Dataset],
    users: dsl.Input[dsl.Dataset],
    tables: dsl.Output[dsl.Dataset],
) -> None:
    """Write the feature tables, the item table, the splits and the extended vocabularies.

    Args:
        features: Settings of the section `features`.
        data: Settings of the section `data`.
        release: Settings of the section `release`: the newest release's vocabularies are extended.
        vocabulary_fingerprint: What those vocabularies are, for the cache, which cannot see them.
    """
    from pathlib import Path

    from leanrec.config import DataSettings, FeatureSettings, ReleaseSettings
    from leanrec.data.vocabulary import latest_vocabulary
    from leanrec.features.build import build_features

    build_features(
        FeatureSettings.parse(features),
        DataSettings.parse(data),
        events=Path(events.path),
        items=Path(items.path),
        users=Path(users.path),
        previous_vocabulary=latest_vocabulary(Path(ReleaseSettings.parse(release).repository)),
        output=Path(tables.path),
    )
