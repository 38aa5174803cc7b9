"""Read raw interactions into the canonical tables."""

from kfp import dsl

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, install_kfp_package=False)
def ingest_events(
    data: dict,
    key_fingerprint: str,
    raw_fingerprint: str,
    events: dsl.Output[dsl.Dataset],
    items: dsl.Output[dsl.Dataset],
    users: dsl.Output[dsl.Dataset],
    feedback: dsl.Output[dsl.Dataset],
) -> str:
    """Write events, items and users as Parquet; user ids become keyed pseudonyms; the event log joins.

    Args:
        data: Settings of the section `data`.
        key_fingerprint: Names the pseudonym key without telling it, so that another key is another result.
        raw_fingerprint: Names the state of the raw files and the event log, so that a changed file is another
            result.

    Returns:
        The digest of the three tables.
    """
    from pathlib import Path

    from leanrec.config import DataSettings
    from leanrec.data.ingest import ingest
    from leanrec.data.pseudonyms import load_matching_key

    summary = ingest(
        DataSettings.parse(data),
        key=load_matching_key(key_fingerprint),
        events=Path(events.path),
        items=Path(items.path),
        users=Path(users.path),
        feedback=Path(feedback.path),
    )
    events.metadata["rows"] = summary.num_events
    items.metadata["rows"] = summary.num_items
    users.metadata["rows"] = summary.num_users
    feedback.metadata["rows"] = summary.feedback.num_joined
    return summary.digest
