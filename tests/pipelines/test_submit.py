"""`leanrec submit` against an endpoint that speaks the KFP REST API."""

from pathlib import Path

import pytest
from kfp_endpoint import kfp_endpoint

from leanrec.config import load_settings
from leanrec.errors import ConfigError, ServingError
from pipelines.compile import arguments_of, compile_pipeline
from pipelines.placement import Placement
from pipelines.submit import submit_pipeline

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "movielens-100k.yaml"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "pipeline.yaml"
    compile_pipeline(Placement(image="registry.example/leanrec/pipeline@sha256:" + "0" * 64), path)
    return path


def arguments() -> dict:
    return arguments_of(load_settings(CONFIG), run="r", code_version="c")


def test_a_run_is_started_with_the_settings_as_its_parameters(package: Path) -> None:
    with kfp_endpoint() as endpoint:
        answer = submit_pipeline(
            package, arguments(), endpoint=endpoint.address, experiment="leanrec", run="nightly"
        )
    (sent,) = endpoint.received["/runs"]
    assert sent["display_name"] == "nightly"
    assert sent["experiment_id"] == "e1"
    assert sent["runtime_config"]["parameters"]["data"]["source"] == "movielens-100k"
    image = "registry.example/leanrec/pipeline@sha256:" + "0" * 64
    executors = sent["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == {image}
    assert answer == {"run_id": "r1", "page": f"{endpoint.address}/#/runs/details/r1"}


def test_a_recurring_run_carries_its_schedule_and_never_overlaps(package: Path) -> None:
    with kfp_endpoint() as endpoint:
        answer = submit_pipeline(
            package,
            arguments(),
            endpoint=endpoint.address,
            experiment="leanrec",
            run="nightly",
            cron="0 0 3 * * *",
        )
    (sent,) = endpoint.received["/recurringruns"]
    assert sent["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert int(sent["max_concurrency"]) == 1
    assert answer["recurring_run_id"] == "rr1"


def test_a_cron_of_five_fields_is_refused_before_anything_is_sent(package: Path) -> None:
    with pytest.raises(ConfigError, match="six fields"):
        submit_pipeline(package, {}, endpoint="http://127.0.0.1:9", experiment="e", run="r", cron="0 3 * * *")


def test_an_endpoint_that_is_not_there_is_named(package: Path) -> None:
    with pytest.raises(ServingError, match=r"http://127\.0\.0\.1:9: the KFP endpoint did not take the run"):
        submit_pipeline(package, {}, endpoint="http://127.0.0.1:9", experiment="e", run="r")
