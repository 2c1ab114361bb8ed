"""One pass for all metrics beside a pass for each, at equal batch size; consistency has a file of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from measured import prepare, run
from passes import KINDS, as_text, counted
from pytest_benchmark.fixture import BenchmarkFixture

from coinbench import registry
from coinbench.config import EvaluationConfig, Experiment
from coinbench.metric import Evaluation
from coinbench.problem import Problem

METRICS = ("accuracy", "mse", "perceptual", "frechet", "faithfulness", "sparsity")
IMAGES, BATCH = 64, 32
BOOTSTRAP = 200
"""A fifth of the default for an eighth of the birds' test images: scoring has about the share that it has there."""


@pytest.fixture(params=registry.METHODS.built_in)
def evaluation(request: pytest.FixtureRequest, experiment: Experiment, problem: Problem, tmp_path: Path) -> Evaluation:
    """A method at initialisation."""
    settings = EvaluationConfig(batch=BATCH, bootstrap=BOOTSTRAP)
    return prepare(request.param, experiment, problem, tmp_path, settings, (2 * IMAGES, IMAGES))


@pytest.mark.parametrize("way", ["one pass", "a pass for each metric"])
@pytest.mark.parametrize("removing", ["with faithfulness", "without faithfulness"])
def bench_pass(
    benchmark: BenchmarkFixture,
    evaluation: Evaluation,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    removing: str,
    way: str,
) -> None:
    method = request.node.callspec.params["evaluation"]
    benchmark.group = f"metrics of {method}, {removing}: {IMAGES} test images"
    names = tuple(name for name in METRICS if name != "faithfulness" or removing.startswith("with "))
    groups = [names] if way == "one pass" else [(name,) for name in names]
    with counted(evaluation.coin, evaluation.problem) as count:
        run(evaluation, groups)
    with capsys.disabled():
        print(f"\n{benchmark.group}, {way}: {as_text(count, IMAGES)} passes an image")
    benchmark.extra_info["passes an image"] = {kind: round(count[kind] / IMAGES, 2) for kind in KINDS}
    assert benchmark.pedantic(run, (evaluation, groups), rounds=3) > 10
