"""Put the chosen graphs into the model repository."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def publish_release(
    release: dict,
    name: str,
    lineage: dict,
    job: str,
    model: dsl.Input[dsl.Model],
    feedback: dsl.Input[dsl.Dataset],
    compressed: dsl.Input[dsl.Model],
    features: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Artifact],
    parity: dsl.Input[dsl.Artifact],
    judgement: dsl.Input[dsl.Artifact],
    published: dsl.Output[dsl.Artifact],
) -> None:
    """Publish version N+1 beside N, whole or not at all.

    Args:
        release: Settings of the section `release`.
        name: Name of the run's configuration.
        lineage: What the release was made from: run, code version.
        job: KFP's own name of the job, which tells the runs of a schedule apart.
    """
    from pathlib import Path

    from leanrec.config import ReleaseSettings
    from leanrec.release.publish import publish_release

    published.metadata.update(
        publish_release(
            ReleaseSettings.parse(release),
            name=name,
            model=Path(model.path),
            feedback=Path(feedback.path),
            compressed=Path(compressed.path),
            features=Path(features.path),
            evaluation=Path(evaluation.path),
            parity=Path(parity.path),
            judgement=Path(judgement.path),
            lineage={**lineage, "job": job},
            output=Path(published.path),
        )
    )
