"""Triton as the rooms see it: a gRPC client, a server beside a test or a gate, a model's configuration."""

from leanrec.triton.client import Answer, TritonClient

__all__ = ["Answer", "TritonClient"]
