"""`coinbench pretrain`: train f, G or p of a data set alone; what `run` would do, in the same cache."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coinbench.cli_info import AsJson, CacheRoot, Plugins


class Kind(StrEnum):
    """What can be trained before the methods."""

    classifier = "classifier"
    generator = "generator"
    perceptual = "perceptual"
    parts = "parts"


def pretrain(
    kind: Annotated[Kind, typer.Argument(help="f, G, p, or f_part, the judge of part consistency.")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="One data set.")],
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="path=value, as problem.generator.net=stylegan2; repeat for more.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML with the same keys.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also copy the weights to this file.")] = None,
    plugin: Plugins = None,
    cache: CacheRoot = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also log to TensorBoard.")] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Train f, G, p or f_part of a data set. The same command resumes."""
    from coinbench import registry
    from coinbench.cache import Cache, default_root
    from coinbench.plan import Request, resolve

    # Any method will do: f, G and p know none.
    methods = None if config else registry.METHODS.names()[0]
    resolved = resolve(Request(methods=methods, datasets=dataset, config=config, sets=tuple(sets or ())))
    from coinbench.training_job import run

    shared = Cache((cache or default_root()).absolute())
    made = run(str(kind), resolved, shared, device, quiet, tensorboard, out)
    print(json.dumps(made, indent=2) if as_json else "\n".join(f"{name}: {value}" for name, value in made.items()))
