"""What `coinbench audit` measures on: a data set with a ground truth and its f, G and p, in part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from coinbench import registry
from coinbench.audit.entrants import Shuffled
from coinbench.audit.measure import SETTINGS, Bench, some
from coinbench.audit.oracle import Oracle
from coinbench.cache import Cache
from coinbench.config import EvaluationConfig
from coinbench.errors import UsageError
from coinbench.log import Log
from coinbench.overrides import parse
from coinbench.plan import Request, cells, resolve
from coinbench.presets import applies
from coinbench.pretrain import load_problem
from coinbench.problem import Problem
from coinbench.rng import Rng


def prepare(
    dataset: str,
    metrics: tuple[str, ...],
    sets: tuple[str, ...],
    train: int,
    test: int,
    cache: Cache,
    device: torch.device,
) -> tuple[Bench, Oracle]:
    """Return what all entrants are measured on and with, and the oracle.

    Args:
        dataset: its name.
        metrics: their names; default: all that apply and need no download.
        sets: changes of settings, as after --set.
        train: training images used.
        test: test images used.
        cache: holds f, G and p, which are trained where they are not there.
        device: of the networks.

    Raises:
        UsageError: the data set cannot draw its images with other parts; an unknown name or value.
        DataError: data are missing or damaged.
    """
    able = [name for name in registry.PROBLEMS.names() if registry.PROBLEMS.load(name).truth]
    if registry.PROBLEMS.check(dataset) not in able:
        raise UsageError(
            f"audit --dataset {dataset}: cannot draw its images with other parts, so no oracle knows it; "
            f"take one that can: {', '.join(able)}"
        )
    for name in metrics:
        registry.METRICS.check(name)
    chosen = metrics or tuple(name for name in registry.METRICS.names() if _measurable(name, dataset))
    # Any method will do: f, G and p know none.
    request = Request(methods=registry.METHODS.names()[0], datasets=dataset, sets=sets)
    (planned,) = cells(resolve(request), cache, Path())
    given = planned.cell.evaluation.model_dump()
    asked = {keys[-1] for keys, _ in map(parse, sets) if keys[0] == "evaluation"}
    short = {name: value for name, value in SETTINGS.items() if name not in asked}
    config = EvaluationConfig.model_validate({**given, **short})
    problem = load_problem(planned.cell, cache, device, Log(cache.root / "audit"))
    rng = Rng(config.seed)
    problem = replace(problem, train=some(problem.train, train, rng), test=some(problem.test, test, rng))
    return assembled(problem, chosen, config, cache)


def _measurable(metric: str, dataset: str) -> bool:
    return applies(metric, dataset) and not registry.METRICS.load(metric).needs


def unmeasured(metrics: tuple[str, ...], dataset: str) -> dict[str, str]:
    """Return why each metric that was not asked for is not measured, and what measures it.

    Args:
        metrics: names of those that are measured.
        dataset: what they are measured on.
    """
    reasons = {}
    for name in registry.METRICS.names():
        needs = registry.METRICS.load(name).needs
        if name not in metrics and needs:
            fetch = f"coinbench weights fetch {' '.join(needs)}"
            reasons[name] = f"needs published weights: {fetch}, then coinbench audit --metrics {name}"
    if "concept_flags" in metrics:
        reasons["concept_stability"] = (
            "compares training seeds of one method, and nothing here is trained: coinbench run --metrics concept_flags "
            f"--methods METHOD --dataset {dataset} --seeds 0:2"
        )
    return reasons


def assembled(
    problem: Problem, metrics: tuple[str, ...], config: EvaluationConfig, cache: Cache
) -> tuple[Bench, Oracle]:
    """Return the bench of a problem, and its oracle; the untrained control is the oracle with shuffled concepts."""
    oracle = Oracle(problem)
    return Bench(problem, metrics, config, lambda: Shuffled(oracle), cache), oracle
