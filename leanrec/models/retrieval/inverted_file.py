"""Inverted-file retrieval: near items lie together in lists, and only those nearest to the user are scored.

The search is made of gathers, matrix products and top-k alone, so it becomes standard ONNX operators and
takes any batch. It is exact but for what lies in the lists that are not looked at. Source of the inverted
file: Jegou et al. 2011, "Product Quantization for Nearest Neighbor Search". All lists have one length, so
that what is gathered has a fixed shape.

What counts is the best item of a list, not its mean. So a list is as near to a user as its mean item's score
and some standard deviations of its items' scores: of two lists with one mean, the wider has the better best.

Shapes: B users · N items · D width · M lists · L items a list · P lists looked at (probes) · S seen items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.schema import UNKNOWN_INDEX


class InvertedFile(nn.Module):
    """M lists of L slots; `lists` [M, L] holds the item in each slot, the unknown item in the empty ones.

    The vectors lie in the order of the slots, one row a slot, so that a table method of compression stores
    them row by row like any other table.
    """

    centroids: Tensor
    radius: Tensor
    reach: Tensor
    slot_vectors: Tensor
    list_items: Tensor
    list_of_item: Tensor
    place_of_item: Tensor

    def __init__(
        self, item_vectors: Tensor, lists: Tensor, probes: int, masked: float, spread: float = 0.0
    ) -> None:
        """`item_vectors` [N, D]; `masked`: the score of what must not be recommended; `spread`: `look_by`."""
        super().__init__()
        self.num_lists, self.length = lists.shape
        self.probes = min(probes, self.num_lists)
        self.masked = masked
        slots = lists.reshape(-1)
        filled = (slots != UNKNOWN_INDEX).float().unsqueeze(1)
        vectors = item_vectors[slots] * filled
        by_list = vectors.reshape(self.num_lists, self.length, -1)
        present = filled.reshape(self.num_lists, self.length)
        counts = present.sum(dim=1, keepdim=True).clamp(min=1)
        centroids = by_list.sum(dim=1) / counts
        distances = (by_list - centroids.unsqueeze(1)).square().sum(dim=2) * present
        # The list after the last one is where the unknown item lies: nobody looks there.
        list_of_item = torch.full((len(item_vectors),), self.num_lists, dtype=torch.long)
        place_of_item = torch.zeros_like(list_of_item)
        list_of_item[slots] = torch.arange(self.num_lists).repeat_interleave(self.length)
        place_of_item[slots] = torch.arange(self.length).repeat(self.num_lists)
        list_of_item[UNKNOWN_INDEX] = self.num_lists
        self.register_buffer("centroids", centroids, False)
        self.register_buffer("radius", (distances.sum(dim=1) / counts.squeeze(1)).sqrt(), False)
        self.register_buffer("reach", torch.zeros(self.num_lists), False)
        self.look_by(spread)
        self.register_buffer("slot_vectors", vectors, False)
        self.register_buffer("list_items", lists, False)
        self.register_buffer("list_of_item", list_of_item, False)
        self.register_buffer("place_of_item", place_of_item, False)

    def look_by(self, spread: float) -> None:
        """Count a list's best item as so many standard deviations of its scores above its mean item.

        The deviation is taken as |user| * radius / sqrt(D), as if items lay around their mean evenly.
        """
        self.spread = spread
        self.reach = spread / self.centroids.shape[1] ** 0.5 * self.radius

    def nearness(self, users: Tensor) -> Tensor:
        """What the best item of each list may score for user vectors [B, D]; [B, M]."""
        return users @ self.centroids.T + users.norm(dim=1, keepdim=True) * self.reach

    def forward(self, users: Tensor, seen: Tensor, num_candidates: int) -> tuple[Tensor, Tensor]:
        """User vectors [B, D] and known seen items [B, S]; answers the best items and their scores, [B, C].

        What must not be recommended has the score `masked`, or less.
        """
        probed = torch.topk(self.nearness(users), self.probes, dim=1).indices
        slots = (probed.unsqueeze(2) * self.length + torch.arange(self.length)).flatten(1)
        scores = torch.bmm(self.slot_vectors[slots], users.unsqueeze(2)).squeeze(2)
        items = self.list_items[probed].flatten(1)
        scores = torch.where(items == UNKNOWN_INDEX, torch.full_like(scores, self.masked), scores)
        scores = self._hide(scores, seen, probed)
        best, place = torch.topk(scores, num_candidates, dim=1)
        return items.gather(1, place), best

    def _hide(self, scores: Tensor, seen: Tensor, probed: Tensor) -> Tensor:
        """Mask the seen items [B, S] among the scores [B, P * L], each at its slot among those probed."""
        batch, width = scores.shape
        nowhere = torch.full((batch, self.num_lists + 1), self.probes, dtype=torch.long)
        rank_of_list = nowhere.scatter(1, probed, torch.arange(self.probes).unsqueeze(0).expand(batch, -1))
        rank = rank_of_list.gather(1, self.list_of_item[seen])
        # What lies in no list that was looked at goes to one more score, which is cut off again.
        target = (rank * self.length + self.place_of_item[seen]).clamp(max=width)
        padded = torch.cat([scores, scores[:, :1]], dim=1)
        return padded.scatter(1, target, self.masked)[:, :width]
