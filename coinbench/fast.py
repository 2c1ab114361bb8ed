"""Faster ways of running the frozen networks, and the step of a method, while a method is trained.

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
from coinbench.models import answering, trusting
from coinbench.problem import Problem

Way = Literal["off", "fold", "graph", "compile", "full"]
_ON_CUDA: Way = "off"
"""Of a whole step none but this has been measured there: benchmarks/gpu_train_step.py ran out of device time."""
Terms = Callable[..., dict[str, Tensor]]
"""Tensors -> terms of a loss; draws nothing at random and changes nothing."""


def way(train: TrainConfig, device: torch.device) -> Way:
    """Return how a training goes: what was set, or the fastest way that has been measured on the device.

    Raises:
        UsageError: a CUDA graph without CUDA.

    >>> way(TrainConfig(steps=1), torch.device("cpu"))
    'off'
    """
    if train.fast in ("graph", "full") and device.type != "cuda":
        raise UsageError(f"train.fast={train.fast} needs a CUDA device; use off, fold or compile")
    if train.fast != "auto":
        return train.fast
    return _ON_CUDA if device.type == "cuda" else "off"


@contextmanager
def accelerated(problem: Problem, train: TrainConfig) -> Iterator[None]:
    """Let f, G and p answer in the way of a training within the block; afterwards they are as before.

    Args:
        problem: whose networks are frozen.
        train: settings of the training that goes on in the block.

    Raises:
        UsageError: what is set needs another device.
    """
    how = way(train, problem.device)
    f, g, p = problem.classifier, problem.generator, problem.perceptual
    with ExitStack() as stack:
        stack.enter_context(tensor_float(train.tf32))
        if how in ("graph", "full"):
            # A value that the host looks at cannot be captured.
            stack.enter_context(trusting())
        if how != "off":
            folded = f.folded()
            stack.enter_context(answering(f, forward=folded.forward, taps=folded.taps))
        if how in ("compile", "full"):
            # f is left out: folded there is little to fuse in it, and compiling it takes the longest.
            stack.enter_context(answering(g, forward=compiled(g.forward)))
            stack.enter_context(answering(p, forward=compiled(p.forward), distance=compiled(p.distance)))
        yield


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` compiled anew for each shape; its gradient has none of its own (torch: no double backward)."""
    return torch.compile(function, dynamic=False)


@contextmanager
def tensor_float(allowed: bool | None) -> Iterator[None]:
    """Let products of float32 on CUDA round their factors to TF32 within the block, or not; None changes nothing."""
    flags: tuple[Any, Any] = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags if allowed is not None else ():
            flag.allow_tf32 = allowed
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


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
    return _Replayed(terms, module, device) if way(train, device) in ("graph", "full") else terms


class _Replayed:
    """Captures at the first call."""

    def __init__(self, terms: Terms, module: nn.Module, device: torch.device) -> None:
        self.terms, self.listed, self.device = terms, _Listed(terms, module), device
        self.learning = [p for p in module.parameters() if p.requires_grad]
        self.shapes: list[torch.Size] = []
        self.graph: Callable[..., Any] | None = None

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the terms; they stay as they are until the next call."""
        if self.graph is None:
            self._capture(inputs)
        assert self.graph is not None
        # Gradients of a graph lie where those of its next run will: a step that adds up several goes on without it.
        if self.shapes != [x.shape for x in inputs] or any(p.grad is not None for p in self.learning):
            return self.terms(*inputs)
        return dict(zip(self.listed.names, self.graph(*inputs), strict=True))

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        kind = self.device.type
        self.shapes = [x.shape for x in inputs]
        # Weights cast to another type and kept for later would be those of the first step forever.
        with torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False):
            given = tuple(x.detach().clone() for x in inputs)
            self.graph = torch.cuda.make_graphed_callables(self.listed, given, allow_unused_input=True)


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
