"""`coinbench plan`: the cells of a run, what of each is done, and what the rest would cost."""

from __future__ import annotations

import json

from coinbench.cli_options import (
    AsJson,
    CacheRoot,
    ConfigFile,
    Datasets,
    Limit,
    Methods,
    Metrics,
    Out,
    Plugins,
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
    as_json: AsJson = False,
) -> None:
    """Print the cells of a run, what of each is done, and what is left to train; run nothing."""
    from coinbench.plan import cells
    from coinbench.summary import plan_rows, plan_text

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
    rows = plan_rows(cells(resolved, shared, out_of(out, resolved)), shared)
    print(json.dumps(rows, indent=2) if as_json else plan_text(rows))
