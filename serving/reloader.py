"""Follow a repository's release.json and configurations, and tell Triton to load what changed.

The desired state is what the files say; this thread only tells its own Triton to look again. It loads
and never unloads first: while a new version loads, the old one answers, and when the new one is broken
Triton refuses the load and the old one stays.
"""

from __future__ import annotations

import http.client
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leanrec.errors import ServingError

RELEASE_FILE = "release.json"
CONFIGURATION = "config.pbtxt"
CANDIDATE = "_candidate"
"""How the names of models end under which a release is tried (leanrec/release/routing.py)."""
POLL_S = 0.2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Seconds after which Triton is asked again for what it refused, twice as many each time."""

Ask = Callable[[str, str, Any], tuple[int, Any]]
Report = Callable[[dict[str, list[int]] | None, str | None], None]


def configured_models(repository: Path) -> list[str]:
    """Names of the models in `repository`: its visible folders with a config.pbtxt."""
    return sorted(
        file.parent.name
        for file in repository.glob(f"*/{CONFIGURATION}")
        if not file.parent.name.startswith(".")
    )


def models_to_start_with(repository: Path) -> list[str]:
    """Those of `configured_models` without which a server is of no use; candidates may be broken."""
    return [name for name in configured_models(repository) if not name.endswith(CANDIDATE)]


class Reloader:
    """Compares what the files say with what Triton was told, and reports what answers and what does not.

    Make it before Triton starts on `models_to_start_with`, so that nothing that changes meanwhile is missed.
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
        present = self._fingerprints()
        self._loaded = {name: present[name] for name in models_to_start_with(repository)}
        self._again_at = math.inf

    def check_started(self) -> None:
        """A ServingError when Triton started without one of its models; then load what came meanwhile.

        At the start, one broken version of a model refuses all of them. Candidates are loaded here, and
        one that is refused is a problem that is reported, for nobody needs it to get an answer.
        """
        states = self._states()
        for name in self._loaded.keys() & set(configured_models(self._repository)):
            if not _is_ready(states.get(name, [])):
                raise ServingError(
                    f"model {name} cannot be served; roll the release back, or publish it anew:"
                    f" {_reasons(states.get(name, []))}"
                )
        seen = self._stamp()
        if not self._load_changed():
            self._again_at = time.monotonic() + FIRST_PAUSE_S
        self._seen = seen

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Cease to follow; waits for a load under way."""
        self._stopping.set()
        self._thread.join(timeout=2)

    def _follow(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._stopping.wait(POLL_S):
            seen = self._stamp()
            if seen != self._seen:
                pause = FIRST_PAUSE_S
            elif time.monotonic() < self._again_at:
                continue
            try:
                done = self._load_changed()
                self._seen = seen
                # What was refused may have been refused for want of memory, or of a file on its way.
                self._again_at = math.inf if done else time.monotonic() + pause
                pause = min(pause * 2, LONGEST_PAUSE_S)
            except Exception as error:  # a thread that ended would leave this replica behind for good
                self._report(None, f"Triton did not answer the reloader, which tries again: {error}")

    def _load_changed(self) -> bool:
        """Load the models whose configuration changed, and unload those that are gone.

        One refused keeps the rest of its release out; a candidate keeps nothing else out. Answers whether
        Triton took everything.
        """
        present = self._fingerprints()
        candidates = {name: value for name, value in present.items() if name.endswith(CANDIDATE)}
        stable = {name: value for name, value in present.items() if name not in candidates}
        refused = self._load(stable, "the older version goes on serving") or self._unload_gone()
        refused = self._load(candidates, "the stable release answers in its place") or refused
        self._report(self._ready(self._states()), refused)
        return refused is None

    def _load(self, models: dict[str, bytes], meanwhile: str) -> str | None:
        """Load those of `models` (name -> fingerprint) that changed, up to one that is refused, and why."""
        for name, fingerprint in models.items():
            if self._loaded.get(name) == fingerprint:
                continue
            status, answer = self._ask("POST", f"/v2/repository/models/{name}/load", {})
            if status != http.client.OK:
                return f"model {name} was not loaded, {meanwhile}: {_refusal(status, answer)}"
            self._loaded[name] = fingerprint
        return None

    def _unload_gone(self) -> str | None:
        """Unload the models whose folders went away, once everything else answers in their place.

        Answers what Triton refused.
        """
        for name in self._loaded.keys() - set(configured_models(self._repository)):
            status, answer = self._ask("POST", f"/v2/repository/models/{name}/unload", {})
            if status != http.client.OK:
                return f"model {name}, whose folder is gone, was not unloaded: {_refusal(status, answer)}"
            del self._loaded[name]
        return None

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

    def _ready(self, states: dict[str, list[dict[str, str]]]) -> dict[str, list[int]]:
        """The versions of each model that answer."""
        return {
            name: sorted(int(e["version"]) for e in states.get(name, []) if e["state"] == "READY")
            for name in configured_models(self._repository)
        }


def _refusal(status: int, answer: Any) -> Any:
    """Why Triton refused, in its own words where it has some."""
    return answer.get("error", answer) if isinstance(answer, dict) else status


def _is_ready(entries: list[dict[str, str]]) -> bool:
    return any(entry["state"] == "READY" for entry in entries)


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _reasons(entries: list[dict[str, str]]) -> str:
    reasons = [
        f"version {entry['version']}: {entry['reason']}"
        for entry in entries
        if entry.get("reason") not in (None, "", "unloaded")
    ]
    return "; ".join(reasons) or "Triton gives no reason"
