"""Turn the model into the fused graph and the ranker graph."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def export_graphs(
    release: dict,
    model: dsl.Input[dsl.Model],
    features: dsl.Input[dsl.Dataset],
    training_set: dsl.Input[dsl.Dataset],
    graphs: dsl.Output[dsl.Model],
) -> None:
    """Write both ONNX graphs in float32 with the golden requests that every later form must answer.

    Args:
        release: Settings of the section `release`.
    """
    from pathlib import Path

    from leanrec.config import ReleaseSettings
    from leanrec.export.graphs import export_graphs

    export_graphs(
        ReleaseSettings.parse(release),
        model=Path(model.path),
        features=Path(features.path),
        training_set=Path(training_set.path),
        output=Path(graphs.path),
    )
