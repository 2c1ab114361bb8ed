"""What a worker does for one cell: problem, fit, evaluate, each a cached stage, then the cell's folder."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import torch

from coinbench import provenance, registry, weights
from coinbench.cache import Cache
from coinbench.coin import CoIN
from coinbench.config import Cell
from coinbench.errors import CoinbenchError, DataError, UsageError
from coinbench.evaluate import evaluate, fit_rng
from coinbench.files import read_json, write_json
from coinbench.log import Log
from coinbench.models import channels_last
from coinbench.plan import Planned, cell_digest, fit_digest
from coinbench.pretrain import WEIGHTS, load_problem
from coinbench.problem import Problem
from coinbench.specs import MethodSpec


def check_device(name: str) -> None:
    """Refuse a device that is not here, without touching it: a worker may be the only one allowed to.

    Raises:
        UsageError: no such device here.
    """
    if name == "auto":
        return
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise UsageError(f"--device {name}: this machine has {count} CUDA devices")


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; auto takes CUDA where there is one.

    Raises:
        UsageError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: not usable here ({str(error).splitlines()[0]})") from error
    return device


def work(planned: Planned, cache: Cache, device: torch.device, log: Log) -> None:
    """Bring one cell to its end: afterwards its folder holds results, weights, records, images and provenance."""
    cell = planned.cell
    spec: MethodSpec = registry.METHODS.load(cell.method.name)
    problem = load_problem(cell, cache, device, log)
    if problem.fingerprints["data"] != cell.data_fingerprint:
        raise DataError(f"{cell.dataset}: the data changed while the run was going on; run the same command again")

    fitted = cache.stage("fit", fit_digest(cell), lambda log: _fit(cell, spec, problem, log), log)
    coin = _load(cell, spec, problem, fitted)
    measured = cache.stage("evaluate", planned.digest, lambda log: evaluate(coin, spec, problem, cell, log), log)
    _assemble(planned, fitted, measured, _provenance(spec, problem, device))


def _shared(problem: Problem) -> tuple[torch.nn.Module, ...]:
    return problem.classifier, problem.generator, problem.perceptual


def _fit(cell: Cell, spec: MethodSpec, problem: Problem, log: Log) -> None:
    coin = spec.fit(cell.method, problem, fit_rng(cell), log)
    weights.save(coin, log.folder / WEIGHTS, _shared(problem), method=cell.method.name)


def _load(cell: Cell, spec: MethodSpec, problem: Problem, folder: Path) -> CoIN:
    # Loaded even right after training, so that a fresh run and a cached one measure the same tensors.
    coin = spec.build(cell.method, problem, fit_rng(cell))
    weights.load(coin, folder / WEIGHTS, _shared(problem))
    channels_last(coin)
    return coin.eval()


def _assemble(planned: Planned, fitted: Path, measured: Path, origin: dict[str, object]) -> None:
    """Make the cell's folder beside and rename it, so that it is whole or not there."""
    partial = planned.folder.with_name(f".{planned.digest}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for source in (fitted, measured):
            shutil.copytree(source, partial, dirs_exist_ok=True)
        write_json(partial / "cell.json", planned.cell.model_dump(mode="json"))
        write_json(partial / "provenance.json", {**origin, "seconds": _seconds(partial)})
        shutil.rmtree(planned.folder, ignore_errors=True)
        os.replace(partial, planned.folder)
    except OSError as error:
        raise CoinbenchError(
            f"{planned.folder}: cannot be written ({error.strerror}); free space or choose another --out"
        ) from error


def _provenance(spec: MethodSpec, problem: Problem, device: torch.device) -> dict[str, object]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "title": spec.title,
        "device": name if device.type == "cpu" else f"{name} ({device})",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": provenance.git_state(provenance.here()),
        "versions": provenance.versions(),
        "machine": provenance.machine(torch.get_num_threads()),
        "fingerprints": problem.fingerprints,
    }


def _seconds(folder: Path) -> dict[str, float | None]:
    log = folder / "train.csv"
    last = log.read_text(encoding="utf-8").splitlines()[-1].split(",") if log.is_file() else []
    return {"fit": float(last[1]) if last else None, **read_json(folder / "seconds.json")}


def planned_from(cell: Cell, folder: Path) -> Planned:
    """Return the plan of a cell that was read from disk."""
    return Planned(cell, cell_digest(cell), folder)
