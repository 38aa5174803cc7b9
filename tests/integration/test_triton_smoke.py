"""From Feast's online store through a real Triton to titles: the smoke test and `recommend_to`."""

from dataclasses import replace
from pathlib import Path

import pytest
import small_world
from tiny_release import SPEC, write_artifacts

from leanrec.config import FeatureStoreSettings, ReleaseSettings
from leanrec.errors import FeatureStoreError, ServingError
from leanrec.features.store import materialize_features
from leanrec.files import read_json, write_json
from leanrec.release.promote import status
from leanrec.release.publish import publish_release
from leanrec.release.recommendation import recommend_to
from leanrec.release.smoke import smoke_test_release
from leanrec.triton.embedded_server import embedded_server

pytestmark = pytest.mark.integration

ITEMS = tuple(f"i{n}" for n in range(1, 31))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Events, their features in a Feast store, and a release whose tensors fit them."""
    folder = tmp_path_factory.mktemp("world")
    events = [
        small_world.event(u * 100 + n, f"u{u}", ITEMS[(u + n) % 30], n * 10, 1 + (u + n) % 5)
        for u in range(6)
        for n in range(4 + u)
    ]
    paths = small_world.build(folder, events, items=ITEMS)
    store = FeatureStoreSettings(repository=str(folder / "feast"))
    materialize_features(store, features=paths["features"], output=folder / "online.json")
    spec = replace(
        SPEC,
        num_users=7,
        num_items=len(ITEMS) + 1,
        attribute_cardinalities={"group": 3},
        history_length=3,
    )
    artifacts = write_artifacts(folder / "artifacts", spec=spec)
    settings = ReleaseSettings(repository=str(folder / "models"))
    publish_release(settings, name="tiny", **artifacts, lineage={}, output=folder / "release.json")
    candidate = ReleaseSettings(repository=str(folder / "with-candidate"), strategy="canary")
    for _ in range(2):
        publish_release(candidate, name="tiny", **artifacts, lineage={}, output=folder / "candidate.json")
    return {"folder": folder, "events": paths["events"]}


def test_the_smoke_test_recommends_to_three_users_and_times_the_answers(world: dict[str, Path]) -> None:
    folder = world["folder"]
    settings = ReleaseSettings(repository=str(folder / "models"))
    store = FeatureStoreSettings(repository=str(folder / "feast"))
    result = smoke_test_release(
        settings,
        store,
        published=folder / "release.json",
        events=world["events"],
        output=folder / "smoke.json",
    )
    assert read_json(folder / "smoke.json") == result
    assert result["latency_ms"]["n"] == 200
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p95"] <= result["latency_ms"]["p99"]
    assert result["server"]["version"] == 1
    assert [user["user"] for user in result["users"]] == ["u2", "u3", "u1"]
    for user in result["users"]:
        lines = user["recommendations"]
        assert user["known"]
        assert [line["rank"] for line in lines] == list(range(1, 11))
        assert [line["score"] for line in lines] == sorted((line["score"] for line in lines), reverse=True)
        # The tiny release prefers high indices and never recommends what was seen, which is low ones.
        assert lines[0]["title"] == "Title 30"
        assert all(len(line["because"]) <= 2 for line in lines)
    assert any(line["because"] for user in result["users"] for line in user["recommendations"])


def test_a_person_gets_recommendations_and_a_stranger_popular_items(world: dict[str, Path]) -> None:
    folder = world["folder"]
    settings = ReleaseSettings(repository=str(folder / "models"))
    store = FeatureStoreSettings(repository=str(folder / "feast"))
    with embedded_server(folder / "models", folder / "server.json") as server:
        known = recommend_to("u4", 5, release=settings, store=store, server=server.grpc)
        stranger = recommend_to("nobody", 3, release=settings, store=store, server=server.grpc)
        with pytest.raises(ServingError, match="k is 13; this release answers 1 to 12 items"):
            recommend_to("u4", 13, release=settings, store=store, server=server.grpc)
    assert (known["known"], known["version"], len(known["recommendations"])) == (True, 1, 5)
    assert (stranger["known"], stranger["liked"]) == (False, [])
    assert [line["title"] for line in stranger["recommendations"]] == ["Title 30", "Title 28", "Title 29"]
    with pytest.raises(ServingError, match="nothing answers at"):
        recommend_to("u4", 5, release=settings, store=store, server=server.grpc)


def test_a_release_that_clients_do_not_get_fails_the_smoke_test(
    world: dict[str, Path], tmp_path: Path
) -> None:
    folder = world["folder"]
    write_json(tmp_path / "release.json", {**read_json(folder / "release.json"), "version": 2})
    with pytest.raises(ServingError, match="clients that name no version get 1, and 2 was published"):
        smoke_test_release(
            ReleaseSettings(repository=str(folder / "models")),
            FeatureStoreSettings(repository=str(folder / "feast")),
            published=tmp_path / "release.json",
            events=world["events"],
            output=tmp_path / "smoke.json",
        )
    assert not (tmp_path / "smoke.json").exists()


def test_a_release_that_fails_its_smoke_test_is_taken_back(world: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path
    settings = ReleaseSettings(repository=str(folder / "models"))
    artifacts = write_artifacts(folder / "artifacts")
    for _ in range(2):
        publish_release(settings, name="tiny", **artifacts, lineage={}, output=folder / "release.json")
    with pytest.raises(FeatureStoreError, match="release 1 is stable again"):
        smoke_test_release(
            settings,
            FeatureStoreSettings(repository=str(folder / "never-materialized")),
            published=folder / "release.json",
            events=world["events"],
            output=folder / "smoke.json",
        )
    assert status(folder / "models")["stable"] == 1
    assert not (folder / "smoke.json").exists()


def test_a_candidate_is_asked_under_its_own_names_and_withdrawn_when_it_fails(
    world: dict[str, Path], tmp_path: Path
) -> None:
    folder = world["folder"]
    repository = folder / "with-candidate"

    def smoke_test(store: str) -> dict:
        return smoke_test_release(
            ReleaseSettings(repository=str(repository), strategy="canary"),
            FeatureStoreSettings(repository=str(folder / store)),
            published=folder / "candidate.json",
            events=world["events"],
            output=tmp_path / "smoke.json",
        )

    result = smoke_test("feast")
    assert [user["version"] for user in result["users"]] == [2, 2, 2]
    assert status(repository)["rollout"]["version"] == 2
    with pytest.raises(FeatureStoreError, match="candidate is withdrawn, release 1 goes on serving"):
        smoke_test("never-materialized")
    assert (status(repository)["stable"], status(repository)["rollout"]) == (1, None)
