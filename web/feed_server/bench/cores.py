"""Which cores the servers have, and which the load: so that what the load takes is not taken for what a server does.

The load always has a core of its own if there are two. Each node, and a Redis of the bench's own, has one of its own
too if there are enough; if not, they share what the load leaves. The same cores are laid out for all targets of a
run, or the load would have more of them against the smaller target.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """Where each process is to run."""

    nodes: Sequence[frozenset[int]]
    """Each node's; a target that is one process has the first."""
    redis: frozenset[int] | None
    """Those of a Redis of the bench's own, if there is one."""
    load: frozenset[int]

    @property
    def server(self) -> frozenset[int]:
        """Those of everything that is measured."""
        return frozenset().union(*self.nodes, self.redis or ())

    @property
    def apart(self) -> bool:
        """Whether servers and load do not take each other's."""
        return self.server.isdisjoint(self.load)

    @property
    def crowded(self) -> bool:
        """Whether what is measured is more processes than it has cores."""
        return len(self.server) < self._processes

    @property
    def _processes(self) -> int:
        return len(self.nodes) + (self.redis is not None)

    def __str__(self) -> str:
        who = "server" if len(self.nodes) == 1 else f"{len(self.nodes)} nodes"
        if not self.apart:
            both = f"{who}, redis-server" if self.redis is not None else who
            return f"{both} and load share one core: figures of the server include waiting for the load"
        load = f"load on core {_named(self.load)}"
        if self.redis is None:
            return f"{who} on core {_named(self.server)}, {load}"
        if self.crowded:
            return f"{who} and redis-server together on core {_named(self.server)}, {load}"
        nodes = _named(frozenset().union(*self.nodes))
        return f"{who} on core {nodes}, redis-server on core {_named(self.redis)}, {load}"


def _named(cores: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(cores)))


def share_cores(nodes: int = 1, *, redis: bool = False) -> Cores:
    """One for each node, one for Redis if it is the bench's own, the others, but at least one, for the load."""
    return share_out(sorted(os.sched_getaffinity(0)), nodes, redis=redis)


def share_out(cores: Sequence[int], nodes: int, *, redis: bool) -> Cores:
    """The same, of these cores."""
    wanted = nodes + redis
    servers = cores[: max(1, min(wanted, len(cores) - 1))]
    load = frozenset(cores[len(servers) :] or cores)
    alone = [frozenset({core}) for core in servers]
    each = alone if len(alone) == wanted else [frozenset(servers)] * wanted
    return Cores(each[:nodes], each[-1] if redis else None, load)
