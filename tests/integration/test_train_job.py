"""Training by a TrainJob: created, watched, reported on and removed, with two real nodes of torchrun."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from trainer_endpoint import Cluster, cluster_with_trainer
from training_world import SMALL, training_table, write_world
from waiting import wait_for

from leanrec.config import TrainingSettings
from leanrec.config.train_job import TrainJobSettings
from leanrec.errors import TrainingError
from leanrec.files import read_json
from leanrec.models.recommender import load_model
from leanrec.training.train import train_models

pytestmark = pytest.mark.integration


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with cluster_with_trainer(tmp_path) as found:
        monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig))
        yield found


def settings_of(folder: Path, **changes: object) -> TrainingSettings:
    job = TrainJobSettings(folder=str(folder / "shared"), poll_s=0.1, queue="training", priority="low")
    return SMALL.model_copy(update={"train_job": job.model_copy(update=changes)})


def test_two_nodes_train_and_nothing_is_left(tmp_path: Path, cluster: Cluster, capfd: pytest.CaptureFixture):
    features, training_set = write_world(tmp_path)
    model = tmp_path / "model"
    summary = train_models(settings_of(tmp_path), features=features, training_set=training_set, output=model)
    assert summary["num_processes"] == 2
    assert load_model(model).spec.num_items == read_json(features / "spec.json")["num_items"]
    (job,) = cluster.created
    assert cluster.removed == [job["metadata"]["name"]]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "low"
    assert list((tmp_path / "shared").iterdir()) == []
    assert "ranker: epoch 1/" in capfd.readouterr().out


def test_a_node_that_fails_is_told_in_its_own_words(tmp_path: Path, cluster: Cluster):
    table = training_table()
    liked = table.schema.get_field_index("liked")
    table = table.set_column(liked, table.schema.field(liked), [[True] * len(table)])
    features, training_set = write_world(tmp_path, table)
    with pytest.raises(TrainingError, match="every training event is liked"):
        train_models(
            settings_of(tmp_path), features=features, training_set=training_set, output=tmp_path / "model"
        )
    assert not (tmp_path / "model").exists()
    assert len(cluster.removed) == 1
    assert cluster.restarts == 0, "it would have failed again"


def test_a_node_that_is_killed_is_started_again_and_training_goes_on(tmp_path: Path, cluster: Cluster, capfd):
    features, training_set = write_world(tmp_path)
    model = tmp_path / "model"
    settings = settings_of(tmp_path).model_copy(update={"checkpoint_every_s": 1e-6})

    def kill_the_second_node() -> None:
        wait_for(lambda: list((tmp_path / "shared").glob("*/checkpoints/retriever/[0-9]*")))
        ((_, second),) = cluster.nodes.values()
        os.killpg(second.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_the_second_node)
    killer.start()
    train_models(settings, features=features, training_set=training_set, output=model)
    killer.join()
    assert cluster.restarts >= 1
    assert "going on after epoch" in capfd.readouterr().out
    assert load_model(model).spec.num_items == read_json(features / "spec.json")["num_items"]


def test_a_step_that_was_killed_finds_its_job_again(tmp_path: Path, cluster: Cluster):
    features, training_set = write_world(tmp_path)
    settings = settings_of(tmp_path)
    given = {"features": features, "training_set": training_set, "output": tmp_path / "model"}
    train_models(settings, **given)
    (first,) = cluster.created
    (tmp_path / "shared").rmdir()
    # As a step leaves it that was killed: laid out, created, and nobody looking on.
    from leanrec.training.train_job import _lay_out

    inputs = {"features": features, "training_set": training_set}
    name = first["metadata"]["name"]
    _lay_out(settings, inputs, tmp_path / "shared" / name)
    cluster.create(first)
    wait_for(lambda: cluster.look(name)["status"] != {})
    train_models(settings, **given)
    assert len(cluster.created) == 2
    assert list((tmp_path / "shared").iterdir()) == []


def test_a_refusal_says_what_to_do(tmp_path: Path, cluster: Cluster):
    features, training_set = write_world(tmp_path)
    cluster.refuse = 403
    with pytest.raises(TrainingError, match=r"not for you.*k8s/components/trainer"):
        train_models(
            settings_of(tmp_path), features=features, training_set=training_set, output=tmp_path / "model"
        )


def test_without_a_cluster_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    features, training_set = write_world(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing.yaml"))
    with pytest.raises(TrainingError, match=r"no Kubernetes cluster is configured.*train_job: null"):
        train_models(
            settings_of(tmp_path), features=features, training_set=training_set, output=tmp_path / "model"
        )
