"""A rollout whose controller is gone: what the next run makes of it, and the same step started again."""

import os
import time
from pathlib import Path

import pytest
from tiny_release import write_artifacts

from leanrec import steps
from leanrec.config import ReleaseSettings, RolloutSettings, RunSettings
from leanrec.errors import GateError, ReleaseError, ServingError
from leanrec.files import write_json
from leanrec.release.promote import accept, advance, offer, rollback, status, withdraw
from leanrec.release.publish import publish_release
from leanrec.release.retraining import refuse_to_start
from leanrec.release.rollout.abandoned import withdraw_abandoned
from leanrec.release.rollout.session import roll_out_published
from leanrec.release.rollout.watch import LOCK, watching


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_artifacts(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def models(tmp_path: Path, artifacts: dict[str, Path]) -> Path:
    """Version 1 is stable, 2 is a candidate."""
    for strategy in ("direct", "canary"):
        settings = ReleaseSettings(repository=str(tmp_path / "models"), strategy=strategy)
        publish_release(settings, name="tiny", lineage={}, output=tmp_path / "out", **artifacts)
    return tmp_path / "models"


def settings_of(models: Path, **rollout: object) -> RunSettings:
    return RunSettings.parse(
        {
            "name": "tiny",
            "data": {"source": "movielens-100k"},
            "feature_store": {"repository": "features"},
            "release": {"repository": str(models), "strategy": "canary"},
            "rollout": {"gateways": ["http://127.0.0.1:9"], **rollout},
        }
    )


def end_abandoned(models: Path, **rollout: object) -> None:
    withdraw_abandoned(RolloutSettings(**rollout), ReleaseSettings(repository=str(models)))


def stage(models: Path) -> str | None:
    rollout = status(models)["rollout"]
    return rollout and rollout["stage"]


def last_looked(models: Path, seconds_ago: float) -> None:
    """As if a controller had looked then, and been killed."""
    with watching(models):
        pass
    then = time.time() - seconds_ago
    os.utime(models / LOCK, (then, then))


def test_a_stage_that_nobody_watches_is_ended_by_the_next_run_with_its_reason(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance(models, "canary", percent=10, reason="as before")
    last_looked(models, 2000)
    end_abandoned(models)
    assert stage(models) == "canary", "the stage began a moment ago, though nobody looked since"
    present = time.time()
    monkeypatch.setattr(time, "time", lambda: present + 1000)
    last_looked(models, 800)
    end_abandoned(models)
    assert stage(models) == "canary", "somebody gets 15 minutes to go on"
    last_looked(models, 950)
    end_abandoned(models, abandoned_after_s=None)
    assert stage(models) == "canary"
    end_abandoned(models)
    facts = status(models)
    assert (facts["stable"], facts["rollout"]) == (1, None)
    assert [line["version"] for line in facts["versions"]] == [1, 2]
    assert "canary at 10 %: no controller watched it for 950 s, bound 900" in facts["history"][-1]["reason"]


def test_a_controller_at_work_keeps_its_stage_however_long_it_does_not_look(models: Path) -> None:
    advance(models, "shadow", shadow_percent=10, reason="as before")
    time.sleep(0.1)
    with watching(models):
        os.utime(models / LOCK, (0, 0))
        end_abandoned(models, abandoned_after_s=0)
        assert status(models)["watched"] is True
        with pytest.raises(ReleaseError, match=rf"another rollout is at work \(process {os.getpid()}\)"):
            roll_out_again(models)
    assert status(models)["watched"] is False
    assert stage(models) == "shadow"
    last_looked(models, 5)
    end_abandoned(models, abandoned_after_s=0.05)
    assert stage(models) is None
    assert status(models)["watched"] is None


def test_a_candidate_that_met_nobody_waits_for_a_person_unless_runs_roll_out_what_they_publish(
    models: Path,
) -> None:
    time.sleep(0.1)
    end_abandoned(models, abandoned_after_s=0)
    assert stage(models) == "candidate"
    end_abandoned(models, abandoned_after_s=0, after_publish=True)
    assert stage(models) is None


def test_a_retraining_begins_though_a_controller_was_killed(models: Path) -> None:
    advance(models, "canary", percent=10, reason="as before")
    with pytest.raises(ReleaseError, match=r"canary at 10 %\); let it end .*rollout` goes on .*abort`"):
        refuse_to_start(settings_of(models))
    time.sleep(0.1)
    refuse_to_start(settings_of(models, abandoned_after_s=0.05))
    assert stage(models) is None


def test_steps_by_hand_are_refused_before_they_take_their_time(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"version 2 is being rolled out .*nobody may publish another"):
        steps.publish(settings_of(models), steps.WorkFolder(path=tmp_path / "empty"), code_version="")


def roll_out_again(models: Path) -> None:
    """The pipeline's last step, started once more for version 2."""
    write_json(models / "../published", {"version": 2})
    roll_out_published(settings_of(models), published=models / "../published", output=models / "../outcome")


def test_the_step_started_again_goes_on_and_does_not_begin_with_what_was_withdrawn(models: Path) -> None:
    advance(models, "canary", percent=10, reason="as before")
    with pytest.raises(ServingError, match="no gateway answers"):  # it went on to look at the gateways
        roll_out_again(models)
    assert stage(models) == "canary"
    withdraw(models, "failed requests: 9 % over 100 requests")
    for _ in range(2):
        with pytest.raises(GateError, match=r"withdrawn, version 1 goes on serving; failed requests: 9 %"):
            roll_out_again(models)
    assert stage(models) is None
    offer(models, 2)
    accept(models, "fine")
    roll_out_again(models)
    assert status(models)["stable"] == 2
    rollback(models)
    with pytest.raises(GateError, match="version 1 goes on serving; it was stable, and rolled back by hand"):
        roll_out_again(models)
    assert stage(models) is None
    offer(models, 2)
    accept(models, "finer")
    rollback(models, "it names too few films")
    with pytest.raises(GateError, match="it was stable, and rolled back: it names too few films"):
        roll_out_again(models)
