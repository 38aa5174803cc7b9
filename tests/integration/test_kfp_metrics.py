"""Training and evaluation in KFP's local runner: what Kubeflow shows of them."""

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import pytest
from kfp import dsl, local
from training_world import SMALL, write_world

from components.evaluate_models import evaluate_models
from components.train_models import train_models
from leanrec.files import read_json

pytestmark = pytest.mark.integration


class Shown(NamedTuple):
    """What the pipeline below gives out."""

    training: dsl.Metrics
    evaluation: dsl.Metrics
    roc: dsl.ClassificationMetrics


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> dict[str, dsl.Artifact]:
    """The three artifacts, of a real run of both components."""
    folder = tmp_path_factory.mktemp("kfp")
    features, training_set = write_world(folder)
    local.init(
        local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "root"), enable_caching=False
    )

    @dsl.pipeline
    def watched(training: dict, evaluation: dict, release: dict) -> Shown:
        known = {
            name: dsl.importer(artifact_uri=str(path), artifact_class=dsl.Dataset).output
            for name, path in (("features", features), ("training_set", training_set))
        }
        trained = train_models(
            training=training, release=release, warm_start_fingerprint="", compare_with_full=False, **known
        )
        judged = evaluate_models(evaluation=evaluation, model=trained.outputs["model"], **known)
        return Shown(trained.outputs["metrics"], judged.outputs["metrics"], judged.outputs["roc"])

    run = watched(
        training=SMALL.model_dump(mode="json", exclude_none=True),
        evaluation={"ks": [5], "must_beat": []},
        release={"repository": str(folder / "models")},
    )
    return run.outputs


def test_training_shows_how_it_went_and_where_its_time_did(shown):
    metrics = shown["training"].metadata
    for model, epochs in (("retriever", SMALL.retriever.epochs), ("ranker", SMALL.ranker.epochs)):
        assert metrics[f"{model}_epochs"] == epochs
        phases = ("data_seconds", "embedding_seconds", "dense_seconds", "communication_seconds")
        for name in ("loss", "learning_rate", "samples_per_s", "seconds", *phases):
            assert metrics[f"{model}_{name}"] > 0, name
    assert metrics["valid_ndcg"] > 0.3
    assert read_json(Path(shown["training"].path)) == metrics, "KFP's local cache wants a file"


def test_evaluation_shows_its_figures_and_the_roc_curve(shown):
    metrics, roc = shown["evaluation"].metadata, shown["roc"].metadata
    assert metrics["ndcg_at_10"] > metrics["popularity_ndcg_at_10"] > 0
    assert 0.5 < metrics["auc"] <= 1 and metrics["log_loss"] > 0
    points = roc["confidenceMetrics"]
    rates = [(point["falsePositiveRate"], point["recall"]) for point in points]
    assert rates[0] == (0, 0) and rates[-1] == (1, 1) and rates == sorted(rates)
    assert all(math.isfinite(point["confidenceThreshold"]) for point in points)
    area = sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in itertools.pairwise(rates))
    assert area == pytest.approx(metrics["auc"], abs=0.02)
    assert read_json(Path(shown["roc"].path)) == roc
