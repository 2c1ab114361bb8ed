"""The story of a run: plan, place the cells on workers, collect their rows, report."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from coinbench import reports, resampled, results
from coinbench.across import rows_across
from coinbench.cache import Cache
from coinbench.digests import evaluate_digest, fit_digest
from coinbench.errors import unknown
from coinbench.executors.local import Executor, Outcome
from coinbench.files import write_json
from coinbench.outfolder import locked, record
from coinbench.plan import Planned, RunConfig, cells
from coinbench.preflight import check_ready, check_shares, unmeasured
from coinbench.progress import Display
from coinbench.reports.folder import load


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended."""

    out: Path
    outcomes: dict[str, Outcome]
    """Cell digest -> outcome, finished cells of earlier runs included."""
    planned: list[Planned]
    unavailable: dict[str, str] = field(default_factory=dict)
    """"cell: metric" -> why it has no numbers."""

    @property
    def exit_code(self) -> int:
        """0 all complete, 1 some cell failed or some metric unavailable, 130 interrupted (docs/exit-codes.md).

        Where nothing but wrong settings (2) or wrong data (4) made cells fail, it is their code.
        """
        codes = {outcome.exit_code for outcome in self.outcomes.values()} - {0}
        failed = codes - {130}
        if failed:
            return failed.pop() if len(failed) == 1 else 1
        return 130 if codes else int(bool(self.unavailable))


def run(
    config: RunConfig, out: Path, cache: Cache, executor: Executor, display: Display, force: tuple[str, ...] = ()
) -> Finished:
    """Bring every cell to its end and report; finished cells are kept, cut ones continue.

    The methods in `force` begin anew.

    Raises:
        UsageError: the folder belongs to another configuration or is in use.
        DataError: a data set is missing or damaged; nothing was fitted.
    """
    with locked(out):
        planned = cells(config, cache, out)
        check_ready(planned, cache)
        check_shares(planned, cache, executor.processes)
        for line in unmeasured(planned, cache):
            display.say(line)
        record(config, out)
        # Under the lock and after the check of the settings: what another run has or uses is never dropped.
        _forget([cell for cell in planned if cell.cell.method.name in force], cache)
        plan = {"cells": [cell.digest for cell in planned]}
        same = load(out / "plan.json") == plan
        if not same or not all(cell.done for cell in planned):
            # Gone before anything changes, so that a killed run leaves no report of other results.
            (out / "report.html").unlink(missing_ok=True)
        write_json(out / "plan.json", plan)
        outcomes = executor.run(planned, display)
        rows = out / "results.csv"
        before = rows.read_bytes() if rows.is_file() else b""
        unavailable = collect(planned, out)
        told = (out / "report.html").is_file() and before == rows.read_bytes()
        if any(cell.measured for cell in planned) and not told:
            display.say("writing tables, figures and report")
            reports.report(out)
    return Finished(out, outcomes, planned, unavailable)


def collect(planned: list[Planned], out: Path) -> dict[str, str]:
    """Join the rows of the finished cells into results.csv and .parquet; return the metrics without numbers."""
    import pandas as pd

    tables, unavailable, drawn = [], {}, {}
    for cell in planned:
        if not cell.measured:
            continue
        drawn |= {place._replace(cell=cell.digest): found for place, found in resampled.read(cell.folder).items()}
        table = results.read(cell.folder, cell.remedy)
        tables.append(table.assign(run=out.name, cell=cell.digest, variant=cell.cell.variant))
        for metric, reason in cell.unavailable.items():
            unavailable[f"{cell.label}: {metric}"] = reason
        # A dead concept has no images of its own (n = 0); a number about all of them must have.
        broken = table[table["value"].isna() | ((table["n"] == 0) & (table["subject"] == "all"))]
        for metric in sorted(set(broken["metric"])):
            unavailable[f"{cell.label}: {metric}"] = "no valid value"
    tables += rows_across(planned, out.name)
    if tables:
        results.write(pd.concat(tables, ignore_index=True), out)
        resampled.write(drawn, out)
    return unavailable


def check_methods(chosen: tuple[str, ...], config: RunConfig) -> None:
    """Refuse a method that a run does not have.

    Raises:
        UsageError: lists those that it has.
    """
    variants = [experiment for variants in config.experiments.values() for experiment in variants.values()]
    known = sorted({method.name for experiment in variants for method in experiment.methods.values()})
    for name in chosen:
        if name not in known:
            raise unknown("method of this run", name, known)


def _forget(planned: list[Planned], cache: Cache) -> None:
    """Drop what was trained and measured of cells, so that the run makes it anew."""
    for cell in planned:
        cache.drop("fit", fit_digest(cell.cell))
        cache.drop("evaluate", evaluate_digest(cell.cell))
        shutil.rmtree(cell.folder, ignore_errors=True)
