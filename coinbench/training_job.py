"""One training of f, G or p by itself, in this process: progress, signals, and where the weights lie."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from coinbench.cache import Cache
from coinbench.errors import UsageError
from coinbench.files import read_json, write_atomically
from coinbench.generators.stylegan2 import NETWORKS
from coinbench.log import Log, stopping
from coinbench.plan import RunConfig, cells
from coinbench.pretrain import WEIGHTS, Stage, make
from coinbench.progress import Display
from coinbench.selection import RECORD
from coinbench.work import choose_device


def run(
    kind: str, config: RunConfig, cache: Cache, device: str, quiet: bool, tensorboard: bool, out: Path | None
) -> dict[str, Any]:
    """Train the network of the one data set of `config`; return what was made and where.

    Raises:
        UsageError: more than one data set, or nothing to train.
        DataError: the data or a checkpoint are damaged.
        CoinbenchError: the cache or `out` cannot be written.
        Interrupted: a signal came; the same command resumes.
    """
    planned = cells(config, cache, Path("."))
    if len(config.experiments) > 1:
        raise UsageError(f"pretrain: one data set at a time, got {', '.join(config.experiments)}")
    if len(variants := next(iter(config.experiments.values()))) > 1:
        raise UsageError(f"pretrain: one variant at a time, got {', '.join(variants)}")
    cache.check_writable()
    # Trained here, whatever is shipped: that is what was asked for.
    tree = planned[0].cell.model_dump(mode="json")
    tree["problem"]["pretrained"] = False
    cell = type(planned[0].cell).model_validate(tree)
    began = time.monotonic()
    with Display(quiet) as display:
        log = Log(cache.root, lambda event: display.event(cell.dataset, event), stage=kind, tensorboard=tensorboard)
        with stopping(log):
            stage = make(kind, cell, cache, choose_device(device), log)
    folder = cache.path(stage.kind, stage.digest)
    whole = folder / NETWORKS
    if out is not None:
        # Where a generator left G, D and the average, a later training can start from them.
        _copy(whole if whole.is_file() else folder / WEIGHTS, out)
    return _told(kind, stage, folder, out, time.monotonic() - began)


def _copy(source: Path, out: Path) -> None:
    with write_atomically(out) as temporary:
        shutil.copyfile(source, temporary)


def _told(kind: str, stage: Stage, folder: Path, out: Path | None, seconds: float) -> dict[str, Any]:
    told: dict[str, Any] = {kind: stage.digest, "folder": str(folder), "weights": str(out or folder / WEIGHTS)}
    judged = folder / "judged.csv"
    if judged.is_file():
        header, *_, last = judged.read_text(encoding="utf-8").splitlines()
        told |= dict(zip(header.split(","), last.split(","), strict=True))
    samples = sorted(folder.glob("samples-*.png"))
    if (folder / RECORD).is_file():
        chosen = read_json(folder / RECORD)
        told |= {state: ", ".join(f"{k} {v}" for k, v in chosen[state].items()) for state in ("best", "last")}
    return told | ({"samples": os.fspath(samples[-1])} if samples else {}) | {"seconds": round(seconds, 1)}
