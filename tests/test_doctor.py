"""The doctor looks at the machine for real."""

import socket
from pathlib import Path

import pytest

from leanrec import doctor
from leanrec.config import ServingSettings


def test_this_machine_is_fit() -> None:
    errors = [finding for finding in doctor.examine() if finding.state == "error"]
    assert errors == []


def test_a_taken_port_is_seen_and_the_way_out_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = [f for f in doctor.examine(ServingSettings(grpc_port=port)) if f"port {port}" in f.subject]
    assert [(f.state, f.seen) for f in found] == [("warning", "taken")]
    assert "serving.grpc_port" in found[0].mend


def test_an_untested_version_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.PINNED, "kfp", "1.0.0")
    (found,) = [finding for finding in doctor.examine() if finding.subject == "kfp"]
    assert found.state == "warning"
    assert "1.0.0 was tested" in found.mend


def test_a_missing_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.PINNED, "no-such-package", "1")
    (found,) = [finding for finding in doctor.examine() if finding.subject == "no-such-package"]
    assert (found.state, found.seen) == ("error", "not installed")


def test_the_serving_environment_that_the_variable_names_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LEANREC_SERVING_PYTHON", str(tmp_path / "python"))
    (found,) = [finding for finding in doctor.examine() if finding.subject.startswith("Triton")]
    assert (found.state, found.seen) == ("error", f"no {tmp_path / 'python'}")
    assert "LEANREC_SERVING_PYTHON" in found.mend
