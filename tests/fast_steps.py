"""VisCoIN's first step by each way of running the frozen networks; as a script, without the shape checks of the tests.

Compiled code cannot be traced through those checks: the tests of torch.compile call this file as a process of its own.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import tiny
import torch
from torch import Tensor, nn

from coinbench import fast
from coinbench.config import TrainConfig
from coinbench.conformance.tiny import moved
from coinbench.generators.stylegan2 import build
from coinbench.generators.stylegan2_config import StyleGAN2Config
from coinbench.methods import viscoin
from coinbench.models import Classifier, channels_last
from coinbench.networks.torchvision_nets import BUILDERS
from coinbench.problem import Problem
from coinbench.rng import Rng, seeded

SIDE, CLASSES = 64, 5


def photographs(n: int) -> Tensor:
    return torch.rand(n, 3, SIDE, SIDE, generator=Rng(2).torch()) * 2 - 1


def resnet() -> Classifier:
    """A ResNet50 whose batch norm has seen images, with units that add little to their input, as trained ones do."""
    with seeded(Rng(1)):
        f = BUILDERS["resnet50"](CLASSES, 3, SIDE)
    for name, part in f.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
            if name.endswith("bn3"):
                nn.init.constant_(part.weight, 0.2)
    with torch.no_grad():
        f.train()(photographs(8))
    return f.requires_grad_(False).eval()


def problem() -> Problem:
    """A problem with an f that can be folded, and a StyleGAN2 as G."""
    g = build(StyleGAN2Config(base=256, w_dim=16, z_dim=16), SIDE, 3, Rng(3))
    made = tiny.make_problem(SIDE, 3, resnet(), g, CLASSES)
    for network in made.networks:
        channels_last(network)
    g.freeze()
    return made


def step(problem: Problem, **train: Any) -> dict[str, Tensor]:
    """The terms of VisCoIN's first step as a training computes them, and the norm of the gradient."""
    settings = TrainConfig(steps=1, batch=2, **train)
    config = viscoin.VisCoINConfig(K=4, channels=8, side=2, train=settings)
    coin = viscoin.build(config, problem, Rng(0))
    channels_last(coin)
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision)
    with fast.accelerated(problem, settings):
        loss = viscoin.loss_of(coin, problem, Rng(0))
        with torch.autocast(problem.device.type, low, enabled=low is not None):
            terms = loss(0)
        torch.stack(list(terms.values())).sum().backward()
    norms = [p.grad.norm() for p in coin.parameters() if p.grad is not None]
    return {name: value.detach().clone() for name, value in terms.items()} | {"norm": torch.stack(norms).norm()}


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def largest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative difference of a term or of the norm."""
    assert found.keys() == expected.keys()
    return max(apart(found[name], expected[name]) for name in found)


def main(device: str) -> None:
    """Print how far compiled steps are from the plain one; on the CPU traced whole, but without generating code."""
    made, ways = moved(problem(), torch.device(device)), ("compile",)
    traced: list[str] = []
    if device == "cpu":
        whole: Callable[..., Any] = functools.partial(torch.compile, dynamic=False, fullgraph=True, backend="aot_eager")

        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            traced.append(function.__qualname__)
            return whole(function)

        fast.compiled = compiled
    else:
        ways = ("compile", "full")
    plain = step(made, fast="off", tf32=False)
    found = {way: largest(step(made, fast=way, tf32=False), plain) for way in ways}
    sys.stdout.write(json.dumps({"apart": found, "traced": traced}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
