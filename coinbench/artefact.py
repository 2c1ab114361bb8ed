"""A finished cell on disk: weights as safetensors, everything else as JSON, CSV and Parquet; nothing pickled."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from coinbench import contract, provenance, registry, weights
from coinbench.cache import Cache
from coinbench.coin import CoIN
from coinbench.config import Cell
from coinbench.errors import CoinbenchError, DataError
from coinbench.files import read_json, write_json
from coinbench.log import Log
from coinbench.models import channels_last
from coinbench.plan import read_cell
from coinbench.pretrain import WEIGHTS, load_problem
from coinbench.problem import Problem
from coinbench.rng import Rng
from coinbench.specs import MethodSpec
from coinbench.training import MICRO_BATCH


def fit_rng(cell: Cell) -> Rng:
    """Return the source of all draws of a fit, its initialisation included."""
    return Rng(cell.seed).child("fit", cell.method.name)


def save_coin(coin: CoIN, problem: Problem, folder: Path, method: str) -> None:
    """Write a network's own weights; f, G and p are kept once, in the cache."""
    weights.save(coin, folder / WEIGHTS, problem.networks, method=method)


def load_coin(cell: Cell, problem: Problem, folder: Path) -> CoIN:
    """Return the network of a cell with the weights in `folder`, in eval mode.

    Raises:
        ContractError: `build` raises or returns no CoIN.
        DataError: the weights are missing, damaged or of another network.
    """
    spec: MethodSpec = registry.METHODS.load(cell.method.name)
    with contract.blaming(cell.method.name):
        with contract.raising("build", spec.build):
            coin = spec.build(cell.method, problem, fit_rng(cell))
        contract.check_coin(coin, "build")
    weights.load(coin, folder / WEIGHTS, problem.networks)
    channels_last(coin)
    return coin.eval()


@dataclass(frozen=True, slots=True)
class Artefact:
    """The folder of a finished cell.

    `coin, problem = Artefact(Path("runs/birds/cells/0123...")).load(Cache(default_root()))` gives back the trained
    network and all that it was measured on.
    """

    path: Path

    @property
    def cell(self) -> Cell:
        """The configuration it was made with.

        Raises:
            DataError: cell.json is no cell.
        """
        return read_cell(self.path / "cell.json")

    def load(self, cache: Cache, device: str = "cpu") -> tuple[CoIN, Problem]:
        """Return the trained network and its problem; f and G come from the cache, or are trained again.

        Raises:
            DataError: data or weights are missing or damaged, or f or G are not those that the network was trained
                with, as after a change of code, of settings or of the machine.
        """
        problem = load_problem(self.cell, cache, torch.device(device), Log(self.path))
        made_with = _made_with(self.path / "provenance.json")
        for name, found in problem.fingerprints.items():
            if found != made_with.get(name):
                raise DataError(
                    f"{self.path}: was trained with another {name} ({str(made_with.get(name))[:16]}) than {cache.root} "
                    f"gives now ({found[:16]}); load it with the cache and the version of its run, or run its command "
                    "again"
                )
        return load_coin(self.cell, problem, self.path), problem

    def assemble(self, cell: Cell, stages: tuple[Path, ...], origin: dict[str, Any]) -> None:
        """Fill the folder from finished stages beside itself and rename, so that it is whole or not there.

        Two processes must not do this to one folder at a time.

        Raises:
            CoinbenchError: it cannot be written.
        """
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for source in stages:
                shutil.copytree(source, partial, dirs_exist_ok=True)
            write_json(partial / "cell.json", cell.model_dump(mode="json"))
            write_json(partial / "provenance.json", {**origin, **_told(partial), "seconds": _seconds(partial)})
            shutil.rmtree(self.path, ignore_errors=True)
            os.replace(partial, self.path)
        except OSError as error:
            raise CoinbenchError(
                f"{self.path}: cannot be written ({error.strerror}); free space or choose another --out"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def origin(spec: MethodSpec, problem: Problem) -> dict[str, Any]:
    """Return where the numbers of a cell come from, as provenance.json holds it."""
    device = problem.device
    name = f"{torch.cuda.get_device_name(device)} ({device})" if device.type == "cuda" else "CPU"
    return {
        "title": spec.title,
        "device": name if problem.group.size == 1 else f"{problem.group.size} x {name}",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": provenance.git_state(provenance.here()),
        "versions": provenance.versions(),
        "machine": provenance.machine(torch.get_num_threads()),
        "fingerprints": problem.fingerprints,
        "perceptual": problem.perceptual.origin,
    }


def _made_with(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path)["fingerprints"])
    except (CoinbenchError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: does not say what f and G were ({error}); delete {path.parent} and run the same command again"
        ) from error


def _told(folder: Path) -> dict[str, int]:
    """Return the images that a training with --auto-batch came to compute at a time; nothing of another one."""
    try:
        header, *_, last = (folder / "train.csv").read_text(encoding="utf-8").splitlines()
        return {MICRO_BATCH: int(dict(zip(header.split(","), last.split(","), strict=True))[MICRO_BATCH])}
    except (OSError, ValueError, KeyError):  # as in `_seconds`, or without --auto-batch
        return {}


def _seconds(folder: Path) -> dict[str, float | None]:
    try:
        last = (folder / "train.csv").read_text(encoding="utf-8").splitlines()[-1].split(",")
        fit = float(last[1])
    except (OSError, ValueError, IndexError):  # a method without a training loop, or a damaged log
        fit = None
    return {"fit": fit, **read_json(folder / "seconds.json")}
