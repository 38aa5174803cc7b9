"""Stop the run when a gate was missed."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def enforce_gate(report: dsl.Input[dsl.Artifact]) -> None:
    """Fail with every missed bound that the report's `gate.json` names; otherwise do nothing."""
    from pathlib import Path

    from leanrec.gates import enforce_gate

    enforce_gate(folder=Path(report.path))
