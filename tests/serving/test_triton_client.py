"""What the client takes for the address of a Triton."""

import pytest

from leanrec.errors import ServingError
from leanrec.triton import TritonClient


@pytest.mark.parametrize("address", ["localhost:8001", "10.0.0.7:8001", "[::1]:8001", "[fe80::1%eth0]:8001"])
def test_host_and_port_are_an_address(address: str) -> None:
    with TritonClient(address) as client:
        assert client.address == address


@pytest.mark.parametrize("address", ["", "localhost", "http://localhost:8000", "localhost:grpc", "a b:8001"])
def test_anything_else_is_refused(address: str) -> None:
    with pytest.raises(ServingError, match="is no address of a gRPC interface; give host:port"):
        TritonClient(address)
