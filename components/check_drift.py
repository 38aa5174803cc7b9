"""Look at what is new since the newest release, and whether the run goes on to training."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def check_drift(
    retraining: dict,
    data: dict,
    release: dict,
    rollout: dict,
    feedback: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    training_set: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
) -> bool:
    """Hold the new events against those that the newest release knew.

    Args:
        retraining: Settings of the section `retraining`.
        data: Settings of the section `data`.
        release: Settings of the section `release`.
        rollout: Settings of the section `rollout`: when a rollout counts as abandoned.

    Returns:
        Whether `retraining.trigger` asks for a new release.
    """
    from pathlib import Path

    from leanrec.config import DataSettings, ReleaseSettings, RetrainingSettings, RolloutSettings
    from leanrec.release.retraining import check_drift

    retrain = check_drift(
        RetrainingSettings.parse(retraining),
        DataSettings.parse(data),
        ReleaseSettings.parse(release),
        RolloutSettings.parse(rollout),
        feedback=Path(feedback.path),
        features=Path(features.path),
        training_set=Path(training_set.path),
        output=Path(report.path),
    )
    report.metadata["retrain"] = retrain
    return retrain
