"""Draw the run's report."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def write_report(
    name: str,
    lineage: dict,
    validation: dsl.Input[dsl.Artifact],
    drift: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    compressed: dsl.Input[dsl.Model],
    parity: dsl.Input[dsl.Artifact],
    judgement: dsl.Input[dsl.Artifact],
    published: dsl.Input[dsl.Artifact],
    smoke: dsl.Input[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Gather the steps' figures into one self-contained page.

    Args:
        name: Name of the run's configuration.
        lineage: What the release was made from: run, code version.
    """
    from pathlib import Path

    from leanrec.report.page import write_report

    write_report(
        name=name,
        lineage=lineage,
        validation=Path(validation.path),
        drift=Path(drift.path),
        model=Path(model.path),
        evaluation=Path(evaluation.path),
        compressed=Path(compressed.path),
        parity=Path(parity.path),
        judgement=Path(judgement.path),
        release=Path(published.path),
        smoke=Path(smoke.path),
        output=Path(report.path),
    )
