"""Recommend to a user: row from Feast, answer from Triton, titles and reasons from the release."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from leanrec.config import FeatureStoreSettings, ReleaseSettings
from leanrec.errors import ServingError
from leanrec.features.online import OnlineUsers, UserRow
from leanrec.release.catalogue import Catalogue
from leanrec.release.explanation import HISTORY, IDENTITY, STATISTICS, Effect
from leanrec.release.explanation import explain as explain_items
from leanrec.release.repository import ModelRepository
from leanrec.release.requests import SPEC, read_spec
from leanrec.release.routing import Route, stable_route
from leanrec.schema import RANKER, RECOMMENDER, UNKNOWN_INDEX, ModelSpec
from leanrec.triton import Answer, TritonClient

NUM_LIKED_SHOWN = 10


def recommend_to(
    user_pseudonym: str,
    k: int,
    *,
    release: ReleaseSettings,
    store: FeatureStoreSettings,
    server: str,
    explain: bool = False,
) -> dict[str, Any]:
    """`k` items for a user from the Triton at `server` (host:port), with titles, scores and reasons.

    Returns user, known, liked [{title, rating}], recommendations [{rank, item_id, title, score, because}],
    version and latency_ms (look-up and answer). Somebody of whom nothing is stored has known False and
    gets the most liked items, whose score is their likes relative to the most liked one. With `explain` each
    recommendation has `effects` too: [{part, share}], what each part of the user row does for its score.

    Raises FeatureStoreError, ServingError (no server, or k above what the graph answers) or ReleaseError.
    """
    with TritonClient(server) as triton:
        recommendations = Recommendations(Path(release.repository), OnlineUsers(store), triton)
        answer = recommendations.to_user(user_pseudonym, k)
        return recommendations.explained(answer) if explain else answer


class Recommendations:
    """Answers for users, one look-up and one request each; keeps what it read of the releases.

    The stable version answers, or the one at the end of `route`.
    """

    def __init__(
        self, repository: Path, users: OnlineUsers, triton: TritonClient, route: Route | None = None
    ) -> None:
        self._repository = ModelRepository(Path(repository).absolute())
        self._users = users
        self._triton = triton
        route = route or stable_route(self._repository.required_state())
        self._recommender = route.models[RECOMMENDER]
        self._version = route.version
        self.spec = _spec(self._repository, self._version)

    def to_user(self, user_pseudonym: str, k: int) -> dict[str, Any]:
        """What `recommend_to` returns."""
        if not 1 <= k <= self.spec.top_k:
            raise ServingError(f"k is {k}; this release answers 1 to {self.spec.top_k} items")
        clock = time.perf_counter()
        row = self._users.row(user_pseudonym)
        if row is None:
            version = self._repository.required_state().stable
            catalogue = _catalogue(self._repository, version)
            ranked, liked = catalogue.popular(k), []
        else:
            answer = self.answer(row)
            version = answer.version
            catalogue = _catalogue(self._repository, version)
            ranked, liked = _ranked(answer)[:k], _liked(row, self.spec)
        latency_ms = (time.perf_counter() - clock) * 1e3
        return {
            "user": user_pseudonym,
            "known": row is not None,
            "liked": [
                {"title": _title(catalogue, item), "rating": rating}
                for item, rating in liked[:NUM_LIKED_SHOWN]
            ],
            "recommendations": [
                {
                    "rank": rank,
                    "item_id": catalogue.item_ids[item],
                    "title": catalogue.titles[item],
                    "score": score,
                    "because": catalogue.explain(item, [liked_item for liked_item, _ in liked]),
                }
                for rank, (item, score) in enumerate(ranked, 1)
            ],
            "version": version,
            "latency_ms": latency_ms,
        }

    def explained(self, answer: dict[str, Any]) -> dict[str, Any]:
        """What `to_user` answered, with `effects` for each item; the release that answered is asked again."""
        row = self._users.row(answer["user"])
        catalogue = _catalogue(self._repository, answer["version"])
        spec = _spec(self._repository, answer["version"])
        lines = answer["recommendations"]
        items = [catalogue.item_ids.index(line["item_id"]) for line in lines]

        def score(row: UserRow, items: Sequence[int]) -> np.ndarray:
            user = {tensor.name: row.tensors(spec)[tensor.name] for tensor in spec.user_inputs()}
            asked = {**user, "candidates": np.array([items], np.int64)}
            return self._triton.infer(RANKER, asked, version=answer["version"]).outputs["score"][0]

        effects = explain_items(row, items, score) if row is not None else [[] for _ in items]
        return {
            **answer,
            "recommendations": [
                {**line, "effects": [{"part": _part(e, catalogue), "share": e.share} for e in found]}
                for line, found in zip(lines, effects, strict=True)
            ],
        }

    def answer(self, row: UserRow) -> Answer:
        """Triton's answer for one user row, from the version that it gives to clients which name none.

        A server follows the repository a moment later, and a repository moves on: where another
        version answered than the row was made for, and takes other attributes, it is asked again.
        """
        answer = self._triton.infer(self._recommender, row.tensors(self.spec))
        if answer.version == self._version:
            return answer
        before, self._version = self.spec, answer.version
        self.spec = _spec(self._repository, self._version)
        if list(before.attribute_cardinalities) == list(self.spec.attribute_cardinalities):
            return answer
        return self._triton.infer(self._recommender, row.tensors(self.spec), version=self._version)


@lru_cache(maxsize=4)
def _catalogue(repository: ModelRepository, version: int) -> Catalogue:
    return Catalogue.load(repository.version_folder(RECOMMENDER, version))


def _spec(repository: ModelRepository, version: int) -> ModelSpec:
    return read_spec(repository.release_folder(version) / SPEC)


def _ranked(answer: Answer) -> list[tuple[int, float]]:
    """Item indices and scores of the first user, best first, without padding."""
    items, scores = answer.outputs["item_index"][0], answer.outputs["score"][0]
    return [(int(i), float(s)) for i, s in zip(items, scores, strict=True) if i != UNKNOWN_INDEX]


def _liked(row: UserRow, spec: ModelSpec) -> list[tuple[int, float]]:
    """Item indices and ratings that the user liked, newest first."""
    liked = np.flatnonzero(np.asarray(row.history_ratings) >= spec.liked_threshold)[::-1]
    return [(int(row.history[n]), float(row.history_ratings[n])) for n in liked]


def _part(effect: Effect, catalogue: Catalogue) -> str:
    """A part of the user row in words."""
    if effect.kind == HISTORY:
        return _title(catalogue, effect.item_index)
    words = {IDENTITY: "who the user is", STATISTICS: "how much the user rates and likes"}
    return words.get(effect.kind, effect.name)


def _title(catalogue: Catalogue, item: int) -> str:
    """The title; an item younger than the release has none yet."""
    return catalogue.titles[item] if item < len(catalogue.titles) else catalogue.titles[UNKNOWN_INDEX]
