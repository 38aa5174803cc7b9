"""One project, whether Python or the `feast` command asks for it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from feast.repo_config import load_repo_config

from leanrec.config import FeatureStoreSettings
from leanrec.errors import ConfigError, FeatureStoreError
from leanrec.features.definitions import define_features
from leanrec.features.project import REDIS_PASSWORD_VARIABLE, repo_config

FEATURE_REPO = Path(__file__).resolve().parents[2] / "feature_repo"


def import_definitions() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "feature_definitions", FEATURE_REPO / "feature_definitions.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("online", "file"), [("sqlite", "feature_store.yaml"), ("redis", "feature_store_redis.yaml")]
)
def test_the_yaml_and_the_settings_describe_the_same_project(
    online: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEANREC_FEATURE_STORE", str(tmp_path))
    monkeypatch.setenv("LEANREC_REDIS", "redis:6380")
    monkeypatch.delenv(REDIS_PASSWORD_VARIABLE, raising=False)
    settings = FeatureStoreSettings.parse(
        {"repository": str(tmp_path), "online": online, "redis": "redis:6380"}
    )
    for_command = load_repo_config(FEATURE_REPO, FEATURE_REPO / file).model_dump(exclude={"repo_path"})
    assert for_command == repo_config(settings).model_dump(exclude={"repo_path"})
    assert (
        repo_config(settings).online_store == load_repo_config(FEATURE_REPO, FEATURE_REPO / file).online_store
    )


def test_the_command_finds_the_objects_that_python_applies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEANREC_FEATURE_STORE", str(tmp_path / "store"))
    module = import_definitions()
    expected = define_features(tmp_path / "store" / "offline").objects()
    found = [getattr(module, thing.name) for thing in expected]
    assert found == expected
    assert not list(tmp_path.iterdir())


def test_the_command_is_told_which_variable_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEANREC_FEATURE_STORE", raising=False)
    with pytest.raises(ConfigError, match="LEANREC_FEATURE_STORE is not set"):
        import_definitions()


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":6379", "localhost:port", "a:1,b:2"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    settings = FeatureStoreSettings(repository="store", online="redis", redis=address)
    with pytest.raises(FeatureStoreError, match="not HOST:PORT"):
        repo_config(settings)
