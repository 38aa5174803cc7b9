"""Several real Tritons over one repository: one dies, one joins, the release changes, and no user notices."""

from pathlib import Path

import pytest
from gateway_load import asking, fill_store
from gateway_world import headers_of, publish, running_gateway, settings_of
from restartable import Triton, ended
from waiting import wait_for

from leanrec.config import FeatureStoreSettings
from leanrec.release.promote import rollback
from leanrec.triton import TritonClient

pytestmark = pytest.mark.integration


def serves(triton: Triton, version: int) -> bool:
    """Whether it answers whoever names no version with `version`, and has it under its number too."""
    with TritonClient(triton.grpc, timeout_s=60) as client:
        return client.is_ready("recommender") and client.is_ready("recommender", version)


def test_replicas_die_join_and_change_their_release_together(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    store = FeatureStoreSettings(repository=str(tmp_path / "store"))
    users = fill_store(store, tmp_path)
    first, second, late = (Triton(tmp_path / "models") for _ in range(3))
    addresses = [triton.grpc for triton in (first, second, late)]
    # The machine of the tests may be busy: what is slow is not what is tested.
    settings = settings_of(tmp_path, store, triton=addresses, deadline_ms=20_000)
    with ended(first, second, late):
        first.start()
        second.start()
        with (
            running_gateway(tmp_path, settings) as (_, url),
            asking(url, headers_of(settings), users) as load,
        ):

            def answered_by(release: int, number: int = 60) -> bool:
                newest = load.answers[-number:]
                return len(newest) == number and {answer.release for answer in newest} == {release}

            wait_for(lambda: answered_by(1))
            first.kill()  # the other one answers
            died = len(load.answers)
            wait_for(lambda: len(load.since(died)) > 100)

            publish(tmp_path, 2)  # stable at once
            wait_for(lambda: answered_by(2))
            second_is_new = len(load.answers)
            late.start()  # it has never seen release 1 serve, and answers with what the files say
            wait_for(lambda: serves(late, 2))
            found = late.num_answered()
            wait_for(lambda: late.num_answered() > found + 20)  # the gateway has found it, within a second
            second.kill()  # so now it answers alone
            wait_for(lambda: len(load.since(second_is_new)) > 200)

            first.start()  # back, and both are moved together
            wait_for(lambda: serves(first, 2))
            rollback(tmp_path / "models")
            wait_for(lambda: answered_by(1))
            wait_for(lambda: serves(first, 1) and serves(late, 1))
    load.assert_right()
    assert {answer.degraded for answer in load.answers} == {None}
    releases = [answer.release for answer in load.answers]
    assert set(releases[second_is_new : second_is_new + 200]) == {2}
