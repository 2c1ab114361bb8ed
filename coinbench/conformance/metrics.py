"""The laws of a metric: specs, rows, records, independence of batches, devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from coinbench import contract, records, registry, weights
from coinbench.bank import build_bank
from coinbench.coin import CoIN
from coinbench.config import EvaluationConfig
from coinbench.conformance.report import Law, Report, Skipped, Steps, demand, examine
from coinbench.conformance.tiny import TinyCoIN, make_problem, make_truth_problem, moved
from coinbench.digests import source_file
from coinbench.errors import Unavailable
from coinbench.metric import Evaluation, Metric, MetricSpec, Records
from coinbench.problem import Batch, Problem
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.trace import Trace

Arrange = Callable[[list[Batch]], list[Batch]]


class MetricBench:
    """A metric on a tiny method; what several laws need is measured once."""

    def __init__(self, metric: type[Metric], name: str | None, folder: Path) -> None:
        """Hold the metric; nothing is measured yet."""
        self.metric, self.name, self.folder = metric, name, folder
        # Networks with published weights read no smaller images; the few are for their time.
        self.problem = make_problem(size=32, train=12, test=8) if metric.needs else make_problem(train=60, test=40)
        if metric.truth:
            self.problem = make_truth_problem()
        self.steps = Steps()

    def config(self, batch: int = 16) -> EvaluationConfig:
        """Return settings of a short evaluation."""
        short = {"bootstrap": 100, "consistency_images": 10, "permutations": 2, "random_draws": 2}
        short |= {"part_images": 24, "locality_images": 2, "use_images": 5}
        return EvaluationConfig.model_validate({"batch": batch, "lambdas": (2.0,), **short})

    def measure(
        self,
        support: bool = True,
        batch: int = 16,
        arrange: Arrange = list,
        problem: Problem | None = None,
        processes: int = 1,
    ) -> Records:
        """Return the records of one pass, in which so many processes take turns with the batches."""
        problem, config = problem or self.problem, self.config(batch)
        coin = TinyCoIN(problem, support)
        bank = build_bank(coin, problem, problem.train.batches(16))
        untrained: Callable[[], CoIN] = lambda: TinyCoIN(problem, support, seed=1)  # noqa: E731
        evaluation = Evaluation(coin, problem, config, Rng(0).child("evaluation"), bank, untrained)
        try:
            running = [self.metric(evaluation) for _ in range(processes)]
        except Unavailable as error:
            raise Skipped(f"cannot be measured here: {error}") from error
        for number, part in enumerate(arrange(list(problem.test.batches(batch)))):
            running[number % processes].update(Trace(coin, problem, part))
        for other in running[1:]:
            running[0].parts += other.parts
        found = running[0].records()
        contract.check_records(found)
        return found

    def score(self, found: Records) -> list[Score]:
        """Return the rows of records."""
        return contract.check_scores(self.metric.score(found, self.config()), self.metric.specs)

    def records(self, support: bool = True) -> Records:
        """Return the records of a plain pass."""
        return self.steps.once(f"measuring {_kind(support)}", lambda: self.measure(support))

    def scores(self, support: bool = True) -> list[Score]:
        """Return the rows of a plain pass."""
        found = self.records(support)
        return self.steps.once(f"scoring {_kind(support)}", lambda: self.score(found))


def _kind(support: bool) -> str:
    return "a method with Φ′" if support else "a method without Φ′"


def check_metric(metric: type[Metric], name: str | None = None) -> Report:
    """Try every law on a metric; under a minute on a CPU.

    Args:
        metric: the class.
        name: what it is registered as, where it is.
    """
    with TemporaryDirectory(prefix="coinbench-check-") as folder, torch.random.fork_rng(devices=[]), torch.no_grad():
        bench = MetricBench(metric, name, Path(folder))
        file = source_file(metric)
        return examine(f"metric {name or metric.__name__}", LAWS, bench, [file] if file else [])


def _specs(bench: MetricBench) -> None:
    for spec in bench.metric.specs:
        for field in ("name", "unit", "source", "protocol", "null"):
            value = getattr(spec, field)
            demand(isinstance(value, str) and value.strip(), f"{spec.name or 'a spec'}: MetricSpec.{field} is empty")
        demand(spec.version >= 1, f"{spec.name}: version is {spec.version}, expected a number >= 1")
        demand(spec.bounds[0] < spec.bounds[1], f"{spec.name}: bounds are {spec.bounds}, expected (low, high)")
        demand(spec.higher_is_better in (True, False, None), f"{spec.name}: higher_is_better is no truth value or None")
    names = [spec.name for spec in bench.metric.specs]
    demand(len(set(names)) == len(names), f"two specs have one name: {names}")


def _names(bench: MetricBench) -> None:
    mine = {spec.name for spec in bench.metric.specs}
    for other in registry.METRICS.names():
        taken = mine & {spec.name for spec in _others(other, bench.metric)}
        demand(not taken, f"the metric {other!r} has a number named {min(taken, default='')!r} already")


def _others(name: str, mine: type[Metric]) -> tuple[MetricSpec, ...]:
    from coinbench.errors import UsageError

    try:
        found = registry.METRICS.load(name)
    except UsageError:
        # A plug-in that is broken itself; `coinbench ls` says so.
        return ()
    return () if found.__qualname__ == mine.__qualname__ and found.specs == mine.specs else found.specs


def _rows(bench: MetricBench) -> None:
    specs = {spec.name: spec for spec in bench.metric.specs}
    for support in (True, False):
        scores = bench.scores(support)
        silent = specs.keys() - {score.metric for score in scores}
        # A number may exist for some methods only, as the accuracy of an f of their own does.
        demand(len(silent) < len(specs), "no spec has a row")
        keys = [(s.metric, s.params, s.arm, s.subject) for s in scores]
        twice = {key for key in keys if keys.count(key) > 1}
        demand(
            not twice, f"two rows are {min(twice, default=())}: metric, params, arm and subject must tell them apart"
        )
        for score in scores:
            _row(score, specs[score.metric])


def _row(score: Score, spec: MetricSpec) -> None:
    low, high = spec.bounds
    where = " ".join(part for part in (score.metric, score.params, score.arm, score.subject) if part)
    demand(low <= score.value <= high, f"{where}: the value {score.value:g} is not in its bounds [{low:g}, {high:g}]")
    inside = np.isnan(score.low) or score.low - 1e-9 <= score.value <= score.high + 1e-9
    demand(inside, f"{where}: the value {score.value:g} is not in its interval [{score.low:g}, {score.high:g}]")
    demand(score.n > 0 or score.subject != "all", f"{where}: n is 0")
    demand(
        score.unit == spec.unit and score.version == spec.version, f"{where}: unit or version is not that of the spec"
    )


def _without(bench: MetricBench) -> None:
    bench.scores(support=False)


def _with(bench: MetricBench) -> None:
    bench.scores(support=True)


def _repeats(bench: MetricBench) -> None:
    torch.manual_seed(99)
    _equal(bench.score(bench.measure()), bench.scores(), "measured again", 0.0)


def _batches(bench: MetricBench) -> None:
    expected = bench.scores()
    arranged: list[tuple[int, Arrange, str]] = [
        (1, list, "one image at a time"),
        (40, list, "all images at once"),
        (8, lambda batches: batches[::-1], "in another order of batches"),
        (40, _shuffled, "in another order of images"),
    ]
    for batch, arrange, how in arranged:
        _equal(bench.score(bench.measure(batch=batch, arrange=arrange)), expected, how, 1e-3)
    if bench.metric.takes_turns:
        _equal(bench.score(bench.measure(processes=2)), expected, "in turns of two processes", 0.0)


def _shuffled(batches: list[Batch]) -> list[Batch]:
    (batch,) = batches
    order = torch.randperm(len(batch.index), generator=Rng(1).torch()).to(batch.index.device)
    return [Batch(batch.images[order], batch.labels[order], batch.index[order])]


def _stored(bench: MetricBench) -> None:
    found, path = bench.measure(), bench.folder / "records.parquet"
    before = {name: column.copy() for name, column in found.items()}
    expected = bench.score(found)
    changed = [name for name, was in before.items() if not _unchanged(was, found[name])]
    demand(not changed, f"score changes the column {changed[0] if changed else ''!r} of the records it is given")
    _equal(bench.score(found), expected, "scored again", 0.0)
    records.write(found, path)
    _equal(bench.score(records.read(path)), expected, "scored from the stored records", 1e-12)


def _unchanged(before: np.ndarray, after: np.ndarray) -> bool:
    return np.array_equal(before, after, equal_nan=before.dtype.kind == "f")


def _leaves(bench: MetricBench) -> None:
    networks = bench.problem.networks
    before = [weights.digest(network) for network in networks]
    pixels = bench.problem.test.pixels.copy()
    bench.measure()
    demand(before == [weights.digest(network) for network in networks], "measuring changes f, G or p")
    demand(np.array_equal(pixels, bench.problem.test.pixels), "measuring changes the images")


def _cuda(bench: MetricBench) -> None:
    expected = bench.scores()
    if not torch.cuda.is_available():
        raise Skipped("no CUDA device here")
    there = bench.measure(problem=moved(bench.problem, torch.device("cuda")))
    _equal(bench.score(there), expected, "on CUDA", 5e-2)


def _equal(found: list[Score], expected: list[Score], how: str, tolerance: float) -> None:
    """Break the law unless two lists hold the same rows with the same numbers."""

    def key(score: Score) -> tuple[str, ...]:
        return score.metric, score.params, score.arm, score.subject

    demand([key(s) for s in found] == [key(s) for s in expected], f"{how}, the rows are other ones")
    for a, b in zip(found, expected, strict=True):
        for field in ("value", "low", "high", "n"):
            x, y = getattr(a, field), getattr(b, field)
            same = np.isclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)
            demand(same, f"{how}, {field} of {' '.join(filter(None, key(a)))} is {x:.6g} instead of {y:.6g}")


LAWS = (
    Law("specs give name, version, unit, bounds, source, protocol and null", _specs),
    Law("no other metric has a number of these names", _names),
    Law("a method with Φ′ can be measured", _with),
    Law("a method without Φ′ can be measured", _without),
    Law("rows are those of the specs, told apart, in bounds, inside their interval, with n > 0", _rows),
    Law("measuring again gives the same numbers", _repeats),
    Law("no number depends on the size or order of batches", _batches),
    Law("scores are a function of the stored records", _stored),
    Law("f, G, p and the images are left as they were", _leaves),
    Law("CUDA agrees with the CPU", _cuda),
)
