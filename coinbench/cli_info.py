"""Commands that tell: what there is, and what a name stands for."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(
    help="Look at and check data sets.", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="A data set, as birds.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="path=value, as data.root=DIR.")]
CacheRoot = Annotated[Path | None, typer.Option("--cache", help="Shared cache.")]


def _use(paths: list[Path] | None) -> list[Path] | None:
    from coinbench import plugins

    plugins.use(paths or ())
    return paths


Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", callback=_use, help="A file with methods, metrics or data sets."),
]
"""Its callback does all: commands need not look at the value."""


def _keep_off(given: bool) -> bool:
    from coinbench import fetch

    if given:
        # Workers inherit it.
        os.environ[fetch.OFFLINE] = "1"
    return given


Offline = Annotated[bool, typer.Option("--offline", callback=_keep_off, help="Fetch nothing ($COINBENCH_OFFLINE=1).")]
"""Likewise."""


def ls(
    kind: Annotated[str | None, typer.Argument(help="methods, datasets, metrics or generators.")] = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """List what can be named: methods, data sets, metrics, generators."""
    from coinbench.catalogue import ignored, listing

    found = listing(kind)
    for line in ignored():
        print(f"coinbench: {line}", file=sys.stderr)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for title, rows in found.items():
        print(title)
        for name, summary in rows.items():
            print(f"  {name:<14} {summary}")


def info(
    name: Annotated[
        str, typer.Argument(help="A method, data set, metric or generator; or problem, evaluation, train.")
    ],
    plugin: Plugins = None,
) -> None:
    """Say what a name stands for: source, settings with defaults and ranges, protocol, null."""
    from coinbench.catalogue import describe

    print(describe(name))


def _config(name: str, sets: list[str] | None):
    from coinbench.plan import dataset_config

    return dataset_config(name, tuple(sets or ()))


@data_app.command()
def prepare(
    name: Name,
    root: Annotated[
        Path | None, typer.Option("--root", help="Where the data set lies or shall lie; default: in the cache.")
    ] = None,
    fetch: Annotated[bool, typer.Option("--download", help="Fetch what is missing.")] = False,
    mirror: Annotated[
        str | None, typer.Option("--mirror", metavar="URL", help="Folder with the archives under their own names.")
    ] = None,
    sets: Sets = None,
    cache: CacheRoot = None,
    plugin: Plugins = None,
    offline: Offline = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Fetch or find the archives of a data set, verify and unpack them, check every image. Resumes."""
    from coinbench.cache import default_root
    from coinbench.data.prepare import run

    for line in run(name, tuple(sets or ()), root, (cache or default_root()).absolute(), fetch, mirror, quiet):
        print(line)


@data_app.command()
def verify(name: Name, sets: Sets = None, cache: CacheRoot = None, plugin: Plugins = None) -> None:
    """Read all of a data set anew, check it against what was recorded, and count it."""
    from coinbench.cache import default_root
    from coinbench.data.verify import verify

    for line in verify(_config(name, sets), (cache or default_root()).absolute()):
        print(line)


@data_app.command()
def card(name: Name, sets: Sets = None, cache: CacheRoot = None, plugin: Plugins = None) -> None:
    """Print source, licence, classes and counts of a data set, as Markdown."""
    from coinbench.cache import Cache, default_root
    from coinbench.data.verify import card
    from coinbench.pretrain import open_source

    config = _config(name, sets)
    print(card(open_source(config, Cache((cache or default_root()).absolute())), config))
