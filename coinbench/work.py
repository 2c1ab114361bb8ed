"""What a worker does for one cell: problem, fit, evaluate, each a cached stage, then the cell's folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from coinbench import contract, fast, registry
from coinbench.artefact import Artefact, fit_rng, load_coin, origin, save_coin
from coinbench.cache import Cache
from coinbench.config import Cell
from coinbench.digests import cell_digest, evaluate_digest, fit_digest
from coinbench.errors import DataError, UsageError
from coinbench.evaluate import evaluate
from coinbench.files import read_json
from coinbench.group import NEEDS_EXTRA
from coinbench.log import Log
from coinbench.plan import Planned
from coinbench.pretrain import load_problem
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


def check_devices(name: str, count: int) -> None:
    """Refuse processes that cannot be started here, before anything is begun.

    Raises:
        UsageError: the extra is missing, one device was named, or there are too few.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name}: names one device; with --devices {count} give auto, cpu or cuda")
    here = torch.cuda.device_count()
    if name != "cpu" and (name == "cuda" or here) and here < count:
        raise UsageError(f"--devices {count}: this machine has {here} CUDA devices")
    if find_spec("lightning_fabric") is None:
        raise UsageError(f"--devices {count}: {NEEDS_EXTRA}")


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

    def fit(log: Log) -> None:
        with contract.blaming(cell.method.name):
            with contract.raising("fit", spec.fit), fast.accelerated(problem, cell.method.train):
                coin = spec.fit(cell.method, problem, fit_rng(cell), log)
            contract.check_coin(coin, "fit")
        log.group.lead(lambda: save_coin(coin, problem, log.folder, cell.method.name))

    fitted = cache.stage("fit", fit_digest(cell), fit, log)
    # Loaded even right after training, so that a fresh run and a cached one measure the same tensors.
    coin = load_coin(cell, problem, fitted)
    key = evaluate_digest(cell)
    measured = cache.stage("evaluate", key, lambda log: evaluate(coin, spec, problem, cell, cache, log), log)

    def store() -> None:
        # A worker whose run was killed may still be here when the run is issued again.
        with cache.lock("cell", planned.digest, log):
            Artefact(planned.folder).assemble(cell, (fitted, measured), origin(spec, problem))
        if read_json(measured / "unavailable.json"):
            # The same command tries again what has no numbers.
            cache.drop("evaluate", key)

    log.group.lead(store)


def planned_from(cell: Cell, folder: Path) -> Planned:
    """Return the plan of a cell that was read from disk."""
    return Planned(cell, cell_digest(cell), folder)
