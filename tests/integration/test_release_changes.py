"""Releases change faster than a real Triton loads them, under load, and every answer is a model's."""

import time
from pathlib import Path

import pytest
from gateway_load import asking, fill_store
from gateway_world import headers_of, publish, running_gateway, settings_of
from waiting import wait_for

from leanrec.config import FeatureStoreSettings
from leanrec.release.promote import promote, rollback
from leanrec.triton.embedded_server import embedded_server

pytestmark = pytest.mark.integration

PAUSES_S = (0.0, 0.3, 0.1, 0.6, 0.2, 1.0, 0.4, 0.0, 0.8, 0.5)
"""Seconds between two changes: some fall before, some into, some after what Triton does about the first."""


def test_changes_that_follow_each_other_at_once_degrade_no_answer(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for version in (1, 2, 3):
        publish(tmp_path, version)
    store = FeatureStoreSettings(repository=str(tmp_path / "store"))
    users = fill_store(store, tmp_path)
    assert rollback(models) == 2  # served alone, so that what Triton serves before and after is not the same
    with embedded_server(models, tmp_path / "triton.json") as triton:
        settings = settings_of(tmp_path, store, triton=[triton.grpc], deadline_ms=20_000)
        with (
            running_gateway(tmp_path, settings) as (_, url),
            asking(url, headers_of(settings), users) as load,
        ):
            wait_for(lambda: len(load.answers) > 20)
            promote(models, 1)
            wait_for(lambda: load.answers[-1].release == 1)  # what follows may be too fast for it to answer
            rollback(models)
            for pause in PAUSES_S:
                promote(models, 1)
                time.sleep(pause)
                rollback(models)
                time.sleep(pause)
            promote(models, 3)
            publish(tmp_path, 4)
            rollback(models)
            promote(models, 4)
            wait_for(lambda: {answer.release for answer in load.answers[-20:]} == {4})
    load.assert_right()
    assert {answer.degraded for answer in load.answers} == {None}
    assert {1, 2, 4} <= {answer.release for answer in load.answers} <= {1, 2, 3, 4}
