"""What this machine has, and whether a run could start on it. Downloads and writes nothing, never fails as a whole.

Each fact is asked for by itself: where one query fails, its place says `unknown` and why, and the rest is told.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from coinbench import registry
from coinbench.cache import Cache
from coinbench.data.official import OfficialConfig, lacking, root_of, way_to_get
from coinbench.errors import CoinbenchError, DataError, UsageError
from coinbench.log import Log
from coinbench.outlook import look
from coinbench.plan import RunConfig, dataset_config
from coinbench.published_weights import FILES, folder, present, verdict, verified

Facts = dict[str, Any]


def examine(cache: Cache, config: RunConfig | None) -> Facts:
    """Return the state of this machine by section; with a `config`, also what its run would miss."""
    queries: dict[str, Callable[[], Any]] = {
        "system": lambda: f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu,
        "devices": _devices,
        "versions": _versions,
        "extras": _extras,
        "cache": lambda: _cache(cache),
        "weights": lambda: {name: ask(_weights, name, cache) for name in FILES},
        "data sets": lambda: {name: ask(_dataset, name, cache) for name in registry.PROBLEMS.names()},
    }
    found = {name: ask(query) for name, query in queries.items()}
    return found if config is None else {**found, "run": readiness(config, cache)}


def ask(query: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer of a query, or {"unknown": reason} where it fails, whatever it fails of.

    >>> ask(lambda: 1), ask(lambda: 1 / 0)
    (1, {'unknown': 'ZeroDivisionError: division by zero'})
    """
    try:
        return query(*arguments)
    except Exception as error:
        return {"unknown": " ".join(f"{type(error).__name__}: {error}".split())}


def _cpu() -> Facts:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cores": os.cpu_count(), "usable cores": usable, "memory": ask(_total), "available": ask(_available)}


def _total() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _available() -> int:
    """Return the bytes that programs can still have, caches of files given up (Linux)."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise ValueError("no MemAvailable in /proc/meminfo")
    return 1024 * int(found[1])


def _devices() -> Facts:
    """Return what training can use; the one query that needs torch."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    built = {"cuda": torch.version.cuda or "not built in", "cudnn": ask(lambda: torch.backends.cudnn.version())}
    return {"auto": "cuda" if count else "cpu", **built} | {f"cuda:{i}": ask(_gpu, i) for i in range(count)}


def _gpu(number: int) -> Facts:
    import torch

    about = torch.cuda.get_device_properties(number)
    free = ask(lambda: torch.cuda.mem_get_info(number)[0])
    capability = f"{about.major}.{about.minor}"
    return {"name": about.name, "memory": about.total_memory, "free": free, "compute capability": capability}


def _names(extra: str | None) -> list[str]:
    """Return the packages that coinbench asks for, always or with an extra."""
    found = []
    for text in requires("coinbench") or []:
        of = re.search(r"extra == ['\"]([\w-]+)['\"]", text)
        name = re.match(r"[\w.-]+", text)
        if name and (of[1] if of else None) == extra:
            found.append(name[0])
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: _version(name) for name in ("coinbench", *_names(None))}


def _extras() -> dict[str, Any]:
    extras = metadata("coinbench").get_all("Provides-Extra") or []
    return {extra: {name: _version(name) for name in _names(extra)} for extra in extras}


def _cache(cache: Cache) -> Facts:
    there = next(place for place in (cache.root, *cache.root.parents) if place.is_dir())
    sizes = [path.lstat().st_size for path in cache.root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        "folder": str(cache.root),
        "writable": os.access(there, os.W_OK | os.X_OK),
        "size": sum(sizes),
        "files": len(sizes),
        "free on disk": shutil.disk_usage(there).free,
    }


def _weights(name: str, cache: Cache) -> str:
    here = folder(cache.root)
    state = present(name, here)
    if state == "not here":
        return f"not here; get them with `coinbench weights fetch {name}`"
    if state == "not converted":
        return f"here, not converted: `coinbench weights fetch {name}`"
    try:
        verified(name, cache.root, Log(here))
        return f"here, {verdict(name, here)}"
    except DataError as error:
        return str(error)


def _dataset(name: str, cache: Cache) -> str:
    try:
        config = dataset_config(name, ())
    except UsageError as error:
        # It needs a setting that only the user knows.
        return str(error)
    spec = registry.PROBLEMS.load(name)
    if spec.official is None or not isinstance(config, OfficialConfig):
        try:
            spec.open(config, cache.root)
        except DataError as error:
            return str(error)
        return "here"
    # Not opened: that would read every image where nobody did before.
    if lacking(spec.official, config, cache.root):
        return f"not here; {way_to_get(spec.official, config, cache.root)}"
    return f"here, in {root_of(config, cache.root)}"


def readiness(config: RunConfig, cache: Cache) -> Facts:
    """Return whether `run` could start, how far its cells are, and each thing it would miss, with the remedy.

    Metrics without numbers keep no run from starting. Of data that are missing the published size stands in, so that
    weights are looked for at the same time.
    """
    count = 0
    missed: list[str] = []
    without: list[str] = []
    for dataset, variants in config.experiments.items():
        part = config.model_copy(update={"experiments": {dataset: variants}})
        try:
            seen = look(part, cache, Path("."))
        except CoinbenchError as error:
            missed.append(str(error))
            continue
        count += len(seen.planned)
        missed += seen.missing
        without += seen.unmeasured
    there = next(place for place in (cache.root, *cache.root.parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        missed.append(f"{there}: the cache cannot be written; change its permissions or set --cache DIR")
    return {"ready": not missed, "cells": count, "missing": list(dict.fromkeys((*missed, *without)))}


_BYTES = ("memory", "available", "free", "size", "free on disk")


def as_text(found: Facts) -> str:
    """Return the facts as lines, each under its section; the same facts as the JSON form."""
    lines: list[str] = []
    for section, facts in found.items():
        if not isinstance(facts, dict) or "unknown" in facts:
            lines.append(f"{section}: {_shown('', facts)}")
            continue
        lines.append(f"{section}:")
        width = max((len(name) for name in facts), default=0)
        for name, value in facts.items():
            values = value if isinstance(value, list) else [value]
            lines += [f"  {name:<{width}}  {_shown(name, one)}" for one in values]
    return "\n".join(lines)


def _shown(name: str, value: Any) -> str:
    if isinstance(value, dict):
        if "unknown" in value:
            return f"unknown: {value['unknown']}"
        return ", ".join(f"{key} {_shown(key, part)}" for key, part in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value / 2**30:.1f} GiB" if name in _BYTES and isinstance(value, int) else str(value)
