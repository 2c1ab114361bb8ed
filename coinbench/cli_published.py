"""Commands about published numbers: `table`, `repro`, `ablate`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coinbench.cli_info import Offline
from coinbench.cli_options import AsJson, CacheRoot, Device, Jobs, Out, Plugins, Quiet, Sets, cache_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coinbench.plan import RunConfig
    from coinbench.reports.effects import Effect
    from coinbench.reports.paper_run import PaperRun
    from coinbench.run import Finished
    from coinbench.sweeps import Sweep


class Format(StrEnum):
    """What a table can be written as."""

    md = "md"
    tex = "tex"
    csv = "csv"
    html = "html"


Plan = Annotated[bool, typer.Option("--plan", help="Print the cells, which of them are there, and stop.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failed cell.")]


def table(
    name: Annotated[str, typer.Argument(metavar="TABLE", help="As 1a, 2b, 14, figure8 or viscoin-table5.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Output folder of a run (default: published numbers alone).")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", "-f", help="md, tex, csv or html.")] = Format.md,
) -> None:
    """Lay a table of the paper out, with the numbers of a run beside the published ones and a verdict on each."""
    from coinbench.published import find
    from coinbench.reports import paper_tables, paper_text
    from coinbench.reports.folder import read_folder
    from coinbench.reports.paper_run import PaperRun

    paper, wanted = find(name)
    run = PaperRun(read_folder(folder.absolute())) if folder else None
    print(paper_text.render(paper_tables.build(paper, wanted, run), format_.value), end="")


def repro(
    name: Annotated[str, typer.Argument(metavar="TABLE", help="As viscoin-table5, or 5.")],
    seeds: Annotated[str, typer.Option("--seeds", "-s", help="Seeds, as 0 or 0:3.")] = "0",
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", help="Another data set than the table's: nothing is comparable then."),
    ] = None,
    sets: Sets = None,
    plan_only: Plan = False,
    plugin: Plugins = None,
    out: Out = None,
    cache: CacheRoot = None,
    device: Device = "auto",
    jobs: Jobs = 1,
    fail_fast: FailFast = False,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Plan, run and judge a whole table of the paper; exit code 3 if a comparable number differs."""
    from coinbench import repro as reproduction
    from coinbench.published import find, label_of
    from coinbench.reports import paper_tables, paper_text

    paper, wanted = find(name)
    config = reproduction.resolved(paper, wanted, seeds, dataset, tuple(sets or ()))
    label = f"{paper.key}-{label_of(wanted.id)}"
    place = (out or Path("runs") / label).absolute()
    lines = reproduction.lacking(wanted, config)
    if plan_only:
        _show_plan(config, place, cache, lines, as_json)
        return
    finished = _perform(config, place, cache, device, jobs, fail_fast, quiet, lines)
    found = None
    if any(cell.measured for cell in finished.planned):
        found = paper_tables.build(paper, wanted, _run_of(place))
        _write(place / "tables", {f"{label}.{kind}": paper_text.render(found, kind) for kind in paper_text.FORMATS})
    differing = found.differing if found else 0
    if as_json:
        judged = [] if found is None else [cell.verdict for _, cell in found.judged]
        verdicts = {verdict: judged.count(verdict) for verdict in (paper_tables.REPRODUCED, paper_tables.DIFFERS)}
        print(
            json.dumps({"table": label, "out": str(place), "verdicts": verdicts, "cells": _cells(finished)}, indent=2)
        )
    elif found:
        print(paper_text.to_markdown(found), end="")
    raise typer.Exit(_code(finished, differing))


def ablate(
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="One data set.")],
    preset: Annotated[
        list[str] | None, typer.Option("--preset", "-p", help="table14 to table21 of the paper, several, or all.")
    ] = None,
    axis: Annotated[
        list[str] | None, typer.Option("--axis", "-a", help="path=values, as method.gamma=0,0.1,0.2; repeat for more.")
    ] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="One method.")] = "viscoin",
    seeds: Annotated[str, typer.Option("--seeds", "-s", help="Seeds, as 0 or 0:3.")] = "0:3",
    metrics: Annotated[str | None, typer.Option("--metrics", help="Metrics (default: those of the tables).")] = None,
    sets: Sets = None,
    plan_only: Plan = False,
    plugin: Plugins = None,
    out: Out = None,
    cache: CacheRoot = None,
    device: Device = "auto",
    jobs: Jobs = 1,
    fail_fast: FailFast = False,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Vary settings of a method, one at a time, as the paper's ablations do; f, G and equal cells are shared."""
    from coinbench import sweeps
    from coinbench.published.settings import RULE

    given = tuple(sets or ())
    chosen = sweeps.chosen(preset or (), axis or (), sweeps.tree_of(dataset, method, given))
    config = sweeps.resolved(chosen, dataset, method, seeds, given, metrics)
    place = (out or Path("runs") / f"ablate-{dataset}").absolute()
    lines = [f"{one.name}: " + ", ".join(f"{p.label} is {p.variant}" for p in one.points) for one in chosen]
    lines += [RULE] if preset else []
    if plan_only:
        _show_plan(config, place, cache, lines, as_json)
        return
    finished = _perform(config, place, cache, device, jobs, fail_fast, quiet, lines)
    if any(cell.measured for cell in finished.planned):
        _ablations(place, chosen, method, as_json, finished)
    raise typer.Exit(_code(finished, 0))


def _ablations(place: Path, chosen: Sequence[Sweep], method: str, as_json: bool, finished: Finished) -> None:
    """Write and print tables, directions and figures of ablations."""
    from coinbench.published import find
    from coinbench.reports import ablation, drawing, effects, paper_tables, paper_text

    run = _run_of(place)
    (shown,) = run.datasets()
    texts: dict[str, str] = {}
    found_effects: list[Effect] = []
    for one in chosen:
        if one.name.startswith("table"):
            paper, wanted = find(one.name)
            found = paper_tables.build(paper, wanted, run)
            texts |= {f"{paper.key}-{one.name}.{kind}": paper_text.render(found, kind) for kind in paper_text.FORMATS}
            found_effects += effects.effects(paper, wanted, run, shown)
        else:
            texts[f"ablation-{one.name}.md"] = ablation.axis_lines(one.named, run.numbers, shown, method)
        for plot in ablation.plots(one.name, one.title, one.named, run.numbers, shown, method):
            drawing.save(plot, place / "figures")
    if found_effects:
        texts["ablation-directions.md"] = effects.as_text(found_effects)
    _write(place / "tables", texts)
    if as_json:
        print(
            json.dumps(
                {"out": str(place), "effects": effects.as_rows(found_effects), "cells": _cells(finished)}, indent=2
            )
        )
    else:
        print("\n".join(text for name, text in texts.items() if name.endswith(".md")), end="")


def _run_of(place: Path) -> PaperRun:
    from coinbench.reports.folder import read_folder
    from coinbench.reports.paper_run import PaperRun

    return PaperRun(read_folder(place))


def _write(folder: Path, texts: dict[str, str]) -> None:
    from coinbench.files import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def _show_plan(config: RunConfig, place: Path, cache: Path | None, lines: list[str], as_json: bool) -> None:
    """Print the cells of a run and how far each is; nothing is measured."""
    from coinbench import outlook
    from coinbench.plan_text import as_text

    shared = cache_of(cache)
    found = outlook.told(outlook.survey(config, shared, place), shared)
    print(json.dumps({**found, "notes": lines}, indent=2) if as_json else "\n".join((*lines, as_text(found))))


def _perform(
    config: RunConfig,
    place: Path,
    cache: Path | None,
    device: str,
    jobs: int,
    fail_fast: bool,
    quiet: bool,
    lines: list[str],
) -> Finished:
    """Say what will run, and run it."""
    from coinbench.executors.local import LocalExecutor
    from coinbench.progress import Display
    from coinbench.run import run
    from coinbench.work import check_device

    check_device(device)
    shared = cache_of(cache)
    shared.check_writable()
    executor = LocalExecutor(jobs, shared.root, device, fail_fast=fail_fast)
    with executor.stopped_by_signals(), Display(quiet) as display:
        for line in (*lines, _size(config)):
            display.say(line)
        finished = run(config, place, shared, executor, display)
        for cell in finished.planned:
            if finished.outcomes[cell.digest].exit_code:
                display.say(f"{cell.label}: {finished.outcomes[cell.digest].error}")
        for name, reason in finished.unavailable.items():
            display.say(f"{name}: not available, because {reason}")
    return finished


def _size(config: RunConfig) -> str:
    """Return how large a run is, before it begins."""
    variants = [(d, name, each) for d, every in config.experiments.items() for name, each in every.items()]
    cells = sum(len(each.methods) for _, _, each in variants) * len(config.seeds)
    steps = sum(method.train.steps for _, _, each in variants for method in each.methods.values()) * len(config.seeds)
    metrics = ", ".join(config.metrics)
    return f"{cells} cells, {len(config.seeds)} seeds, {steps} training steps of methods, metrics {metrics}"


def _cells(finished: Finished) -> list[dict[str, Any]]:
    return [
        {
            "cell": cell.digest,
            "label": cell.label,
            "exit": finished.outcomes[cell.digest].exit_code,
            "error": finished.outcomes[cell.digest].error,
        }
        for cell in finished.planned
    ]


def _code(finished: Finished, differing: int) -> int:
    """Return the exit code: what kept cells from being run goes before what their numbers say."""
    return 3 if differing and finished.exit_code in (0, 1) else finished.exit_code
