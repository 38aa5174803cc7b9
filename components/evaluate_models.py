"""Measure the models beside the baselines."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def evaluate_models(
    evaluation: dict,
    model: dsl.Input[dsl.Model],
    features: dsl.Input[dsl.Dataset],
    training_set: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
) -> None:
    """Evaluate on the held-out events under full ranking; `enforce_gate` holds the figures to their bounds.

    Args:
        evaluation: Settings of the section `evaluation`.
    """
    from pathlib import Path

    from leanrec.config import EvaluationSettings
    from leanrec.evaluation.evaluate import evaluate_models
    from leanrec.evaluation.scalars import evaluation_scalars, roc_points
    from leanrec.files import write_json

    report.metadata["passed"] = evaluate_models(
        EvaluationSettings.parse(evaluation),
        model=Path(model.path),
        features=Path(features.path),
        training_set=Path(training_set.path),
        output=Path(report.path),
    )
    metrics.metadata.update(evaluation_scalars(Path(report.path)))
    write_json(Path(metrics.path), metrics.metadata)
    roc.log_roc_curve(**roc_points(Path(report.path)))
    write_json(Path(roc.path), roc.metadata)
