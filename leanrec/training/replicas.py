"""2D parallelism: replicas of all tables, each sharded over a group of processes, averaged every few steps.

Lookups stay within a group, so that their exchange does not grow with the number of processes; in between
two averages a replica's tables learn from its own share of each batch alone. The dense part is averaged over
all processes in every step. TorchRec has this as DMPCollection, which begins by asserting that the device is
a GPU; its environment of two process groups is used here, without it.

Processes of a group follow each other by rank, so that a group stays within a host where hosts hold whole
groups.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.remote_device import _remote_device
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import ShardingEnv, ShardingEnv2D, ShardingPlan

from leanrec.errors import ConfigError
from leanrec.training.sparse import pieces_of


def group_size(num_processes: int, replicas: int) -> int:
    """Processes of a group. Raises a ConfigError where `num_processes` make no groups alike."""
    if num_processes % replicas:
        raise ConfigError(
            f"training.replicas: {replicas} groups cannot share {num_processes} processes evenly; set "
            f"training.num_processes to a multiple of {replicas}, or training.replicas to a divisor of it"
        )
    return num_processes // replicas


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """The groups of the processes that run, as one of them sees them."""

    num: int
    group_size: int
    env: ShardingEnv
    """What TorchRec shards in."""
    device: str
    host_size: int
    """Processes on this one's host, of any group."""

    @property
    def local_size(self) -> int:
        """Processes of this one's group on its host."""
        return min(self.group_size, self.host_size)

    @classmethod
    def of(cls, num: int, device: str) -> Replicas:
        """Divide all processes into `num` groups; every process must call it. Raises a ConfigError."""
        world = dist.GroupMember.WORLD
        assert world is not None
        each = group_size(dist.get_world_size(), num)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
        if num == 1:
            env = ShardingEnv.from_process_group(world)
            return cls(num=1, group_size=each, env=env, device=device, host_size=here)
        ranks = [list(range(i * each, (i + 1) * each)) for i in range(num)]
        mesh = DeviceMesh(device, ranks, mesh_dim_names=("replicate", "shard"))
        env = ShardingEnv2D(
            sharding_pg=mesh.get_group("shard"),
            replica_pg=mesh.get_group("replicate"),
            global_pg=world,
            device_mesh=mesh,
            node_group_size=min(each, here),
            use_inter_host_allreduce=True,  # which means: groups of ranks that follow each other
        )
        env.output_dtensor = False
        return cls(num=num, group_size=each, env=env, device=device, host_size=here)

    @property
    def is_first(self) -> bool:
        """Whether this process is of the first group, which alone tells what the tables hold."""
        return dist.get_rank() < self.group_size

    def place(self, plan: ShardingPlan) -> ShardingPlan:
        """`plan`, made for the first group, for this process's; in place."""
        first = dist.get_rank() // self.group_size * self.group_size
        for tables in plan.plan.values():
            for table in tables.values():
                table.ranks = [first + rank for rank in table.ranks]
                for shard in table.sharding_spec.shards:
                    where = placement(self.device, first + shard.placement.rank(), self.host_size)
                    shard.placement = _remote_device(where)
        return plan

    def average(self, parts: Iterable[Tensor]) -> None:
        """Make each of `parts` the mean of what the groups hold of it, in place; added up in float32."""
        for part in parts:
            for piece in pieces_of(part):
                mean = piece.to(torch.float32, copy=True)
                dist.all_reduce(mean, group=self._across())
                piece.copy_(mean.div_(self.num))

    def spread(self, parts: Iterable[Tensor]) -> None:
        """Make each of `parts` what the first group holds, in place."""
        for part in parts:
            for piece in pieces_of(part):
                sent = piece.clone()
                dist.broadcast(sent, src=dist.get_rank() % self.group_size, group=self._across())
                piece.copy_(sent)

    def _across(self) -> dist.ProcessGroup:
        assert isinstance(self.env, ShardingEnv2D)
        return self.env.replica_pg
