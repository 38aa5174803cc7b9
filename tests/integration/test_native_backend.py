"""The native backend where our releases do not lead: types, batches, outputs, errors, and how it is built."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpcclient
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype
from waiting import wait_for

from leanrec.errors import HostError
from leanrec.triton.embedded_server import embedded_server
from serving import build_backend
from serving.build_backend import build
from serving.environment import ServingEnvironment, find_environment
from serving.native_backend import SOURCES, library_path

pytestmark = pytest.mark.integration

TYPES = {
    "flag": ("TYPE_BOOL", TensorProto.BOOL, np.bool_),
    "half": ("TYPE_FP16", TensorProto.FLOAT16, np.float16),
    "number": ("TYPE_INT32", TensorProto.INT32, np.int32),
}


def write_model(models: Path, name: str, graph: onnx.GraphProto, configuration: str) -> None:
    folder = models / name / "1"
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, str(folder / "model.onnx"))
    text = f'name: "{name}"\nbackend: "onnxruntime"\n{configuration}'
    (models / name / "config.pbtxt").write_text(text, encoding="utf-8")


def copies(models: Path, name: str, max_batch_size: int) -> None:
    """Every input [B, 2] comes back; the sum of all numbers, without a row for each, is nobody's output."""
    nodes = [helper.make_node("Identity", [tensor], [f"{tensor}_out"]) for tensor in TYPES]
    nodes.append(helper.make_node("ReduceSum", ["number"], ["sum"], keepdims=0))
    inputs = [helper.make_tensor_value_info(t, kind, [None, 2]) for t, (_, kind, _) in TYPES.items()]
    outputs = [
        helper.make_tensor_value_info(f"{t}_out", kind, [None, 2]) for t, (_, kind, _) in TYPES.items()
    ]
    outputs.append(helper.make_tensor_value_info("sum", TensorProto.INT32, []))
    dims = "[ 2 ]" if max_batch_size else "[ -1, 2 ]"
    written = [
        f'{way} {{ name: "{t}{suffix}" data_type: {configured} dims: {dims} }}'
        for way, suffix in (("input", ""), ("output", "_out"))
        for t, (configured, _, _) in TYPES.items()
    ]
    written += [f"max_batch_size: {max_batch_size}", "instance_group { kind: KIND_CPU count: 2 }"]
    written += ["dynamic_batching { max_queue_delay_microseconds: 20000 }"] if max_batch_size else []
    write_model(models, name, helper.make_graph(nodes, name, inputs, outputs), "\n".join(written))


def filled(models: Path) -> None:
    """As many ones as are asked for: a graph that can fail by itself."""
    one = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["size"], ["ones"], value=one)],
        "filled",
        [helper.make_tensor_value_info("size", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("ones", TensorProto.FLOAT, [None])],
    )
    text = (
        'input { name: "size" data_type: TYPE_INT64 dims: [ 1 ] }'
        ' output { name: "ones" data_type: TYPE_FP32 dims: [ -1 ] }'
    )
    write_model(models, "filled", graph, text)


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpcclient.InferenceServerClient]:
    models = tmp_path_factory.mktemp("native") / "models"
    copies(models, "batches", 8)
    copies(models, "single", 0)
    filled(models)
    with (
        embedded_server(models, models.parent / "server.json", backend="native") as server,
        grpcclient.InferenceServerClient(server.grpc) as client,
    ):
        yield client


def ask(
    client: grpcclient.InferenceServerClient, model: str, wanted: list[str], **tensors: np.ndarray
) -> dict:
    inputs = []
    for name, tensor in tensors.items():
        inputs.append(grpcclient.InferInput(name, tensor.shape, np_to_triton_dtype(tensor.dtype)))
        inputs[-1].set_data_from_numpy(tensor)
    outputs = [grpcclient.InferRequestedOutput(name) for name in wanted]
    answer = client.infer(model, inputs, outputs=outputs, client_timeout=60)
    return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}


def counted(client: grpcclient.InferenceServerClient) -> Any:
    """Triton's statistics of the model "batches"."""
    return client.get_inference_statistics("batches", as_json=False).model_stats[0]


def rows(count: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {name: draw.integers(0, 2, (count, 2)).astype(kind) for name, (_, _, kind) in TYPES.items()}


@pytest.mark.parametrize("model", ["batches", "single"])
@pytest.mark.parametrize("count", [1, 5])
def test_types_and_shapes_come_back_as_they_went(
    triton: grpcclient.InferenceServerClient, model: str, count: int
) -> None:
    tensors = rows(count, seed=count)
    answer = ask(triton, model, [f"{name}_out" for name in TYPES], **tensors)
    for name, tensor in tensors.items():
        assert answer[f"{name}_out"].dtype == tensor.dtype
        np.testing.assert_array_equal(answer[f"{name}_out"], tensor)


def test_only_the_outputs_asked_for_are_sent(triton: grpcclient.InferenceServerClient) -> None:
    assert ask(triton, "batches", ["half_out"], **rows(2, seed=0)).keys() == {"half_out"}


def test_a_tensor_without_rows_is_answered_without_rows(triton: grpcclient.InferenceServerClient) -> None:
    answer = ask(triton, "single", ["number_out", "flag_out"], **rows(0, seed=0))
    assert {tensor.shape for tensor in answer.values()} == {(0, 2)}


def test_an_output_that_nobody_configured_undoes_no_batch(triton: grpcclient.InferenceServerClient) -> None:
    """The graph's sum has no rows to share out; requests that arrive together are still computed together."""
    before = counted(triton)
    wrong: list[int] = []

    def many(seed: int) -> None:
        for turn in range(10):
            tensors = rows(1 + (seed + turn) % 3, seed=100 * seed + turn)
            answer = ask(triton, "batches", ["number_out", "flag_out", "half_out"], **tensors)
            if any(not np.array_equal(answer[f"{name}_out"], tensors[name]) for name in TYPES):
                wrong.append(seed)

    threads = [threading.Thread(target=many, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    # Triton counts a request after it has answered it.
    wait_for(
        lambda: counted(triton).inference_stats.success.count >= before.inference_stats.success.count + 80
    )
    after = counted(triton)
    assert after.inference_stats.success.count == before.inference_stats.success.count + 80
    assert after.inference_stats.fail.count == before.inference_stats.fail.count
    assert after.execution_count - before.execution_count < 80


def test_the_servers_own_failure_is_not_called_the_callers(triton: grpcclient.InferenceServerClient) -> None:
    """A caller's client goes elsewhere with the one, and not with the other."""
    np.testing.assert_array_equal(ask(triton, "filled", ["ones"], size=np.array([3]))["ones"], np.ones(3))
    with pytest.raises(InferenceServerException) as internal:
        ask(triton, "filled", ["ones"], size=np.array([1 << 50]))
    assert internal.value.status() == "StatusCode.INTERNAL"
    with pytest.raises(InferenceServerException) as wrong:
        ask(triton, "filled", ["ones"], size=np.array([3, 3]))
    assert wrong.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_the_numbers_written_out_are_those_of_the_installed_triton() -> None:
    """The wheels have no headers; the library itself says what its numbers mean."""
    environment = find_environment()
    library = next((environment.packages / "nvidia_pytriton.libs").glob("libtritonserver*.so"))
    header = (SOURCES / "triton_api.h").read_text()
    number = {name: int(value) for name, value in re.findall(r"constexpr \w+ (\w+) = (\d+);", header)}
    rows = re.findall(r'\{"TYPE_(\w+)", (\d+), (\d+), (\d+)\}', (SOURCES / "element_types.h").read_text())
    assert len(rows) == 13
    memory = {"kTritonMemoryCpu": "CPU", "kTritonMemoryPinned": "CPU_PINNED"}
    errors = {"kTritonInternal": "Internal", "kTritonInvalidArgument": "Invalid argument"}
    code = f"""
import ctypes
triton = ctypes.CDLL({str(library)!r})
def said(function, *arguments):
    function.restype = ctypes.c_char_p
    return function(*arguments).decode()
for name, text in {[(row[0], int(row[1])) for row in rows]!r}:
    assert said(triton.TRITONSERVER_DataTypeString, text) == name, name
for key, name in {[(number[key], name) for key, name in memory.items()]!r}:
    assert said(triton.TRITONSERVER_MemoryTypeString, key) == name, name
new = triton.TRITONSERVER_ErrorNew
new.restype = ctypes.c_void_p
for key, name in {[(number[key], name) for key, name in errors.items()]!r}:
    assert said(triton.TRITONSERVER_ErrorCodeString, ctypes.c_void_p(new(key, b""))) == name, name
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment.variables(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for configured, _, kind, size in rows:
        wanted = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE", "BF16": "BFLOAT16"}
        assert TensorProto.DataType.Name(int(kind)) == wanted.get(configured, configured)
        assert helper.tensor_dtype_to_np_dtype(int(kind)).itemsize == int(size)


def test_a_host_without_a_compiler_is_told_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = find_environment()
    unbuilt = replace(environment, versions={**environment.versions, "onnxruntime": "of another build"})
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(
        HostError, match=r"no C\+\+ compiler on PATH \(no-such-compiler -O2\).*apt-get install g\+\+"
    ):
        build(unbuilt)
    assert not library_path(unbuilt.packages, unbuilt.versions).exists()


def test_what_a_compiler_says_is_passed_on_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = borrowed(tmp_path)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(HostError, match=r"false cannot compile .*: it ends with status 1"):
        build(environment)
    assert not environment.native


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    environment = borrowed(tmp_path)
    (tmp_path / "leanrec_native_backend").write_text("a file where the folder should be")
    with pytest.raises(HostError, match="it cannot be written"):
        build(environment)


def test_two_builds_at_once_end_in_one_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler takes its time and gives what was built before."""
    real = find_environment()
    built = library_path(real.packages, real.versions)
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\nsleep 0.3\nfor made; do :; done\ncp "{built}" "$made"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    environment = borrowed(tmp_path / "packages")
    faults: list[Exception] = []

    def one() -> None:
        try:
            build(environment)
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [] and environment.native
    library = library_path(environment.packages, environment.versions)
    assert [file.name for file in library.parent.iterdir()] == [library.name]


def test_the_command_line_says_whether_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["build_backend", "--check"])
    assert build_backend.main() == 0


def borrowed(packages: Path) -> ServingEnvironment:
    """The serving environment with a folder of its own for what is built."""
    environment = find_environment()
    packages.mkdir(exist_ok=True)
    for name in ("nlohmann_json", "onnxruntime"):
        (packages / name).symlink_to(environment.packages / name)
    return replace(environment, packages=packages)
