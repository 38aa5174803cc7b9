"""The Triton replicas behind names: found again and again, asked in turn, left alone while they fail.

A name such as that of a headless Service stands for every address that it resolves to. A replica that cannot
be reached, or that is late several times running, is out for a while; one that lacks a version is out for
that version. Where every replica is out, all are asked as if none was.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import grpc

from leanrec.triton.messages import UNLIMITED, infer_over, ready_over

OUT_S = 1.0
"""Seconds for which a replica that failed, or lacks a version, is asked only where no other is left."""
MAX_LATE = 3
"""Answers in a row that may be late before a replica is out."""
_OPTIONS = (
    *UNLIMITED,
    # A replica that comes back is found again within a second; gRPC would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
)

Served = tuple[str, int | None]
"""A model's name and version."""
Resolve = Callable[[str], list[str]]
"""host:port -> host:port of every replica; it may block; an OSError when the name is not known."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Replica:
    """A connection to one Triton, and what is remembered of it (monotonic seconds)."""

    address: str
    _out_until: float = -math.inf
    _lacks_until: dict[Served, float] = field(default_factory=dict)
    _num_late: int = 0

    def __post_init__(self) -> None:
        self._channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        self.infer, self.ready = infer_over(self._channel), ready_over(self._channel)

    def may_answer(self, served: Served) -> bool:
        """Whether nothing speaks against asking it now."""
        now = time.monotonic()
        return now >= self._out_until and now >= self._lacks_until.get(served, now)

    def answered(self) -> None:
        """It did, in time."""
        self._num_late = 0

    def was_late(self) -> None:
        """Another one had to answer in its place."""
        self._num_late += 1
        if self._num_late >= MAX_LATE:
            self.failed()

    def failed(self) -> None:
        """It could not be reached."""
        self._out_until = time.monotonic() + OUT_S

    def lacks(self, served: Served) -> None:
        """It answers, and does not serve this (yet, or any more)."""
        now = time.monotonic()
        self._lacks_until = {key: until for key, until in self._lacks_until.items() if until > now}
        self._lacks_until[served] = now + OUT_S

    async def close(self, grace_s: float | None = None) -> None:
        """Close the connection; calls under way get `grace_s` seconds."""
        await self._channel.close(grace_s)


class Replicas:
    """Every replica behind `names` (host:port each); used from one event loop.

    A name that is an IP address is there at once; the others are there once `resolve` has asked for them, and
    are asked for again every `resolve_s` seconds between `follow` and `close`. Calls under way at one that is
    gone from a name get `grace_s` seconds.
    """

    def __init__(
        self, names: Sequence[str], resolve_s: float, grace_s: float, resolve: Resolve | None = None
    ) -> None:
        self._names = tuple(names)
        self._resolve_s = resolve_s
        self._grace_s = grace_s
        self._addresses_of = resolve or addresses_of
        self._turn = count()
        self._by_name: dict[str, list[str]] = {name: [name] for name in names}
        self._replicas = {name: Replica(name) for name in names}
        self._leaving: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None

    def all(self) -> list[Replica]:
        """Every replica there is."""
        return list(self._replicas.values())

    def in_turn(self, served: Served) -> list[Replica]:
        """Every replica in the order to ask: those that may answer, each first as often as the others."""
        replicas = list(self._replicas.values())
        if len(replicas) == 1:
            return replicas
        first = next(self._turn) % len(replicas)
        turned = replicas[first:] + replicas[:first]
        return sorted(turned, key=lambda replica: not replica.may_answer(served))

    async def resolve(self) -> None:
        """Ask what the names stand for now; a name that nobody knows keeps what it stood for."""
        for name in self._names:
            try:
                self._by_name[name] = await asyncio.to_thread(self._addresses_of, name)
            except OSError as error:
                _log.warning("%s cannot be resolved, what it stood for stays: %s", name, error)
        wanted = dict.fromkeys(address for name in self._names for address in self._by_name[name])
        gone = self._replicas.keys() - wanted
        if gone or len(wanted) != len(self._replicas):
            _log.warning("Triton's replicas are now %s", ", ".join(wanted))
        for address in gone:
            leaving = asyncio.create_task(self._replicas[address].close(self._grace_s))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        # A new dictionary: whoever goes through the old one is not disturbed.
        self._replicas = {address: self._replicas.get(address) or Replica(address) for address in wanted}

    async def follow(self) -> None:
        """Resolve now, and go on doing so until `close`."""
        await self.resolve()
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Close every connection; calls under way are cancelled."""
        tasks = [*self._leaving, *([self._following] if self._following else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(replica.close() for replica in self.all()))

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._resolve_s)
            try:
                await self.resolve()
            except Exception:  # one that ended this task would hide every replica to come
                _log.exception("the replicas of Triton cannot be followed")


def addresses_of(name: str) -> list[str]:
    """Every host:port behind the host:port `name`, in a fixed order; an OSError when nobody knows it.

    A host with addresses of both families, as `localhost` or a pod of a dual-stack cluster, counts once: its
    IPv4 addresses stand for it.
    """
    host, _, port = name.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    by_family = {family: {str(address[0]) for f, *_, address in found if f == family} for family, *_ in found}
    hosts = sorted(by_family.get(socket.AF_INET) or by_family[socket.AF_INET6])
    return [f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in hosts]
