"""Follow a repository's release.json and configurations, and tell Triton to load what changed.

The desired state is what the files say; this thread only tells its own Triton to look again. It loads
and never unloads first: while a new version loads, the old one answers, and when the new one is broken
Triton refuses the load and the old one stays.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leanrec.errors import ServingError

RELEASE_FILE = "release.json"
CONFIGURATION = "config.pbtxt"
POLL_S = 0.2

Ask = Callable[[str, str, Any], tuple[int, Any]]
Report = Callable[[dict[str, list[int]] | None, str | None], None]


def configured_models(repository: Path) -> list[str]:
    """Names of the models in `repository`: its visible folders with a config.pbtxt."""
    return sorted(
        file.parent.name
        for file in repository.glob(f"*/{CONFIGURATION}")
        if not file.parent.name.startswith(".")
    )


class Reloader:
    """Compares what the files say with what Triton was told, and reports what answers and what does not.

    `ask` speaks to Triton (method, path, body); `report` takes the ready versions of each model (None:
    not known) and the problem, if any.
    """

    def __init__(self, repository: Path, ask: Ask, report: Report) -> None:
        self._repository = repository
        self._ask = ask
        self._report = report
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="reloader", daemon=True)
        self._seen = self._stamp()
        self._loaded = self._fingerprints()

    def check_started(self) -> None:
        """A ServingError when a model has no version that answers; a broken version beside is reported."""
        states = self._states()
        for name in configured_models(self._repository):
            if not any(entry["state"] == "READY" for entry in states.get(name, [])):
                raise ServingError(f"model {name} cannot be served: {_reasons(states.get(name, []))}")
        self._report(*self._summary(states))

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Cease to follow; waits for a load under way."""
        self._stopping.set()
        self._thread.join(timeout=2)

    def _follow(self) -> None:
        while not self._stopping.wait(POLL_S):
            seen = self._stamp()
            if seen == self._seen:
                continue
            try:
                self._load_changed()
                self._seen = seen
            except (OSError, http.client.HTTPException, ServingError) as error:
                self._report(None, f"Triton did not answer the reloader, which tries again: {error}")

    def _load_changed(self) -> None:
        """Load the models whose configuration changed; one refused keeps the rest of its release out."""
        refused = None
        for name, fingerprint in self._fingerprints().items():
            if self._loaded.get(name) == fingerprint:
                continue
            status, answer = self._ask("POST", f"/v2/repository/models/{name}/load", {})
            if status != http.client.OK:
                reason = answer.get("error", answer) if isinstance(answer, dict) else status
                refused = f"model {name} was not loaded, the older version goes on serving: {reason}"
                break
            self._loaded[name] = fingerprint
        models, broken = self._summary(self._states())
        self._report(models, refused or broken)

    def _stamp(self) -> tuple[bytes | None, dict[str, bytes]]:
        return _content(self._repository / RELEASE_FILE), self._fingerprints()

    def _fingerprints(self) -> dict[str, bytes]:
        return {
            name: _content(self._repository / name / CONFIGURATION) or b""
            for name in configured_models(self._repository)
        }

    def _states(self) -> dict[str, list[dict[str, str]]]:
        status, index = self._ask("POST", "/v2/repository/index", {})
        if status != http.client.OK:
            raise ServingError(f"Triton does not list its models: {index}")
        states: dict[str, list[dict[str, str]]] = {}
        for entry in index:
            states.setdefault(entry["name"], []).append({"state": "UNAVAILABLE", "version": "", **entry})
        return states

    def _summary(self, states: dict[str, list[dict[str, str]]]) -> tuple[dict[str, list[int]], str | None]:
        """The versions of each model that answer, and why others do not."""
        entries = {name: states.get(name, []) for name in configured_models(self._repository)}
        models = {
            name: sorted(int(entry["version"]) for entry in versions if entry["state"] == "READY")
            for name, versions in entries.items()
        }
        broken = [
            f"model {name} version {entry['version']}: {entry['reason']}"
            for name, versions in entries.items()
            for entry in versions
            if entry["state"] != "READY" and entry.get("reason") not in (None, "", "unloaded")
        ]
        return models, "; ".join(broken) or None


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _reasons(entries: list[dict[str, str]]) -> str:
    reasons = [f"version {e['version']}: {e['reason']}" for e in entries if e.get("reason")]
    return "; ".join(reasons) or "Triton gives no reason"
