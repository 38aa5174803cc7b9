"""Which of two models goes on, the one that started from the release or the one from nothing."""

import pytest

from leanrec.cli.retrain import _settings_for
from leanrec.config import RunSettings
from leanrec.errors import ConfigError
from leanrec.evaluation.bootstrap import Interval
from leanrec.release.starts import choose_start


@pytest.mark.parametrize(
    ("low", "high", "chosen"),
    [(0.001, 0.02, "full"), (0.0, 0.02, "warm"), (-0.001, 0.02, "warm"), (-0.02, -0.001, "warm")],
)
def test_full_training_goes_on_only_where_it_is_better_beyond_doubt(low, high, chosen):
    start, reason = choose_start(Interval(value=(low + high) / 2, low=low, high=high))
    assert start == chosen
    assert f"95 % {low:+.4f} to {high:+.4f}" in reason


def test_a_comparison_with_the_full_training_alone_is_refused():
    settings = RunSettings.parse(
        {
            "name": "n",
            "data": {"source": "synthetic", "feedback": "log"},
            "feature_store": {"repository": "store"},
            "release": {"repository": "models"},
        }
    )
    asked = {"if_drifted": False, "to_all": False}
    both = _settings_for(settings, full=False, compare=True, **asked)
    assert both.retraining.compare_with_full and both.training.warm_start == "release"
    with pytest.raises(ConfigError, match="--compare has no warm start to compare with; leave one away"):
        _settings_for(settings, full=True, compare=True, **asked)
