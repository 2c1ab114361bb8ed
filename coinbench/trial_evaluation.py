"""An evaluation on a sample of the images, timed metric by metric, and what it says of all images.

A part of an evaluation costs a + b · images (docs/performance.md). Samples of two sizes, after one that warms up, give
both. Where there is no time for them, what a metric does with each batch counts as b, and what it does once as a; but
what a metric with a limit on its images does once grows up to that limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from coinbench import contract, plugins, records, registry
from coinbench.artefact import fit_rng
from coinbench.bank import build_bank
from coinbench.coin import CoIN
from coinbench.config import Cell
from coinbench.errors import Interrupted, is_out_of_memory
from coinbench.exhibits import save_exhibits
from coinbench.log import Log
from coinbench.metric import Evaluation, Metric
from coinbench.problem import Problem, Split
from coinbench.rng import Rng
from coinbench.trace import Trace
from coinbench.trial import peak_of

FEWEST = 12
"""Images of the first, smallest sample: a concept that fewer than ten images show is dead, and costs nothing."""
SECONDS = 30.0
"""A sample that would take longer than this is not tried; the smallest always is."""


@dataclass(slots=True)
class Sample:
    """What an evaluation of some images took."""

    train: int
    test: int
    """Images of the sample."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By part: bank, exhibits, and for each metric NAME (what each image costs) and NAME: numbers (what is left)."""
    memory: int = 0
    disk: int = 0
    """Bytes of records and images."""
    failed: dict[str, str] = field(default_factory=dict)
    """Metric -> why it could not be measured."""


def sizes(cell: Cell, n_test: int) -> list[int]:
    """Return how many images the samples have, rising: the first, which warms up, twice."""
    full = max(FEWEST, cell.evaluation.batch, cell.evaluation.consistency_images)
    return [min(FEWEST, n_test), *sorted({min(n, n_test) for n in (FEWEST, full, 2 * full)})]


def measure_evaluation(cell: Cell, problem: Problem, coin: CoIN, folder: Path, log: Log) -> list[Sample]:
    """Evaluate samples of rising size while there is time.

    Args:
        cell: settings and metrics.
        problem: gives networks and images; those of its splits are what samples are taken from.
        coin: the method, trained or not.
        folder: for what an evaluation writes.
        log: of progress.

    Raises:
        Interrupted: asked to stop.
    """
    samples: list[Sample] = []
    for n in sizes(cell, len(problem.test)):
        if samples and sum(extrapolated(samples, cell, n, n).values()) > SECONDS:
            break
        log.check()
        log.at("metrics", folder).say(f"{cell.dataset}/{cell.method.name}: {n} images")
        samples.append(_measure(cell, problem, coin, n, folder / str(len(samples)), log))
    return samples


@torch.no_grad()
def _measure(cell: Cell, problem: Problem, coin: CoIN, n: int, folder: Path, log: Log) -> Sample:
    rng = Rng(cell.evaluation.seed).child("evaluation")
    problem = replace(problem, train=_some(problem.train, n, rng), test=_some(problem.test, n, rng))
    sample = Sample(len(problem.train), len(problem.test))
    spec, config = registry.METHODS.load(cell.method.name), cell.evaluation
    with contract.blaming(cell.method.name), peak_of(problem.device) as peak:
        with _timed(sample, "bank", problem.device):
            bank = build_bank(coin, problem, problem.train.batches(config.batch))
        evaluation = Evaluation(
            coin=coin,
            problem=problem,
            config=config,
            rng=rng,
            bank=bank,
            untrained=lambda: spec.build(cell.method, problem, fit_rng(cell)).eval(),
            log=Log(folder, stop=log.stop),
        )
        _metrics(sample, cell.metrics, evaluation)
        with _timed(sample, "exhibits", problem.device):
            save_exhibits(coin, problem, bank, rng.child("exhibits"), folder / "images")
    sample.memory = peak.memory
    sample.disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sample


def _metrics(sample: Sample, names: tuple[str, ...], evaluation: Evaluation) -> None:
    """Let metrics see the sample and score it; what they share of a batch is the first one's that asks for it."""
    problem, config = evaluation.problem, evaluation.config
    metrics: dict[str, Metric] = {}

    def each(part: str, do: Callable[[str], object]) -> None:
        for name in [name for name in names if name not in sample.failed]:
            with _noting(sample, name), _timed(sample, part.format(name), problem.device):
                do(name)

    def begin(name: str) -> None:
        metrics[name] = registry.METRICS.load(name)(evaluation)

    def number(name: str) -> None:
        found = metrics[name].records()
        records.write(found, evaluation.log.folder / "samples" / f"{name}.parquet")
        metrics[name].score(found, config)

    each("{}: numbers", begin)
    for batch in problem.test.batches(config.batch):
        trace = Trace(evaluation.coin, problem, batch)
        each("{}", lambda name, trace=trace: metrics[name].update(trace))
    each("{}: numbers", number)


def _some(split: Split, n: int, rng: Rng) -> Split:
    return split.subset(rng.child("trial", split.name).choose(split.index, n))


@contextmanager
def _timed(sample: Sample, part: str, device: torch.device) -> Iterator[None]:
    began = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    sample.seconds[part] = sample.seconds.get(part, 0.0) + time.perf_counter() - began


@contextmanager
def _noting(sample: Sample, name: str) -> Iterator[None]:
    """Note a metric that fails, as on noise some may; what the machine lacks ends the trial."""
    try:
        yield
    except (Interrupted, OSError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        sample.failed[name] = plugins.told(error)


def extrapolated(samples: list[Sample], cell: Cell, n_train: int, n_test: int) -> dict[str, float]:
    """Return the seconds of each part of an evaluation of all images; `bank` grows with the training images.

    Args:
        samples: rising in size.
        cell: its metrics may have a number of images beyond which they cost no more.
        n_train: training images of the data set.
        n_test: test images that are measured.
    """
    found = {}
    for part in samples[-1].seconds:
        if part == "bank":
            found[part] = _law(samples, part, lambda sample: sample.train, n_train, grows=True)
            continue
        name = part.removesuffix(": numbers")
        limit = registry.METRICS.load(name).limit if name in cell.metrics else ""
        reach = samples[-1].test if part == "exhibits" else _reach(limit, cell, samples, n_test)
        grows = part in cell.metrics or bool(limit)
        found[part] = _law(samples, part, lambda sample: sample.test, reach, grows=grows)
    return found


def _reach(limit: str, cell: Cell, samples: list[Sample], n: int) -> int:
    """Return for how many images a part costs something: that of a limited metric for no more than its limit."""
    if not limit:
        return n
    most = int(getattr(cell.evaluation, limit))
    # Two samples beyond the limit show what it does not hold for.
    beyond = len(samples) > 1 and samples[-2].test >= most
    return n if beyond else max(samples[-1].test, min(n, most))


def _law(samples: list[Sample], part: str, size: Callable[[Sample], int], n: int, grows: bool) -> float:
    last = samples[-1]
    took, have = last.seconds[part], size(last)
    slope = took / have if grows else 0.0
    if len(samples) > 2 and size(samples[-2]) < have and part in samples[-2].seconds:
        slope = max(0.0, (took - samples[-2].seconds[part]) / (have - size(samples[-2])))
    return took + slope * (n - have)
