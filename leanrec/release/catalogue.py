"""The items of one release: titles, what is popular, and which liked item explains a recommendation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leanrec.errors import ReleaseError
from leanrec.release.repository import RELEASE_FOLDER
from leanrec.schema import UNKNOWN_INDEX

ITEMS_FILE = "items.parquet"
MAX_FREQUENT = 100
COLUMNS = ("item_index", "item_id", "title", "categories", "num_liked", "embedding")


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """The item table of a release; entry i of each field is item_index i, and 0 is the unknown item."""

    item_ids: list[str]
    titles: list[str]
    categories: list[list[str]]
    num_liked: np.ndarray
    """Likes in the training events: [N]."""
    vectors: np.ndarray
    """The retriever's item embeddings, of length 1 each (or 0): [N, D]."""

    @classmethod
    def load(cls, version_dir: Path) -> Self:
        """The catalogue of the release in `version_dir` (`<repository>/recommender/N`)."""
        path = Path(version_dir) / RELEASE_FOLDER / ITEMS_FILE
        try:
            table = pq.read_table(path, columns=list(COLUMNS)).sort_by("item_index")
        except (OSError, pa.ArrowException) as error:
            raise ReleaseError(
                f"{path}: not a release's item table ({error}); `leanrec release verify`"
            ) from None
        vectors = np.array(table["embedding"].to_pylist(), np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return cls(
            item_ids=table["item_id"].to_pylist(),
            titles=table["title"].to_pylist(),
            categories=table["categories"].to_pylist(),
            num_liked=table["num_liked"].fill_null(0).to_numpy(),
            vectors=vectors / np.where(lengths == 0, 1, lengths),
        )

    @cached_property
    def index_of(self) -> dict[str, int]:
        """The item_index of each item id, without the unknown item."""
        return {item_id: item for item, item_id in enumerate(self.item_ids) if item != UNKNOWN_INDEX}

    @cached_property
    def frequent_categories(self) -> list[str]:
        """The categories of most items, most frequent first, at most `MAX_FREQUENT`."""
        counts = Counter(category for categories in self.categories for category in categories)
        return [category for category, _ in counts.most_common(MAX_FREQUENT)]

    @cached_property
    def by_popularity(self) -> list[int]:
        """Every item but the unknown one, most liked first."""
        order = np.argsort(-self.num_liked, kind="stable")
        return [item for item in order.tolist() if item != UNKNOWN_INDEX]

    def popularity(self, item: int) -> float:
        """The item's likes relative to the most liked one."""
        return float(self.num_liked[item] / self._most_liked)

    @cached_property
    def _most_liked(self) -> int:
        return max(1, int(self.num_liked.max()))

    def popular(self, k: int, excluded: Sequence[int] = ()) -> list[tuple[int, float]]:
        """The `k` most liked items as (item_index, likes relative to the most liked one), best first."""
        hidden = set(excluded)
        chosen = islice((item for item in self.by_popularity if item not in hidden), k)
        return [(item, self.popularity(item)) for item in chosen]

    def similar(self, item: int, k: int) -> list[tuple[int, float]]:
        """The `k` items nearest to `item` as (item_index, cosine of their embeddings), nearest first."""
        cosines = self.vectors @ self.vectors[item]
        cosines[[UNKNOWN_INDEX, item]] = -np.inf
        nearest = np.argsort(-cosines, kind="stable")[: min(k, len(cosines) - 2)]
        return [(other, float(cosines[other])) for other in nearest.tolist()]

    def search(self, words: str, limit: int) -> list[int]:
        """At most `limit` items whose title holds every one of `words`, most liked first; case is ignored."""
        wanted = words.casefold().split()
        found = (
            item for item in self.by_popularity if all(word in self._folded_titles[item] for word in wanted)
        )
        return list(islice(found, limit))

    @cached_property
    def _folded_titles(self) -> list[str]:
        return [title.casefold() for title in self.titles]

    def explain(self, recommended: int, liked: Sequence[int], num_reasons: int = 2) -> list[str]:
        """Titles of the liked items nearest to `recommended` by cosine of their embeddings, nearest first."""
        known = [item for item in dict.fromkeys(liked) if 0 < item < len(self.titles) and item != recommended]
        if not known:
            return []
        cosines = self.vectors[known] @ self.vectors[recommended]
        return [self.titles[known[n]] for n in np.argsort(-cosines, kind="stable")[:num_reasons]]
