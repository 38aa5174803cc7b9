"""Prove that Triton answers what the trainer computed."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def check_parity(
    release: dict,
    graphs: dsl.Input[dsl.Model],
    compressed: dsl.Input[dsl.Model],
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Send the golden requests to a real Triton; `enforce_gate` holds the differences to their bounds.

    Args:
        release: Settings of the section `release`.
    """
    from pathlib import Path

    from leanrec.config import ReleaseSettings
    from leanrec.release.parity import check_parity

    report.metadata["passed"] = check_parity(
        ReleaseSettings.parse(release),
        graphs=Path(graphs.path),
        compressed=Path(compressed.path),
        output=Path(report.path),
    )
