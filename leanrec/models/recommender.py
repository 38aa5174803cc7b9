"""The whole recommender as one plain module: what is trained, saved, exported and served.

Shapes: B users · H history length · A user attributes · S user statistics · L seen items · C candidates ·
N items · D retriever width · K = top_k.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leanrec.config import TrainingSettings
from leanrec.errors import ConfigError, ExportError
from leanrec.files import read_json, write_json
from leanrec.models.forms import Description, reform
from leanrec.models.forms.form import Form
from leanrec.models.inputs import ItemInputs, UserInputs, blank_items, known_index
from leanrec.models.ranking import RANKERS
from leanrec.models.ranking.tasks import Heads
from leanrec.models.retrieval import RETRIEVERS
from leanrec.models.retrieval.inverted_file import InvertedFile
from leanrec.schema import UNKNOWN_INDEX, ModelSpec

MASKED = -30_000.0
"""Retrieval score of an item that must not be recommended; float16 holds it."""


WEIGHTS_FILE = "model.safetensors"
SPEC_FILE = "model.json"


class Recommender(nn.Module):
    """Retrieve `num_candidates` items by dot product, rank them, answer the best `top_k`.

    `freeze_items` computes the item side once; after it `forward` reads the result as constants. Train the
    parts (`retriever`, `ranker`), freeze, then serve.
    """

    item_vectors: Tensor
    item_features: Tensor
    index: InvertedFile | None

    def __init__(self, spec: ModelSpec, settings: TrainingSettings, items: ItemInputs) -> None:
        super().__init__()
        self.num_candidates = min(settings.num_candidates, spec.num_items - 1)
        self.top_k = min(settings.top_k, self.num_candidates)
        self.spec = spec = replace(spec, top_k=self.top_k)
        self.settings = settings
        self.forms: Description = {}
        self.frozen = False
        self.retriever = RETRIEVERS[settings.retriever.model](spec, settings.retriever, items)
        self.ranker = RANKERS[settings.ranker.model](spec, settings.ranker, items)
        self.register_buffer("item_vectors", torch.zeros(spec.num_items, self.retriever.width), False)
        self.register_buffer("item_features", torch.zeros(spec.num_items, self.ranker.item_width), False)
        self.index = None

    def take_forms(self, forms: Description) -> None:
        """Give the layers and tables named in `forms` another form, filled to answer as they did."""
        plain = {path: self.get_submodule(path) for path in forms}
        self.forms |= reform(self, forms)
        for path, module in plain.items():
            cast(Form, self.get_submodule(path)).imitate(module)

    @torch.no_grad()
    def freeze_items(self) -> Recommender:
        """Compute the item vectors [N, D] and item features [N, I] that `forward` gathers; answers self.

        An index of older vectors goes with them.
        """
        self.frozen = False
        self.retriever.freeze()
        self.item_vectors = self.retriever.item_vectors().detach().contiguous()
        self.item_features = self.ranker.item_features().detach().contiguous()
        self.frozen = True
        self.index = None
        return self

    @contextmanager
    def arranged_by_side(self) -> Iterator[None]:
        """Within, what the ranker makes of a user is computed once for all candidates, where it knows how.

        The answers are the same but for rounding. For export: later changes of the weights are not seen.
        """
        self.ranker.by_side = self.ranker.split_by_side()
        try:
            yield
        finally:
            self.ranker.by_side = None

    def forward(
        self,
        user_index: Tensor,
        user_attributes: Tensor,
        user_statistics: Tensor,
        history: Tensor,
        history_ratings: Tensor,
        seen: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The user row and the items seen [B, L]; answers item_index and score [B, K], best first.

        Where fewer than K items are left, the rest is index 0 with score 0.
        """
        user = UserInputs(user_index, user_attributes, user_statistics, history, history_ratings)
        candidates, retrieval, available = self._retrieve(self.retriever.user_vectors(user), seen)
        heads = self._rank(user, candidates, retrieval)
        score = torch.where(available, heads.score(), -1.0)
        best, place = torch.topk(score, self.top_k, dim=1)
        item_index = candidates.gather(1, place)
        return torch.where(best >= 0, item_index, UNKNOWN_INDEX), best.clamp(min=0.0)

    def rank(self, user: UserInputs, candidates: Tensor) -> Heads:
        """The ranker's heads for candidates [B, C], each [B, C]."""
        candidates = known_index(candidates, self.spec.num_items)
        vectors = self.retriever.user_vectors(user)
        retrieval = torch.matmul(self.item_vectors[candidates], vectors.unsqueeze(2)).squeeze(2)
        return self._rank(user, candidates, retrieval)

    def served_ranker(self) -> Ranker:
        """The second half, for callers that bring their own candidates; shares this module's weights."""
        return Ranker(self)

    def _retrieve(self, users: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best candidates for user vectors [B, D], their retrieval scores, and which may be shown.

        Each is [B, num_candidates]. Exact, unless an index was made of the items.
        """
        seen = known_index(seen, self.spec.num_items)
        if self.index is not None:
            candidates, score = self.index(users, seen, self.num_candidates)
            available = score > MASKED / 2
            return candidates, torch.where(available, score, 0.0), available
        retrieval = users @ self.item_vectors.T
        hidden = nn.functional.pad(seen, (1, 0), value=UNKNOWN_INDEX)
        masked = retrieval.scatter(1, hidden, MASKED)
        score, candidates = torch.topk(masked, self.num_candidates, dim=1)
        return candidates, retrieval.gather(1, candidates), score > MASKED / 2

    def _rank(self, user: UserInputs, candidates: Tensor, retrieval: Tensor) -> Heads:
        features: Tensor = self.item_features[candidates]
        heads: Heads = self.ranker(self.ranker.user_features(user), features, retrieval)
        return heads


class Ranker(nn.Module):
    """The ranker alone, as it is served."""

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        self.recommender = recommender
        self.spec = recommender.spec

    def forward(
        self,
        user_index: Tensor,
        user_attributes: Tensor,
        user_statistics: Tensor,
        history: Tensor,
        history_ratings: Tensor,
        candidates: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The user row and candidates [B, C]; answers score, like and rating, each [B, C] in their order."""
        user = UserInputs(user_index, user_attributes, user_statistics, history, history_ratings)
        heads = self.recommender.rank(user, candidates)
        return heads.score(), torch.sigmoid(heads.like), heads.rating


def save_model(recommender: Recommender, folder: Path) -> None:
    """Write `model.safetensors` (weights and item table) and `model.json` (spec, settings) into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().clone() for name, value in recommender.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors leaves it to the owner alone
    described = {
        "spec": asdict(recommender.spec),
        "settings": recommender.settings.model_dump(mode="json"),
        "num_categories_per_item": recommender.retriever.category_indices.shape[1],
        "forms": recommender.forms,
    }
    write_json(folder / SPEC_FILE, described)


def load_model(folder: Path) -> Recommender:
    """The recommender that `save_model` wrote into `folder`, in eval mode, items frozen.

    Raises an ExportError that names the file and what is wrong with it.
    """
    folder = Path(folder)
    described = _read_description(folder / SPEC_FILE)
    try:
        spec = ModelSpec(**described["spec"])
        settings = TrainingSettings.parse(described["settings"])
        width = int(described["num_categories_per_item"])
        recommender = Recommender(spec, settings, blank_items(spec.num_items, width))
        recommender.forms = reform(recommender, described.get("forms", {}))
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise ExportError(f"{folder / SPEC_FILE}: not a model's description ({error}); train again") from None
    try:
        recommender.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ExportError(
            f"{folder / WEIGHTS_FILE}: the weights do not fit the model ({reason}); train again"
        ) from None
    return recommender.freeze_items().eval()


def _read_description(path: Path) -> dict[str, Any]:
    try:
        described = read_json(path)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); train again") from None
    if not isinstance(described, dict):
        raise ExportError(f"{path}: holds {type(described).__name__}, not a model's description; train again")
    return described
