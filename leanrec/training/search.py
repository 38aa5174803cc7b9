"""Search for hyper-parameters with Optuna: many trainings, each with other settings, the best one kept.

The first trial is the settings as they are, so what is found is never worse on the valid split. The study
lies in one SQLite file: a search that was stopped goes on, and with more trials it goes further.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optuna
import yaml

from leanrec.config import SearchSettings, TrainingSettings
from leanrec.config.search import SearchSpace
from leanrec.config.training import ModelSettings
from leanrec.errors import ConfigError, TrainingError
from leanrec.files import write_json, write_text
from leanrec.training.job import MODELS
from leanrec.training.train import train_models

STUDY_FILE, BEST_FILE, REPORT_FILE = "study.sqlite", "best.yaml", "search.json"
BEST_MODEL = "model"


def search_settings(
    settings: SearchSettings,
    training: TrainingSettings,
    *,
    features: Path,
    training_set: Path,
    output: Path,
) -> dict[str, Any]:
    """Train `settings.trials` times; answer and write what was tried and what was best.

    Args:
        settings: What to try, and by which figure.
        training: The settings to start from.
        features: The features folder.
        training_set: The training set, one Parquet file.
        output: Folder of the search: study.sqlite, search.json, best.yaml (a `training` section) and the best
            model.

    A trial whose training stops (a loss that is not a number) counts as failed and the search goes on. Raises
    a ConfigError for a parameter that training does not know, and a TrainingError when every trial failed.
    """
    training = training.model_copy(update={"resume": "same"})  # of another trial nothing is taken up
    parameters = parameters_of(settings, training)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = _study(settings, parameters, training, output / STUDY_FILE)
    _remove_trials(output)

    def run(trial: optuna.Trial) -> float:
        drawn = {name: _suggest(trial, name, space, training) for name, space in parameters.items()}
        values = read_by_model(drawn, training)
        print(f"search: trial {trial.number + 1}/{settings.trials} {_in_words(values)}", flush=True)
        folder = output / f"trial-{trial.number}"
        try:
            summary = train_models(
                with_parameters(training, values), features=features, training_set=training_set, output=folder
            )
            figure = float(summary[settings.figure])
            if _is_best(study, figure, settings):
                shutil.rmtree(output / BEST_MODEL, ignore_errors=True)
                folder.rename(output / BEST_MODEL)
        except (TrainingError, ConfigError) as error:
            trial.set_user_attr("failure", str(error))
            print(f"search: trial {trial.number + 1} failed: {error}", flush=True)
            raise
        finally:
            _remove_trials(output)
        print(f"search: trial {trial.number + 1} {settings.figure} {figure:.4f}", flush=True)
        return figure

    left = settings.trials - len(_ended(study))
    if left > 0:
        study.optimize(run, n_trials=left, catch=(TrainingError, ConfigError))
    return _report(study, settings, training, output)


def is_whole(training: TrainingSettings, name: str, space: SearchSpace) -> bool:
    """Whether only whole numbers of a range are drawn: where it says so, or the setting is one."""
    value = value_of(training, name)
    return space.whole or (isinstance(value, int) and not isinstance(value, bool))


def parameters_of(settings: SearchSettings, training: TrainingSettings) -> dict[str, SearchSpace]:
    """What is tried: parameters that a model tried reads. Of the default ones, others are left out.

    Raises a ConfigError for a parameter that training does not know, that no model tried reads, or of which a
    model that reads it refuses a value.
    """
    found = {}
    for name, space in settings.parameters.items():
        values: tuple[Any, ...] = space.values or (space.low, space.high)
        if not space.values and is_whole(training, name, space):
            values = tuple(map(int, values))
        readers = _readers(name, settings, training)
        for model in readers:
            for value in values:
                with_parameters(training, {**model, name: value})
        if readers:
            found[name] = space
        elif "parameters" in settings.model_fields_set:
            raise ConfigError(f"search.parameters: no model tried reads training.{name}; leave it out")
    return found


def _readers(name: str, settings: SearchSettings, training: TrainingSettings) -> list[dict[str, Any]]:
    """The models tried that read parameter `name`, each as a parameter itself; {} is the configured one."""
    part, _, field = name.partition(".")
    if part not in MODELS or field == "model":
        return [{}]
    configured = getattr(training, part).model
    tried = settings.parameters.get(f"{part}.model")
    models = [configured] if tried is None else choices_of(f"{part}.model", tried, training)
    readers = [model for model in models if _does_read(model, name, training)]
    return [{} if model == configured else {f"{part}.model": model} for model in readers]


def _does_read(model: str, name: str, training: TrainingSettings) -> bool:
    """Whether `model` reads the setting of dotted `name`, which is one of its section."""
    part, field, *_ = name.split(".")
    section: ModelSettings = getattr(training, part)
    return section.does_read(model, field)


def choices_of(name: str, space: SearchSpace, training: TrainingSettings) -> list[Any]:
    """The values of a list, and the one that is configured, which the first trial has."""
    configured = value_of(training, name)
    return [*space.values, *([] if configured in space.values else [configured])]


def read_by_model(values: dict[str, Any], training: TrainingSettings) -> dict[str, Any]:
    """The parameters without those that the model among them does not read."""

    def is_read(name: str) -> bool:
        model = values.get(f"{name.partition('.')[0]}.model")
        return model is None or _does_read(model, name, training)

    return {name: value for name, value in values.items() if is_read(name)}


def value_of(training: TrainingSettings, name: str) -> Any:
    """The setting of dotted `name` as it is; a ConfigError when there is none."""
    value: Any = training
    for part in name.split("."):
        if not hasattr(type(value), "model_fields") or part not in type(value).model_fields:
            raise ConfigError(f"search.parameters: there is no setting training.{name}; correct its name")
        value = getattr(value, part)
    return value


def with_parameters(training: TrainingSettings, values: dict[str, Any]) -> TrainingSettings:
    """`training` with the settings of dotted names replaced; a ConfigError names one that cannot be."""
    described = training.model_dump(mode="json", exclude_unset=True)
    for part in MODELS:
        if f"{part}.model" in values:  # what suited the model before does not go on with another
            own: ModelSettings = getattr(training, part)
            suited = own.defaults.get(own.model, {})
            for name in list(described.get(part, {})):
                unread = not own.does_read(values[f"{part}.model"], name)
                if unread or (name in suited and getattr(own, name) == suited[name]):
                    del described[part][name]
    for name in values:
        value_of(training, name)
    for name, value in read_by_model(values, training).items():
        *path, last = name.split(".")
        section = described
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    try:
        return TrainingSettings.parse(described)
    except ConfigError as error:
        raise ConfigError(f"search.parameters with {_in_words(values)}: {error}") from None


def _remove_trials(output: Path) -> None:
    """Remove what trials leave besides the best model, those of a search that was killed among them."""
    for folder in output.glob("trial-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _study(
    settings: SearchSettings, parameters: dict[str, SearchSpace], training: TrainingSettings, file: Path
) -> optuna.Study:
    study = optuna.create_study(
        storage=f"sqlite:///{file.absolute()}",
        study_name="training",
        load_if_exists=True,
        direction="maximize" if settings.maximize else "minimize",
        sampler=optuna.samplers.TPESampler(seed=settings.seed),
    )
    if not study.trials:
        study.enqueue_trial({name: value_of(training, name) for name in parameters})
    return study


def _suggest(trial: optuna.Trial, name: str, space: SearchSpace, training: TrainingSettings) -> Any:
    if space.values:
        return trial.suggest_categorical(name, choices_of(name, space, training))
    assert space.low is not None and space.high is not None
    if is_whole(training, name, space):
        return trial.suggest_int(name, int(space.low), int(space.high), log=space.log)
    return trial.suggest_float(name, space.low, space.high, log=space.log)


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that came to an end; one that was killed in the middle is not among them."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def _is_best(study: optuna.Study, figure: float, settings: SearchSettings) -> bool:
    found = [
        t.value for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE and t.value is not None
    ]
    return not found or (figure > max(found) if settings.maximize else figure < min(found))


def _report(
    study: optuna.Study, settings: SearchSettings, training: TrainingSettings, output: Path
) -> dict[str, Any]:
    tried = [
        {
            "parameters": read_by_model(trial.params, training),
            settings.figure: trial.value,
            **({"failure": trial.user_attrs["failure"]} if "failure" in trial.user_attrs else {}),
        }
        for trial in _ended(study)
    ]
    if all(row[settings.figure] is None for row in tried):
        raise TrainingError(f"every trial failed, the last one so: {tried[-1].get('failure', 'unknown')}")
    best = study.best_trial
    found = read_by_model(best.params, training)
    report = {
        "figure": settings.figure,
        "best": {"trial": best.number, "parameters": found, settings.figure: best.value},
        "as_it_was": tried[0][settings.figure],
        "tried": tried,
    }
    write_json(output / REPORT_FILE, report)
    write_text(output / BEST_FILE, yaml.safe_dump({"training": _nested(found)}, sort_keys=False))
    return report


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        section = nested
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return nested


def _in_words(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
