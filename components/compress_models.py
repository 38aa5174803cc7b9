"""Try every recipe and choose one."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def compress_models(
    compression: dict,
    graphs: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    features: dsl.Input[dsl.Dataset],
    training_set: dsl.Input[dsl.Dataset],
    compressed: dsl.Output[dsl.Model],
) -> None:
    """Measure each recipe's bytes, latency and quality; keep the best that holds its quality on test, too.

    `enforce_gate` then holds it against the baselines.

    Args:
        compression: Settings of the section `compression`.
    """
    from pathlib import Path

    from leanrec.compression.compress import compress_models
    from leanrec.config import CompressionSettings

    compressed.metadata.update(
        compress_models(
            CompressionSettings.parse(compression),
            graphs=Path(graphs.path),
            model=Path(model.path),
            evaluation=Path(evaluation.path),
            features=Path(features.path),
            training_set=Path(training_set.path),
            output=Path(compressed.path),
        )
    )
