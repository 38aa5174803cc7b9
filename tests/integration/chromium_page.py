"""A page in a real headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-port=0",
)  # fmt: skip
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27}
SETTLED_S = 180


def chromium_binary() -> str:
    """The browser of this machine; the test fails where there is none."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.fail("no chromium on this machine: install it with `apt-get install chromium`")
    return binary


class Page:
    """One tab. `console` collects what a person would see in the browser's console."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.console: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=120))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        kind, given = message.get("method"), message.get("params", {})
        if kind == "Log.entryAdded":
            self.console.append(given["entry"]["text"])
        elif kind == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(value.get("value")) for value in given["args"]))
        elif kind == "Runtime.exceptionThrown":
            details = given["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description") or details["text"])

    def open(self, url: str, width: int = 1280, height: int = 1000, scheme: str = "light") -> None:
        """Load `url` in a fresh document of this size and colour scheme."""
        self.resize(width, height, scheme)
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=url)
        self.wait("location.protocol !== 'about:' && performance.timing.loadEventEnd > 0")

    def resize(self, width: int, height: int = 1000, scheme: str = "light") -> None:
        """Give the tab another size (CSS pixels) or colour scheme."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression holds; fails with what the page shows."""
        end = time.monotonic() + SETTLED_S
        while time.monotonic() < end:
            # While a document gives way to the next one, there is nothing to ask.
            with suppress(AssertionError):
                if self.evaluate(f"Boolean({expression})"):
                    return
            time.sleep(0.02)
        text = self.evaluate("document.body.innerText")
        raise AssertionError(f"never true: {expression}\nconsole: {self.console}\n{text}")

    def texts(self, selector: str) -> list[str]:
        """What the elements found say, hidden words included."""
        return self.evaluate(
            f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)"
        )

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release Tab, Enter or Escape."""
        text = {"text": "\r"} if key == "Enter" else {}
        about = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": 8 if shift else 0}
        self.send("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        """Put text in where the focus is, as an input method does."""
        self.send("Input.insertText", text=text)

    def focused(self) -> str:
        """The accessible name of what has the focus, roughly: its label or its text."""
        name = "e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent"
        return self.evaluate(f"(e => ({name}).trim())(document.activeElement)")

    def screenshot(self, path: Path) -> None:
        """Write the whole page, beyond the window's height too, as PNG."""
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))


@contextmanager
def chromium_page(profile: Path) -> Iterator[Page]:
    """A tab of a Chromium that ends with the block."""
    log = profile.parent / f"{profile.name}.log"
    with log.open("wb") as stream:
        browser = subprocess.Popen(
            [chromium_binary(), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )
        try:
            with connect(_tab(log, browser), max_size=None) as socket:
                page = Page(socket)
                yield page
                # The browser ends itself and with it the processes that it started; it may not answer that.
                with suppress(ConnectionClosed, TimeoutError):
                    page.send("Browser.close")
            with suppress(subprocess.TimeoutExpired):
                browser.wait(timeout=60)
        finally:
            if browser.poll() is None:
                browser.kill()
                browser.wait(timeout=20)


def _tab(log: Path, browser: subprocess.Popen[bytes]) -> str:
    """The address of the first tab, once the browser says where it listens."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        found = re.search(r"DevTools listening on ws://([^/]+)/", log.read_text(errors="replace"))
        if found:
            return _first_tab(found.group(1))
        if browser.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"chromium did not start:\n{log.read_text(errors='replace')}")


def _first_tab(address: str) -> str:
    from urllib.request import urlopen

    with urlopen(f"http://{address}/json/list", timeout=30) as response:
        tabs = json.load(response)
    return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
