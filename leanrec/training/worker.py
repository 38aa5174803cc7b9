"""What each torchrun process runs: `python -m torch.distributed.run ... -m leanrec.training.worker JOB.json`.

Trains the retriever, then the ranker on what the retriever puts forward; rank 0 writes the model folder.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist

from leanrec.config import RankerSettings, RetrieverSettings, TrainingSettings
from leanrec.errors import LeanRecError, TrainingError
from leanrec.files import read_json, write_json
from leanrec.models.inputs import ItemInputs, read_item_inputs
from leanrec.models.recommender import WEIGHTS_FILE, Recommender, save_model
from leanrec.models.retrieval.retriever import FittedRetriever, LearnedRetriever
from leanrec.schema import ModelSpec
from leanrec.training.candidates import CandidateSampler
from leanrec.training.checkpoint import Checkpoints, identity_of
from leanrec.training.course import Course
from leanrec.training.examples import TRAIN, VALID, Examples, interactions_of, read_examples
from leanrec.training.fits import Room, does_not_fit, refusal
from leanrec.training.fitting import fit_retriever, temperature_of
from leanrec.training.footprint import plan_training
from leanrec.training.host_tables import keep_tables_on_host
from leanrec.training.job import CURVES_FILE, ERROR_FILE, SUMMARY_FILE, Job
from leanrec.training.layout import Layout
from leanrec.training.loop import PROBE_EVENTS, Fitted, fit
from leanrec.training.memory import available_memory
from leanrec.training.objectives import RankerObjective, lesson_of
from leanrec.training.replicas import Replicas
from leanrec.training.sharded_model import quiet_planner
from leanrec.training.sparse import collective_device
from leanrec.training.validation import Holdout
from leanrec.training.warm_start import WEIGHTS_FOLDER, WarmStart, load_warm_start, save_sums
from leanrec.training.watching import Watch

PATIENCE = timedelta(hours=12)
"""How long processes wait for one another: a retriever that is fitted is fitted by one of them alone."""
ELSEWHERE = (
    *("num_processes", "sharding", "balance", "train_job", "max_restarts", "tensorboard", "profile"),
    *("checkpoint", "checkpoint_every_s", "keep_checkpoints", "resume"),
    *("prefetch", "plain_tables", "table_cache"),
)
"""Settings that say where it is learnt, not what (but for tables `data_parallel`, which move with the dense
part where its gradients are added up over steps, and follow all processes where there are replicas)."""
PACE = ("learning_rate", "table_learning_rate", "weight_decay", "epochs", "patience")
PACE_OF_OPTIMIZER = (
    *("schedule", "warmup_steps", "step_epochs", "step_factor"),
    *("clip_norm", "precision", "table_weight_decay"),
)
"""Settings of a model, and of its optimizer, that say how fast it is learnt."""


def main(path: str) -> int:
    """Run the job in the JSON file at `path`; the exit status."""
    job = Job(**read_json(Path(path)))
    if job.parent:
        _end_without_parent(job.parent)
    warnings.filterwarnings("ignore")
    quiet_planner()
    try:
        _error_file(job).unlink(missing_ok=True)  # the word of an attempt before this one
        settings = TrainingSettings.parse(job.settings)
        torch.set_num_threads(_num_threads(2 if settings.prefetch else 1))
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(_own_gpu())
        dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)
        train(settings, job)
        dist.barrier()
        dist.destroy_process_group()
    except LeanRecError as error:
        _leave_word(job, str(error), final=True)
        return error.exit_status
    except Exception as error:  # whatever it is, the parent must be told in one sentence
        traceback.print_exc()
        reason = (str(error).splitlines() or ["no message"])[0]
        told = f"training stopped with {type(error).__name__}: {reason}; the log has the traceback"
        _leave_word(job, told, final=False)
        return 1
    return 0


def _num_threads(at_once: int) -> int:
    """This process's share of the cores, for each of `at_once` threads of Python that compute side by side.

    Together they never ask for more than OpenMP may start, or torch leaves work undone.
    """
    cores = os.cpu_count() or 1
    limit = int(os.environ.get("OMP_THREAD_LIMIT", cores))
    return max(1, min(limit // at_once, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _leave_word(job: Job, message: str, *, final: bool) -> None:
    """Tell the parent; `final`: it would end so again, where a process that was killed may not."""
    write_json(_error_file(job), {"message": message, "final": final})


def _error_file(job: Job) -> Path:
    return Path(job.folder) / f"{os.environ.get('RANK', '0')}-{ERROR_FILE}"


def _own_gpu() -> int:
    """The number of this process's GPU; a TrainingError where this host has too few."""
    own, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if own >= here:
        raise TrainingError(
            f"{os.environ['LOCAL_WORLD_SIZE']} processes on a host of {here} GPUs, and each needs one of its "
            f"own; set training.num_processes: {here}"
        )
    return own


def train(settings: TrainingSettings, job: Job) -> None:
    """Train both models; on rank 0 write the model folder and the summary."""
    features = Path(job.features)
    spec = _read_spec(features / "spec.json", settings)
    items = read_item_inputs(features / "items.parquet")
    training_set = Path(job.training_set)
    learnt_from = read_examples(training_set, TRAIN, spec)
    held_out = read_examples(training_set, VALID, spec)
    _refuse_one_class(training_set, learnt_from)
    holdout = Holdout(learnt_from, held_out, spec).to(collective_device())
    if len(holdout) == 0:
        raise TrainingError(f"{training_set}: no user likes anything in split 'valid'; add events")
    if dist.get_rank() == 0:
        _refuse_what_does_not_fit(settings, spec, items)
    torch.manual_seed(settings.seed)
    recommender = Recommender(spec, settings, items)
    warm = _go_on(recommender, Path(job.warm_start), features) if job.warm_start else None
    if settings.plain_tables == "host":
        keep_tables_on_host(recommender)
    recommender.to(collective_device())
    common: dict[str, Any] = {
        "seed": settings.seed,
        "checkpoint_every_s": settings.checkpoint_every_s,
        "layout": Layout.of(settings),
        "replicas": Replicas.of(settings.replicas, collective_device().type),
        "sync_every": settings.sync_every,
        "balance": settings.balance,
        "prefetch": settings.prefetch,
        "examples": learnt_from,
        "probe": held_out.take(torch.arange(min(PROBE_EVENTS, len(held_out)))),
        "log": partial(_log, job.progress),
        "to_go_on": _to_go_on(settings, job),
    }
    # How many processes train, and where the state is kept, does not change what is learnt.
    learning = {name: value for name, value in job.settings.items() if name not in ELSEWHERE}
    files = [training_set, features / "items.parquet", features / "spec.json"]
    if warm is not None:
        files.append(Path(job.warm_start) / WEIGHTS_FOLDER / WEIGHTS_FILE)
    leads = dist.get_rank() == 0  # who alone looks at identities
    identity = identity_of(learning, *files) if leads else ""
    at_any_pace = identity_of(_but_the_pace(learning), *files) if leads else ""

    def checkpoints(model: str) -> Checkpoints:
        return Checkpoints(
            folder=Path(job.checkpoints) / model,
            identity=identity,
            at_any_pace=at_any_pace,
            takes_other_pace=settings.resume == "other_pace",
            keep=settings.keep_checkpoints,
            log=lambda line: _log(job.progress, f"{model}: {line}"),
        )

    items_file = features / "items.parquet"
    fitted = {
        "retriever": _train_retriever(
            recommender, holdout, common, checkpoints("retriever"), warm, items_file
        ),
        "ranker": _train_ranker(recommender, holdout, common, checkpoints("ranker"), warm),
    }
    if dist.get_rank() == 0:
        _write(recommender, holdout, fitted, job)


def _to_go_on(settings: TrainingSettings, job: Job) -> str:
    """What to do about a rate that was too high; a TrainJob's folder is another one at another rate."""
    if settings.train_job is not None:
        return "begin anew"
    return f"go on from it with training.checkpoint: {job.checkpoints} and training.resume: other_pace"


def _but_the_pace(learning: dict[str, Any]) -> dict[str, Any]:
    """`learning` without what may change between a checkpoint and the run that goes on from it."""
    parts = {}
    for part in ("retriever", "ranker"):
        own = {name: value for name, value in learning[part].items() if name not in PACE}
        optimizer = {n: value for n, value in own["optimizer"].items() if n not in PACE_OF_OPTIMIZER}
        parts[part] = {**own, "optimizer": optimizer}
    return {**learning, **parts}


def _refuse_what_does_not_fit(settings: TrainingSettings, spec: ModelSpec, items: ItemInputs) -> None:
    """A TrainingError where tables and weights alone are more than is there; one host runs its own share."""
    gpu = torch.cuda.is_available()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    plan = plan_training(
        settings, spec, items, num_processes=dist.get_world_size(), device="cuda" if gpu else "cpu"
    )
    if here < plan.num_processes:  # several hosts: nobody knows the others' memory from here
        return
    memory = torch.cuda.mem_get_info()[0] if gpu else None
    room = Room(device=memory, host=available_memory(), most=torch.cuda.device_count() if gpu else None)
    fault = refusal(plan, settings, spec, items, room)
    if fault is not None:
        raise does_not_fit(plan, fault)


def _go_on(recommender: Recommender, release: Path, features: Path) -> WarmStart:
    """Load the release's weights, grown, into `recommender`."""
    warm = load_warm_start(release, recommender, features)
    recommender.load_state_dict(warm.weights)
    return warm


def _train_retriever(
    recommender: Recommender,
    holdout: Holdout,
    common: dict[str, Any],
    checkpoints: Checkpoints,
    warm: WarmStart | None,
    items: Path,
) -> Fitted:
    settings = _for_start(recommender.settings, recommender.settings.retriever, warm)
    retriever = recommender.retriever
    examples = cast(Examples, common["examples"])
    if isinstance(retriever, FittedRetriever):
        return fit_retriever(
            retriever,
            examples,
            probe=cast(Examples, common["probe"]),
            items=items,
            validate=lambda: {"ndcg": holdout.retrieval_ndcg(retriever)},
            log=common["log"],
        )
    assert isinstance(retriever, LearnedRetriever)
    retriever.connect(interactions_of(examples, retriever.spec, settings.disliked_weight))
    objective, rows, size = lesson_of(retriever, settings, examples)
    course = Course(
        name="retriever",
        settings=settings.model_copy(update={"batch_size": size}),
        prepare=lambda batch, draw: (batch, draw),
        validate=lambda: {"ndcg": holdout.retrieval_ndcg(retriever)},
        checkpoints=checkpoints,
        watch=_watch("retriever", recommender.settings),
        sums=warm.sums["retriever"] if warm else None,
        **{**common, "examples": rows},
    )
    return fit(objective, course)


def _train_ranker(
    recommender: Recommender,
    holdout: Holdout,
    common: dict[str, Any],
    checkpoints: Checkpoints,
    warm: WarmStart | None,
) -> Fitted:
    settings = _for_start(recommender.settings, recommender.settings.ranker, warm)
    sampler = CandidateSampler(recommender.retriever, settings, recommender.num_candidates)
    if warm is None:
        probe = cast(Examples, common["probe"]).to(collective_device())
        temperature = temperature_of(recommender.retriever, recommender.settings.retriever, probe)
        recommender.ranker.start_from_retrieval(sampler.log_partition(probe, temperature), temperature)
    course = Course(
        name="ranker",
        settings=settings,
        prepare=lambda batch, draw: (batch, sampler.draw(batch, draw)),
        validate=lambda: holdout.chain_figures(recommender),
        checkpoints=checkpoints,
        watch=_watch("ranker", recommender.settings),
        sums=warm.sums["ranker"] if warm else None,
        merit=recommender.ranker.task.merit,
        **common,
    )
    return fit(RankerObjective(recommender.ranker, settings), course)


def _watch(name: str, settings: TrainingSettings) -> Watch:
    """Rank 0 writes what is to be watched, for all."""
    if dist.get_rank() != 0:
        return Watch(name)
    return Watch(name, tensorboard=settings.tensorboard, profile=settings.profile)


S = TypeVar("S", RetrieverSettings, RankerSettings)


def _for_start(training: TrainingSettings, settings: S, warm: WarmStart | None) -> S:
    """A model that goes on from a release needs fewer passes."""
    if warm is None:
        return settings
    return settings.model_copy(update={"epochs": min(settings.epochs, training.warm_epochs)})


def _write(recommender: Recommender, holdout: Holdout, fitted: dict[str, Fitted], job: Job) -> None:
    figures = holdout.chain_figures(recommender)
    save_model(recommender, Path(job.output))
    save_sums({part: each.sums for part, each in fitted.items()}, Path(job.output))
    curves = {part: each.curves for part, each in fitted.items()}
    write_json(Path(job.output) / CURVES_FILE, curves)
    summary = {
        "num_parameters": sum(parameter.numel() for parameter in recommender.parameters()),
        "num_processes": dist.get_world_size(),
        "retriever_epochs": len(curves["retriever"]),
        "ranker_epochs": len(curves["ranker"]),
        "warm_start": bool(job.warm_start),
        **{
            f"{part}_{name}": epochs[-1][name]
            for part, epochs in curves.items()
            for name in ("loss", "samples_per_s")
            if name in epochs[-1]
        },
        **{f"valid_{name}": value for name, value in figures.items()},
    }
    write_json(Path(job.folder) / SUMMARY_FILE, summary)


def _read_spec(path: Path, settings: TrainingSettings) -> ModelSpec:
    try:
        return ModelSpec(**{**read_json(path), "top_k": settings.top_k})
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"{path}: not a model's specification ({error}); build the features again"
        ) from None


def _refuse_one_class(path: Path, examples: Examples) -> None:
    share = float(examples.liked.mean())
    if share in (0.0, 1.0):
        seen = "liked" if share else "not liked"
        raise TrainingError(
            f"{path}: every training event is {seen}, so there is nothing to tell apart; "
            "set features.liked_threshold inside the range of the ratings"
        )


def _log(progress: str, line: str) -> None:
    if dist.get_rank() != 0:
        return
    print(line, flush=True)
    if progress:
        with Path(progress).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _end_without_parent(parent: int) -> None:
    """End this process when the parent or torchrun is gone, however they went."""
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent and _is_alive(parent):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _leave(status: int) -> NoReturn:
    """End the process: to take torch's modules down one by one would take a second, for nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _leave(main(sys.argv[1]))
