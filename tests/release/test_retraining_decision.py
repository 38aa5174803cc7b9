"""When a run goes on to training, and what it says otherwise."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from leanrec.cli import app
from leanrec.config import RetrainingSettings
from leanrec.data.feedback import Watermark
from leanrec.errors import ConfigError
from leanrec.evaluation.drift import Signal
from leanrec.release.retraining import Standing, decide

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
