"""The servers that answer."""

from __future__ import annotations

from pydantic import Field

from leanrec.config.section import Section


class ServingSettings(Section):
    """The embedded Triton."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    http_port: int = Field(default=8000, ge=0, le=65535)
    """HTTP port; 0 takes a free one."""
    grpc_port: int = Field(default=8001, ge=0, le=65535)
    """gRPC port; 0 takes a free one."""
    metrics_port: int = Field(default=8002, ge=0, le=65535)
    """Prometheus port; 0 takes a free one."""
    response_cache_bytes: int = Field(default=0, ge=0)
    """Bytes of memory that keep the answers to repeated requests, for the models whose config.pbtxt says
    `response_cache { enable: true }`; 0: no cache (docs/releases.md says when it pays)."""
