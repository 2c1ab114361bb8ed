"""The smallest finished run, made in this process: two cells with every file that a run leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from commands import TINY

from coinbench import reports
from coinbench.cache import Cache
from coinbench.errors import CoinbenchError
from coinbench.executors.local import Outcome
from coinbench.files import write_json
from coinbench.log import Log
from coinbench.outfolder import locked, record
from coinbench.plan import Planned, Request, cells, resolve
from coinbench.run import collect
from coinbench.work import work

METRICS = ("accuracy", "mse", "sparsity")
SMALLER = TINY | {
    "data.n_train": "40",
    "data.n_test": "12",
    "data.size": "16",
    "problem.classifier.train.steps": "2",
    "problem.generator.train.steps": "2",
    "method.train.steps": "2",
    "method.train.log_every": "1",
}


def words(methods: str = "flint") -> tuple[str, ...]:
    """What the command line says for the small run."""
    sets = (word for key, value in SMALLER.items() for word in ("--set", f"{key}={value}"))
    return ("--methods", methods, "--dataset", "birds", "--metrics", ",".join(METRICS), "--seeds", "0:2", *sets)


@dataclass(frozen=True)
class SmallRun:
    """Where it lies."""

    out: Path
    cache: Path

    @property
    def cell(self) -> Path:
        """The folder of its first cell."""
        return min(path.parent for path in self.out.glob("cells/*/cell.json"))


def make_small_run(folder: Path) -> SmallRun:
    """Train and measure in this process, then write tables, figures and report."""
    sets = tuple(f"{key}={value}" for key, value in SMALLER.items())
    request = Request(methods="flint", datasets="birds", metrics=",".join(METRICS), seeds="0:2", sets=sets)
    config, run = resolve(request), SmallRun(folder / "out", folder / "cache")
    with locked(run.out):
        planned = cells(config, Cache(run.cache), run.out)
        record(config, run.out)
        write_json(run.out / "plan.json", {"cells": [cell.digest for cell in planned]})
        bring_to_end(planned, run.cache)
        collect(planned, run.out)
        reports.report(run.out)
    return run


def bring_to_end(planned: Iterable[Planned], cache: Path) -> dict[str, Outcome]:
    """Do what the workers of a run do, in this process."""
    outcomes = {}
    for cell in planned:
        if cell.done:
            outcomes[cell.digest] = Outcome(0, kept=True)
            continue
        try:
            work(cell, Cache(cache), torch.device("cpu"), Log(cell.folder))
            outcomes[cell.digest] = Outcome(0)
        except CoinbenchError as error:
            outcomes[cell.digest] = Outcome(error.exit_code, error=f"failed: {error}")
    return outcomes
