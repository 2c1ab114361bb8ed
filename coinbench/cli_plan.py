"""`coinbench plan`: the cells of a run, what of each is done, and what the rest would cost."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from coinbench.cli_options import (
    AsJson,
    CacheRoot,
    ConfigFile,
    Datasets,
    Device,
    Jobs,
    Limit,
    Methods,
    Metrics,
    Out,
    Plugins,
    Quiet,
    Seeds,
    Sets,
    Variants,
    cache_of,
    out_of,
    request,
)


def plan(
    methods: Methods = None,
    dataset: Datasets = None,
    seeds: Seeds = None,
    metrics: Metrics = None,
    sets: Sets = None,
    variant: Variants = None,
    config: ConfigFile = None,
    limit: Limit = None,
    plugin: Plugins = None,
    out: Out = None,
    cache: CacheRoot = None,
    device: Device = "auto",
    jobs: Jobs = 1,
    steps: Annotated[int, typer.Option("--steps", min=1, max=1000, help="Steps of each training to measure.")] = 16,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Try steps, or list the cells alone.")] = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print the cells of a run, what of each is done, and what the rest would cost by a trial of it; run nothing."""
    from coinbench import outlook
    from coinbench.estimate import estimate
    from coinbench.plan_text import as_text
    from coinbench.progress import Display

    resolved = request(
        methods=methods,
        datasets=dataset,
        seeds=seeds,
        metrics=metrics,
        sets=sets,
        variants=variant,
        config=config,
        limit=limit,
    )
    shared = cache_of(cache)
    seen = outlook.survey(resolved, shared, out_of(out, resolved))
    found = outlook.told(seen, shared)
    if measure:
        from coinbench.work import check_device

        check_device(device)
        with Display(quiet) as display:
            found["estimate"] = estimate(seen, shared, jobs, steps, device, display)
    print(json.dumps(found, indent=2) if as_json else as_text(found))


def trial(device: Device = "auto") -> None:
    """Do the trials that `plan` asks for on stdin."""
    from coinbench.trial_cell import serve

    serve(device)
