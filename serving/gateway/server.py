"""The gateway's process: listen, announce, and on SIGTERM finish what is under way, then end with 0."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from types import FrameType

import uvicorn

from leanrec.config import RunSettings
from leanrec.errors import HostError, LeanRecError
from serving.gateway.app import create_app
from serving.gateway.gateway import Gateway, triton_addresses
from serving.gateway.keys import keys_file, local_key

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open: longer than a proxy in front keeps it."""


def serve(settings: RunSettings) -> None:
    """Run the gateway until SIGTERM or SIGINT; a LeanRecError says why it cannot start."""
    _log_to_stderr(settings.gateway.log_level)
    key = local_key(keys_file(settings.gateway.keys))
    app = create_app(settings)
    listener = _listen(settings.gateway.host, settings.gateway.port)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=max(1, round(settings.gateway.drain_s)),
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
    )
    server = _Server(config, app.state.gateway, _announcement(settings, listener, key))
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.run_gateway(listener))


class _Server(uvicorn.Server):
    """uvicorn's server around a gateway: SIGTERM makes it unready at once and ends it with status 0."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, announcement: str) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._announcement = announcement

    async def run_gateway(self, listener: socket.socket) -> None:
        """Open the gateway, answer until told to stop, close it."""
        # Not by the lifespan protocol: there an error of ours would become a traceback.
        try:
            await self._gateway.start()
            print(self._announcement, flush=True)
            await self.serve(sockets=[listener])
        finally:
            await self._gateway.stop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; a second Ctrl-C stops at once. Unlike uvicorn's, it does not raise the signal again."""
        self._gateway.drain()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise HostError(
            f"gateway.port {port} on {host} cannot be had ({error.strerror or error}); stop what listens"
            " there, or choose another (0 takes a free one)"
        ) from None
    listener.set_inheritable(True)
    return listener


def _announcement(settings: RunSettings, listener: socket.socket, key: str | None) -> str:
    """One line of JSON for a program, words for a person. A URL's fragment stays in the browser."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    triton = ", ".join(triton_addresses(settings))
    if not sys.stdout.isatty():
        return json.dumps({"url": url, "pid": os.getpid(), "triton": triton})
    page = f"{url}/#key={key}" if key else f"{url}/"
    return f"The gateway answers at {url} and asks Triton at {triton}; Ctrl-C stops it.\n  page  {page}"


def _log_to_stderr(level: str) -> None:
    """Plain lines: the access log is one JSON object each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("leanrec", "serving", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("leanrec.gateway.access").setLevel(level.upper())


def main(settings: RunSettings) -> int:
    """Serve; returns the exit status, with one sentence on standard error when it is not 0."""
    try:
        serve(settings)
    except LeanRecError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0
