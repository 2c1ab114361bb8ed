"""One pass over the test split for all metrics; what they measured and what they say goes to disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from coinbench import contract, plugins, records, registry, resampled, results
from coinbench.artefact import fit_rng
from coinbench.bank import build_bank
from coinbench.cache import Cache
from coinbench.coin import CoIN
from coinbench.config import Cell, EvaluationConfig
from coinbench.errors import CoinbenchError, MetricError, is_out_of_memory
from coinbench.exhibits import save_exhibits
from coinbench.files import write_json
from coinbench.log import Log
from coinbench.metric import Evaluation, Metric
from coinbench.problem import Batch, Problem, Split
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.specs import MethodSpec
from coinbench.trace import Trace

Failures = dict[str, str]
"""Metric -> why it has no numbers."""


@torch.no_grad()
def evaluate(coin: CoIN, spec: MethodSpec, problem: Problem, cell: Cell, cache: Cache, log: Log) -> None:
    """Measure a CoIN with every metric of the cell and write results, records and images into the log's folder.

    A metric that raises has no numbers and is named in unavailable.json; the others go on.

    Raises:
        ContractError: the method returns what it must not; names it.
    """
    with contract.blaming(cell.method.name):
        _evaluate(coin, spec, problem, cell, cache, log)


def _evaluate(coin: CoIN, spec: MethodSpec, problem: Problem, cell: Cell, cache: Cache, log: Log) -> None:
    began = time.monotonic()
    rng = Rng(cell.evaluation.seed).child("evaluation")
    if cell.evaluation.limit:
        rows = rng.child("limit").choose(problem.test.index, cell.evaluation.limit)
        problem = replace(problem, test=problem.test.subset(rows))
    bank = build_bank(coin, problem, watched(problem.train, cell.evaluation, log, turns=True), turns=True)
    evaluation = Evaluation(
        coin=coin,
        problem=problem,
        config=cell.evaluation,
        rng=rng,
        bank=bank,
        untrained=lambda: spec.build(cell.method, problem, fit_rng(cell)).eval(),
        log=log,
        cache=cache,
    )
    failures: Failures = {}
    metrics: dict[str, Metric] = {}
    for name in cell.metrics:
        metric = registry.METRICS.load(name)
        with _noting(name, failures):
            metrics[name] = metric(evaluation)
    scores = measure(metrics, evaluation, failures)

    def write() -> None:
        with contract.raising("encode, predict or decode, asked for the pictures,", type(coin)):
            save_exhibits(coin, problem, bank, rng.child("exhibits"), log.folder / "images")
        table = results.frame(scores, **_columns(cell, problem))
        results.write(table, log.folder)
        resampled.write(resampled.of_scores(scores, ""), log.folder)
        write_json(log.folder / "unavailable.json", failures)
        write_json(log.folder / "seconds.json", {"evaluate": round(time.monotonic() - began, 2)})

    log.group.lead(write)


def measure(metrics: dict[str, Metric], evaluation: Evaluation, failures: Failures) -> list[Score]:
    """Show every batch of the test split to every metric once, then score; records go to samples/.

    Several processes take turns with the batches, and each metric then gets what they found of all of them.
    """
    config, log, group = evaluation.config, evaluation.log, evaluation.log.group
    everywhere = group.together(lambda: _shown(metrics, evaluation, failures))
    for found in everywhere:
        failures |= found | failures
    scores: list[Score] = []
    for name in [name for name in metrics if name not in failures]:
        log.check()
        log.say(f"scoring {name}")
        with _noting(name, failures):
            metric = metrics[name]
            if metric.takes_turns:
                metric.parts = [part for parts in group.gather(metric.parts) for part in parts]
            measured = metric.records()
            scores += group.lead(lambda name=name, measured=measured: _scored(name, metrics, measured, config, log))
    return scores


def _shown(metrics: dict[str, Metric], evaluation: Evaluation, failures: Failures) -> Failures:
    """Show the batches of this process's turns to the metrics, and all to those that must see all; return failures."""
    problem, config, group, failures = evaluation.problem, evaluation.config, evaluation.log.group, dict(failures)
    turns = all(metric.takes_turns for metric in metrics.values())
    for number, batch in enumerate(watched(problem.test, config, evaluation.log, turns=turns)):
        trace = Trace(evaluation.coin, problem, batch)
        mine = turns or number % group.size == group.rank
        for name in [name for name in metrics if name not in failures]:
            if mine or not metrics[name].takes_turns:
                with _noting(name, failures):
                    metrics[name].update(trace)
    return failures


def _scored(
    name: str, metrics: dict[str, Metric], measured: records.Records, config: EvaluationConfig, log: Log
) -> list[Score]:
    contract.check_records(measured)
    records.write(measured, log.folder / "samples" / f"{name}.parquet")
    return contract.check_scores(metrics[name].score(measured, config), metrics[name].specs)


def watched(split: Split, config: EvaluationConfig, log: Log, *, turns: bool = False) -> Iterator[Batch]:
    """Go through a split, or the batches of this process's turns, with progress and an estimate.

    Raises:
        Interrupted: asked to stop.
    """
    began, seen, most = time.monotonic(), 0, len(split)
    each = split.group.size if turns else 1
    for batch in split.batches(config.batch, config.workers, turns=turns):
        log.check()
        yield batch
        seen = min(most, seen + each * len(batch.labels))
        left = (time.monotonic() - began) / seen * (most - seen)
        log.progress(seen, most, left, f"{split.name} images")


@contextmanager
def _noting(name: str, failures: Failures) -> Iterator[None]:
    """Note a metric's failure instead of losing the numbers of the others: metrics may be foreign code.

    What the machine lacks (memory, disk) and a stop are no fault of the metric and end the pass.
    """
    plug_in = bool(registry.METRICS.targets.get(name))
    hint = f"; `coinbench check {name}` tests all that is asked of a metric" if plug_in else ""
    try:
        yield
    except MetricError as error:
        failures[name] = f"{error}{hint}"
    except FileNotFoundError as error:
        failures[name] = plugins.told(error) + hint
    except (OSError, CoinbenchError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        failures[name] = plugins.told(error) + hint


def _columns(cell: Cell, problem: Problem) -> dict[str, object]:
    return {
        "run": "",
        "dataset": cell.dataset,
        "method": cell.method.name,
        "seed": cell.seed,
        "variant": cell.variant,
        "classifier_digest": problem.fingerprints["classifier"],
        "cell": "",
    }
