"""Attributes that change from release to release, or are none, served by the real Triton."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_workspace import make_workspace, read_rows, write_rows

pytestmark = pytest.mark.integration

LEANREC = [sys.executable, "-c", "from leanrec.cli import main; main()"]
FREE_PORTS = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}


def leanrec(folder: Path, *arguments: str) -> str:
    """Run the command line in `folder`; what it printed."""
    done = subprocess.run([*LEANREC, *arguments], cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def recommend(folder: Path, user: str) -> dict:
    """What the release that is stable recommends to `user`, from the row that the store holds now."""
    process = subprocess.Popen(
        [*LEANREC, "serve"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout
        address = json.loads(process.stdout.readline())["grpc"]
        return json.loads(
            leanrec(folder, "recommend", "--user", user, "-k", "5", "--server", address, "--json")
        )
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_a_recommender_without_user_attributes_is_released_and_answers(tmp_path: Path) -> None:
    make_workspace(tmp_path, data={"user_attributes": []}, serving=FREE_PORTS)
    printed = leanrec(tmp_path, "run", "run.yaml")
    assert printed.count("Triton recommends") == 3
    config = (tmp_path / "stores/models/recommender/config.pbtxt").read_text()
    assert re.search(r'name: "user_attributes"\s+data_type: TYPE_INT64\s+dims: 1\s', config)


def test_a_rollback_across_a_new_attribute_answers_known_users(tmp_path: Path) -> None:
    config = make_workspace(tmp_path, serving=FREE_PORTS)
    leanrec(tmp_path, "run", "run.yaml")
    table = tmp_path / "raw/users.csv"
    users = [(row["user_id"], row["group"], "xyz"[n % 3]) for n, row in enumerate(read_rows(table))]
    write_rows(table, ("user_id", "group", "city"), users)
    settings = yaml.safe_load(config.read_text())
    settings["data"]["user_attributes"] = ["city", "group"]
    config.write_text(yaml.safe_dump(settings))
    leanrec(tmp_path, "run", "run.yaml")
    newer = recommend(tmp_path, users[3][0])
    leanrec(tmp_path, "release", "rollback", "run.yaml")
    older = recommend(tmp_path, users[3][0])
    assert [(answer["version"], answer["known"]) for answer in (newer, older)] == [(2, True), (1, True)]
    assert len(older["recommendations"]) == 5
