"""The compiled pipeline: the same bytes every time, and what a cluster needs in it."""

from pathlib import Path

import pytest
import yaml
from kfp.compiler.pipeline_spec_builder import to_protobuf_value

from leanrec.config import CompressionSettings, RunSettings, TrainingSettings
from leanrec.config.recipes import RECIPES
from pipelines.compile import arguments_of, compile_pipeline
from pipelines.placement import ROLLOUT_LABEL, Placement

CLUSTER = Placement(
    image="registry.example/leanrec/pipeline:1",
    training_image="registry.example/leanrec/training-gpu:1",
    num_gpus=4,
    shared_memory="16Gi",
    volume_claim="workspace",
    key_secret="key",
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "pipeline.yaml"
    compile_pipeline(CLUSTER, path)
    return path


@pytest.fixture(scope="module")
def spec(package: Path) -> dict:
    return next(yaml.safe_load_all(package.read_text()))


@pytest.fixture(scope="module")
def platform(package: Path) -> dict:
    _, platform = yaml.safe_load_all(package.read_text())
    return platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def tasks_of(spec: dict) -> dict:
    """Every task by name, those inside a condition included."""
    graphs = [spec["root"], *spec["components"].values()]
    return {name: task for graph in graphs for name, task in graph.get("dag", {}).get("tasks", {}).items()}


def executor(spec: dict, name: str) -> dict:
    return spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]


def test_two_compiles_are_the_same_bytes(package: Path, tmp_path: Path) -> None:
    compile_pipeline(CLUSTER, tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == package.read_bytes()


def test_nothing_is_installed_when_a_step_starts(package: Path) -> None:
    assert "pip install" not in package.read_text()


def test_training_has_its_image_its_gpus_and_shared_memory(spec: dict, platform: dict) -> None:
    training = executor(spec, "train-models")
    assert training["image"] == "registry.example/leanrec/training-gpu:1"
    assert training["resources"]["accelerator"]["resourceCount"] == "4"
    (shared,) = platform["exec-train-models"]["emptyDirMounts"]
    assert (shared["mountPath"], shared["medium"], shared["sizeLimit"]) == ("/dev/shm", "Memory", "16Gi")


def test_checkpoints_may_lie_on_the_claim_and_outlive_the_pod(platform: dict, tmp_path: Path) -> None:
    (mount,) = platform["exec-train-models"]["pvcMount"]
    assert (mount["mountPath"], mount["pvcNameParameter"]["runtimeValue"]["constant"]) == (
        "/workspace",
        "workspace",
    )
    settings = RunSettings.parse(
        {
            "name": "kept",
            "data": {"source": "synthetic"},
            "feature_store": {"repository": "store"},
            "release": {"repository": "models"},
            "training": {"checkpoint": "/workspace/checkpoints/kept"},
        }
    )
    given = arguments_of(settings, run="r", code_version="c")["training"]
    assert Path(TrainingSettings.parse(given).checkpoint or "").is_relative_to(mount["mountPath"])

    compile_pipeline(Placement(image="i"), tmp_path / "laptop.yaml")
    assert "pvcMount" not in (tmp_path / "laptop.yaml").read_text()


def test_every_other_step_runs_the_pipeline_image(spec: dict) -> None:
    images = {
        name: found["container"]["image"] for name, found in spec["deploymentSpec"]["executors"].items()
    }
    del images["exec-train-models"]
    assert set(images.values()) == {"registry.example/leanrec/pipeline:1"}


def test_training_and_evaluation_show_their_figures_in_kubeflow(spec: dict) -> None:
    shown = {
        (step, artifact["artifactType"]["schemaTitle"])
        for step, component in spec["components"].items()
        for artifact in component.get("outputDefinitions", {}).get("artifacts", {}).values()
        if "Metrics" in artifact["artifactType"].get("schemaTitle", "")
    }
    assert shown == {
        ("comp-train-models", "system.Metrics"),
        ("comp-evaluate-models", "system.Metrics"),
        ("comp-evaluate-models", "system.ClassificationMetrics"),
    }


def test_steps_that_change_the_world_are_never_reused(spec: dict) -> None:
    tasks = tasks_of(spec)
    fresh = {name for name, task in tasks.items() if not task.get("cachingOptions", {}).get("enableCache")}
    assert {"publish-release", "materialize-features", "smoke-test-release"} <= fresh
    assert "ingest-events" in fresh, "a cluster's raw files may have changed"
    assert "train-models" not in fresh


def test_a_release_waits_for_every_gate(spec: dict) -> None:
    tasks = tasks_of(spec)

    # What is inside the condition waits for whatever the condition waits for.
    inside = spec["components"]["comp-condition-1"]["dag"]["tasks"]

    def before(name: str) -> set[str]:
        direct = set(tasks[name].get("dependentTasks", []))
        direct |= set(tasks["condition-1"]["dependentTasks"]) if name in inside else set()
        return direct.union(*(before(other) for other in direct))

    gates = {name for name in tasks if name.startswith("enforce-gate")}
    assert len(gates) >= 3
    assert gates <= before("publish-release")
    assert gates <= before("materialize-features"), "the release that serves reads these rows"


def test_only_ingest_reads_the_pseudonym_key(platform: dict) -> None:
    assert [name for name, found in platform.items() if "secretAsEnv" in found] == ["exec-ingest-events"]


def test_only_what_makes_a_release_depends_on_drift(spec: dict) -> None:
    outside = set(spec["root"]["dag"]["tasks"])
    assert {"ingest-events", "validate-tables", "build-features", "check-drift"} <= outside
    assert not {"train-models", "publish-release", "materialize-features"} & outside
    (condition,) = (task for task in spec["root"]["dag"]["tasks"].values() if "triggerPolicy" in task)
    assert "check-drift" in condition["dependentTasks"]


def test_a_rollout_comes_last_where_asked_for_and_may_reach_gateways_and_tritons(
    spec: dict, platform: dict
) -> None:
    tasks = tasks_of(spec)
    (condition,) = (name for name, task in tasks.items() if "roll_out" in str(task.get("triggerPolicy")))
    (inside,) = spec["components"][f"comp-{condition}"]["dag"]["tasks"].values()
    assert inside["taskInfo"]["name"] == "Roll out release"
    assert {"write-report", "publish-release"} <= set(tasks[condition]["dependentTasks"])
    labels = platform["exec-roll-out-release"]["podMetadata"]["labels"]
    assert labels == {ROLLOUT_LABEL: "true"}
    labelled = [name for name, found in platform.items() if "podMetadata" in found]
    assert labelled == ["exec-roll-out-release"]


def test_a_rollout_is_started_again_in_a_cluster_and_here_a_missed_bound_ends_it_at_once(
    spec: dict, tmp_path: Path
) -> None:
    def retried(spec: dict) -> list[str]:
        return [name for name, task in tasks_of(spec).items() if "retryPolicy" in task]

    assert retried(spec) == ["roll-out-release"]
    compile_pipeline(Placement(image="here"), tmp_path / "here.yaml")
    assert retried(next(yaml.safe_load_all((tmp_path / "here.yaml").read_text()))) == []


def test_every_recipe_can_be_an_argument_and_comes_back_as_it_was() -> None:
    low_rank = {"cross_rank": None, "deep_rank": 8}
    nothing_at_the_crosses = {"name": "deep", "steps": [{"low_rank": low_rank}, "int8_tables"]}
    settings = RunSettings.parse(
        {
            "name": "every-recipe",
            "data": {"source": "synthetic"},
            "feature_store": {"repository": "store"},
            "release": {"repository": "models"},
            "compression": {"recipes": [*RECIPES, nothing_at_the_crosses]},
        }
    )
    arguments = arguments_of(settings, run="r", code_version="c")
    to_protobuf_value(arguments)  # KFP has no null
    assert settings.compression.recipes[-1].steps[0].parsed().cross_rank is None
    assert CompressionSettings.parse(arguments["compression"]) == settings.compression
