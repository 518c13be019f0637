"""A training by several processes, as torchrun starts them; by one where nothing else is said.

    torchrun --nproc-per-node 2 ...

Each process works on its share of the rows of a batch (`share`), what it needs of the others' is
brought together (`gather`), and the gradients are added up (`sum_gradients`), so the weights are
those of one process up to the order of additions. All processes draw the same batches; the first
one writes the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, distributed


def join() -> None:
    """Meet the other processes that torchrun has started; nothing happens without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl" if cuda else "gloo")


def leave() -> None:
    """The end of `join`."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    """The number of this process."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def wait() -> None:
    """Until all processes are here."""
    if distributed.is_initialized():
        distributed.barrier()


def share(rows: Tensor) -> Tensor:
    """This process's rows; all get equally many, the last row fills up."""
    missing = -len(rows) % world()
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])[rank() :: world()]


def gather(own: Tensor, n: int) -> Tensor:
    """All n rows of what every process made of its `share`, in order, on each of them.

    Gradients flow to the own rows alone: when all processes compute the same loss from the result,
    the sum of their gradients is the whole gradient.
    """
    if world() == 1:
        return own[:n]
    parts = [torch.empty_like(own) for _ in range(world())]
    distributed.all_gather(parts, own.detach().contiguous())
    parts[rank()] = own
    return torch.stack(parts, 1).flatten(0, 1)[:n]


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Add up every gradient over the processes, in one message."""
    if world() == 1:
        return
    gradients = [each.grad for each in parameters if each.grad is not None]
    flat = torch.cat([each.flatten() for each in gradients])
    distributed.all_reduce(flat)
    sizes = [each.numel() for each in gradients]
    for gradient, part in zip(gradients, flat.split(sizes), strict=True):
        gradient.copy_(part.view_as(gradient))
