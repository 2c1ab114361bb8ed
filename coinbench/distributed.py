"""Several processes on one cell: launched or joined through Lightning Fabric, and what torch computes across them.

Nothing here is imported where there is one process. The extra `distributed` brings Lightning Fabric, which knows how
torchrun and SLURM tell a process its place, and launches processes where nobody did.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from coinbench.errors import UsageError
from coinbench.group import NEEDS_EXTRA, Group, launched, linked
from coinbench.work import check_devices

_PATIENCE = timedelta(days=7)
"""A process waits so long for the first one, which may decode a data set or draw pictures alone."""


def join(devices: int, device: str) -> tuple[Group, torch.device]:
    """Make this process one of a group; start the others where neither torchrun nor srun did.

    The others run the command of this process again, from its beginning, and join too.

    Args:
        devices: processes where this one is to start them; under a launcher its own number counts.
        device: auto, cpu or cuda; each process on CUDA takes the device of its number on its machine.

    Returns:
        The group, and the device of this process.

    Raises:
        UsageError: Lightning Fabric is not installed, a single device was named, or there are too few.
    """
    world = launched()
    kind, local = _kind(device), _local(world, devices)
    check_devices(device, local)
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
    except ImportError as error:
        raise UsageError(f"{NEEDS_EXTRA} ({error})") from error
    # It logs and warns to say what it found; what matters is said by us.
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    strategy = DDPStrategy(process_group_backend="nccl" if kind == "cuda" else "gloo", timeout=_PATIENCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = max(1, world // local)
        fabric = Fabric(accelerator=kind, devices=local, num_nodes=nodes, strategy=strategy)
        fabric.launch()
    # NCCL knows no tensors of the CPU: what processes tell each other goes through a group of its own.
    control = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE) if kind == "cuda" else None
    return Group(fabric.global_rank, fabric.world_size, control=control), fabric.device


def leave() -> None:
    """End the group of this process, where it has one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _kind(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _local(world: int, devices: int) -> int:
    """Return the number of processes on this machine."""
    if world == 1:
        return devices
    told = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE")
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    return int(told) if told and told.isdecimal() else max(1, world // nodes)


class _Mean(torch.autograd.Function):
    """Mean over processes; each one's gradient is the mean of the gradients that the result has in all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        """Average."""
        ctx.size = size
        return _averaged(x, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Average what comes back."""
        return _averaged(gradients[0], ctx.size), None


def _averaged(x: Tensor, size: int) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    with linked():
        torch.distributed.all_reduce(total)
    return total / size


def mean(x: Tensor, size: int) -> Tensor:
    """Return the mean of x over all `size` processes; see `Group.mean`."""
    return _Mean.apply(x, size)


@contextmanager
def whole_batches(module: nn.Module, group: Group) -> Iterator[None]:
    """Let each batch norm inside `module` normalise by the whole batch of all processes, not by a share of it.

    torch's SyncBatchNorm does so on CUDA alone; here one definition serves all devices.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)] if group.size > 1 else []
    for norm in norms:
        norm.forward = partial(_normalise, norm, group)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normalise(norm: _BatchNorm, group: Group, input: Tensor) -> Tensor:
    """Do in training what `norm` does on the whole batch, of which the input is a share; in eval as always."""
    x = input
    if not norm.training:
        return type(norm).forward(norm, x)
    shape = (1, -1, *[1] * (x.ndim - 2))
    with torch.autocast(x.device.type, enabled=False):
        y = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        variance, centre = torch.var_mean(y, [0, *range(2, x.ndim)], correction=0)
        # In float64, since means of squares cancel where the mean is large.
        centre, variance = centre.double(), variance.double()
        moments = group.mean(torch.stack([centre, variance + centre.square()]))
        centre, variance = moments[0], moments[1] - moments[0].square()
        _track(norm, centre.detach(), variance.detach(), group.size * x.numel() // x.shape[1])
        scale = (variance + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -centre * scale if norm.bias is None else norm.bias - centre * scale
        return (y * scale.to(y.dtype).view(shape) + shift.to(y.dtype).view(shape)).to(x.dtype)


@torch.no_grad()
def _track(norm: _BatchNorm, centre: Tensor, variance: Tensor, n: int) -> None:
    """Move the running mean and variance of `norm`, as it would for a batch of n values a channel."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    rate = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    for running, value in ((norm.running_mean, centre), (norm.running_var, variance * n / max(1, n - 1))):
        running.mul_(1 - rate).add_(value.to(running.dtype) * rate)
