"""`coinbench audit`: are the numbers right, and which of them catches an entrant that games the others?"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Annotated

import typer

from coinbench.cli_options import AsJson, CacheRoot, Device, Metrics, Plugins, Quiet, Sets, cache_of


def audit(
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="One that can draw its images anew.")] = "birds",
    metrics: Metrics = None,
    train: Annotated[int, typer.Option("--train", min=20, help="Training images used.")] = 120,
    images: Annotated[int, typer.Option("--images", min=20, help="Test images used.")] = 60,
    sets: Sets = None,
    plugin: Plugins = None,
    cache: CacheRoot = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure an oracle, damaged ones, and entrants that know nothing or cheat; code 3 if one is not caught."""
    from coinbench.audit import run, text
    from coinbench.audit.setting import prepare, unmeasured
    from coinbench.plan import names
    from coinbench.work import check_device, choose_device

    shared = cache_of(cache)
    check_device(device)
    shared.check_writable()
    bench, oracle = prepare(dataset, names(metrics), tuple(sets or ()), train, images, shared, choose_device(device))
    say = (lambda line: None) if quiet else (lambda line: print(f"coinbench: audit: {line}", file=sys.stderr))
    found = run.audit(bench, oracle, say)
    found = replace(
        found, unavailable={**(unmeasured(bench.metrics, dataset) if not metrics else {}), **found.unavailable}
    )
    head = (
        f"{len(bench.problem.train)} training and {len(bench.problem.test)} test images of {dataset}, "
        f"{len(bench.metrics)} metrics, evaluation seed {bench.config.seed}."
    )
    print(json.dumps(text.as_dict(found), indent=2) if as_json else text.markdown(found, head))
    raise typer.Exit(3 if found.uncaught or found.unwarned else 0)
