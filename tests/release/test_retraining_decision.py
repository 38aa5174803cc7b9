"""When a run goes on to training, and what it says otherwise."""

import re

import pytest

from leanrec.config import RetrainingSettings
from leanrec.data.feedback import Watermark
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
