"""Options that commands share, and what commands make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coinbench.cli_info import Plugins as Plugins

Methods = Annotated[str | None, typer.Option("--methods", "-m", help="Methods, as viscoin,flint.")]
Datasets = Annotated[str | None, typer.Option("--dataset", "-d", help="Data sets, as birds or birds,digits.")]
Seeds = Annotated[str | None, typer.Option("--seeds", "-s", help="Seeds, as 0 or 0,1,2 or 0:3 (default 0).")]
Metrics = Annotated[str | None, typer.Option("--metrics", help="Metrics (default: all).")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="path=value, as method.gamma=0.2 or data.size=64; repeat for more.")
]
Variants = Annotated[
    list[str] | None,
    typer.Option("--variant", help="NAME:path=value[;path=value], or paper, released (VisCoIN); a run of each."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML with the same keys, or the config.json of a run.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Measure on so many test images only.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Output folder (default runs/DATASET).")]
CacheRoot = Annotated[Path | None, typer.Option("--cache", help="Shared cache (default $COINBENCH_CACHE).")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print results as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Devices = Annotated[
    int, typer.Option("--devices", min=1, help="Processes that share each cell, each on a device of its own.")
]
AutoBatch = Annotated[
    bool, typer.Option("--auto-batch", help="Out of memory: go on with parts of each batch, one device only.")
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Cells at a time.")]


def request(*, limit: int | None = None, **given: Any) -> Any:
    """Return the resolved configuration of a run, from its options by name.

    Raises:
        UsageError: anything unknown or out of range.
    """
    from coinbench.plan import Request, resolve

    sets = tuple(given.pop("sets") or ())
    sets += (f"evaluation.limit={limit}",) if limit else ()
    return resolve(Request(sets=sets, variants=tuple(given.pop("variants") or ()), **given))


def cache_of(root: Path | None) -> Any:
    """Return the cache at `root`, or the usual one."""
    from coinbench.cache import Cache, default_root

    return Cache((root or default_root()).absolute())


def out_of(out: Path | None, config: Any) -> Path:
    """Return the output folder of a run."""
    return (out or Path("runs") / "-".join(config.experiments)).absolute()
