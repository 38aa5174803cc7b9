"""Train the retriever and the ranker."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def train_models(
    training: dict,
    features: dsl.Input[dsl.Dataset],
    training_set: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
) -> None:
    """Run torchrun with TorchRec tables; the weights come out as one plain module.

    Args:
        training: Settings of the section `training`.
    """
    from pathlib import Path

    from leanrec.config import TrainingSettings
    from leanrec.training.train import train_models

    model.metadata.update(
        train_models(
            TrainingSettings.parse(training),
            features=Path(features.path),
            training_set=Path(training_set.path),
            output=Path(model.path),
        )
    )
