"""Training steps of f, G and each method at the birds preset, beside a plain loop without what `train` adds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from coinbench import registry
from coinbench.config import Experiment
from coinbench.log import Log
from coinbench.models import channels_last
from coinbench.pretrain import build_classifier
from coinbench.problem import Problem
from coinbench.rng import Rng

STEPS = 5


def fitter(name: str, experiment: Experiment, problem: Problem, folder: Path) -> Callable[[], object]:
    """Return what trains the named network anew for STEPS steps."""
    short = {"steps": STEPS, "log_every": STEPS, "checkpoint_seconds": 1e9, "warmup": 0}
    log = Log(folder)
    if name in experiment.methods:
        spec, method = registry.METHODS.load(name), experiment.methods[name]
        config = method.model_copy(update={"train": method.train.model_copy(update=short)})
        return lambda: spec.fit(config, problem, Rng(0), log)
    networks = experiment.problem
    if name == "f":
        f = networks.classifier.model_copy(update={"train": networks.classifier.train.model_copy(update=short)})
        of = registry.CLASSIFIERS.load(f.net)
        new = functools.partial(build_classifier, f, 10, 3, experiment.data.size)
        return lambda: of.fit(f, new(), problem.train, Rng(0), log, None)
    g = networks.generator.model_copy(update={"train": networks.generator.train.model_copy(update=short)})
    spec = registry.GENERATORS.load(g.net)
    return lambda: spec.fit(g, spec.build(g, experiment.data.size, 3, Rng(0)), problem.train, Rng(0), log)


@pytest.mark.parametrize("name", ["f", "G", *registry.METHODS.built_in])
def bench_steps(
    benchmark: BenchmarkFixture, experiment: Experiment, problem: Problem, tmp_path: Path, name: str
) -> None:
    benchmark.group = f"{STEPS} training steps at the birds preset, network made anew"
    benchmark.extra_info["steps"] = STEPS
    if name in experiment.methods:
        train = experiment.methods[name].train
        benchmark.extra_info |= {"batch": train.batch, "steps at the preset": train.steps}
    benchmark.pedantic(fitter(name, experiment, problem, tmp_path), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("way", ["coinbench.train", "plain loop"])
def bench_loop(benchmark: BenchmarkFixture, experiment: Experiment, problem: Problem, tmp_path: Path, way: str) -> None:
    benchmark.group = f"{STEPS} training steps of f: what the training loop costs"
    config = experiment.problem.classifier
    ours = fitter("f", experiment, problem, tmp_path)

    def plain() -> None:
        network = build_classifier(config, 10, 3, experiment.data.size)
        channels_last(network)
        network.train()
        optimiser = torch.optim.Adam(network.parameters(), config.train.lr, weight_decay=config.train.weight_decay)
        for step in range(STEPS):
            batch = problem.train.draw(step, config.train.batch, Rng(0))
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(batch.images).logits, batch.labels).backward()
            optimiser.step()

    benchmark.pedantic(plain if way == "plain loop" else ours, rounds=5, warmup_rounds=1)
