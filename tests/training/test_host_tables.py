"""Plain models whose tables stay on the host while the rest of them goes to a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from training_world import SMALL, write_world

from leanrec.files import read_json
from leanrec.models.inputs import read_item_inputs
from leanrec.models.recommender import Recommender
from leanrec.schema import ModelSpec
from leanrec.training.examples import VALID, read_examples
from leanrec.training.host_tables import keep_tables_on_host


def recommender_of(world: Path) -> tuple[Recommender, ModelSpec]:
    spec = ModelSpec(**{**read_json(world / "features" / "spec.json"), "top_k": SMALL.top_k})
    torch.manual_seed(1)
    return Recommender(spec, SMALL, read_item_inputs(world / "features" / "items.parquet")).eval(), spec


def test_tables_that_stay_on_the_host_answer_the_same_and_have_the_same_names(tmp_path: Path) -> None:
    write_world(tmp_path)
    (plain, spec), (kept, _) = recommender_of(tmp_path), recommender_of(tmp_path)
    keep_tables_on_host(kept)
    assert kept.state_dict().keys() == plain.state_dict().keys()
    user = read_examples(tmp_path / "training_set.parquet", VALID, spec).user
    with torch.no_grad():
        assert torch.equal(kept.retriever.user_vectors(user), plain.retriever.user_vectors(user))


@pytest.mark.parametrize("stay", [True, False])
def test_a_gpu_would_hold_all_but_the_tables_and_get_the_rows_that_it_asks_for(
    tmp_path: Path, stay: bool
) -> None:
    """Nothing but devices is computed here: no GPU need be there, and what lies on two would raise."""
    write_world(tmp_path)
    recommender, _ = recommender_of(tmp_path)
    recommender.requires_grad_(False)
    if stay:
        keep_tables_on_host(recommender)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        gpu = torch.device("cuda", 0)
        recommender.to(gpu)
        tables = {name: p.device for name, p in recommender.named_parameters() if ".sparse.tables." in name}
        assert len(tables) > 4
        assert {device.type for device in tables.values()} == {"cpu" if stay else "cuda"}
        assert {p.device for name, p in recommender.named_parameters() if name not in tables} == {gpu}
        index = torch.zeros(2, 3, dtype=torch.long, device=gpu)
        vectors = recommender.ranker.sparse({"user": index, "category": index})
        assert {vector.device for vector in vectors.values()} == {gpu}
