"""Write Triton's own description of its gRPC service, which the tritonclient package carries, for stubs.

python -m serving.examples.triton_descriptors triton.pb

The file is a FileDescriptorSet: grpc-js, grpcurl (-protoset), buf and others read it. The same as text are
grpc_service.proto and model_config.proto of github.com/triton-inference-server/common.
"""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tritonclient.grpc import model_config_pb2, service_pb2


def write_descriptors(path: Path) -> None:
    """Write the set to `path`, a file after those that it refers to."""
    found = FileDescriptorSet()
    for module in (model_config_pb2, service_pb2):
        module.DESCRIPTOR.CopyToProto(found.file.add())
    path.write_bytes(found.SerializeToString())


if __name__ == "__main__":
    write_descriptors(Path(sys.argv[1]))
