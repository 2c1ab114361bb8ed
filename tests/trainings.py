"""Small trainings that can be cut short, for the tests of the training loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coinbench.config import TrainConfig
from coinbench.errors import Interrupted
from coinbench.log import Log
from coinbench.rng import Rng, seeded
from coinbench.training import train

STEPS = 9


class Killed(Exception):
    """Stands for SIGKILL: nothing after it runs."""


def network() -> nn.Module:
    with seeded(Rng(1)):
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def loss_of(module: nn.Module, at: Callable[[int], None] = lambda step: None) -> Callable[[int], dict[str, Tensor]]:
    """A loss on inputs keyed by the micro-batch; `at` is called with its number first."""

    def loss(step: int) -> dict[str, Tensor]:
        at(step)
        x = torch.randn(6, 3, generator=Rng(2).child(step).torch())
        y = module(x)
        return {"fit": (y - x.sum(1, keepdim=True)).square().mean(), "size": 0.1 * y.abs().mean()}

    return loss


def settings(**changes: Any) -> TrainConfig:
    return TrainConfig(
        **{
            "steps": STEPS,
            "lr": 0.05,
            "schedule": "cosine",
            "warmup": 3,
            "accumulate": 2,
            "clip": 1.0,
            "ema": 0.8,
            "weight_decay": 0.01,
            "log_every": 1,
            "checkpoint_seconds": 0,
            **changes,
        }
    )


def trained(folder: Path, config: TrainConfig, *attempts: Callable[[Log], Callable[[int], None]]) -> nn.Module:
    """Train a fresh process's network once per attempt, each cut short, and then to the end."""
    for attempt in attempts:
        module, log = network(), Log(folder, stage="fit")
        with pytest.raises((Killed, Interrupted)):
            train(module, loss_of(module, attempt(log)), config, log)
        assert (folder / "checkpoint.safetensors").is_file()
    module = network()
    train(module, loss_of(module), config, Log(folder, stage="fit"))
    return module


def stop_at(micro: int) -> Callable[[Log], Callable[[int], None]]:
    return lambda log: lambda step: log.stop.set() if step == micro else None


def kill_at(micro: int) -> Callable[[Log], Callable[[int], None]]:
    def kill(step: int) -> None:
        if step == micro:
            raise Killed

    return lambda log: kill
