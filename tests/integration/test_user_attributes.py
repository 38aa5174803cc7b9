"""A recommender whose users have no attributes, served by the real Triton."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_workspace import make_workspace

pytestmark = pytest.mark.integration

LEANREC = [sys.executable, "-c", "from leanrec.cli import main; main()"]
FREE_PORTS = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}


def leanrec(folder: Path, *arguments: str) -> str:
    """Run the command line in `folder`; what it printed."""
    done = subprocess.run([*LEANREC, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_recommender_without_user_attributes_is_released_and_answers(tmp_path: Path) -> None:
    make_workspace(tmp_path, data={"user_attributes": []}, serving=FREE_PORTS)
    printed = leanrec(tmp_path, "run", "run.yaml")
    assert printed.count("Triton recommends") == 3
    config = (tmp_path / "stores/models/recommender/config.pbtxt").read_text()
    assert re.search(r'name: "user_attributes"\s+data_type: TYPE_INT64\s+dims: 1\s', config)
