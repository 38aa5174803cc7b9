"""What a training would hold, before any process starts."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from training_world import NUM_ITEMS, NUM_USERS, SMALL, write_world
from typer.testing import CliRunner

from leanrec.cli import app, main
from leanrec.cli.training import size_of
from leanrec.config import TrainingSettings
from leanrec.config.zoo import RANKERS, RETRIEVERS
from leanrec.errors import ConfigError, TrainingError
from leanrec.files import read_json
from leanrec.models.inputs import ItemInputs, read_item_inputs
from leanrec.models.recommender import Recommender
from leanrec.schema import ModelSpec
from leanrec.training import fits
from leanrec.training.fits import Room, may_fit, misfit, nearest_that_fits
from leanrec.training.footprint import PlannedTable, TrainingPlan, plan_training
from leanrec.training.layout import Layout
from leanrec.training.sharding import FUSED, sharding_of

NUMBERS_OF = {"fp32": torch.float32, "fp16": torch.float16}
World = tuple[ModelSpec, ItemInputs]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    features, _ = write_world(tmp_path_factory.mktemp("world"))
    spec = ModelSpec(**{**read_json(features / "spec.json"), "top_k": SMALL.top_k})
    return spec, read_item_inputs(features / "items.parquet")


def planned(world: World, processes: int = 2, device: str = "cpu", **training: object) -> TrainingPlan:
    settings = TrainingSettings.parse({**SMALL.model_dump(), **training})
    return plan_training(settings, *world, num_processes=processes, device=device)


def held(table: PlannedTable) -> dict[int, int]:
    """Rank -> bytes of its part."""
    return {rank: part.held for rank, part in table.parts.items()}


@pytest.mark.parametrize("processes", [1, 3, 16])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_parts_of_a_table_are_the_table_and_its_sums(world: World, processes: int, device: str) -> None:
    plan = planned(world, processes, device)
    assert len(plan.table_bytes) == processes
    for table in plan.tables:
        assert sum(held(table).values()) == 2 * 4 * table.rows * table.dim
    rows = {(table.model, table.table): table.rows for table in plan.tables}
    assert rows["retriever", "user"] == rows["ranker", "user"] == NUM_USERS + 1
    assert rows["retriever", "item"] == NUM_ITEMS
    assert (plan.sent_bytes == 0) == (processes == 1)


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise", "grid"])
def test_a_table_is_sharded_as_told(world: World, sharding: str) -> None:
    retriever = {**SMALL.retriever.model_dump(), "dim": 512}
    plan = planned(world, sharding={"item": sharding}, retriever=retriever)
    (item,) = (table for table in plan.tables if (table.model, table.table) == ("retriever", "item"))
    assert item.sharding == sharding
    assert sum(part.weights for part in item.parts.values()) == NUM_ITEMS * 512


@pytest.mark.parametrize(("optimizer", "numbers"), [("adagrad", 3 * 8), ("rowwise_adagrad", 2 * 8 + 1)])
def test_tables_that_every_process_has_are_counted_in_each_with_their_gradients(
    world: World, optimizer: str, numbers: int
) -> None:
    retriever = {**SMALL.retriever.model_dump(), "dim": 8, "optimizer": {"tables": optimizer}}
    plan = planned(world, 3, sharding={"item": "data_parallel"}, retriever=retriever)
    (item,) = (table for table in plan.tables if (table.model, table.table) == ("retriever", "item"))
    assert item.is_everywhere and item.ranks == (0, 1, 2)
    assert held(item) == dict.fromkeys(range(3), 4 * NUM_ITEMS * numbers)


def test_of_tables_that_every_process_has_only_gradients_travel(world: World) -> None:
    spec, items = world
    recommender = Recommender(spec, SMALL, items)
    models = (recommender.retriever, recommender.ranker)
    tables = {table: "data_parallel" for model in models for table in model.sparse.num_rows}
    weights = max(sum(weight.numel() for weight in model.parameters()) for model in models)
    # Half of them from either of two processes to the other, added up, and back.
    assert planned(world, sharding=tables).sent_bytes == 4 * weights


def test_replicas_hold_every_table_once_more_and_look_up_among_fewer(world: World) -> None:
    once, twice = (planned(world, 4, replicas=replicas, num_processes=4) for replicas in (1, 2))
    for table in twice.tables:
        assert sum(held(table).values()) == 2 * 2 * 4 * table.rows * table.dim
    assert twice.sent_bytes < once.sent_bytes and once.averaged_bytes == 0
    # Half of what two ranks add up travels from either to the other, and back.
    assert twice.averaged_bytes == max(twice.table_bytes)
    assert min(twice.kept_bytes[:2]) > 0 and twice.kept_bytes[2:] == (0, 0)
    everywhere = planned(world, 4, replicas=2, num_processes=4, sharding={"item": "data_parallel"})
    items = {t.model: t.rows * t.dim for t in everywhere.tables if t.table == "item"}
    assert everywhere.kept_bytes[2:] == (4 * 4 * max(items.values()),) * 2


def test_fewer_replicas_are_offered_where_more_do_not_fit(world: World) -> None:
    settings = TrainingSettings.parse(
        {**SMALL.model_dump(), "replicas": 4, "num_processes": 4, "plain_tables": "host"}
    )
    plan = plan_training(settings, *world, num_processes=4, device="cuda")
    fewer = plan_training(settings.model_copy(update={"replicas": 1}), *world, num_processes=4, device="cuda")
    assert fewer.on_device < plan.on_device
    room = Room(device=fewer.on_device, host=10**12, most=4)
    said = nearest_that_fits(plan, settings, *world, room)
    assert said == "training.num_processes: 4 with training.replicas: 1 fits"


def test_replicas_that_cannot_share_the_processes_are_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="2 groups cannot share 3 processes evenly"):
        planned(world, 3, replicas=2, num_processes=4)


def test_a_grid_gives_each_of_eight_gpus_a_block(world: World) -> None:
    tables = planned(world, 8, "cuda", sharding=dict.fromkeys(["user", "item"], "grid")).tables
    for model in ("retriever", "ranker"):
        (user,) = (table for table in tables if (table.model, table.table) == (model, "user"))
        assert user.ranks == tuple(range(8))
        assert max(part.weights for part in user.parts.values()) == -(-user.rows // 4) * user.dim // 2


def test_an_index_travels_to_each_part_of_its_columns(world: World) -> None:
    whole, grid = (planned(world, sharding=dict.fromkeys(["user", "item"], s)) for s in ("row_wise", "grid"))
    assert whole.sent_bytes < grid.sent_bytes


def test_half_precision_sends_less_and_holds_as_much(world: World) -> None:
    half, full = planned(world, exchange="fp16"), planned(world)
    assert half.sent_bytes < full.sent_bytes and half.on_host == full.on_host
    assert planned(world, device="cuda", exchange="bf16").sent_bytes == half.sent_bytes
    wide = {part: {**getattr(SMALL, part).model_dump(), "dim": 32} for part in ("retriever", "ranker")}
    assert (
        planned(world, exchange="int8", **wide).sent_bytes
        < planned(world, exchange="fp16", **wide).sent_bytes
    )
    with pytest.raises(ConfigError, match=r"training\.exchange: bf16 travels between GPUs alone"):
        planned(world, exchange="bf16")


def test_a_table_that_no_model_has_is_refused_with_the_nearest(world: World) -> None:
    with pytest.raises(ConfigError, match=r"table 'itme', which no model has; .*'item'"):
        planned(world, sharding={"itme": "row_wise"})


@pytest.mark.parametrize("part", ["retriever", "ranker"])
def test_every_model_of_the_zoo_can_be_planned(world: World, part: str) -> None:
    for model in RETRIEVERS if part == "retriever" else RANKERS:
        plan = planned(world, **{part: {"model": model, "dim": 8}})
        assert plan.on_device > 0 and plan.on_host >= plan.on_device


def test_what_does_not_fit_is_said_with_what_would(world: World) -> None:
    spec, items = world
    retriever = SMALL.retriever.model_copy(update={"dim": 256, "hidden": (4,)})
    settings = SMALL.model_copy(update={"retriever": retriever})
    plan = plan_training(settings, spec, items, num_processes=1, device="cuda")

    def nearest(of: TrainingPlan, settings: TrainingSettings, device: int, most: int | None = None) -> str:
        return nearest_that_fits(of, settings, spec, items, Room(device=device, host=10**12, most=most))

    assert misfit(plan, Room(device=plan.on_device, host=plan.on_host)) is None
    fault = misfit(plan, Room(device=plan.on_device - 1, host=10**12))
    assert fault and "the fullest device needs" in fault
    with_it = "with training.plain_tables: host fits"
    short = plan.dense_bytes + plan.plain_bytes + plan.table_bytes[0] * 3 // 4
    assert nearest(plan, settings, short) == f"training.num_processes: 1 {with_it}"
    kept = settings.model_copy(update={"plain_tables": "host"})
    spared = sum(4 * table.rows * table.dim for table in plan.tables)
    on_host = plan_training(kept, spec, items, num_processes=1, device="cuda")
    assert on_host.on_device == plan.on_device - spared and on_host.on_host == plan.on_host
    short = on_host.on_device - plan.table_bytes[0] // 4
    assert nearest(on_host, kept, short) == "training.num_processes: 2 fits"
    assert nearest(plan, settings, short) == f"training.num_processes: 2 {with_it}"
    # A fifth of the weights and no sums would be a tenth, but a cache has 32 rows at least.
    short = on_host.on_device - round(plan.table_bytes[0] * 0.6)
    cached = "training.num_processes: 2 with training.table_cache: 0.2"
    assert nearest(on_host, kept, short, most=2) == f"{cached} fits"
    assert nearest(plan, settings, short, most=2) == f"{cached} and training.plain_tables: host fits"
    assert "lower training.retriever.dim" in nearest(plan, settings, 10)
    on_cpu = plan_training(settings, spec, items, num_processes=1, device="cpu")
    assert misfit(on_cpu, Room(device=None, host=on_cpu.on_host)) is None
    assert "the host needs" in str(misfit(on_cpu, Room(device=None, host=on_cpu.on_host - 1)))


@pytest.mark.parametrize(
    ("taken_off", "changes"),
    [
        (0.4, "optimizer.tables: rowwise_adagrad"),
        (0.6, "optimizer.tables: rowwise_adagrad and training.table_precision: fp16"),
    ],
)
def test_on_a_cpu_a_sum_a_row_is_proposed_before_half_precision(
    world: World, taken_off: float, changes: str
) -> None:
    retriever = SMALL.retriever.model_copy(update={"dim": 256, "hidden": (4,)})
    settings = SMALL.model_copy(update={"retriever": retriever})
    plan = plan_training(settings, *world, num_processes=1, device="cpu")
    room = Room(device=None, host=plan.on_host - round(plan.table_bytes[0] * taken_off))
    assert nearest_that_fits(plan, settings, *world, room) == f"training.num_processes: 1 with {changes} fits"


SUMS_A_ROW = {"optimizer": {"tables": "rowwise_adagrad"}}
"""Of either model."""


@pytest.fixture(scope="module")
def large(world: World) -> World:
    """The same with a hundred million users."""
    return dataclasses.replace(world[0], num_users=10**8), world[1]


def settings_with(
    retriever: dict[str, object] | None = None, ranker: dict[str, object] | None = None, **training: object
) -> TrainingSettings:
    models = {
        name: {**getattr(SMALL, name).model_dump(), "dim": 64, **(changes or {})}
        for name, changes in (("retriever", retriever), ("ranker", ranker))
    }
    return TrainingSettings.parse({**SMALL.model_dump(), "plain_tables": "host", **training, **models})


BY_ROWS: dict[str, object] = {"retriever": SUMS_A_ROW, "ranker": SUMS_A_ROW}


@pytest.mark.parametrize(
    ("now", "enough", "processes", "proposed"),
    [
        ({}, {"table_cache": 0.2}, 1, "training.table_cache: 0.2"),
        ({}, {"table_cache": 0.05}, 1, "training.table_cache: 0.05"),
        ({}, {**BY_ROWS}, 1, "optimizer.tables: rowwise_adagrad"),
        (
            {},
            {"table_cache": 0.2, **BY_ROWS},
            1,
            "optimizer.tables: rowwise_adagrad and training.table_cache: 0.2",
        ),
        (
            {},
            {"table_cache": 0.05, "table_precision": "fp16"},
            1,
            "training.table_precision: fp16 and training.table_cache: 0.05",
        ),
        ({"table_cache": 0.2}, {}, 1, "training.table_cache: null"),
        (
            {"replicas": 2, "num_processes": 2},
            {"replicas": 2, "num_processes": 2, "table_cache": 0.2},
            2,
            "training.table_cache: 0.2",
        ),
        ({"replicas": 2, "num_processes": 2}, {}, 2, "training.replicas: 1"),
    ],
)
def test_the_fewest_changes_that_fit_are_proposed(
    large: World, now: dict[str, object], enough: dict[str, object], processes: int, proposed: str
) -> None:
    """The room is what those settings need, to the byte."""
    settings = settings_with(**now)
    plan = plan_training(settings, *large, num_processes=processes, device="cuda")
    needed = plan_training(settings_with(**enough), *large, num_processes=processes, device="cuda")
    room = Room(device=needed.on_device, host=needed.on_host, most=processes)
    assert misfit(plan, room) is not None
    said = nearest_that_fits(plan, settings, *large, room)
    assert said == f"training.num_processes: {processes} with {proposed} fits"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_plan_that_fits_is_passed_over(world: World, device: str) -> None:
    """Before a plan is made it is asked whether it may fit: of what does fit, and by nothing, never no."""
    whole = {"sharding": {"category": "data_parallel"}}
    for changes in ({}, {"table_cache": 0.3}, {"table_precision": "fp16", **whole}, {"replicas": 2}):
        by_hand = {name: value for name, value in changes.items() if name == "sharding"}
        found = planned(world, 2, device, **by_hand)
        for number in (2, 4) if "replicas" in changes else (1, 2):
            settings = TrainingSettings.parse({**SMALL.model_dump(), "num_processes": number, **changes})
            plan = plan_training(settings, *world, num_processes=number, device=device)
            for device_bytes in (plan.on_device if device == "cuda" else None, None):
                room = Room(device=device_bytes, host=plan.on_host)
                assert misfit(plan, room) is None and may_fit(found, settings, number, room)
                assert not may_fit(found, settings, number, Room(device=device_bytes, host=1))


def test_where_nothing_fits_that_is_said_without_a_plan(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(world, 8, "cuda")
    monkeypatch.setattr(fits, "plan_training", pytest.fail)
    settings = TrainingSettings.parse({**SMALL.model_dump(), "replicas": 1})
    tried = "training.table_cache: 0.2, training.table_cache: 0.05, optimizer.tables: rowwise_adagrad"
    for room, spared in (
        (Room(device=plan.on_device, host=10), "training.table_precision: fp16"),
        (Room(device=10, host=10**12), "training.table_precision: fp16, training.plain_tables: host"),
    ):
        *names, last = f"{tried}, {spared}".split(", ")
        assert nearest_that_fits(plan, settings, *world, room) == (
            f"no number of processes on one host fits, not with {', '.join(names)} and {last} either: lower "
            "training.retriever.dim and training.ranker.dim"
        )


def test_a_host_holds_what_its_own_processes_hold(world: World) -> None:
    one, two = planned(world, 8, "cuda"), planned(world, 16, "cuda")
    assert two.on_host <= one.on_host
    settings = TrainingSettings.parse(SMALL.model_dump())
    room = Room(device=one.on_device * 10, host=one.on_host * 10, most=1)
    assert nearest_that_fits(one, settings, *world, room) == "training.num_processes: 1 fits"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("optimizer", ["adagrad", "rowwise_adagrad"])
def test_a_cached_table_takes_what_fbgemm_lays_out(
    monkeypatch: pytest.MonkeyPatch, optimizer: str, precision: str
) -> None:
    """Its own module of such a table on a GPU, made without memory, tells every piece that it would have."""
    gpu = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    rows, columns = 1_000, 16
    made = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, columns, EmbeddingLocation.MANAGED_CACHING, ComputeDevice.CUDA)],
        optimizer=FUSED[optimizer],
        weights_precision=SparseType.from_dtype(NUMBERS_OF[precision]),
        cache_precision=SparseType.from_dtype(NUMBERS_OF[precision]),
        cache_load_factor=0.2,
        device=torch.device("meta"),
    )
    sizes = {
        name: piece.numel() * piece.element_size()
        for name, piece in (*made.named_buffers(), *made.named_parameters())
        if piece.numel() > 2  # of what is not there, and of counters, one number or two
    }
    part = Layout(precision=precision, cache=0.2).part(rows, columns, optimizer=optimizer, device="cuda")
    on_host = {name for name in sizes if name.endswith("_uvm")}
    assert part.on_host == sum(sizes[name] for name in on_host)
    assert part.on_device == sum(size for name, size in sizes.items() if name not in on_host)
    assert part.held == rows * columns * {"fp32": 4, "fp16": 2}[precision] + sum(
        size for name, size in sizes.items() if name.startswith("momentum1")
    )


def test_tables_behind_a_cache_are_counted_on_the_host(world: World) -> None:
    settings: dict[str, object] = {"plain_tables": "host", "sharding": {"category": "data_parallel"}}
    wide = {part: {**getattr(SMALL, part).model_dump(), "dim": 256} for part in ("retriever", "ranker")}
    plain, cached = (
        planned(world, 2, "cuda", table_cache=cache, **settings, **wide) for cache in (None, 0.2)
    )
    for table, behind in zip(plain.tables, cached.tables, strict=True):
        assert sum(held(table).values()) == sum(held(behind).values())
        assert all((part.on_device, part.on_host) == (part.held, 0) for part in table.parts.values())
        assert behind.is_everywhere == (behind.table == "category")
        for part in behind.parts.values():
            assert part.on_host == (0 if behind.is_everywhere else part.held)
            assert (part.on_device == part.held) == behind.is_everywhere
    assert max(cached.table_bytes) < max(plain.table_bytes)
    assert cached.on_host == plain.on_host + sum(cached.behind_cache_bytes)
    on_cpu = [planned(world, 2, "cpu", table_cache=cache) for cache in (None, 0.2)]
    assert on_cpu[0] == on_cpu[1]  # there they are on the host anyway


def test_half_precision_halves_the_tables_and_no_sums(world: World) -> None:
    half, full = planned(world, table_precision="fp16"), planned(world)
    for less, more in zip(half.tables, full.tables, strict=True):
        assert 4 * sum(held(less).values()) == 3 * sum(held(more).values())
    assert half.sent_bytes == full.sent_bytes


def test_torchrec_plans_the_cache_for_every_sharded_table(world: World) -> None:
    recommender = Recommender(world[0], SMALL, world[1])
    sharding = sharding_of(
        recommender.retriever.sparse.num_rows,
        Layout(cache=0.3, by_hand={"item": "row_wise"}),
        world_size=2,
        local_world_size=2,
        device="cuda",
        table_optimizer="adagrad",
        table_learning_rate=0.1,
        dim=recommender.retriever.sparse.dim,
    )
    holder = nn.Module()
    holder.model = recommender.retriever
    plan = sharding.plan(sharding.with_sharded_tables(holder)).plan
    placed = {name: table for tables in plan.values() for name, table in tables.items()}
    assert placed.keys() == recommender.retriever.sparse.num_rows.keys()
    assert {table.compute_kernel for table in placed.values()} == {"fused_uvm_caching"}
    assert {table.cache_params.load_factor for table in placed.values()} == {0.3}
    assert placed["item"].sharding_type == "row_wise"


@pytest.mark.parametrize(("text", "size"), [("80GiB", 80 * 2**30), ("1.5 MiB", 3 * 2**19), ("12", 12)])
def test_sizes_in_words(text: str, size: int) -> None:
    assert size_of(text) == size


def test_a_size_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="--device-memory '2Gb' is not a size; write 80GiB"):
        size_of("2Gb")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """`leanrec train --plan` of a small world for GPUs."""
    write_world(tmp_path)
    settings = {
        "name": "tiny",
        "data": {"source": "synthetic"},
        "feature_store": {"repository": str(tmp_path / "store")},
        "release": {"repository": str(tmp_path / "models")},
        "evaluation": {"ks": [5]},
        "training": SMALL.model_dump(mode="json", exclude_none=True),
    }
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(settings))
    return ["train", str(config), "--work", str(tmp_path), "--plan", "--device", "cuda"]


def test_the_command_answers_before_anything_starts(tmp_path: Path, command: list[str]) -> None:
    fits = json.loads(CliRunner().invoke(app, [*command, "--device-memory", "1GiB", "--json"]).stdout)
    assert fits["fits"] and fits["num_processes"] == 1
    shown = CliRunner().invoke(app, [*command, "--processes", "4", "--device-memory", "1"])
    assert "4 processes on cuda: the fullest device needs" in " ".join(shown.stdout.split())
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("json_output", [False, True])
def test_a_plan_that_does_not_fit_is_shown_and_refused(
    command: list[str], json_output: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--json"] if json_output else []
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # how this test is stopped stays as it is
    monkeypatch.setattr(sys, "argv", ["leanrec", *command, "--device-memory", "1KiB", *flags])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == TrainingError.exit_status == 2
    printed = capsys.readouterr()
    refused = "error: training with 1 processes does not fit: the fullest device needs"
    assert printed.err.startswith(refused) and "lower training.retriever.dim" in printed.err
    if json_output:
        plan = json.loads(printed.out)
        assert not plan["fits"] and plan["tables"] and plan["answer"] in printed.err
    else:
        words = " ".join(printed.out.split())
        assert "in all on the fullest device" in words and "lower training.retriever.dim" in words


@pytest.mark.parametrize(
    ("processes", "training", "reason"),
    [(1, {}, "insufficient storage"), (2, {"sharding": {"user": "table_wise"}}, "the strict constraints")],
)
def test_tables_that_torchrec_finds_no_plan_for_are_refused_in_a_sentence(
    world: World, processes: int, training: dict[str, object], reason: str
) -> None:
    spec, items = world
    beyond = dataclasses.replace(spec, num_users=5 * 10**16)
    with pytest.raises(TrainingError) as refused:
        planned((beyond, items), processes, **training)
    assert str(refused.value) == (
        f"no plan shards the tables so (Unable to find a plan for this model because of {reason}: no process "
        "can hold its part of the table 'user'); let the planner choose (training.sharding: {}), change "
        "training.num_processes, or lower retriever.dim and ranker.dim"
    )


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise", "grid"])
def test_more_processes_than_a_table_has_parts_leave_some_without_one(world: World, sharding: str) -> None:
    plan = planned(world, 64, sharding={"category": sharding})
    (category,) = (table for table in plan.tables if (table.model, table.table) == ("ranker", "category"))
    holding = {rank for rank, part in category.parts.items() if part.weights}
    assert 1 <= len(holding) < 64
    assert sum(part.weights for part in category.parts.values()) == category.rows * category.dim
