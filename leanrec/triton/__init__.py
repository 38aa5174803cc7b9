"""Triton as the rooms see it: a gRPC client, a server beside a test or a gate, a model's configuration."""

from leanrec.triton.client import TritonClient
from leanrec.triton.messages import Answer

__all__ = ["Answer", "TritonClient"]
