"""Train the retriever and the ranker."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def train_models(
    training: dict,
    release: dict,
    warm_start_fingerprint: str,
    compare_with_full: bool,
    features: dsl.Input[dsl.Dataset],
    training_set: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Run torchrun with TorchRec tables; the weights come out as one plain module.

    Args:
        training: Settings of the section `training`.
        release: Settings of the section `release`: where `training.warm_start` finds the stable release.
        warm_start_fingerprint: Which release that is, for the cache, which cannot see it.
        compare_with_full: Whether a warm start is compared with training from nothing.
    """
    from pathlib import Path

    from leanrec.config import ReleaseSettings, TrainingSettings
    from leanrec.files import write_json
    from leanrec.release.serving import warm_start_release
    from leanrec.release.starts import train_from_starts
    from leanrec.training.scalars import training_scalars

    settings = TrainingSettings.parse(training)
    summary = train_from_starts(
        settings,
        warm_start=warm_start_release(settings, ReleaseSettings.parse(release)),
        compare_with_full=compare_with_full,
        features=Path(features.path),
        training_set=Path(training_set.path),
        output=Path(model.path),
    )
    model.metadata.update(summary)
    metrics.metadata.update(training_scalars(Path(model.path), summary))
    write_json(Path(metrics.path), metrics.metadata)
