from dataclasses import replace

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_release import SPEC
from tritonclient.grpc import model_config_pb2 as proto

from leanrec.errors import ReleaseError
from leanrec.schema import MODELS, RECOMMENDER, TensorSpec
from leanrec.triton.model_configuration import DynamicBatching, ModelConfiguration, Warmup

names = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
counts = st.integers(0, 10_000)
dtypes = st.sampled_from(["INT64", "INT32", "FP32", "FP16", "BOOL"])


def tensors(axes: st.SearchStrategy[int], *, least: int) -> st.SearchStrategy[tuple[TensorSpec, ...]]:
    tensor = st.builds(
        TensorSpec, name=names, dtype=dtypes, shape=st.lists(axes, min_size=1, max_size=3).map(tuple)
    )
    return st.lists(tensor, min_size=least, max_size=4, unique_by=lambda t: t.name).map(tuple)


warmups = st.builds(
    Warmup,
    name=names,
    batch_size=st.integers(1, 64),
    inputs=tensors(st.integers(1, 99), least=1),
)
configurations = st.builds(
    ModelConfiguration,
    name=names,
    backend=names,
    max_batch_size=counts,
    inputs=tensors(st.integers(-1, 99).filter(bool), least=1),
    outputs=tensors(st.integers(-1, 99).filter(bool), least=1),
    versions=st.sets(st.integers(1, 10**9), min_size=1, max_size=4).map(lambda v: tuple(sorted(v))),
    instance_kind=st.sampled_from(["KIND_CPU", "KIND_GPU", "KIND_AUTO"]),
    instance_count=st.integers(1, 8),
    dynamic_batching=st.none()
    | st.builds(
        DynamicBatching,
        preferred_batch_sizes=st.lists(st.integers(1, 512), max_size=3).map(tuple),
        max_queue_delay_us=counts,
        max_queue_size=counts,
    ),
    response_cache=st.booleans(),
    parameters=st.dictionaries(names, st.text(max_size=30), max_size=3),
    warmups=st.lists(warmups, max_size=2).map(tuple),
)


@settings(max_examples=100, deadline=None)
@given(configurations)
def test_a_configuration_survives_the_way_to_text_and_back(configuration: ModelConfiguration) -> None:
    assert ModelConfiguration.from_pbtxt(configuration.to_pbtxt()) == configuration


@pytest.mark.parametrize("model", MODELS)
def test_the_warm_up_sends_every_input_with_a_fixed_shape(model: str) -> None:
    configuration = ModelConfiguration.of_model(model, SPEC, (3, 4))
    (warmup,) = configuration.warmups
    assert {t.name for t in warmup.inputs} == {t.name for t in SPEC.inputs(model)}
    assert all(axis > 0 for tensor in warmup.inputs for axis in tensor.shape)
    assert configuration.versions == (3, 4)
    assert ModelConfiguration.from_pbtxt(configuration.to_pbtxt()) == configuration


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: ", "not a Triton model configuration"),
        ('name: "x" colour: "red"', "colour"),
    ],
)
def test_text_of_another_kind_is_refused_with_a_reason(text: str, said: str) -> None:
    with pytest.raises(ReleaseError, match=said):
        ModelConfiguration.from_pbtxt(text)


FOREIGN = """
platform: "onnxruntime_onnx"
optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }
instance_group { kind: KIND_GPU count: 2 gpus: 0 gpus: 1 }
instance_group { kind: KIND_CPU count: 1 }
dynamic_batching {
  preferred_batch_size: 8
  preserve_ordering: true
  default_queue_policy { max_queue_size: 9 timeout_action: DELAY }
}
"""


def test_fields_that_have_no_name_here_go_along() -> None:
    plain = ModelConfiguration.of_model(RECOMMENDER, SPEC, (1,), merge=False)
    ours = text_format.Parse(plain.to_pbtxt(), proto.ModelConfig())
    ours.ClearField("instance_group")
    tuned = text_format.MessageToString(ours) + FOREIGN
    read = ModelConfiguration.from_pbtxt(tuned)
    assert read.to_pbtxt() == text_format.MessageToString(text_format.Parse(tuned, proto.ModelConfig()))
    assert (read.instance_kind, read.instance_count) == ("KIND_GPU", 2)
    later = ModelConfiguration.from_pbtxt(replace(read, instance_count=3, versions=(1, 2)).to_pbtxt())
    assert later == replace(read, instance_count=3, versions=(1, 2))
    assert "dynamic_batching" not in replace(read, dynamic_batching=None).to_pbtxt()
    assert plain.others == ""


def test_what_a_configuration_leaves_out_is_tritons_default() -> None:
    read = ModelConfiguration.from_pbtxt('name: "x" version_policy { latest { num_versions: 1 } }')
    assert (read.versions, read.instance_kind, read.instance_count) == ((), "KIND_AUTO", 1)


def test_no_queue_policy_is_set_because_triton_stalls_requests_under_it() -> None:
    text = ModelConfiguration.of_model(RECOMMENDER, SPEC, (1,)).to_pbtxt()
    assert "dynamic_batching" in text
    assert "queue_policy" not in text  # docs/releases.md has the figures
