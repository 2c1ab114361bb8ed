"""What a chain of gpu_session.py leaves behind: the average of G, curves, tables, pictures, an archive."""

from __future__ import annotations

import csv
import math
import shutil
import tarfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from coinbench.cache import CHECKPOINT
from coinbench.errors import DataError
from coinbench.files import read_json
from coinbench.generators.stylegan2 import BEST, NETWORKS

ROOM = 15 * 2**20
"""Bytes that an archive may take, before compression."""
HEAVY = {".safetensors", ".npy", ".lock"}
"""Of a cache and a run, what an archive leaves out: weights but those of G, and decoded images."""
POINTS = 100
"""Rows of a curve that are kept."""


def average_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the average of G that a finished or stopped training left, under the names that `init` takes.

    The best one by Fréchet distance on f; without f that of the end, or of the last checkpoint.

    Raises:
        DataError: the training had not got so far.
    """
    for name, prefix in ((BEST, "G_ema."), (NETWORKS, "G_ema."), (CHECKPOINT, "average.")):
        if (folder / name).is_file():
            with safe_open(folder / name, framework="pt") as file:
                keys = [key for key in list(file.keys()) if key.startswith(prefix)]
                return {f"G_ema.{key.removeprefix(prefix)}": file.get_tensor(key) for key in keys}
    raise DataError(f"{folder}: holds no average of G; give its training more time")


def rows_of(path: Path) -> list[dict[str, float]]:
    """Return the rows of train.csv or judged.csv; none where there is no file yet."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]


def thinned(rows: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """Return a curve by column, at most POINTS rows of it, the last one among them; null where it is not finite.

    >>> thinned([{"step": 1.0, "loss": 2.0}, {"step": 2.0, "loss": float("nan")}])
    {'step': [1.0, 2.0], 'loss': [2.0, None]}
    """
    every = math.ceil(len(rows) / POINTS) or 1
    kept = rows[::-1][::every][::-1]
    columns = list(dict.fromkeys(name for row in kept for name in row))
    values = {name: [row.get(name, math.nan) for row in kept] for name in columns}
    return {name: [float(f"{x:.5g}") if math.isfinite(x) else None for x in found] for name, found in values.items()}


def results(folder: Path, run: Path) -> dict[str, Any]:
    """Return what a chain has reached: how far G is, steps of each method, curves, tables.

    Args:
        folder: of the chain.
        run: the output folder of its `coinbench run`.
    """
    found: dict[str, Any] = {"curves": {}, "methods": {}, "tables": {}}
    for kind in ("classifier", "generator"):
        for stage in sorted((folder / "cache" / kind).glob("*/train.csv"))[:1]:
            rows = rows_of(stage)
            found["curves"][kind] = thinned(rows)
            if kind == "generator":
                # The rate of the last process: the first steps of each choose kernels.
                names = ("step", "kimg", "seconds", "p", "sign", "seconds per kimg")
                last = {name: rows[-1][name] for name in names if name in rows[-1]} if rows else {}
                judged = rows_of(stage.with_name("judged.csv"))
                whole = stage.parent.suffix != ".partial"
                found["generator"] = {"finished": whole, "last": last, "judged": judged}
    for path in sorted(run.glob("cells/*/cell.json")):
        cell = read_json(path)
        name = cell["method"]["name"]
        rows = rows_of(path.with_name("train.csv"))
        done = path.with_name("provenance.json")
        seconds = read_json(done)["seconds"] if done.is_file() else None
        reached = int(rows[-1]["step"]) if rows else 0
        found["methods"][name] = {"steps": cell["method"]["train"]["steps"], "reached": reached, "seconds": seconds}
        found["curves"][name] = thinned(rows)
    for path in sorted(run.glob("tables/*.md")):
        found["tables"][path.stem] = path.read_text(encoding="utf-8")
    return found


def pack(folder: Path, run: Path, average: Path, out: Path, shipped: bool) -> None:
    """Write out/NAME with grids and sheets, and out/NAME.tar.gz with what a chain made, whatever came of it.

    Args:
        folder: of the chain; its name is NAME.
        run: the output folder of its `coinbench run`.
        average: the average of G.
        out: gets both.
        shipped: keep the finished networks too, which `ship.py` reads.
    """
    if not folder.is_dir():
        return
    pictures = out / folder.name
    pictures.mkdir(parents=True, exist_ok=True)
    grids = sorted((folder / "cache" / "generator").glob("*/samples-*.png"), key=lambda path: path.name)
    for path in (*grids[-1:], *sorted(run.glob("figures/*.png"))):
        shutil.copyfile(path, pictures / path.name)
    if average.is_file():
        with safe_open(average, framework="pt") as file:
            half = {key: file.get_tensor(key).half() for key in list(file.keys())}
        save_file(half, folder / "G-fp16.safetensors")
    with tarfile.open(out / f"{folder.name}.tar.gz", "w:gz", compresslevel=6) as archive:
        room = ROOM
        kept = (path for path in folder.rglob("*") if _kept(path, folder, shipped))
        for path in sorted(kept, key=_rank):
            if (size := path.stat().st_size) <= room:
                archive.add(path, path.relative_to(folder.parent))
                room -= size


def _rank(path: Path) -> tuple[int, int, str]:
    """Return what is packed first: texts and numbers, weights, pictures of the run, grids, newest first."""
    if path.name.startswith("samples-"):
        return 3, -int(path.stem.partition("-")[2]), path.name
    kind = {".csv": 0, ".json": 0, ".txt": 0, ".md": 0, ".safetensors": 1}.get(path.suffix, 2)
    return kind, path.stat().st_size, str(path)


def _kept(path: Path, folder: Path, shipped: bool) -> bool:
    if not path.is_file():
        return False
    inner = path.relative_to(folder)
    if len(inner.parts) == 1:
        return inner.suffix in (".txt", ".json") or inner.name == "G-fp16.safetensors"
    if inner.parts[0] == "run":
        return path.suffix not in HEAVY
    # What `ship.py` reads is whole, where it is small: the finished stages of a chain that has no methods.
    whole = shipped and inner.name == "weights.safetensors"
    return inner.parts[0] == "cache" and (whole or path.suffix in (".csv", ".png", ".json"))


def print_ends(failed: dict[Path, str], room: int) -> None:
    """Print the end of the log of each chain that failed, within so many characters."""
    for log, error in failed.items():
        print(f"\n=== {log.parent.name}: {error}")
        if log.is_file():
            print(log.read_text(encoding="utf-8", errors="replace")[-room // len(failed) :])


def table(chains: dict[str, dict[str, Any]]) -> str:
    """Return a line for each command, and what was reached."""
    lines = []
    for name, told in chains.items():
        for call in told["commands"]:
            words = " ".join(call["command"].split()[1:3])
            lines.append(f"{name:10} {words:24} exit {call['exit']:4} {call['seconds']:7.1f} s")
        if last := told.get("generator", {}).get("last"):
            fd = [f"{row['kimg']:g}:{row['fd_f']:.4g}" for row in told["generator"]["judged"][-6:]]
            reached = ", ".join(f"{key} {value:g}" for key, value in last.items())
            lines.append(f"{name:10} G: {reached}; FD-f by kimg {' '.join(fd)}")
        steps = ", ".join(f"{method} {row['reached']}" for method, row in told["methods"].items())
        lines += [f"{name:10} steps: {steps}"] if steps else []
        lines.append(f"{name:10} {'finished' if told['finished'] else 'unfinished: the same command goes on'}")
    return "\n".join(lines)
