"""Triton directly, for people who have a user row: sync and async."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from leanrec.errors import ServingError
from leanrec.schema import RANKER, RECOMMENDER, UNKNOWN_INDEX
from leanrec.triton import TritonClient
from leanrec.triton.async_client import AsyncTritonClient
from leanrec.triton.client import Answer
from leanrec.triton.messages import encode_request


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One item of an answer; `version` is the release that gave it."""

    item_index: int
    score: float
    version: int


class Recommender:
    """A typed connection to the two models that a Triton serves at `address` (host:port, gRPC)."""

    def __init__(self, address: str, timeout_s: float = 1.0) -> None:
        self._triton = TritonClient(address, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._triton.close()

    def recommend(
        self, tensors: Mapping[str, np.ndarray], k: int, *, version: int | None = None
    ) -> list[list[Recommendation]]:
        """The best `k` items, best first, for each user of `tensors` (`ModelSpec.inputs`, batch axis first).

        Raises ServingError when `k` is not among what the release answers, or Triton does not answer.
        """
        return best(self._triton.infer(RECOMMENDER, tensors, version=version), k)

    def rank(
        self, tensors: Mapping[str, np.ndarray], candidates: np.ndarray, *, version: int | None = None
    ) -> dict[str, np.ndarray]:
        """score, like and rating, [B, C] each, of `candidates` (item indices [B, C]) for the users given."""
        return self._triton.infer(RANKER, _ranking(tensors, candidates), version=version).outputs


class AsyncRecommender:
    """`Recommender` without blocking, over one or more replicas; to be made where an event loop runs.

    A replica that does not answer within `hedge_after_s` is not waited for alone: the next one is asked too.
    """

    def __init__(self, *addresses: str, timeout_s: float = 1.0, hedge_after_s: float = 0.05) -> None:
        self._triton = AsyncTritonClient(addresses, deadline_s=timeout_s, hedge_after_s=hedge_after_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._triton.close()

    async def recommend(
        self, tensors: Mapping[str, np.ndarray], k: int, *, version: int | None = None
    ) -> list[list[Recommendation]]:
        """As `Recommender.recommend`."""
        return best(await self._triton.infer(encode_request(RECOMMENDER, version, tensors)), k)

    async def rank(
        self, tensors: Mapping[str, np.ndarray], candidates: np.ndarray, *, version: int | None = None
    ) -> dict[str, np.ndarray]:
        """As `Recommender.rank`."""
        request = encode_request(RANKER, version, _ranking(tensors, candidates))
        return (await self._triton.infer(request)).outputs


def best(answer: Answer, k: int) -> list[list[Recommendation]]:
    """The best `k` items of each user in an answer of `recommender`, without the unknown item."""
    items, scores = answer.outputs["item_index"], answer.outputs["score"]
    if not 1 <= k <= items.shape[1]:
        raise ServingError(f"k is {k}; this release answers 1 to {items.shape[1]} items")
    return [
        [
            Recommendation(item_index=int(item), score=float(score), version=answer.version)
            for item, score in zip(user_items, user_scores, strict=True)
            if item != UNKNOWN_INDEX
        ][:k]
        for user_items, user_scores in zip(items, scores, strict=True)
    ]


def _ranking(tensors: Mapping[str, np.ndarray], candidates: np.ndarray) -> dict[str, np.ndarray]:
    return {**{name: tensor for name, tensor in tensors.items() if name != "seen"}, "candidates": candidates}
