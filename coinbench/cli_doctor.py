"""`coinbench doctor`: what this machine has, and what a run would miss."""

from __future__ import annotations

import json

import typer

from coinbench.cli_options import (
    AsJson,
    CacheRoot,
    ConfigFile,
    Datasets,
    Methods,
    Metrics,
    Plugins,
    Sets,
    Variants,
    cache_of,
    request,
)


def doctor(
    methods: Methods = None,
    dataset: Datasets = None,
    metrics: Metrics = None,
    sets: Sets = None,
    variant: Variants = None,
    config: ConfigFile = None,
    plugin: Plugins = None,
    cache: CacheRoot = None,
    as_json: AsJson = False,
) -> None:
    """Report devices, memory, versions, cache, weights and data sets; of a given run, what it would miss."""
    from coinbench import registry
    from coinbench.doctor import as_text, examine

    resolved = None
    if methods or dataset or metrics or sets or variant or config:
        # Of a data set alone any method tells what f and G need.
        methods = methods or (None if config else registry.METHODS.names()[0])
        resolved = request(
            methods=methods, datasets=dataset, metrics=metrics, sets=sets, variants=variant, config=config
        )
    found = examine(cache_of(cache), resolved)
    print(json.dumps(found, indent=2) if as_json else as_text(found))
    if resolved is not None and not found["run"]["ready"]:
        raise typer.Exit(4)
