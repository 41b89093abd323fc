"""Threads for what touches the disk. Each kind of work has its own, so that none waits behind another kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import ParamSpec, TypeVar

__all__ = ["MAX_LOADS", "Lane", "Lanes"]

#: Snapshots that are made and sent at a time, each for another replica.
MAX_LOADS = 4

P = ParamSpec("P")
T = TypeVar("T")


class Lane(Enum):
    """A kind of work, and how many threads it has."""

    #: Acknowledgements, registrations, and the dropping of slots: short, and commits wait for them.
    PROMPT = "prompt", 4
    #: The log for those who follow it, a chunk at a time.
    STREAM = "stream", 8
    #: What people and monitors ask for.
    LOOK = "look", 2
    #: Snapshots: as long as their provider takes. One thread for each there may be.
    LOAD = "load", MAX_LOADS


class Lanes:
    """The threads of one application; they are started as they are needed."""

    def __init__(self) -> None:
        self._pools = {
            lane: ThreadPoolExecutor(lane.value[1], thread_name_prefix=f"walspool-{lane.value[0]}") for lane in Lane
        }

    async def run(self, lane: Lane, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """What ``call`` returns, from a thread of this lane."""
        return await asyncio.wrap_future(self._pools[lane].submit(call, *args, **options))

    def close(self) -> None:
        """Let the threads end once they have done what they do."""
        for pool in self._pools.values():
            pool.shutdown(wait=False)
