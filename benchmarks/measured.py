"""What the benchmarks of the evaluation share: a method at initialisation, ready to be measured, and the measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coinbench import registry
from coinbench.bank import build_bank
from coinbench.coin import CoIN
from coinbench.config import EvaluationConfig, Experiment
from coinbench.evaluate import measure
from coinbench.log import Log
from coinbench.metric import Evaluation, Metric
from coinbench.models import channels_last
from coinbench.problem import Problem
from coinbench.rng import Rng


def prepare(
    name: str,
    experiment: Experiment,
    problem: Problem,
    folder: Path,
    settings: EvaluationConfig,
    images: tuple[int, int],
    **changes: Any,
) -> Evaluation:
    """Return a method at initialisation with its concepts on the training images.

    Args:
        name: of the method.
        experiment: gives its settings.
        problem: gives the networks and images.
        folder: where records go.
        settings: of the evaluation.
        images: how many training and test images are used.
        changes: of the method's settings, as K=8.
    """
    n_train, n_test = (np.arange(n) for n in images)
    problem = replace(problem, train=problem.train.subset(n_train), test=problem.test.subset(n_test))
    spec = registry.METHODS.load(name)
    config = experiment.methods[name].model_copy(update=changes)

    def build() -> CoIN:
        return spec.build(config, problem, Rng(0)).eval()

    coin = build()
    # As weights are laid out that come from a file.
    channels_last(coin)
    with torch.no_grad():
        bank = build_bank(coin, problem, problem.train.batches(settings.batch))
    return Evaluation(
        coin=coin, problem=problem, config=settings, rng=Rng(0), bank=bank, untrained=build, log=Log(folder)
    )


@torch.no_grad()
def run(evaluation: Evaluation, groups: Sequence[tuple[str, ...]]) -> int:
    """Measure each group of metrics in a pass of its own; return the number of rows."""
    rows, failures = 0, {}
    for names in groups:
        metrics: dict[str, Metric] = {name: registry.METRICS.load(name)(evaluation) for name in names}
        rows += len(measure(metrics, evaluation, failures))
    assert failures == {}
    return rows
