"""One training on several processes: each computes its part of every batch, and all take the same step.

Gradients are summed by hand and not by `DistributedDataParallel`, which hooks into `backward`: the trainers ask for
gradients of parts of a loss, to balance them, before there is a whole one. Without torchrun all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from varfast._processes import local_rank, under_torchrun

Item = TypeVar("Item")


@contextmanager
def group(device: torch.device | str) -> Iterator[torch.device]:
    """Inside, torchrun's processes are a group (nccl on CUDA, else gloo); gives the device of this one."""
    device = torch.device(device)
    if not under_torchrun():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", local_rank() if device.index is None else device.index)
        torch.cuda.set_device(device)
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        if ours:
            dist.destroy_process_group()


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this one, from 0."""
    return dist.get_rank() if size() > 1 else 0


def mine(batch: Tensor) -> Tensor:
    """This process's rows of something (B, ...) with a row per image of the whole batch."""
    return batch[len(batch) * rank() // size() : len(batch) * (rank() + 1) // size()]


def add(tensors: Iterable[Tensor]) -> None:
    """Each tensor, of any shape, becomes its sum over all processes."""
    tensors = list(tensors)
    if size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.detach().copy_(summed.view_as(tensor))


def backward(loss: Tensor, parameters: Iterable[Tensor], share: float) -> None:
    """Gradients, of any shape, of the whole batch's mean loss, from the mean `loss` of this process's `share` of it."""
    (loss * share if size() > 1 else loss).backward()
    add(parameter.grad for parameter in parameters if parameter.grad is not None)


def gradient(loss: Tensor, of: Tensor, share: float) -> Tensor:
    """As `backward` for one tensor, apart from its `grad`; the graph is kept."""
    (found,) = torch.autograd.grad(loss, of, retain_graph=True)
    found = found * share if size() > 1 else found
    add([found])
    return found


def average_statistics(modules: Iterable[nn.Module]) -> None:
    """Batch norm's running statistics, which follow from each process's own part, become their mean."""
    norms = [m for module in modules for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    buffers = [b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None]
    add(buffers)
    for buffer in buffers if size() > 1 else ():
        buffer.div_(size())


def take_over(tensors: Iterable[Tensor]) -> None:
    """Each tensor, of any shape, becomes what the first process has."""
    for tensor in tensors if size() > 1 else ():
        dist.broadcast(tensor, src=0)


def shared(chunks: Sequence[Item]) -> Sequence[Item]:
    """The chunks that this process is to compute, every `size`-th; `gathered` puts the results in order."""
    return chunks[rank() :: size()]


def gathered(results: list[Any]) -> list[Any]:
    """All results, in the order of the chunks, on every process."""
    if size() == 1:
        return results
    found: list[Any] = [None] * size()
    dist.all_gather_object(found, results)
    return [found[n % size()][n // size()] for n in range(sum(map(len, found)))]


def parts(tensor: Tensor) -> list[Tensor]:
    """What every process has of something (N, ...) with a row, or several, per image of the whole batch, in order."""
    return [part.to(tensor.device) for part in gathered([tensor.detach().cpu()])] if size() > 1 else [tensor]


def agree(what: str, number: int) -> None:
    """RuntimeError if a process has another number than the first one."""
    numbers = gathered([number])
    if any(other != numbers[0] for other in numbers):
        raise RuntimeError(f"out_dir: the processes see different {what}, {numbers}; it must be one folder for all")


def wait() -> None:
    """Until all are here: what the first has written may be read."""
    if size() > 1:
        dist.barrier()
