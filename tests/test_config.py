"""Settings: strict, frozen, and clear about what is wrong."""

from pathlib import Path

import pytest
import yaml

from leanrec.config import FeatureSettings, RolloutSettings, RunSettings, TrainingSettings, load_settings
from leanrec.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
LEAST = {
    "name": "tiny",
    "data": {"source": "movielens-100k"},
    "feature_store": {"repository": "f"},
    "release": {"repository": "m"},
}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_that_we_ship_loads(path: Path) -> None:
    assert load_settings(path).name


def test_the_configuration_that_people_copy_shows_every_bound_of_a_rollout_with_its_default() -> None:
    text = (ROOT / "configs" / "movielens-100k.yaml").read_text()
    defaults = RolloutSettings().model_dump(mode="json")
    shown = yaml.safe_load(text)["rollout"]
    assert shown == {name: defaults[name] for name in shown}
    assert {name for name in defaults if name.startswith(("max_", "min_", "click_", "alpha"))} <= shown.keys()
    canary = yaml.safe_load(text.replace("# strategy: canary", "strategy: canary"))
    assert RunSettings.parse(canary).release.strategy == "canary"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"traning": {}}, "unknown setting 'traning'; did you mean 'training'?"),
        (
            {"training": {"ranker": {"epoch": 3}}},
            "unknown setting 'training.ranker.epoch'; did you mean 'epochs'?",
        ),
        ({"release": {}}, "setting 'release.repository' is missing; add it"),
        ({"features": {"test_fraction": 0.9}}, "setting 'features.test_fraction': .*less than 0.5.*0.9"),
        ({"data": {"source": "csv"}}, "source csv needs the files 'events' and 'items'"),
        ({"training": {"top_k": 20}}, "evaluation.ks asks for 50 items and training.top_k answers 20"),
        (
            {"features": {"history_length": 4}, "training": {"retriever": {"model": "caser"}}},
            "training.retriever.caser.length 5 is above features.history_length 4, .*; lower the first",
        ),
        (
            {"compression": {"recipes": ["fp32", "int9"]}},
            "setting 'compression.recipes.1': there is no recipe 'int9'; did you mean 'int8'",
        ),
        ({"name": "No Spaces"}, "setting 'name'.*No Spaces"),
        (
            {"training": {"retriever": {"loss": "sofmax"}}},
            "'training.retriever.loss': .*did you mean 'softmax'",
        ),
        ({"training": {"retriever": {"model": "SASRec"}}}, "no such model; did you mean 'sasrec'"),
        ({"training": {"retriever": {"model": "ItemKNN"}}}, "no such model; did you mean 'item_neighbours'"),
        ({"training": {"ranker": {"model": "ncf"}}}, "no such model; did you mean 'neu_mf'"),
        ({"training": {"retriever": {"model": "NeuMF"}}}, "neu_mf is a ranker; set training.ranker.model"),
        (
            {"training": {"ranker": {"model": "mf"}}},
            "matrix_factorization is a retriever; set .*retriever.model",
        ),
        (
            {"training": {"ranker": {"hidden": [64, 0]}}},
            r"'training.ranker.hidden.1': .*greater than .* 1 .*0",
        ),
        ({"training": {"retriever": {"hidden": [-5]}}}, r"'training.retriever.hidden.0': .*seen: -5"),
        ({"training": {"ranker": {"learning_rate": float("inf")}}}, "ranker.learning_rate': .*finite number"),
        (
            {"training": {"retriever": {"model": "sasrec", "dim": 9}}},
            "setting 'training.retriever': dim 9 cannot be shared out to sasrec.heads 2; make it a multiple$",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_the_way_out(change: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        RunSettings.parse({**LEAST, **change})


SEQUENCES = {"retriever": {"model": "sasrec"}}
NEIGHBOURS = {"retriever": {"model": "item_neighbours"}}
ATTENTION = {"ranker": {"model": "din"}}
TRANSFORMER = {"ranker": {"model": "behaviour_sequence_transformer"}}
AS_IT_WAS = {"retriever_epochs": 0, "ranker_epochs": 0}


@pytest.mark.parametrize(
    ("training", "steps", "sentence"),
    [
        ({}, [{"prune_dimensions": {"retriever_dim": 63, "ranker_dim": 31}}], None),
        ({}, [{"prune_dimensions": {"retriever_dim": 65}}], "_dim 65 is above the retriever's width 64; cho"),
        ({}, [{"prune_dimensions": {"ranker_dim": 33}}], "ranker_dim 33 is above the ranker's width 32; cho"),
        ({"ranker": {"dim": 16}}, [{"prune_dimensions": {"ranker_dim": 16}}], "nothing would become narr"),
        ({}, [{"prune_dimensions": {"ranker_dim": 8}}, {"prune_dimensions": {"ranker_dim": 9}}], "width 8"),
        ({}, [{"distil": {"ranker_dim": 48}}, {"prune_dimensions": {"ranker_dim": 33}}], None),
        ({}, [{"prune_cross_layers": {"cross_layers": 2}}], None),
        ({}, [{"prune_cross_layers": {"cross_layers": 3}}], "cross_layers 3 is above the 2 that the ranker"),
        ({"ranker": {"cross_layers": 3}}, [{"prune_cross_layers": {"cross_layers": 3}}], None),
        (SEQUENCES, ["int8_tables", "int8_mlp"], None),
        (SEQUENCES, ["distil"], None),
        (SEQUENCES, [{"prune_dimensions": {"retriever_dim": 8}}], "inside of two_tower alone, .* 'sasrec'"),
        (SEQUENCES, [{"prune_dimensions": {"ranker_dim": 8}}], None),
        (SEQUENCES, ["prune_neurons"], "prune_neurons knows the inside of two_tower alone, .* 'sasrec'"),
        (SEQUENCES, [{"prune_neurons": {"parts": ["ranker"]}}], None),
        (SEQUENCES, ["prune_cross_layers"], None),
        (NEIGHBOURS, ["share_items"], "share_items fine-tunes, .* 'item_neighbours' does not learn"),
        (NEIGHBOURS, [{"share_items": AS_IT_WAS}], None),
        (ATTENTION, ["int4_tables"], None),
        (ATTENTION, ["distil"], "inside of dcn_v2 and behaviour.* alone as a teacher, .* 'din'; leave"),
        (ATTENTION, [{"distil": {"teacher_weight": 0}}], None),
        (ATTENTION, ["prune_cross_layers"], "prune_cross_layers knows the inside of dcn_v2 alone, .* 'din'"),
        (ATTENTION, [{"prune_dimensions": {"ranker_dim": 8}}], "prune_dimensions knows the inside of dcn_v2"),
        (ATTENTION, [{"prune_neurons": {"parts": ["retriever"], **AS_IT_WAS}}], None),
        (ATTENTION, ["prune_neurons"], "prune_neurons knows the inside of dcn_v2 alone"),
        (SEQUENCES, [{"prune_heads": {"retriever_heads": 1}}], None),
        (SEQUENCES, [{"prune_heads": {"retriever_heads": 3}}], "retriever_heads 3 is above the 2 that the"),
        (SEQUENCES, [{"prune_heads": {"retriever_heads": 2}}], "prune_heads: no head would go; give a small"),
        (SEQUENCES, ["prune_heads"], "prune_heads: no head would go; give a smaller retriever_heads or rank"),
        (SEQUENCES, [{"prune_heads": {"ranker_heads": 1}}], "inside of behaviour.* alone, .*'dcn_v2'"),
        (TRANSFORMER, [{"prune_heads": {"ranker_heads": 3}}], None),
        (TRANSFORMER, [{"prune_heads": {"ranker_heads": 5}}], "ranker_heads 5 is above the 4 that the r"),
        (TRANSFORMER, [{"prune_heads": {"retriever_heads": 1}}], "inside of sasrec alone, .* 'two_tower'"),
        ({**SEQUENCES, **TRANSFORMER}, [{"prune_heads": {"retriever_heads": 1, "ranker_heads": 4}}], None),
        (ATTENTION, [{"prune_heads": {"ranker_heads": 1}}], "inside of behaviour_sequence_transformer alone"),
        (SEQUENCES, 2 * [{"prune_heads": {"retriever_heads": 1}}], "both rewrite the retriever.heads"),
    ],
    ids=str,
)  # fmt: skip
def test_a_recipe_that_does_not_suit_the_models_is_refused_before_anything_is_trained(
    training: dict, steps: list, sentence: str | None
) -> None:
    recipes = [{"name": "mine", "steps": steps}]
    values = {**LEAST, "training": training, "compression": {"recipes": recipes}}
    if sentence is None:
        assert RunSettings.parse(values).compression.recipes[0].name == "mine"
        return
    with pytest.raises(ConfigError, match=f"recipe mine: .*{sentence}"):
        RunSettings.parse(values)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("- a\n", "holds list, not a mapping"), ("a: [", "not a YAML file"), ("", "holds NoneType")],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_settings(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        (
            {"retriever": {"model": "gru4rec", "sasrec": {"layers": 3}}},
            "'training.retriever': model 'gru4rec' does not read 'sasrec', .* a model that reads it: sasrec",
        ),
        ({"retriever": {"model": "ease", "epochs": 3}}, "does not read 'epochs', .*: two_tower, matrix_fact"),
        ({"ranker": {"model": "dlrm", "cross_layers": 3}}, "does not read 'cross_layers'"),
    ],
)
def test_an_option_that_the_model_does_not_read_is_refused_in_a_file_and_goes_along_in_what_is_stored(
    tmp_path: Path, training: dict, sentence: str
) -> None:
    values = {**LEAST, "training": training}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=sentence):
        load_settings(tmp_path / "run.yaml")
    assert RunSettings.parse(values).training


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file or directory; name one"):
        load_settings(Path("nowhere.yaml"))


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        FeatureSettings().history_length = 3


def test_integers_that_came_back_from_json_as_floats_are_integers() -> None:
    assert TrainingSettings.parse({"num_processes": 2.0}).num_processes == 2


def test_every_setting_is_explained() -> None:
    def unexplained(section: type, prefix: str = "") -> list[str]:
        missing = []
        for name, field in section.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                missing += unexplained(inner, f"{prefix}{name}.")
            elif not field.description and not (prefix == "" and name in RunSettings.model_fields):
                missing.append(prefix + name)
        return missing

    assert unexplained(RunSettings) == []
