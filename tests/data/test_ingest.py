"""Ingest: what it writes, and the sentence for each thing that it cannot take."""

import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from leanrec.config import DataSettings
from leanrec.data.columns import read_ratings
from leanrec.data.ingest import ingest
from leanrec.data.sources.raw import RawTable
from leanrec.errors import ConfigError, DataError, HostError
from leanrec.schema import EVENTS, ITEMS, users_schema

KEY = b"a key for tests, not for use"


@pytest.fixture
def outputs(tmp_path) -> dict[str, Path]:
    return {name: tmp_path / "out" / name for name in ("events", "items", "users")}


def settings_for(files: dict[str, Path], source: str = "csv", **more) -> DataSettings:
    return DataSettings(source=source, **{name: str(path) for name, path in files.items()}, **more)


def write_events(csv_files, *rows: str, header: str = "user_id,item_id,timestamp,rating") -> None:
    csv_files["events"].write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


class TestWhatIsWritten:
    def test_tables_keep_the_schema_and_user_ids_are_pseudonyms(self, csv_files, outputs):
        settings = settings_for(csv_files, user_attributes=("gender",))
        summary = ingest(settings, key=KEY, **outputs)
        events, items, users = (pq.read_table(outputs[name]) for name in outputs)
        assert events.schema.equals(EVENTS)
        assert items.schema.equals(ITEMS)
        assert users.schema.equals(users_schema(("gender",)))
        assert (summary.num_events, summary.num_items, summary.num_users) == (3, 2, 2)
        assert summary.first_timestamp == datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC)
        assert summary.last_timestamp == datetime(2020, 9, 13, 12, 28, 40, tzinfo=UTC)
        assert items.to_pylist() == [
            {
                "item_id": "001",
                "title": "Alien, again",
                "categories": ["Horror", "Sci-Fi"],
                "release_year": 1979,
            },
            {"item_id": "002", "title": "Brazil", "categories": [], "release_year": None},
        ]
        assert sorted(row["gender"] or "" for row in users.to_pylist()) == ["", "F"]
        assert set(events["user_id"].to_pylist()) == set(users["user_id"].to_pylist())
        for path in outputs.values():
            assert b"ann" not in path.read_bytes()

    def test_event_ids_of_the_source_are_kept(self, csv_files, outputs):
        write_events(csv_files, "7,ann,001,1600000000,4", header="event_id,user_id,item_id,timestamp,rating")
        ingest(settings_for(csv_files), key=KEY, **outputs)
        assert pq.read_table(outputs["events"])["event_id"].to_pylist() == ["7"]

    def test_event_ids_of_ours_are_stable_and_hide_the_user(self, csv_files, outputs):
        write_events(csv_files, "ann,001,1600000000,4", "ann,001,1600000000,3")
        ingest(settings_for(csv_files), key=KEY, **outputs)
        events = pq.read_table(outputs["events"])
        assert events["event_id"].to_pylist() == [f"{events['user_id'][0]}-001-1600000000000000"] * 2

    def test_two_ingests_are_byte_identical_whatever_the_order_of_rows(self, csv_files, outputs, tmp_path):
        first = ingest(settings_for(csv_files), key=KEY, **outputs)
        header, *rows = csv_files["events"].read_text().splitlines()
        write_events(csv_files, *reversed(rows), header=header)
        again = {name: tmp_path / "again" / name for name in outputs}
        assert ingest(settings_for(csv_files), key=KEY, **again) == first
        for name, path in outputs.items():
            assert path.read_bytes() == again[name].read_bytes()

    def test_another_key_gives_other_pseudonyms(self, csv_files, outputs):
        first = ingest(settings_for(csv_files), key=KEY, **outputs)
        assert ingest(settings_for(csv_files), key=KEY + b"!", **outputs).digest != first.digest

    def test_movielens_is_ingested_whole(self, movielens_cache, outputs):
        attributes = ("age_group", "gender", "occupation")
        settings = DataSettings(
            source="movielens-100k", cache=str(movielens_cache), user_attributes=attributes
        )
        summary = ingest(settings, key=KEY, **outputs)
        assert (summary.num_events, summary.num_items, summary.num_users) == (100_000, 1_682, 943)
        assert summary.first_timestamp == datetime(1997, 9, 20, 3, 5, 10, tzinfo=UTC)
        assert "10.1145/2827872" in summary.notice
        events, users = pq.read_table(outputs["events"]), pq.read_table(outputs["users"])
        assert len(set(events["event_id"].to_pylist())) == 100_000
        assert users.column_names == ["user_id", *attributes]
        # The mean rating of MovieLens-100K, as its description gives it.
        assert np.mean(events["rating"].to_numpy()) == pytest.approx(3.52986, abs=1e-5)

    def test_ratings_stay_with_their_rows_over_many_chunks(self):
        num_rows = 600_000
        texts = pa.array(np.arange(num_rows)).cast(pa.string())
        chunks = pa.chunked_array([texts[i : i + 10_007] for i in range(0, num_rows, 10_007)])
        raw = RawTable(origin="events.csv", table=pa.table({"rating": chunks}), names={})
        assert np.array_equal(read_ratings(raw).to_numpy(), np.arange(num_rows, dtype=np.float32))

    def test_without_a_file_of_users_everybody_with_an_event_is_one(self, csv_files, outputs):
        del csv_files["users"]
        assert ingest(settings_for(csv_files), key=KEY, **outputs).num_users == 2

    @pytest.mark.parametrize(
        "written",
        [
            "1600000000", "1600000000.0", "1.6e9", "1600000000000", "2020-09-13T12:26:40Z",
            "2020-09-13 12:26:40", "2020-09-13T14:26:40+02:00", "2020-09-13T12:26:40.000000",
        ],
    )  # fmt: skip
    def test_times_are_seconds_milliseconds_or_iso_8601(self, written, csv_files, outputs):
        write_events(csv_files, f"ann,001,{written},4")
        assert ingest(settings_for(csv_files), key=KEY, **outputs).first_timestamp == datetime(
            2020, 9, 13, 12, 26, 40, tzinfo=UTC
        )

    @pytest.mark.parametrize(
        "times",
        [
            pa.array([1_600_000_000_123], pa.int64()),
            pa.array([1_600_000_000.123], pa.float64()),
            pa.array([1_600_000_000_123_000_000], pa.timestamp("ns")),
            pa.array([1_600_000_000_123], pa.timestamp("ms", tz="Europe/Berlin")),
            pa.array(["2020-09-13T12:26:40.123Z"]).dictionary_encode(),
        ],
        ids=lambda times: str(times.type),
    )
    def test_parquet_times_of_every_kind_are_read(self, times, outputs, tmp_path):
        files = parquet_files(tmp_path, timestamp=times)
        summary = ingest(settings_for(files, "parquet"), key=KEY, **outputs)
        assert summary.first_timestamp == datetime(2020, 9, 13, 12, 26, 40, 123_000, tzinfo=UTC)

    def test_matters_of_content_go_through_to_validation(self, csv_files, outputs):
        write_events(
            csv_files,
            "ann,001,1600000000,NaN",
            "ann,001,1600000000,",
            "zoe,999,4000000000,77",
        )
        csv_files["items"].write_text("item_id,title\n001,\n001,Alien\n")
        ingest(settings_for(csv_files), key=KEY, **outputs)
        events = pq.read_table(outputs["events"])
        ratings = events["rating"].to_pylist()
        assert events["rating"].null_count == 0
        assert [math.isnan(rating) for rating in ratings] == [True, True, False]
        assert ratings[2] == 77
        assert pq.read_table(outputs["items"])["title"].to_pylist() == ["", "Alien"]


def parquet_files(folder: Path, **events) -> dict[str, Path]:
    columns = {"user_id": [1], "item_id": ["i"], "timestamp": [1_600_000_000], "rating": [4.0]} | events
    files = {"events": folder / "events.parquet", "items": folder / "items.parquet"}
    pq.write_table(pa.table(columns), files["events"])
    pq.write_table(pa.table({"item_id": ["i"], "title": ["I"]}), files["items"])
    return files


def refuse(sentence: str, settings: DataSettings, outputs, error=DataError) -> None:
    """Ingest raises one line that matches `sentence`, and writes nothing."""
    with pytest.raises(error, match=sentence) as caught:
        ingest(settings, key=KEY, **outputs)
    assert "\n" not in str(caught.value)
    written = list(outputs["events"].parent.glob("**/*")) if outputs["events"].parent.exists() else []
    assert written == []


class TestBadCsv:
    def test_missing_file(self, csv_files, outputs):
        csv_files["items"].unlink()
        refuse(r"items\.csv: no such file; mend data\.items", settings_for(csv_files), outputs)

    def test_missing_column_offers_the_nearest_name(self, csv_files, outputs):
        write_events(csv_files, "ann,001,1600000000,4", header="user_id,item_id,Time_Stamp,rating")
        refuse(
            r"events\.csv: column 'timestamp' is missing; did you mean 'Time_Stamp'\? name it under data",
            settings_for(csv_files),
            outputs,
        )

    def test_missing_column_with_nothing_near_tells_what_there_is(self, csv_files, outputs):
        write_events(csv_files, "ann,001,4", header="user_id,item_id,rating")
        refuse(r"'timestamp' is missing; it has user_id, item_id, rating", settings_for(csv_files), outputs)

    def test_an_optional_column_that_the_settings_name_must_be_there(self, csv_files, outputs):
        settings = settings_for(csv_files, columns={"categories": "category"})
        csv_files["items"].write_text("item_id,title,genres\n001,Alien,Horror\n")
        refuse(r"column 'category' \(our 'categories'\) is missing; it has item_id", settings, outputs)

    def test_a_column_that_appears_twice(self, csv_files, outputs):
        write_events(csv_files, "a,1,2,3,4", header="user_id,item_id,timestamp,rating,rating")
        refuse(r"events\.csv: column 'rating' appears 2 times", settings_for(csv_files), outputs)

    def test_wrong_type_names_row_and_value(self, csv_files, outputs):
        write_events(csv_files, "ann,001,1600000000,4", "bob,001,1600000000,good", "bob,002,1600000000,bad")
        refuse(
            r"column 'rating', row 2 \(and 1 more\) is 'good'; a rating is a number",
            settings_for(csv_files),
            outputs,
        )

    def test_wrong_type_names_the_column_as_the_file_does(self, csv_files, outputs):
        write_events(csv_files, "ann,001,1600000000,good", header="user_id,item_id,timestamp,stars")
        refuse(
            r"column 'stars', row 1 is 'good'", settings_for(csv_files, columns={"rating": "stars"}), outputs
        )

    @pytest.mark.parametrize(
        "time", ["yesterday", "2024-13-01", "1600000000000000", "infinity", "epoch", "nan"]
    )
    def test_unparsable_timestamp_tells_the_units(self, time, csv_files, outputs):
        write_events(csv_files, "ann,001,1600000000,4", f"ann,001,{time},4")
        refuse(
            rf"column 'timestamp', row 2 is '{time}'; a time is ISO 8601.*seconds below 1e\+11, milliseconds",
            settings_for(csv_files),
            outputs,
        )

    def test_empty_timestamp(self, csv_files, outputs):
        write_events(csv_files, "ann,001,,4")
        refuse(r"column 'timestamp', row 1 is empty; a time is", settings_for(csv_files), outputs)

    def test_null_id(self, csv_files, outputs):
        write_events(csv_files, "ann,001,1600000000,4", ",001,1600000000,4", ",002,1600000000,4")
        refuse(r"column 'user_id' is empty in 2 of 3 rows \(first: row 2\)", settings_for(csv_files), outputs)

    def test_year_that_is_not_a_number(self, csv_files, outputs):
        csv_files["items"].write_text("item_id,title,release_year\n1,A,1999\n2,B,old\n")
        refuse(
            r"items\.csv: column 'release_year', row 2 is 'old'; a year is a whole number",
            settings_for(csv_files),
            outputs,
        )

    def test_empty_file(self, csv_files, outputs):
        csv_files["events"].write_bytes(b"")
        refuse(r"events\.csv: the file is empty", settings_for(csv_files), outputs)

    @pytest.mark.parametrize("table", ["events", "items", "users"])
    def test_file_with_a_header_and_no_rows(self, table, csv_files, outputs):
        csv_files[table].write_text(csv_files[table].read_text().splitlines()[0] + "\n")
        refuse(rf"{table}\.csv: the file has a header and no rows", settings_for(csv_files), outputs)

    def test_not_utf_8_names_the_line(self, csv_files, outputs):
        csv_files["items"].write_bytes("item_id,title\n1,Alien\n2,Amélie\n".encode("latin-1"))
        refuse(r"items\.csv: line 3 is not UTF-8 text; save", settings_for(csv_files), outputs)

    def test_header_that_is_not_utf_8(self, csv_files, outputs):
        csv_files["items"].write_bytes("item_id,títle\n1,Alien\n".encode("latin-1"))
        refuse(r"items\.csv: line 1 is not UTF-8 text", settings_for(csv_files), outputs)

    def test_row_with_too_few_fields(self, csv_files, outputs):
        write_events(csv_files, "ann,001,1600000000,4", "ann,001")
        refuse(r"events\.csv: line 3 has 2 fields and the header 4; mend", settings_for(csv_files), outputs)

    def test_quotation_mark_that_is_never_closed(self, csv_files, outputs):
        write_events(csv_files, "ann,001,1600000000,4", '"ann,001,1600000000,4')
        refuse(r"events\.csv: line 3 has 1 fields and the header 4", settings_for(csv_files), outputs)

    def test_attributes_without_a_file_of_users(self, csv_files, outputs):
        del csv_files["users"]
        settings = settings_for(csv_files, user_attributes=("gender",))
        refuse(r"data\.user_attributes names gender, but data\.users", settings, outputs, ConfigError)

    def test_attribute_that_the_users_lack(self, csv_files, outputs):
        settings = settings_for(csv_files, user_attributes=("gendre",))
        refuse(r"users\.csv: column 'gendre' is missing; did you mean 'gender'\?", settings, outputs)

    def test_name_that_is_not_a_column_of_ours(self, csv_files, outputs):
        settings = settings_for(csv_files, columns={"uid": "user_id"})
        refuse(r"data\.columns: 'uid' is not a column of LeanRec, which has", settings, outputs, ConfigError)

    def test_attribute_that_movielens_lacks(self, movielens_cache, outputs):
        settings = DataSettings(
            source="movielens-100k", cache=str(movielens_cache), user_attributes=("height",)
        )
        refuse(r"ml-100k\.user has no column 'height'; it has gender", settings, outputs, ConfigError)


class TestBadParquet:
    def test_truncated(self, tmp_path, outputs):
        files = parquet_files(tmp_path)
        content = files["events"].read_bytes()
        files["events"].write_bytes(content[: len(content) // 2])
        refuse(
            r"events\.parquet: not a whole Parquet file .*cut short", settings_for(files, "parquet"), outputs
        )

    def test_corrupt_inside(self, tmp_path, outputs):
        files = parquet_files(tmp_path, user_id=pa.array([f"user {i}" for i in range(1)]))
        content = bytearray(files["events"].read_bytes())
        content[4:60] = os.urandom(56)
        files["events"].write_bytes(content)
        refuse(r"events\.parquet: not a whole Parquet file", settings_for(files, "parquet"), outputs)

    def test_empty_file(self, tmp_path, outputs):
        files = parquet_files(tmp_path)
        files["items"].write_bytes(b"")
        refuse(r"items\.parquet: the file is empty", settings_for(files, "parquet"), outputs)

    @pytest.mark.parametrize(
        ("column", "values", "sentence"),
        [
            ("rating", pa.array([[4.0]]), r"column 'rating' is of type list.*a rating is a number"),
            ("rating", pa.array(["good"]), r"column 'rating', row 1 is 'good'"),
            ("user_id", pa.array([1.0]), r"column 'user_id' is of type double; ids are text or integers"),
            ("item_id", pa.array([None], pa.string()), r"column 'item_id' is empty in 1 of 1 rows"),
            ("timestamp", pa.array([True]), r"column 'timestamp' is of type bool; a time is"),
            ("timestamp", pa.array([None], pa.timestamp("us")), r"column 'timestamp', row 1 is empty"),
        ],
    )
    def test_wrong_types(self, column, values, sentence, tmp_path, outputs):
        refuse(sentence, settings_for(parquet_files(tmp_path, **{column: values}), "parquet"), outputs)


class TestAllThreeOrNone:
    def test_a_bad_last_table_leaves_what_was_there(self, csv_files, outputs):
        ingest(settings_for(csv_files), key=KEY, **outputs)
        before = {name: path.read_bytes() for name, path in outputs.items()}
        write_events(csv_files, "eve,001,1700000000,1")
        csv_files["users"].write_text("user_id,gender\n,F\n")
        with pytest.raises(DataError, match=r"users\.csv: column 'user_id' is empty"):
            ingest(settings_for(csv_files), key=KEY, **outputs)
        assert {name: path.read_bytes() for name, path in outputs.items()} == before
        assert sorted(path.name for path in outputs["events"].parent.iterdir()) == sorted(outputs)

    @pytest.mark.parametrize("bound", [200, 1500])
    def test_a_file_that_may_not_grow_is_one_sentence_and_nothing_is_written(self, bound, csv_files, outputs):
        """1500 bytes hold the users and items, but not the events."""
        write_events(csv_files, *(f"u{i},00{i % 2},{1_600_000_000 + 17 * i},4" for i in range(2000)))
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (bound, old[1]))
            refuse(r"out/\w+: the disk is full .* free space in", settings_for(csv_files), outputs, HostError)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            signal.signal(signal.SIGXFSZ, handler)

    @pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounting needs root")
    def test_a_disk_that_is_really_full_is_one_sentence_and_nothing_is_written(self, csv_files, tmp_path):
        write_events(csv_files, *(f"u{i},00{i % 2},{1_600_000_000 + 17 * i},4" for i in range(5000)))
        disk = tmp_path / "disk"
        disk.mkdir()
        program = (
            "import sys; from pathlib import Path\n"
            "from leanrec.config import DataSettings; from leanrec.data.ingest import ingest\n"
            "from leanrec.errors import HostError\n"
            "disk, events, items = map(Path, sys.argv[1:])\n"
            "settings = DataSettings(source='csv', events=str(events), items=str(items))\n"
            "paths = {name: disk / name for name in ('events', 'items', 'users')}\n"
            "try: ingest(settings, key=b'k' * 32, **paths)\n"
            "except HostError as error: print(error)\n"
            "print(sorted(path.name for path in disk.iterdir()))\n"
        )
        script = 'mount -t tmpfs -o size=64k tmpfs "$2" || exit 77; exec "$0" -c "$1" "$2" "$3" "$4"'
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, sys.executable, program, str(disk)]
            + [str(csv_files[name]) for name in ("events", "items")],
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode in (1, 77) and "mount" in done.stderr + "unshare" in done.stderr:
            pytest.skip("this sandbox does not let root mount")
        sentence, listing = done.stdout.splitlines()
        assert "the disk is full (No space left on device)" in sentence
        assert listing == "[]"
