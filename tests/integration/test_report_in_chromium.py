"""The report in a real browser: no error in the console, nothing wider than the screen, light and dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from run_artifacts import make_facts, make_inputs

from leanrec.report.build import build_report
from leanrec.report.inputs import ReportInputs

pytestmark = pytest.mark.integration

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-logging=stderr",
)  # fmt: skip

PROBE = """
<script>
addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument;
    return {
      asked: frame.clientWidth,
      taken: page.documentElement.scrollWidth,
      drawings: [...page.querySelectorAll("svg")].filter(svg => svg.clientHeight > 20).length,
      smallest: Math.min(...[...page.querySelectorAll("svg text")].map(text => {
        const scale = text.getScreenCTM();
        return Math.hypot(scale.a, scale.b) * parseFloat(getComputedStyle(text).fontSize);
      })),
      fetched: frame.contentWindow.performance.getEntriesByType("resource").length,
    };
  });
  document.title = JSON.stringify(frames);
});
</script>
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.fail("no chromium on this machine: install it with `apt-get install chromium`")
    return binary


def browse(chromium: str, page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The page's content after its scripts ran, and what the console said."""
    done = subprocess.run(
        [chromium, *FLAGS, *flags, f"--user-data-dir={profile}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def measured(chromium, tmp_path_factory) -> tuple[list[dict], list[str]]:
    """The report in frames of 390 and 1280 pixels, and the report of a failed run at 390."""
    folder = tmp_path_factory.mktemp("pages")
    build_report(make_inputs(folder), folder / "whole")
    failed = ReportInputs(run=make_facts(failure="data.events: no such file; " + "a_long_name" * 20))
    build_report(failed, folder / "failed")
    frames = [("whole", 390), ("whole", 1280), ("failed", 390)]
    body = "".join(
        f'<iframe src="{name}/report.html" style="border:0;width:{width}px;height:2000px"></iframe>'
        for name, width in frames
    )
    probe = folder / "probe.html"
    probe.write_text(f"<!doctype html><title>-</title>{PROBE}{body}", encoding="utf-8")
    flags = ("--dump-dom", "--allow-file-access-from-files", "--window-size=1400,2000")
    page, console = browse(chromium, probe, folder / "profile", *flags)
    title = re.search(r"<title>(.*?)</title>", page)
    assert title, page[:500]
    return json.loads(html.unescape(title.group(1))), console


def test_the_console_stays_silent(measured):
    assert measured[1] == []


def test_nothing_is_wider_than_the_screen(measured):
    assert [frame["asked"] for frame in measured[0]] == [390, 1280, 390]
    assert all(frame["taken"] <= frame["asked"] for frame in measured[0])


def test_every_plot_is_drawn_with_letters_that_can_be_read(measured):
    for frame in measured[0][:2]:
        assert frame["drawings"] >= 8
        assert frame["smallest"] >= 9


def test_nothing_is_fetched(measured):
    assert [frame["fetched"] for frame in measured[0]] == [0, 0, 0]


def test_light_and_dark_are_two_different_pictures(chromium, tmp_path):
    page = build_report(make_inputs(tmp_path), tmp_path / "report")
    pictures = []
    for scheme in (0, 1):
        picture = tmp_path / f"{scheme}.png"
        flags = (
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--screenshot={picture}",
            "--window-size=390,600",
        )
        browse(chromium, page, tmp_path / f"profile{scheme}", *flags)
        pictures.append(picture.read_bytes())
    assert pictures[0] != pictures[1]
