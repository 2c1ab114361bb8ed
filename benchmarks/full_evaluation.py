"""How long a whole evaluation of `birds` takes: every metric without downloads, 1,000 test images, K = 32.

    python benchmarks/full_evaluation.py --method viscoin --json benchmarks/results/full_evaluation.json

f, G and p are the shipped ones, the method is trained for a few steps as in the preset, and the test split is extended
by birds of the same stream. Prints the seconds of each part: what a metric does with batches, and what it does once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from coinbench import registry, results
from coinbench.artefact import fit_rng, load_coin, save_coin
from coinbench.bank import build_bank
from coinbench.cache import Cache, default_root
from coinbench.config import Cell
from coinbench.data.birds import BirdsConfig
from coinbench.digests import fit_digest
from coinbench.evaluate import watched
from coinbench.exhibits import save_exhibits
from coinbench.files import write_json
from coinbench.log import Log
from coinbench.metric import Evaluation, Metric
from coinbench.plan import Request, cells, resolve
from coinbench.pretrain import load_problem
from coinbench.problem import Problem
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.trace import Trace


def extended(problem: Problem, n: int, cell: Cell) -> Problem:
    """Return the problem with n test birds; their positions come after those of the training birds."""
    assert isinstance(cell.data, BirdsConfig)
    source = registry.PROBLEMS.load("birds").open(cell.data.model_copy(update={"n_test": n}), Path())
    index = source.split("test", cell.data.val_fraction)
    pixels = source.images(index, cell.data.size)
    test = replace(problem.test, pixels=pixels, large=pixels, labels=source.labels[index], index=index)
    assert problem.parts is not None
    return replace(problem, test=test, truth=source, parts=replace(problem.parts, source=source))


class Clock:
    """Seconds and CPU seconds by part."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.seconds: dict[str, tuple[float, float]] = {}

    def time(self, part: str, do: Any) -> Any:
        """Return what `do` returns and add what it took."""
        began, used = time.perf_counter(), time.process_time()
        found = do()
        before = self.seconds.get(part, (0.0, 0.0))
        self.seconds[part] = before[0] + time.perf_counter() - began, before[1] + time.process_time() - used
        return found


@torch.no_grad()
def evaluate(
    coin: Any, problem: Problem, cell: Cell, names: list[str], log: Log, cache: Cache
) -> dict[str, tuple[float, float]]:
    """Measure all metrics in one pass, as coinbench.evaluate does, and return the seconds of each part."""
    clock, rng = Clock(), Rng(cell.evaluation.seed).child("evaluation")
    spec = registry.METHODS.load(cell.method.name)
    bank = clock.time("bank", lambda: build_bank(coin, problem, watched(problem.train, cell.evaluation, log)))
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
    metrics: dict[str, Metric] = {
        name: clock.time(f"{name}: once", partial(registry.METRICS.load(name), evaluation)) for name in names
    }
    for batch in problem.test.batches(cell.evaluation.batch):
        trace = Trace(coin, problem, batch)
        for name, metric in metrics.items():
            clock.time(f"{name}: batches", partial(metric.update, trace))
    scores: list[Score] = []
    for name, metric in metrics.items():
        found = clock.time(f"{name}: once", metric.records)
        scores += clock.time(f"{name}: once", partial(metric.score, found, cell.evaluation))
    clock.time("exhibits", lambda: save_exhibits(coin, problem, bank, rng.child("exhibits"), log.folder / "images"))
    given = {"run": "", "dataset": "birds", "method": cell.method.name, "seed": 0, "variant": "default", "cell": ""}
    clock.time("rows", lambda: results.write(results.frame(scores, **given, classifier_digest=""), log.folder))
    return clock.seconds


def main() -> None:
    """Train, measure, print and write."""
    parser = argparse.ArgumentParser(description="Time a whole evaluation of birds.")
    parser.add_argument("--method", default="viscoin")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--concepts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=330)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cache", type=Path, default=default_root())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    names = [name for name in registry.METRICS.built_in if not registry.METRICS.load(name).needs]
    sets = (f"method.K={given.concepts}", f"method.train.steps={given.steps}")
    config = resolve(Request(methods=given.method, datasets="birds", metrics=",".join(names), sets=sets))
    cache = Cache(given.cache.absolute())
    with tempfile.TemporaryDirectory() as folder:
        cell = cells(config, cache, Path(folder))[0].cell
        log, spec = Log(Path(folder)), registry.METHODS.load(given.method)
        problem = load_problem(cell, cache, torch.device("cpu"), log)

        def fit(log: Log) -> None:
            save_coin(spec.fit(cell.method, problem, fit_rng(cell), log), problem, log.folder, given.method)

        coin = load_coin(cell, problem, cache.stage("fit", fit_digest(cell), fit, log))
        load = os.getloadavg()[0]
        print(f"{given.method} is trained; measuring {len(names)} metrics", flush=True)
        began, used = time.perf_counter(), time.process_time()
        seconds = evaluate(coin, extended(problem, given.images, cell), cell, names, log, cache)
        wall, used = time.perf_counter() - began, time.process_time() - used
    for part, (took, busy) in sorted(seconds.items(), key=lambda item: -item[1][1]):
        print(f"{part:<32} {took:8.2f} s {busy:8.2f} s of CPU")
    print(f"{'all':<32} {wall:8.2f} s {used:8.2f} s of CPU, load {load:.1f} before, {given.threads} threads")
    if given.json:
        commit = subprocess.run(("git", "rev-parse", "--short", "HEAD"), capture_output=True, text=True).stdout.strip()
        told = {"method": given.method, "images": given.images, "K": given.concepts, "threads": given.threads}
        told |= {"wall": round(wall, 2), "cpu": round(used, 2), "load before": round(load, 2), "commit": commit}
        write_json(given.json, told | {"CPU seconds": {part: round(busy, 2) for part, (_, busy) in seconds.items()}})


if __name__ == "__main__":
    main()
