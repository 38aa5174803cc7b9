"""A full disk, two writers at once, and the `feast` command on the same project."""

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from feast import FeatureStore
from small_world import DATA, build, event, some_events, write_tables

from leanrec.config import FeatureSettings, FeatureStoreSettings
from leanrec.errors import FeatureStoreError, HostError
from leanrec.features.build import build_features
from leanrec.features.online import OnlineUsers
from leanrec.features.project import repo_config
from leanrec.features.store import build_training_set, materialize_features

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
EVENTS = some_events()

WRITER = """
import sys
from pathlib import Path
from leanrec.config import FeatureSettings, FeatureStoreSettings
from leanrec.features.store import materialize_features

repository, output, *worlds = sys.argv[1:]
print("ready", flush=True)
for features in worlds:
    materialize_features(
        FeatureStoreSettings(repository=repository), features=Path(features), output=Path(output)
    )
"""


@contextlib.contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """As on a full disk, a file cannot grow beyond `num_bytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Too little for the tables, enough for them and too little for the SQLite store.
@pytest.mark.parametrize("room", [1_000, 12_000])
def test_a_full_disk_leaves_the_rows_that_were_there(room: int, tmp_path: Path) -> None:
    settings = FeatureStoreSettings(repository=str(tmp_path / "store"))
    old = build(tmp_path / "old", EVENTS)["features"]
    new = build(tmp_path / "new", [*EVENTS, event(900, "u1", "never seen", 10_000)])["features"]
    materialize_features(settings, features=old, output=tmp_path / "counts.json")
    before = OnlineUsers(settings).row("u1")
    files = sorted((tmp_path / "store").iterdir())
    with (
        largest_file(room),
        pytest.raises((FeatureStoreError, HostError), match=r"store.*(free space|disk is full)"),
    ):
        materialize_features(settings, features=new, output=tmp_path / "again.json")
    after = OnlineUsers(settings).row("u1")
    assert before is not None
    assert after is not None
    assert after.history.tolist() == before.history.tolist()
    assert sorted((tmp_path / "store").iterdir()) == files
    assert not (tmp_path / "again.json").exists()
    materialize_features(settings, features=new, output=tmp_path / "again.json")
    mended = OnlineUsers(settings).row("u1")
    assert mended is not None
    assert mended.history.tolist() == [*before.history[1:], 5]


def test_a_full_disk_leaves_no_half_features(tmp_path: Path) -> None:
    paths = write_tables(tmp_path, EVENTS)
    output = tmp_path / "features"
    with largest_file(500), pytest.raises(HostError, match="features: the features cannot be written"):
        build_features(FeatureSettings(), DATA, **paths, previous_vocabulary=None, output=output)
    assert sorted(tmp_path.iterdir()) == sorted(paths.values())


def test_a_full_disk_leaves_no_half_training_set(tmp_path: Path) -> None:
    settings = FeatureStoreSettings(repository=str(tmp_path / "store"))
    world = build(tmp_path, EVENTS)
    output = tmp_path / "training_set.parquet"
    with largest_file(1_000), pytest.raises((FeatureStoreError, HostError)):
        build_training_set(settings, events=world["events"], features=world["features"], output=output)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "events.parquet",
        "features",
        "items.parquet",
        "users.parquet",
    ]


def test_two_writers_take_turns_and_a_reader_sees_whole_rows(tmp_path: Path) -> None:
    repository = tmp_path / "store"
    settings = FeatureStoreSettings(repository=str(repository))
    worlds = {
        "short": build(tmp_path / "short", EVENTS)["features"],
        "long": build(tmp_path / "long", [*EVENTS, event(900, "u1", "never seen", 10_000)])["features"],
    }
    allowed = set()
    for features in worlds.values():
        materialize_features(settings, features=features, output=tmp_path / "counts.json")
        allowed.add(row_of_u1(OnlineUsers(settings)))
    assert len(allowed) == 2

    orders = (["short", "long"] * 3, ["long", "short"] * 3)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, repository, tmp_path / f"{n}.json", *(worlds[w] for w in order)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n, order in enumerate(orders)
    ]
    seen = set()
    users = OnlineUsers(settings)
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        while any(writer.poll() is None for writer in writers):
            seen.add(row_of_u1(users))
    finally:
        for writer in writers:
            writer.kill()
            _, errors = writer.communicate()
            assert (writer.returncode, errors) == (0, "")
    assert seen <= allowed
    registered = FeatureStore(config=repo_config(settings)).list_feature_views()
    assert len(registered) == 4
    assert sorted(file.name for file in repository.iterdir()) == [
        ".lock",
        "offline",
        "online.db",
        "registry.db",
    ]


def test_the_feast_command_applies_and_looks_up(tmp_path: Path) -> None:
    settings = FeatureStoreSettings(repository=str(tmp_path / "store"))
    world = build(tmp_path, EVENTS)
    materialize_features(settings, features=world["features"], output=tmp_path / "counts.json")
    row = OnlineUsers(settings).row("u1")
    assert row is not None
    applied = feast(tmp_path, "apply")
    assert "No changes to registry" in applied
    answer = feast(
        tmp_path,
        "get-online-features",
        "-e",
        "user_id=u1",
        "-f",
        "user_activity:history",
        "-f",
        "user_seen:seen",
    )
    found = json.loads(answer[answer.index("{") :])
    assert found["history"] == [row.history.tolist()]
    assert found["seen"] == [row.seen.tolist()]


def feast(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "LEANREC_FEATURE_STORE": str(folder / "store")}
    done = subprocess.run(
        [Path(sys.executable).parent / "feast", "-c", ROOT / "feature_repo", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def row_of_u1(users: OnlineUsers) -> tuple:
    row = users.row("u1")
    assert row is not None
    return (row.user_index, *row.user_statistics.tolist(), *row.history.tolist(), *row.seen.tolist())
