from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leanrec.errors import ReleaseError
from leanrec.release.catalogue import Catalogue
from leanrec.release.smoke import typical_users


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    items = {
        "item_index": [2, 0, 1, 3, 4],
        "item_id": ["b", "", "a", "c", "d"],
        "title": ["Bravo", "unknown", "Alpha", "Charlie", "Delta"],
        "categories": [["x"], [], ["x", "y"], [], ["y"]],
        "num_liked": [9, 0, 4, 9, None],
        "embedding": [[0.0, 2.0], [0.0, 0.0], [3.0, 0.0], [1.0, 1.0], [0.1, 1.0]],
    }
    (tmp_path / "release").mkdir()
    pq.write_table(pa.table(items), tmp_path / "release" / "items.parquet")
    return Catalogue.load(tmp_path)


def test_entries_lie_at_their_item_index(catalogue: Catalogue) -> None:
    assert catalogue.titles == ["unknown", "Alpha", "Bravo", "Charlie", "Delta"]
    np.testing.assert_allclose(np.linalg.norm(catalogue.vectors, axis=1), [0, 1, 1, 1, 1], rtol=1e-6)


def test_reasons_are_the_liked_items_of_nearest_direction(catalogue: Catalogue) -> None:
    assert catalogue.explain(4, [1, 2, 3]) == ["Bravo", "Charlie"]
    assert catalogue.explain(4, [1]) == ["Alpha"]


def test_the_unknown_item_the_item_itself_and_items_younger_than_the_release_are_no_reason(
    catalogue: Catalogue,
) -> None:
    assert catalogue.explain(4, [0, 4, 99]) == []


def test_popular_items_come_by_likes_and_never_the_unknown_or_excluded_one(catalogue: Catalogue) -> None:
    assert catalogue.popular(3) == [(2, 1.0), (3, 1.0), (1, pytest.approx(4 / 9))]
    assert [item for item, _ in catalogue.popular(9, excluded=[2])] == [3, 1, 4]


def test_a_folder_without_an_item_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"items\.parquet: not a release's item table"):
        Catalogue.load(tmp_path)


def test_typical_users_have_a_median_number_of_events_and_ties_go_by_name(tmp_path: Path) -> None:
    users = ["a"] + ["d"] * 3 + ["c"] * 3 + ["b"] * 3 + ["e"] * 9
    pq.write_table(pa.table({"user_id": users}), tmp_path / "events.parquet")
    assert typical_users(tmp_path / "events.parquet", 2) == ["b", "c"]
