"""A Triton model configuration as data: frozen settings to `config.pbtxt` text, and back.

The fields are those that Triton's native ONNX Runtime backend understands too, so one repository
serves in both places. Source: Triton, "Model Configuration", and its schema `model_config.proto`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from google.protobuf import text_format
from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2 as proto

from leanrec.errors import ReleaseError
from leanrec.schema import RANKER, RECOMMENDER, ModelSpec, TensorSpec

CONFIGURATION = "config.pbtxt"
"""The file in a model's folder that Triton reads."""

INSTANCES = {RECOMMENDER: 2, RANKER: 1}
"""Processes of a model that answer side by side as first published, until `leanrec release tune` finds what
fits the host: what every page asks for shall keep two cores at work. They share the host's cores."""

BACKEND = "onnxruntime"
THREADS = "intra_op_thread_count"
"""The backend's parameter: threads that compute one request of an instance."""
PARAMETERS = {RECOMMENDER: {}, RANKER: {THREADS: "1"}}
"""Of the backend, for each model. A ranker's candidates are few hundred rows: one thread answers them sooner
than several that wait for each other."""
WARMUP_LENGTH = 1
"""What stands for an axis that varies in a warm-up request."""
NAMED = (
    *("name", "backend", "max_batch_size", "input", "output", "version_policy"),
    *("response_cache", "parameters", "model_warmup"),
)
"""Fields of Triton's that `ModelConfiguration` holds as a whole."""


@dataclass(frozen=True, kw_only=True)
class DynamicBatching:
    """How requests that wait are put together; no request is held back unless a delay is set."""

    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    """Microseconds a request may wait for others."""
    max_queue_size: int = 0
    """Requests that may wait; more are refused at once. 0: no bound. Triton 2.51 stalls single requests for
    500 ms under light load when it is set (docs/releases.md): measure before you set it."""


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """A request of zeros that a version answers before it counts as loaded; zeros mean "unknown"."""

    name: str
    batch_size: int
    inputs: tuple[TensorSpec, ...]
    """Every axis is fixed. By name: a protobuf map knows no order."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(sorted(self.inputs, key=lambda tensor: tensor.name)))


@dataclass(frozen=True, kw_only=True)
class ModelConfiguration:
    """What Triton must know of one model."""

    name: str
    backend: str = BACKEND
    max_batch_size: int = 256
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    versions: tuple[int, ...]
    """Versions served; a client that names none gets the highest."""
    instance_kind: str = "KIND_CPU"
    instance_count: int = 1
    """Of the first instance group, as is the kind; further groups stand in `others`."""
    dynamic_batching: DynamicBatching | None = None
    response_cache: bool = False
    """Whether an answer is kept for requests with the same inputs; the server must have a cache
    (`serving.response_cache_bytes`)."""
    parameters: dict[str, str] = field(default_factory=dict)
    warmups: tuple[Warmup, ...] = ()
    others: str = ""
    """Fields of Triton's that have no name here, as text: what a person set goes along as it is."""

    @classmethod
    def of_model(cls, model: str, spec: ModelSpec, versions: tuple[int, ...], *, merge: bool = True) -> Self:
        """The configuration under which `versions` of `model` (recommender or ranker) are served.

        `merge`: whether requests that wait are put together into one batch.
        """
        inputs = spec.inputs(model)
        fixed = tuple(
            TensorSpec(
                name=tensor.name,
                dtype=tensor.dtype,
                shape=tuple(WARMUP_LENGTH if axis < 0 else axis for axis in tensor.shape),
            )
            for tensor in inputs
        )
        return cls(
            name=model,
            inputs=inputs,
            outputs=spec.outputs(model),
            versions=versions,
            dynamic_batching=DynamicBatching() if merge else None,
            parameters=dict(PARAMETERS[model]),
            warmups=(Warmup(name="one_unknown_user", batch_size=1, inputs=fixed),),
        )

    def to_pbtxt(self) -> str:
        """The text of config.pbtxt."""
        message = text_format.Parse(self.others, proto.ModelConfig())
        message.name = self.name
        message.backend = self.backend
        message.max_batch_size = self.max_batch_size
        for entries, tensors in ((message.input, self.inputs), (message.output, self.outputs)):
            for t in tensors:
                entries.add(name=t.name, data_type=_data_type(t.dtype), dims=t.shape)
        group = message.instance_group[0] if message.instance_group else message.instance_group.add()
        group.kind = proto.ModelInstanceGroup.Kind.Value(self.instance_kind)
        group.count = self.instance_count
        message.version_policy.specific.versions.extend(self.versions)
        if self.dynamic_batching is None:
            message.ClearField("dynamic_batching")
        else:
            _write_batching(message.dynamic_batching, self.dynamic_batching)
        if self.response_cache:
            message.response_cache.enable = True
        for key in sorted(self.parameters):
            message.parameters[key].string_value = self.parameters[key]
        for warmup in self.warmups:
            entry = message.model_warmup.add(name=warmup.name, batch_size=warmup.batch_size)
            for tensor in warmup.inputs:
                entry.inputs[tensor.name].data_type = _data_type(tensor.dtype)
                entry.inputs[tensor.name].dims.extend(tensor.shape)
                entry.inputs[tensor.name].zero_data = True
        return text_format.MessageToString(message)

    @classmethod
    def from_pbtxt(cls, text: str) -> Self:
        """The configuration in `text`; a ReleaseError when it is no config.pbtxt."""
        try:
            message = text_format.Parse(text, proto.ModelConfig())
        except text_format.ParseError as error:
            raise ReleaseError(f"config.pbtxt is not a Triton model configuration: {error}") from None
        groups = message.instance_group or [proto.ModelInstanceGroup(count=1)]
        return cls(
            name=message.name,
            backend=message.backend,
            max_batch_size=message.max_batch_size,
            inputs=_tensors(message.input),
            outputs=_tensors(message.output),
            versions=tuple(message.version_policy.specific.versions),
            instance_kind=proto.ModelInstanceGroup.Kind.Name(groups[0].kind),
            instance_count=groups[0].count,
            dynamic_batching=_read_batching(message) if message.HasField("dynamic_batching") else None,
            response_cache=message.response_cache.enable,
            parameters={key: value.string_value for key, value in sorted(message.parameters.items())},
            warmups=tuple(_read_warmup(entry) for entry in message.model_warmup),
            others=_others(message),
        )


def _data_type(dtype: str) -> int:
    return proto.DataType.Value(f"TYPE_{dtype}")


def _dtype(data_type: int) -> str:
    return proto.DataType.Name(data_type).removeprefix("TYPE_")


def _tensors(entries: list) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=e.name, dtype=_dtype(e.data_type), shape=tuple(e.dims)) for e in entries)


def _write_batching(message: proto.ModelDynamicBatching, batching: DynamicBatching) -> None:
    message.SetInParent()
    message.preferred_batch_size.extend(batching.preferred_batch_sizes)
    message.max_queue_delay_microseconds = batching.max_queue_delay_us
    if batching.max_queue_size:
        message.default_queue_policy.max_queue_size = batching.max_queue_size


def _read_batching(message: proto.ModelConfig) -> DynamicBatching:
    batching = message.dynamic_batching
    return DynamicBatching(
        preferred_batch_sizes=tuple(batching.preferred_batch_size),
        max_queue_delay_us=batching.max_queue_delay_microseconds,
        max_queue_size=batching.default_queue_policy.max_queue_size,
    )


def _read_warmup(entry: proto.ModelWarmup) -> Warmup:
    inputs = (
        TensorSpec(name=name, dtype=_dtype(tensor.data_type), shape=tuple(tensor.dims))
        for name, tensor in entry.inputs.items()
    )
    return Warmup(name=entry.name, batch_size=entry.batch_size, inputs=tuple(inputs))


def _others(message: proto.ModelConfig) -> str:
    """What is left of `message` without the fields that `ModelConfiguration` names."""
    rest = proto.ModelConfig()
    rest.CopyFrom(message)
    for name in NAMED:
        rest.ClearField(name)
    if rest.instance_group:
        _clear(rest.instance_group[0], "kind", "count")
        if len(rest.instance_group) == 1 and not rest.instance_group[0].ListFields():
            rest.ClearField("instance_group")
    if rest.HasField("dynamic_batching"):
        batching = rest.dynamic_batching
        _clear(batching, "preferred_batch_size", "max_queue_delay_microseconds")
        if batching.HasField("default_queue_policy"):
            _clear(batching.default_queue_policy, "max_queue_size")
            if not batching.default_queue_policy.ListFields():
                batching.ClearField("default_queue_policy")
        if not batching.ListFields():
            rest.ClearField("dynamic_batching")
    return str(text_format.MessageToString(rest))


def _clear(message: Message, *names: str) -> None:
    for name in names:
        message.ClearField(name)
