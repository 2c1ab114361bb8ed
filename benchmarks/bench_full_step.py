"""VisCoIN's training step at the paper's size, 256 px and K = 256, 1 real and 1 sampled image, beside the plain one.

About five minutes; gpu_train_step.py measures the same at 8 + 8 images on a CUDA device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from full_step import AGREE, Plain, Size, disagreement, make_problem, settings
from pytest_benchmark.fixture import BenchmarkFixture

from coinbench.fast import accelerated
from coinbench.log import Log
from coinbench.methods import viscoin
from coinbench.models import trusting
from coinbench.problem import Problem
from coinbench.rng import Rng
from coinbench.training import train

SIZE = Size(batch=1)
WAYS = ("coinbench", "coinbench, f folded", "plain")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    made = make_problem(SIZE, tmp_path_factory.mktemp("weights"), torch.device("cpu"))
    assert disagreement(SIZE, made)["loss"] < AGREE
    return made


@pytest.mark.parametrize("way", WAYS)
def bench_full_step(benchmark: BenchmarkFixture, full: Problem, tmp_path: Path, way: str) -> None:
    """A step of a network made anew, so that all begin with an optimiser without state."""
    config = settings(SIZE, "fp32", "fold" if "folded" in way else "off", 1)

    def made() -> tuple[tuple[Any, ...], dict[str, Any]]:
        coin = viscoin.build(config, full, Rng(0))
        return (Plain(coin, full) if way == "plain" else coin,), {}

    def plainly(network: Plain) -> None:
        with trusting():
            network.step(0)

    def ours(coin: viscoin.VisCoIN) -> None:
        train(coin, viscoin.loss_of(coin, full, Rng(0)), config.train, Log(tmp_path), full.networks)

    benchmark.group = "a step of VisCoIN at 256 px, K = 256, 1 real and 1 sampled image"
    with accelerated(full, config.train):
        benchmark.pedantic(plainly if way == "plain" else ours, setup=made, rounds=3, warmup_rounds=1)
