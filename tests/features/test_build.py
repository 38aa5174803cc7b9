"""The features folder: the item table, the splits, the vocabularies, and what is refused."""

from pathlib import Path

import pytest
from small_world import DATA, ITEM_IDS, build, event, rows_of, some_events, statistics, write_tables

from leanrec.config import FeatureSettings
from leanrec.data.vocabulary import Vocabularies
from leanrec.errors import DataError
from leanrec.features.build import build_features
from leanrec.files import read_json

EVENTS = some_events()


def splits_of(features: Path) -> dict[str, str]:
    return {row["event_id"]: row["split"] for row in rows_of(features / "splits.parquet")}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built"), EVENTS)["features"]


def test_row_i_of_the_item_table_is_item_index_i(features: Path) -> None:
    items = rows_of(features / "items.parquet")
    assert [row["item_index"] for row in items] == list(range(len(ITEM_IDS) + 1))
    assert [row["item_id"] for row in items[1:]] == list(ITEM_IDS)
    assert items[0] == {
        "item_index": 0,
        "item_id": "",
        "title": "",
        "categories": [],
        "category_indices": [],
        "release_year": None,
        "num_events": 0,
        "num_liked": 0,
        "mean_rating": 0.0,
    }


def test_the_item_table_counts_training_events_alone(features: Path) -> None:
    splits = splits_of(features)
    for row in rows_of(features / "items.parquet")[1:]:
        trained = [e for e in EVENTS if e.item_id == row["item_id"] and splits[e.event_id] == "train"]
        found = (row["num_events"], row["num_liked"], row["mean_rating"])
        assert found == pytest.approx(statistics(trained))
    assert row["item_id"] == "never seen"
    assert row["num_events"] == 0


def test_categories_become_their_indices_in_order(features: Path) -> None:
    categories = Vocabularies.load(features / "vocabulary").categories
    for row in rows_of(features / "items.parquet"):
        assert row["category_indices"] == categories.index_of(row["categories"]).tolist()


def test_each_user_holds_out_the_latest_events_and_keeps_one_to_train_on(tmp_path: Path) -> None:
    events = [event(n, "many", "a", n) for n in range(20)] + [event(90, "once", "b", 5)]
    splits = splits_of(
        build(tmp_path, events, valid_fraction=0.25, test_fraction=0.1)["features"],
    )
    by_time = [splits[f"e{n:04d}"] for n in range(20)]
    assert by_time == ["train"] * 13 + ["valid"] * 5 + ["test"] * 2
    assert splits["e0090"] == "train"


def test_a_split_by_time_keeps_a_tie_together(tmp_path: Path) -> None:
    events = [event(n, f"u{n % 3}", "a", min(n, 17)) for n in range(20)]
    splits = splits_of(
        build(tmp_path, events, split_by="time", valid_fraction=0.1, test_fraction=0.1)["features"]
    )
    by_time = [splits[f"e{n:04d}"] for n in range(20)]
    assert by_time == ["train"] * 16 + ["valid"] + ["test"] * 3


def test_a_split_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    events = [event(n, "u", "a", 0) for n in range(20)]
    with pytest.raises(
        DataError, match=r"events\.parquet: features\.split_by time leaves no event to train on"
    ):
        build(tmp_path, events, split_by="time")
    assert not (tmp_path / "features").exists()


def test_an_index_keeps_its_meaning_and_new_ones_come_after(tmp_path: Path, features: Path) -> None:
    events = [*EVENTS, event(9000, "u new", "z", 99)]
    paths = write_tables(tmp_path, events, ("z", *ITEM_IDS[1:]))
    build_features(
        FeatureSettings(history_length=3),
        DATA,
        **paths,
        previous_vocabulary=features / "vocabulary",
        output=tmp_path / "features",
    )
    items = rows_of(tmp_path / "features" / "items.parquet")
    assert [row["item_id"] for row in items] == ["", *ITEM_IDS, "z"]
    assert items[1]["title"] == ""  # "a" left the catalogue, its index did not
    users = {r["user_id"]: r["user_index"] for r in rows_of(tmp_path / "features" / "user_profile.parquet")}
    assert users["u new"] == len(users) == 7


def test_an_item_or_user_outside_the_tables_has_index_0(tmp_path: Path) -> None:
    features = build(tmp_path, [event(1, "u", "not an item", 1), event(2, "u", "a", 2)])["features"]
    history = rows_of(features / "user_activity.parquet")[-1]["history"]
    assert history == [0, 1]


def test_the_spec_counts_the_unknown_index(features: Path) -> None:
    assert read_json(features / "spec.json") == {
        "num_users": 7,
        "num_items": 6,
        "num_categories": 3,
        "attribute_cardinalities": {"group": 3},
        "history_length": 3,
        "liked_threshold": 4.0,
    }


def test_a_broken_file_leaves_the_older_folder_as_it_was(tmp_path: Path) -> None:
    paths = build(tmp_path, EVENTS)
    before = splits_of(paths["features"])
    whole = paths["events"].read_bytes()
    paths["events"].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"events\.parquet: not a readable Parquet file"):
        build_features(
            FeatureSettings(),
            DATA,
            **{name: paths[name] for name in ("events", "items", "users")},
            previous_vocabulary=None,
            output=paths["features"],
        )
    assert splits_of(paths["features"]) == before
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_the_order_of_the_rows_in_the_file_does_not_matter(tmp_path: Path, features: Path) -> None:
    shuffled = build(tmp_path, EVENTS[::-1])["features"]
    for name in ("user_activity", "item_statistics", "splits"):
        assert rows_of(shuffled / f"{name}.parquet") == rows_of(features / f"{name}.parquet")
