"""The frozen networks, and the step of a method, at their fastest while a method is trained.

No method knows of it. What changes numbers beyond the order of sums is a setting of its own (`train.precision`,
`train.tf32`) and part of the digest; folding, compiling and CUDA graphs compute the same in another order, as another
device does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coinbench.config import TrainConfig
from coinbench.errors import UsageError
from coinbench.models import trusting
from coinbench.problem import Problem

Way = Literal["off", "fold", "graph", "compile", "full"]
Terms = Callable[..., dict[str, Tensor]]
"""Tensors -> terms of a loss; draws nothing at random and changes nothing."""


def way(train: TrainConfig, device: torch.device) -> Way:
    """Return how a training goes: what was set, or the fastest that pays on the device.

    Raises:
        UsageError: a CUDA graph without CUDA.

    >>> way(TrainConfig(steps=1), torch.device("cpu"))
    'off'
    """
    if train.fast in ("graph", "full") and device.type != "cuda":
        raise UsageError(f"train.fast={train.fast} needs a CUDA device; use off, fold or compile")
    if train.fast != "auto":
        return train.fast
    return "off" if device.type == "cpu" else "graph"


@contextmanager
def accelerated(problem: Problem, train: TrainConfig) -> Iterator[None]:
    """Let f, G and p answer at their fastest within the block; afterwards they are as before.

    Args:
        problem: whose networks are frozen.
        train: settings of the training that goes on in the block.

    Raises:
        UsageError: what is set needs another device.
    """
    how = way(train, problem.device)
    f, g, p = problem.classifier, problem.generator, problem.perceptual
    with ExitStack() as stack:
        if problem.device.type == "cuda":
            stack.enter_context(trusting())
            stack.enter_context(tensor_float(train.tf32))
        if how != "off":
            folded = f.folded()
            stack.enter_context(_answering(f, forward=folded.forward, taps=folded.taps))
        if how in ("compile", "full"):
            # f is left out: folded there is little to fuse in it, and compiling it takes the longest.
            stack.enter_context(_answering(g, forward=compiled(g.forward)))
            stack.enter_context(_answering(p, forward=compiled(p.forward), distance=compiled(p.distance)))
        yield


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` compiled anew for each shape; its gradient has none of its own (torch: no double backward)."""
    return torch.compile(function, dynamic=False)


@contextmanager
def tensor_float(allowed: bool) -> Iterator[None]:
    """Let products of float32 on CUDA round their factors to TF32 within the block, or not."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def _answering(network: nn.Module, **functions: Callable[..., Any]) -> Iterator[None]:
    """Let functions answer in place of the methods of their names."""
    for name, function in functions.items():
        setattr(network, name, function)
    try:
        yield
    finally:
        for name in functions:
            delattr(network, name)


def replayed(terms: Terms, module: nn.Module, train: TrainConfig) -> Terms:
    """Return `terms` as a CUDA graph, forward and backward, where the training uses one; else `terms` itself.

    A graph is launched at once, where a step in eager mode is thousands of kernels, each started by the host. It is
    captured at the first call, for its shapes.

    Args:
        terms: what a step computes of a batch.
        module: whose parameters the gradients are of.
        train: settings of the training.
    """
    device = next(module.parameters()).device
    # Gradients of a graph lie where those of its next run will: nothing may be added to them in between.
    if way(train, device) not in ("graph", "full") or train.accumulate > 1:
        return terms
    return _Replayed(terms, module, device)


class _Replayed:
    """Captures at the first call."""

    def __init__(self, terms: Terms, module: nn.Module, device: torch.device) -> None:
        self.listed, self.device = _Listed(terms, module), device
        self.graph: Callable[..., tuple[Tensor, ...]] | None = None

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the terms; they stay as they are until the next call."""
        if self.graph is None:
            low, kind = torch.get_autocast_dtype(self.device.type), self.device.type
            # A cache of cast weights would outlive the weights' next step.
            with torch.autocast(kind, low, torch.is_autocast_enabled(kind), cache_enabled=False):
                given = tuple(x.detach().clone() for x in inputs)
                self.graph = torch.cuda.make_graphed_callables(self.listed, given, allow_unused_input=True)
        assert self.graph is not None
        return dict(zip(self.listed.names, self.graph(*inputs), strict=True))


class _Listed(nn.Module):
    """Terms as a module that returns a tuple, as torch.cuda.make_graphed_callables expects it."""

    def __init__(self, terms: Terms, module: nn.Module) -> None:
        super().__init__()
        # Registered for its parameters.
        self.module, self.terms = module, terms
        self.names: tuple[str, ...] = ()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self.terms(*inputs)
        self.names = tuple(found)
        return tuple(found.values())
