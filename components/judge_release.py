"""Hold what would be released against what serves, in every segment, and look whom it neglects."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def judge_release(
    evaluation: dict,
    release: dict,
    graphs: dsl.Input[dsl.Model],
    compressed: dsl.Input[dsl.Model],
    features: dsl.Input[dsl.Dataset],
    training_set: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Let both answer the same held-out window; `enforce_gate` holds the differences to their bounds.

    Args:
        evaluation: Settings of the section `evaluation`.
        release: Settings of the section `release`.
    """
    from pathlib import Path

    from leanrec.config import EvaluationSettings, ReleaseSettings
    from leanrec.release.judgement import judge_release

    report.metadata["passed"] = judge_release(
        EvaluationSettings.parse(evaluation),
        ReleaseSettings.parse(release),
        graphs=Path(graphs.path),
        compressed=Path(compressed.path),
        features=Path(features.path),
        training_set=Path(training_set.path),
        output=Path(report.path),
    )
