"""One pass for all metrics beside a pass for each, at equal batch size; consistency has a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from passes import KINDS, as_text, counted
from pytest_benchmark.fixture import BenchmarkFixture

from coinbench import registry
from coinbench.bank import build_bank
from coinbench.config import EvaluationConfig, Experiment
from coinbench.evaluate import measure
from coinbench.log import Log
from coinbench.metric import Evaluation, Metric
from coinbench.models import channels_last
from coinbench.problem import Problem
from coinbench.rng import Rng

METRICS = ("accuracy", "mse", "perceptual", "frechet", "faithfulness", "sparsity")
IMAGES, BATCH = 96, 32


@pytest.fixture(params=registry.METHODS.built_in)
def evaluation(request: pytest.FixtureRequest, experiment: Experiment, problem: Problem, tmp_path: Path) -> Evaluation:
    """A method at initialisation, with its concepts on the training images."""
    spec, config = registry.METHODS.load(request.param), experiment.methods[request.param]
    some = replace(
        problem,
        train=problem.train.subset(np.arange(2 * IMAGES)),
        test=problem.test.subset(np.arange(IMAGES)),
    )
    coin = spec.build(config, some, Rng(0)).eval()
    channels_last(coin)
    return Evaluation(
        coin=coin,
        problem=some,
        config=EvaluationConfig(batch=BATCH),
        rng=Rng(0),
        bank=build_bank(coin, some, some.train.batches(BATCH)),
        untrained=lambda: spec.build(config, some, Rng(0)).eval(),
        log=Log(tmp_path),
    )


def measuring(evaluation: Evaluation, groups: list[tuple[str, ...]]) -> Callable[[], int]:
    """Return what measures each group of metrics in a pass of its own; it returns the number of rows."""

    @torch.no_grad()
    def run() -> int:
        rows, failures = 0, {}
        for names in groups:
            metrics: dict[str, Metric] = {name: registry.METRICS.load(name)(evaluation) for name in names}
            rows += len(measure(metrics, evaluation, failures))
        assert failures == {}
        return rows

    return run


@pytest.mark.parametrize("way", ["one pass", "a pass for each metric"])
@pytest.mark.parametrize("names", [METRICS, tuple(name for name in METRICS if name != "faithfulness")], ids=len)
def bench_pass(
    benchmark: BenchmarkFixture,
    evaluation: Evaluation,
    capsys: pytest.CaptureFixture[str],
    names: tuple[str, ...],
    way: str,
) -> None:
    title = registry.METHODS.load(evaluation.coin.config.name).title
    which = "all metrics but consistency" + ("" if "faithfulness" in names else " and faithfulness")
    benchmark.group = f"{which}: {title}, {IMAGES} test images"
    run = measuring(evaluation, [names] if way == "one pass" else [(name,) for name in names])
    with counted(evaluation.coin, evaluation.problem) as count:
        run()
    with capsys.disabled():
        print(f"\n{benchmark.group}, {way}: {as_text(count, IMAGES)} passes an image")
    benchmark.extra_info["passes an image"] = {kind: round(count[kind] / IMAGES, 2) for kind in KINDS}
    assert benchmark.pedantic(run, rounds=3) > 10
