"""Hold the tables against their expectations."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def validate_tables(
    validation: dict,
    data: dict,
    events: dsl.Input[dsl.Dataset],
    items: dsl.Input[dsl.Dataset],
    users: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Run the Great Expectations suites; the report says which rows fail, `enforce_gate` stops the run.

    Args:
        validation: Settings of the section `validation`.
        data: Settings of the section `data`.
    """
    from pathlib import Path

    from leanrec.config import DataSettings, ValidationSettings
    from leanrec.validation.validate import validate_tables

    report.metadata["passed"] = validate_tables(
        ValidationSettings.parse(validation),
        DataSettings.parse(data),
        events=Path(events.path),
        items=Path(items.path),
        users=Path(users.path),
        output=Path(report.path),
    )
