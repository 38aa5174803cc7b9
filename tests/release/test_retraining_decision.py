"""When a run goes on to training, and what it says otherwise."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from tiny_release import write_artifacts
from typer.testing import CliRunner

from leanrec.cli import app
from leanrec.config import RetrainingSettings, RunSettings
from leanrec.data.event_log import EventLog, FeedbackEvent
from leanrec.data.feedback import Watermark
from leanrec.errors import ConfigError
from leanrec.evaluation.drift import Signal
from leanrec.release.publish import publish_release
from leanrec.release.retraining import Standing, decide, nothing_to_learn

DRIFTED = Signal(name="rating", value=0.9, bound=0.25, chance=0.1)
STILL = Signal(name="rating", value=0.1, bound=0.25, chance=0.1)


def standing(num_new_acts: int = 7, **changes: object) -> Standing:
    values = {"newest": 3, "watermark": Watermark(), "num_new": 9, "num_new_acts": num_new_acts}
    return Standing(**{**values, **changes})


@pytest.mark.parametrize(
    ("trigger", "now", "signals", "retrain", "reason"),
    [
        ("drift", standing(0, newest=None), [], True, "there is no release yet"),
        ("new-events", standing(0), [], False, "no rating or click since release 3"),
        ("always", standing(0), [STILL], True, "0 new events since release 3"),
        ("new-events", standing(), [STILL], True, "7 new events since release 3"),
        ("drift", standing(), [STILL], False, "no drift in 7 new events"),
        ("drift", standing(), [DRIFTED], True, "drift since release 3: rating"),
        ("always", standing(rollout="version 3, shadow"), [DRIFTED], False, r"put off: .*version 3, shadow"),
    ],
)
def test_a_run_goes_on_to_training_where_its_trigger_asks_for_it(
    trigger: str, now: Standing, signals: list[Signal], retrain: bool, reason: str
) -> None:
    found, said = decide(RetrainingSettings(trigger=trigger), now, signals)
    assert found is retrain
    assert re.search(reason, said)


def log_into(folder: Path, kinds: str, number: int) -> None:
    """Letter by letter an impression (i) or a click (c); two that follow each other are of one request."""
    names = {"i": "impression", "c": "click"}
    events = [
        FeedbackEvent(
            event_id=f"{number}-{n}",
            user_id=f"{n // 2}",
            item_id="a",
            type=names[kind],
            timestamp=datetime.now(UTC),
            request_id=f"{number}-{n // 2}",
            release=1,
        )
        for n, kind in enumerate(kinds)
    ]
    with EventLog(folder, f"writer-{number}") as log:
        log.append(events)


def test_lists_that_nobody_clicks_any_more_are_named_though_there_is_nothing_to_learn(tmp_path: Path) -> None:
    settings = RunSettings.parse(
        {
            "name": "tiny",
            "data": {"source": "movielens-100k", "feedback": str(tmp_path / "log")},
            "feature_store": {"repository": "features"},
            "release": {"repository": str(tmp_path / "models"), "strategy": "direct"},
            "retraining": {"trigger": "new-events"},
        }
    )
    assert nothing_to_learn(settings) is None, "there is no release yet"
    log_into(tmp_path / "log", "ic" * 10, 1)
    read = {"watermark": datetime.now(UTC).isoformat(), "num_events": 20}
    artifacts = write_artifacts(tmp_path / "artifacts")
    lineage = {"feedback": read}
    publish_release(settings.release, name="tiny", lineage=lineage, output=tmp_path / "out", **artifacts)
    assert nothing_to_learn(settings) == "nothing to do: no rating or click since release 1"

    log_into(tmp_path / "log", "i" * 60, 2)
    reason = nothing_to_learn(settings)
    assert reason is not None
    assert reason.endswith("and drift: click-through lost; see whether clicks are still sent")
    log_into(tmp_path / "log", "c", 3)
    assert nothing_to_learn(settings) is None


def test_what_is_stable_at_once_cannot_be_rolled_out(tmp_path: Path) -> None:
    settings = {
        "name": "tiny",
        "data": {"source": "movielens-100k", "feedback": str(tmp_path / "log")},
        "feature_store": {"repository": "features"},
        "release": {"repository": str(tmp_path / "models"), "strategy": "direct"},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["retrain", str(tmp_path / "mine.yaml"), "--roll-out"]
    with pytest.raises(ConfigError, match=r"release\.strategy is direct.*set it to canary"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
