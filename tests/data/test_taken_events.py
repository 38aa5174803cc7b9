"""What several writers of one event log know of each other's events, and ids that come again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from waiting import wait_for

from leanrec.data import event_log, log_file
from leanrec.data.event_log import EventLog, FeedbackEvent, TakenIdError, read_events
from leanrec.data.log_file import FileLock, committed_end, lines_before

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def event(name: str, **more: object) -> FeedbackEvent:
    values = {"user_id": "p", "item_id": "i", "type": "click", "timestamp": NOON, **more}
    return FeedbackEvent(event_id=name, **values)


def ids(folder: Path) -> list[str]:
    return read_events(folder)["event_id"].to_pylist()


def lines(folder: Path) -> list[str]:
    return [line for path in folder.glob("*/*.jsonl") for line in path.read_text().splitlines()]


def test_writers_at_the_same_time_know_what_the_others_have_taken(tmp_path: Path) -> None:
    with EventLog(tmp_path, "w") as one, EventLog(tmp_path, "x") as other:
        assert one.append([event("a"), event("b")]) == [True, True]
        assert other.append([event("a"), event("c")]) == [False, True]
        assert one.append([event("c"), event("d"), event("b")]) == [False, True, False]
        assert other.append([event("d")]) == [False]
    assert len(ids(tmp_path)) == sum(
        len(path.read_text().splitlines()) for path in tmp_path.glob("*/*.jsonl")
    )


def test_a_writer_that_has_nothing_to_write_follows_the_others_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "FOLLOW_S", 0.01)
    with EventLog(tmp_path, "w") as one, EventLog(tmp_path, "x") as other:
        one.append([event("a")])
        wait_for(lambda: "a" in other._taken)
        next(tmp_path.glob("*/w.jsonl")).unlink()
        assert other.append([event("a")]) == [False]


def test_what_another_writer_has_not_committed_is_not_taken(tmp_path: Path) -> None:
    with EventLog(tmp_path, "w") as log, EventLog(tmp_path, "x") as other:
        other.append([event("a")])
        (path,) = tmp_path.glob("*/x.jsonl")
        committed = path.stat().st_size
        with FileLock(path):
            with path.open("a") as stream:
                stream.write(path.read_text().replace('"a"', '"b"'))
            assert log.append([event("b")]) == [True]
            os.truncate(path, committed)  # its disk is full
        assert log.append([event("b"), event("a")]) == [False, False]


def test_a_writer_that_hangs_keeps_nobody_from_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with EventLog(tmp_path, "w") as log:
        log.append([event("a")])
        with FileLock(tmp_path / ".commits"):
            started = time.monotonic()
            assert log.append([event("b"), event("a")]) == [True, False]
            assert time.monotonic() - started >= log_file.LOCK_S
            monkeypatch.setattr(log_file, "LOCK_S", 3600)  # it is waited for once
            assert log.append([event("c")]) == [True]
        assert log.append([event("d")]) == [True]
    assert ids(tmp_path) == ["a", "b", "c", "d"]
    assert caplog.text.count("a process has held this lock for more than 1 s") == 1


def test_what_others_took_while_a_writer_hung_is_no_longer_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "LOCK_S", 0.2)
    hanging, going_on, fsync = threading.Event(), threading.Event(), os.fsync

    def hang_once(descriptor: int) -> None:
        if not hanging.is_set():
            hanging.set()
            going_on.wait()
        fsync(descriptor)

    with EventLog(tmp_path, "w") as slow, EventLog(tmp_path, "x") as other:
        slow.append([event("a")])
        other.append([event("b")])
        monkeypatch.setattr(os, "fsync", hang_once)
        first = slow.submit([event("c"), event("d"), event("a")])
        hanging.wait()
        assert other.append([event("c")]) == [True]
        going_on.set()
        assert first.result() == [False, True, False]
        assert other.append([event("d")]) == [False]
    assert sorted(ids(tmp_path)) == ["a", "b", "c", "d"]


def test_an_id_that_comes_again_with_other_content_is_refused_whole(tmp_path: Path) -> None:
    first = event("a", request_id="7.x.y")
    others = {
        "user_id": event("a", request_id="7.x.y", user_id="q"),
        "item_id": event("a", request_id="7.x.y", item_id="j"),
        "type": event("a", request_id="7.x.y", type="impression"),
        "timestamp": event("a", request_id="7.x.y", timestamp=NOON + timedelta(microseconds=1)),
        "request_id": event("a"),
    }

    def refuses(log: EventLog) -> None:
        for field, other in others.items():
            with pytest.raises(TakenIdError, match=field) as refused:
                log.append([event("new"), other])
            assert (refused.value.fields, refused.value.number) == ((field,), 1)
        assert log.append([first]) == [False]

    with EventLog(tmp_path, "w") as log:
        assert log.append([first, event("r", type="rating", rating=3.7)]) == [True, True]
        refuses(log)
        with EventLog(tmp_path, "x") as beside:
            refuses(beside)
    with EventLog(tmp_path, "w") as log:
        refuses(log)
        assert log.append([event("r", type="rating", rating=3.7)]) == [False]
        with pytest.raises(TakenIdError, match="another type and rating"):
            log.append([event("r", type="click")])
        with pytest.raises(TakenIdError, match="another item_id"):
            log.append([event("new"), event("new", item_id="j")])
    assert sorted(ids(tmp_path)) == ["a", "r"]


def test_a_time_that_was_left_out_contradicts_none(tmp_path: Path) -> None:
    with EventLog(tmp_path, "w") as log:
        before = datetime.now(UTC)
        assert log.append([event("a", timestamp=None), event("b")]) == [True, True]
        assert log.append([event("a", timestamp=None), event("b", timestamp=None)]) == [False, False]
    with EventLog(tmp_path, "w") as log:
        assert log.append([event("a", timestamp=None), event("b")]) == [False, False]
        assert log.append([event("a", timestamp=NOON)]) == [False]
    first = next(row for row in read_events(tmp_path).to_pylist() if row["event_id"] == "a")
    assert before <= first["timestamp"] == first["received_at"]


@pytest.mark.parametrize("most", [1, 7, 40, 41, 1000])
def test_the_last_lines_of_a_file_are_read_from_its_end(tmp_path: Path, most: int) -> None:
    path = tmp_path / "lines"
    given = [b"x" * (n * 997 % 5000) for n in range(41)]
    path.write_bytes(b"".join(line + b"\n" for line in given) + b"torn")
    end = committed_end(path)
    assert end == path.stat().st_size - 4
    assert lines_before(path, end, most=most) == given[-most:]
    half = sum(len(line) + 1 for line in given[:20])
    assert lines_before(path, end, start=half, most=most) == given[20:][-most:]
    path.write_bytes(b"torn" * 10_000)
    assert committed_end(path) == 0


RACER = """
import random, sys
from pathlib import Path
from leanrec.data.event_log import EventLog, FeedbackEvent

names = [f"e{n}" for n in range(400)]
random.Random(int(sys.argv[2])).shuffle(names)
events = [FeedbackEvent(event_id=name, user_id="p", item_id=name, type="click") for name in names]
with EventLog(Path(sys.argv[1]), f"w{sys.argv[2]}") as log:
    print("ready", flush=True)
    sys.stdin.readline()
    together = [log.submit([event]) for event in events[:9]]
    print(sum(call.result()[0] for call in together) + sum(log.append([event])[0] for event in events[9:]))
"""


@pytest.mark.integration
def test_writers_that_take_the_same_events_at_the_same_time_write_each_once(tmp_path: Path) -> None:
    with ExitStack() as ending:
        writers = [
            ending.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", RACER, str(tmp_path), str(number)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(3)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        with ThreadPoolExecutor(len(writers)) as pool:
            accepted = list(pool.map(lambda writer: int(writer.communicate("go\n")[0]), writers))
    assert sum(accepted) == 400
    assert min(accepted) > 0
    assert len(lines(tmp_path)) == len(ids(tmp_path)) == 400
