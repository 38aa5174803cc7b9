"""The event log: what is acknowledged is on the disk, once, whatever happens to the writer."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from leanrec.data import event_log
from leanrec.data.event_log import FEEDBACK, EventLog, FeedbackEvent, read_events
from leanrec.errors import DataError, HostError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def event(name: str, **more: object) -> FeedbackEvent:
    values = {"user_id": "p", "item_id": "i", "type": "click", "timestamp": NOON, **more}
    return FeedbackEvent(event_id=name, **values)


def ids(folder: Path, since: datetime | None = None) -> list[str]:
    return read_events(folder, since)["event_id"].to_pylist()


def log_file(folder: Path) -> Path:
    (path,) = folder.glob("*/*.jsonl")
    return path


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_events_come_back_as_they_were_given(tmp_path: Path) -> None:
    given = event("e1", item_id='a"b\n\u2028é', type="rating", rating=3.5, request_id="7.x.y", release=7)
    before = datetime.now(UTC)
    with EventLog(tmp_path, "w") as log:
        assert log.append([given, event("e2")]) == [True, True]
    table = read_events(tmp_path)
    assert table.schema == FEEDBACK
    first, second = table.to_pylist()
    assert before <= first.pop("received_at") <= datetime.now(UTC)
    assert first == {name: getattr(given, name) for name in first}
    assert (second["rating"], second["request_id"], second["release"]) == (None, None, None)


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert read_events(tmp_path / "nowhere").schema == FEEDBACK
    assert ids(tmp_path / "nowhere") == []


def test_a_repeated_id_is_not_written_again_after_a_restart_or_by_another_writer(
    tmp_path: Path,
) -> None:
    with EventLog(tmp_path, "w") as log:
        assert log.append([event("a"), event("a"), event("b")]) == [True, False, True]
        assert log.append([event("b"), event("c")]) == [False, True]
    with EventLog(tmp_path, "w") as log:
        assert log.append([event("c"), event("d")]) == [False, True]
    with EventLog(tmp_path, "x") as log:
        assert log.append([event("d"), event("e")]) == [False, True]
    lines = [line for path in tmp_path.glob("*/*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(json.loads(line)["event_id"] for line in lines) == ["a", "b", "c", "d", "e"]


def test_readers_drop_what_a_writer_no_longer_remembers(tmp_path: Path) -> None:
    with EventLog(tmp_path, "w", remembered_ids=2) as log:
        assert log.append([event("a", item_id="first"), event("b"), event("c")]) == [True] * 3
        assert log.append([event("a", item_id="second")]) == [True]
    assert len(log_file(tmp_path).read_text().splitlines()) == 4
    assert sorted(ids(tmp_path)) == ["a", "b", "c"]
    with EventLog(tmp_path, "w", remembered_ids=2) as log:
        assert log.append([event("c"), event("a", item_id="second"), event("b")]) == [False, False, True]
    by_id = {row["event_id"]: row["item_id"] for row in read_events(tmp_path).to_pylist()}
    assert by_id["a"] == "first"


def test_appends_that_wait_together_share_an_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_fsyncs, fsync = 0, os.fsync

    def slow_fsync(descriptor: int) -> None:
        nonlocal num_fsyncs
        num_fsyncs += 1
        signal.sigtimedwait([], 0.02)
        fsync(descriptor)

    with EventLog(tmp_path, "w") as log:
        log.append([event("first")])
        monkeypatch.setattr(os, "fsync", slow_fsync)
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda n: log.append([event(f"e{n % 100}")]), range(200)))
        assert num_fsyncs < 100
    assert sum(answer == [True] for answer in answers) == 100
    assert len(log_file(tmp_path).read_text().splitlines()) == 101


def test_a_torn_last_line_is_skipped_and_cut_off_by_its_writer(tmp_path: Path) -> None:
    with EventLog(tmp_path, "w") as log:
        log.append([event("a")])
    with log_file(tmp_path).open("ab") as stream:
        stream.write(b'{"event_id":"torn","user_id":"\xc3')
    assert ids(tmp_path) == ["a"]
    with EventLog(tmp_path, "w") as log:
        assert log.append([event("torn")]) == [True]
    assert ids(tmp_path) == ["a", "torn"]


@pytest.mark.parametrize(
    "line",
    [
        "not json\n",
        '{"event_id": "half an event"}\n',
        '{"event_id": 7}\n',
        "\0\0\n",
        "[" * 100_000 + "\n",
        '{"event_id":["a"],"user_id":"p","item_id":"i","type":"click","rating":null,"timestamp":"",'
        '"received_at":"","request_id":null,"release":null}\n',
    ],
)
def test_a_damaged_line_is_an_error_that_names_the_file_and_stops_no_writer(
    tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    with EventLog(tmp_path, "w") as log:
        log.append([event("a")])
    with log_file(tmp_path).open("a") as stream:
        stream.write(line)
    damaged = log_file(tmp_path)
    with pytest.raises(DataError, match=str(damaged)):
        read_events(tmp_path)
    with EventLog(tmp_path, "another") as log:
        assert log.append([event("b")]) == [True]
    assert str(damaged) in caplog.text


def test_the_group_reads_what_people_did_and_changes_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with EventLog(tmp_path, "w") as log:
            log.append([event("a")])
    finally:
        os.umask(before)
    assert log_file(tmp_path).stat().st_mode & 0o777 == 0o640


def test_since_leaves_out_what_was_received_before(tmp_path: Path) -> None:
    with EventLog(tmp_path, "w") as log:
        log.append([event("old")])
        between = datetime.now(UTC)
        log.append([event("new", timestamp=NOON - timedelta(days=400))])
    assert ids(tmp_path, between) == ["new"]
    assert ids(tmp_path, between + timedelta(days=1)) == []
    # Files of earlier days are not even opened.
    log_file(tmp_path).write_text("not json\n")
    assert ids(tmp_path, between + timedelta(days=1)) == []


def test_a_day_begins_a_file(tmp_path: Path) -> None:
    with EventLog(tmp_path, "w") as log:
        log.append([event("a")])
    today = log_file(tmp_path).parent
    assert today.name == datetime.now(UTC).date().isoformat()
    today.rename(tmp_path / "2020-01-31")
    with EventLog(tmp_path, "w") as log:
        assert log.append([event("a"), event("b")]) == [False, True]
    assert sorted(path.parent.name for path in tmp_path.glob("*/*.jsonl")) == ["2020-01-31", today.name]


def test_two_processes_with_one_name_are_refused(tmp_path: Path) -> None:
    with EventLog(tmp_path, "w"), pytest.raises(HostError, match="another process"):
        EventLog(tmp_path, "w")
    EventLog(tmp_path, "w").close()


def test_a_name_that_is_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file name"):
        EventLog(tmp_path, "../w")


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(HostError, match="event log /proc/events: it cannot be written"):
        EventLog(Path("/proc/events"), "w")


def test_a_full_disk_acknowledges_nothing_and_harms_nothing(tmp_path: Path) -> None:
    with EventLog(tmp_path, "w") as log:
        log.append([event("kept")])
        room = log_file(tmp_path).stat().st_size + 300
        with files_of_at_most(room), pytest.raises(HostError, match="the disk is full"):
            log.append([event(f"e{n}") for n in range(50)])
        assert ids(tmp_path) == ["kept"]
        assert log.append([event("e0"), event("e1")]) == [True, True]
    assert ids(tmp_path) == ["kept", "e0", "e1"]


def test_an_event_that_is_no_text_fails_alone(tmp_path: Path) -> None:
    with EventLog(tmp_path, "w") as log:
        with pytest.raises(ValueError, match="surrogates"):
            log.append([event("a", item_id="\ud800")])
        with pytest.raises(ValueError, match="JSON"):
            log.append([event("a", type="rating", rating=float("nan"))])
        assert log.append([event("a")]) == [True]


def test_an_append_that_a_close_overtakes_is_refused_and_does_not_wait_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(tmp_path, "one")

    def line_while_it_is_closed(*_: object) -> bytes:
        log.close()
        return b"{}\n"

    monkeypatch.setattr(event_log, "_line", line_while_it_is_closed)
    with pytest.raises(HostError, match="closed"):
        log.submit([event("e1")])


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = EventLog(tmp_path, "w")
    log.close()
    log.close()
    with pytest.raises(HostError, match="closed"):
        log.append([event("a")])


WRITER = """
import sys
from pathlib import Path
from leanrec.data.event_log import EventLog, FeedbackEvent

with EventLog(Path(sys.argv[1]), "w") as log:
    for n in range(int(sys.argv[2]), 1_000_000):
        name = f"e{n}"
        new = log.append([FeedbackEvent(event_id=name, user_id="p", item_id="i" * (n % 500), type="click")])
        sys.stdout.write(f"{name} {int(new[0])}\\n")
        sys.stdout.flush()
"""


@pytest.mark.integration
def test_a_writer_killed_in_the_middle_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for num_lines in (1, 40, 7):
        # Goes on where the last one was killed, and sends the last events again.
        start = max(0, len(acknowledged) - 3)
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(start)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(num_lines):
                acknowledged.append(writer.stdout.readline().split()[0])
            writer.kill()
            acknowledged += [line.split()[0] for line in writer.stdout if line.endswith("\n")]
        acknowledged = list(dict.fromkeys(acknowledged))
    found = ids(tmp_path)
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    lines = log_file(tmp_path).read_bytes().split(b"\n")[:-1]
    assert len(lines) == len(found)
