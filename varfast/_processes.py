"""The processes of one run: torchrun's, or this one alone."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

POLL = 0.05  # seconds between two looks at the store
_calls = itertools.count()  # every process makes the same calls in the same order


class _Alone:
    """What a store of torch.distributed does, for one process; also where torch was built without it."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def add(self, key: str, amount: int) -> int:
        self._values[key] = self._values.get(key, 0) + amount
        return self._values[key]

    def set(self, key: str, value: str) -> None:
        self._values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self._values[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self._values for key in keys)


class OtherRankFailed(RuntimeError):
    """Another process of the run has given up, so this one does."""


class World:
    """Rank, number of processes, and a store that they share.

    Nothing but the store is used: no rank waits for another's collective, and no network of the ranks is needed beyond
    the one address that torchrun has given to all. Where the script has made a process group, it is that one's.
    """

    def __init__(self) -> None:
        store: Any = _Alone()
        self.rank, self.size = 0, 1
        if dist.is_available() and dist.is_initialized():
            store, self.rank, self.size = _group_store(), dist.get_rank(), dist.get_world_size()
        elif under_torchrun():
            store, self.rank, self.size = _torchrun_store()
        if not isinstance(store, _Alone):
            store = dist.PrefixStore(f"varfast/{next(_calls)}", store)
            store = dist.PrefixStore(session(store, self.rank, self.size), store)
        self._store = store

    def add(self, key: str, amount: int) -> int:
        """Adds to a number that all share, from 0, and returns the sum."""
        return self._store.add(key, amount)

    def tell(self, key: str, text: str) -> None:
        """Publishes a text, for `hear`."""
        self._store.set(key, text)

    def hear(self, key: str) -> str:
        """The text that a rank tells, as soon as it does. Raises OtherRankFailed if one fails before."""
        while not self._store.check([key]):
            self.check()
            time.sleep(POLL)
        return self._store.get(key).decode()

    def hand_out(self, key: str, count: int) -> Iterator[int]:
        """Numbers below `count`, each to one rank alone, to whichever asks first: a slow one takes fewer."""
        while (number := self.add(key, 1) - 1) < count:
            self.check()
            yield number

    def fail(self, error: BaseException) -> None:
        """Lets the others know that this rank gives up."""
        if self.size > 1 and not isinstance(error, OtherRankFailed):
            with contextlib.suppress(RuntimeError):  # where the store is gone, so are they
                self._store.set("failed", f"{self.rank} {str(error) or type(error).__name__}")

    def check(self) -> None:
        """Raises OtherRankFailed if another rank has given up."""
        if self._store.check(["failed"]):
            rank, _, why = self._store.get("failed").decode().partition(" ")
            if int(rank) != self.rank:
                raise OtherRankFailed(f"rank {rank} of {self.size} failed, so rank {self.rank} stops: {why}")


def session(store: Any, rank: int, size: int) -> str:
    """A name that the processes of this start alone have; returns when all are there.

    torchrun restarts processes (`--max-restarts`) with the same store and port: numbers and texts of those that died
    are still in it, and no number that all nodes have tells one start from the next. So rank 0 makes a name and tells
    it to each other rank in an answer to a word that this one has just made up.
    """
    name = uuid.uuid4().hex
    if rank:
        store.set(f"hello {rank}", name)
        while not (store.check([f"answer {rank}"]) and store.get(f"answer {rank}").decode().startswith(name)):
            time.sleep(POLL)
        name = store.get(f"answer {rank}").decode().split()[1]
        store.set(f"{name} {rank}", "")
        return name
    missing = set(range(1, size))
    while missing:
        for other in list(missing):
            if store.check([f"{name} {other}"]):
                missing.remove(other)
            elif store.check([f"hello {other}"]):
                store.set(f"answer {other}", f"{store.get(f'hello {other}').decode()} {name}")
        time.sleep(POLL)
    return name


def under_torchrun() -> bool:
    """Whether torchrun, or a script that sets what it sets, has started this process."""
    return dist.is_available() and {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0)) if under_torchrun() else 0


def is_first() -> bool:
    """Whether this process is the one that speaks: rank 0, or the only one."""
    return not under_torchrun() or int(os.environ["RANK"]) == 0


@functools.cache
def _torchrun_store() -> tuple[Any, int, int]:
    return next(dist.rendezvous("env://"))


def _group_store() -> Any:
    return dist.distributed_c10d._get_default_store()
