"""What processes do together does not depend on their number, nor on how tables and batches are divided."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_world import write_world

pytestmark = pytest.mark.integration

TESTS = Path(__file__).parents[1]
OF_THIS_CHECKOUT = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}


def torchrun(num_processes: int, worker: str, *arguments: object) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={num_processes}", str(TESTS / "training" / worker)]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env=os.environ | OF_THIS_CHECKOUT | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


RESHARDED = [
    ((2, "column_wise"), (1, "table_wise")),
    ((3, "row_wise"), (2, "row_wise")),
    ((4, "grid"), (2, "grid")),
    ((2, "data_parallel"), (2, "column_wise")),
    ((2, "table_wise"), (2, "data_parallel")),
    ((4, "row_wise in 2"), (2, "row_wise in 2")),
    ((4, "row_wise in 2 in fp16"), (2, "row_wise in 2 in fp16")),
]
"""By how many processes, and sharded how, a checkpoint is written and taken up."""


@pytest.fixture(scope="module")
def resharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each of RESHARDED a folder: the state "saved" and "taken up", and the checkpoints. One start for all
    cases of so many processes."""
    folder = tmp_path_factory.mktemp("resharded")
    write_world(folder)
    for place, name in enumerate(("saved", "taken up")):
        jobs: defaultdict[int, list[object]] = defaultdict(list)
        for number, case in enumerate(RESHARDED):
            own = folder / str(number)
            own.mkdir(exist_ok=True)
            num_processes, sharding = case[place]
            jobs[num_processes] += [sharding, own / "checkpoints", own / name]
        for num_processes, arguments in jobs.items():
            torchrun(num_processes, "resharding_worker.py", folder, *arguments)
    return folder


@pytest.mark.parametrize("number", range(len(RESHARDED)), ids=map(str, RESHARDED))
def test_a_checkpoint_is_taken_up_by_others(resharded: Path, number: int) -> None:
    before, after = RESHARDED[number]
    folder = resharded / str(number)
    saved, taken_up = (load_file(folder / name) for name in ("saved", "taken up"))
    for found, (num_processes, sharding) in ((saved, before), (taken_up, after)):
        parts = [found.pop(f"parts/{rank}") for rank in range(num_processes)]
        if " in 2" in sharding:
            first, second = parts[: num_processes // 2], parts[num_processes // 2 :]
            assert all(map(torch.equal, first, second)), "the second replica is not as the first"
    assert {name.split("/")[0] for name in saved} == {"weights", "sums", "dense", "best", "best_sums"}
    assert saved.keys() == taken_up.keys()
    for name, value in saved.items():
        assert torch.equal(value, taken_up[name]), name
        is_rounded = torch.equal(value, value.half().float())
        if name.startswith(("weights/sparse.tables.", "best/sparse.tables.")):
            assert is_rounded == before[1].endswith("fp16"), name
    assert any(float(value.abs().max()) > 0 for name, value in saved.items() if name.startswith("sums/"))
    written = list((folder / "checkpoints" / "000001").glob("*.safetensors"))
    assert {file.name.split("-")[1] for file in written} == {f"{i + 1:05d}" for i in range(before[0])}


def test_unequal_shares_of_a_batch_have_the_gradients_of_the_whole(tmp_path: Path) -> None:
    write_world(tmp_path)
    for parts in ([1], [3, 1]):
        torchrun(len(parts), "uneven_worker.py", "step", tmp_path, tmp_path / str(len(parts)), *parts)
    whole, shared = (load_file(tmp_path / str(number)) for number in (1, 2))
    assert whole.keys() == shared.keys()
    for name, value in whole.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-3, atol=1e-6, msg=name)
    for part in ("events", "sequences", "ranker"):
        gradients = [value.flatten() for name, value in whole.items() if re.match(rf"{part}/\d+", name)]
        assert float(torch.cat(gradients).norm()) > 1e-2
        assert float(whole[f"{part}/sums/item"].max()) > 1e-6


def test_weight_decay_of_tables_is_the_mean_of_the_processes(tmp_path: Path) -> None:
    write_world(tmp_path)
    torchrun(2, "decay_worker.py", tmp_path, tmp_path / "outcome")
    outcome = load_file(tmp_path / "outcome")
    for table in ("user", "item"):
        assert float(outcome[f"sums/{table}"].max()) > 1e-3
        torch.testing.assert_close(
            outcome[f"sums/{table}"], outcome[f"expected/{table}"], rtol=1e-4, atol=1e-7
        )


def test_steps_added_up_move_as_one_batch_and_exchange_dense_gradients_once(tmp_path: Path) -> None:
    write_world(tmp_path)
    torchrun(2, "accumulating_worker.py", tmp_path, tmp_path / "outcome")
    outcome = load_file(tmp_path / "outcome")
    gradients = [name for name in outcome if name.startswith("1/0/gradient/")]
    for name in gradients:
        torch.testing.assert_close(outcome["3" + name[1:]], outcome[name], rtol=1e-4, atol=1e-7, msg=name)
    assert float(torch.cat([outcome[name].flatten() for name in gradients]).norm()) > 1e-2
    for name in [name for name in outcome if name.startswith("1/sums/")]:  # of tables that all have whole
        assert float(outcome[name].max()) > 1e-6
        torch.testing.assert_close(outcome["3" + name[1:]], outcome[name], rtol=1e-4, atol=1e-9, msg=name)
    num_weights = sum(outcome[name].numel() for name in gradients)
    for batch in range(2):
        assert outcome[f"1/{batch}/reduced/0"].tolist()[0] == num_weights
        reduced = [outcome[f"3/{batch}/reduced/{place}"].tolist() for place in range(3)]
        # With the gradients goes which of the parameters were used at all.
        assert reduced == [[], [], [num_weights, len(gradients)]]


def test_tables_that_every_process_has_move_as_sharded_ones(tmp_path: Path) -> None:
    write_world(tmp_path)
    torchrun(2, "data_parallel_worker.py", tmp_path, tmp_path / "outcome")
    outcome = load_file(tmp_path / "outcome")
    ways = {name.split("/")[0] for name in outcome}
    assert ways == {"adagrad", "rowwise_adagrad", "falling", "decay", "half"}
    for name, value in outcome.items():
        # The bias of all items alike moves no score of a softmax: its gradient is what rounding leaves.
        if "/data_parallel/" in name and not name.endswith("item_out.bias"):
            sharded = outcome[name.replace("/data_parallel/", "/row_wise/")]
            torch.testing.assert_close(value, sharded, rtol=1e-5, atol=1e-6, msg=name)
    for way in ways:
        assert float(outcome[f"{way}/data_parallel/sums/item"].max()) > 1e-6
    decayed, plain = (
        outcome[f"{way}/data_parallel/weights/sparse.tables.item.weight"] for way in ("decay", "adagrad")
    )
    assert float((decayed - plain).abs().max()) > 1e-3


def test_replicas_learn_by_themselves_and_are_averaged(tmp_path: Path) -> None:
    write_world(tmp_path)
    for num_processes, replicas in ((2, 1), (4, 2)):
        torchrun(num_processes, "replicas_worker.py", tmp_path, tmp_path / str(replicas), replicas)
    alone, groups = (load_file(tmp_path / str(replicas)) for replicas in (1, 2))
    told = [name for name in alone if re.search("/alike/(weights|sums)/", name)]
    assert {name.split("/")[0] for name in told} == {"row_wise", "table_wise", "column_wise", "data_parallel"}
    for name in told:
        if not name.endswith("item_out.bias"):  # whose gradient is what rounding leaves
            torch.testing.assert_close(groups[name], alone[name], rtol=1e-5, atol=1e-6, msg=name)
    for sharding in ("row_wise", "table_wise", "column_wise"):
        moved = 0.0
        for rank in range(4):
            before, other = (groups[f"{sharding}/own/before/{each}"] for each in (rank, (rank + 2) % 4))
            mean = groups[f"{sharding}/own/after/{rank}"]
            torch.testing.assert_close(mean, (before + other) / 2, rtol=1e-6, atol=1e-9)
            moved = max(moved, float((mean - before).abs().max()))
        assert moved > 1e-3, f"{sharding}: the replicas had learnt the same"


def test_a_process_that_is_slower_is_seen_to_be(tmp_path: Path) -> None:
    torchrun(2, "uneven_worker.py", "speeds", tmp_path / "speeds", 0.05, 2.0)
    fast, slow = json.loads((tmp_path / "speeds").read_text())
    assert slow <= 0.5 < fast <= 20
