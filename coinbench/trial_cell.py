"""Trials of all that a cell has yet to make: images, f, G, p, its method, its evaluation. Nothing of them stays.

Runs in a process of its own, with the threads and the allocator's settings of a worker, as `coinbench plan` starts it.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coinbench import contract, fast, plugins, registry
from coinbench.artefact import fit_rng, load_coin
from coinbench.cache import Cache
from coinbench.classifiers.labels import accuracy_on
from coinbench.config import Cell
from coinbench.data.source import SPLITS, Source
from coinbench.digests import fit_digest
from coinbench.errors import CoinbenchError, Interrupted, refused
from coinbench.log import Log
from coinbench.networks.perceptual import PerceptualNet
from coinbench.noise import Noise, noise_split
from coinbench.parts import fit_parts
from coinbench.pretrain import assemble, build_networks, load_split, open_source
from coinbench.problem import Problem, Split
from coinbench.rng import Rng
from coinbench.trial import Clock, Measured, measure, quick
from coinbench.trial_evaluation import extrapolated, measure_evaluation
from coinbench.weights import own_state
from coinbench.work import choose_device
from coinbench.worker import teller, watch_parent

NOISE = 512
"""Images of noise in a split: enough for any batch."""
_DECODED = 32
"""Images whose drawing or decoding is timed."""


class Trial:
    """One cell with its problem; weights that are here are used, the rest is at initialisation."""

    def __init__(self, cell: Cell, shape: dict[str, Any], cache: Cache, device: torch.device, log: Log) -> None:
        """Build the networks.

        Args:
            cell: what is to be made.
            shape: of the data (coinbench.outlook.shape_of).
            cache: read from only.
            device: where the cell would run.
            log: of progress.
        """
        self.cell, self.shape, self.cache, self.device, self.log = cell, shape, cache, device, log
        self.source, self.splits = self._data()
        self.networks = build_networks(cell, self.source, self.splits[0], cache)
        self.untrained: list[str] = []
        for stage in self.networks.stages.values():
            if stage.shipped or cache.has(stage.kind, stage.digest):
                stage.load(cache, log)
            else:
                self.untrained.append(stage.kind)

    def _data(self) -> tuple[Source, tuple[Split, Split, Split]]:
        data, shape = self.cell.data, self.shape
        if shape["stored"]:
            source = open_source(data, self.cache)
            found = [load_split(name, data, source, self.cache, self.device) for name in SPLITS]
            return source, (found[0], found[1], found[2])
        counts = {name: min(shape[name], NOISE) for name in SPLITS}
        parts, classes, channels = shape["parts"], shape["classes"], shape["channels"]
        most = max(counts["train"], counts["val"], classes)
        source = Noise(classes=classes, channels=channels, train=most, test=max(1, counts["test"]), parts=parts)
        found = [noise_split(name, data, source, counts[name], self.device) for name in SPLITS]
        return source, (found[0], found[1], found[2])

    def decoding(self) -> float:
        """Return the seconds that one image takes to be drawn or decoded at its size and at the size of crops."""
        data = self.cell.data
        source = open_source(data, self.cache)
        index = source.split("train", data.val_fraction)[:_DECODED]
        began = time.perf_counter()
        for size in dict.fromkeys((data.size, data.resized)):
            source.images(index, size)
        return (time.perf_counter() - began) / len(index) / len({data.size, data.resized})

    def training(self, kind: str, steps: int, folder: Path) -> Measured:
        """Time the training of f, G, p (classifier, generator, perceptual) or, after them, of the method (fit)."""
        if kind == "generator":
            # Whole periods: some steps of a generator do more than others.
            period = registry.GENERATORS.load(self.cell.problem.generator.net).period
            steps = math.ceil(steps / period) * period
        told = self.log.at(kind, folder)
        told.say(f"{self.cell.dataset}/{self.cell.method.name}: {steps} steps")
        clock = Clock(folder / kind, steps, self.log)
        return measure(self._fit(kind, steps), clock, self.device)

    def _fit(self, kind: str, steps: int) -> Callable[[Clock], object]:
        problem, train = self.cell.problem, self.splits[0]
        if kind == "fit":
            spec, frozen = registry.METHODS.load(self.cell.method.name), self.problem
            method = _quick(self.cell.method, steps)

            def fit(log: Clock) -> None:
                with fast.accelerated(frozen, method.train):
                    spec.fit(method, frozen, fit_rng(self.cell), log)

            return fit
        # A copy: what follows is measured with the network at initialisation.
        network = copy.deepcopy(self.networks.stages[kind].network)
        if kind == "classifier":
            f, of_f = (
                _quick(problem.classifier, steps, select_every=0),
                registry.CLASSIFIERS.load(problem.classifier.net),
            )
            return lambda log: of_f.fit(f, network, train, Rng(f.seed).child("classifier"), log, None, None)
        if kind == "generator":
            g, of_g = _quick(problem.generator, steps), registry.GENERATORS.load(problem.generator.net)
            return lambda log: of_g.fit(g, network, train, Rng(g.seed).child("generator"), log)
        assert self.source.factors is not None
        assert isinstance(network, PerceptualNet)
        p, factors = _quick(problem.perceptual, steps), torch.from_numpy(self.source.factors)
        return lambda log: fit_parts(network, p, train, factors, log)

    @cached_property
    def problem(self) -> Problem:
        """What the method is fitted to and measured on; f, G and p are frozen from now on."""
        return assemble(self.cell, self.source, self.networks, self.splits)

    def choosing(self) -> float:
        """Return the seconds that a look of f at one validation image takes."""
        val, f = self.splits[1], copy.deepcopy(self.networks.classifier).eval()
        n = min(len(val), self.cell.problem.classifier.train.batch)
        look = accuracy_on(f, val.subset(np.arange(n)), n)
        look()
        began = time.perf_counter()
        look()
        return (time.perf_counter() - began) / n

    def evaluation(self, folder: Path) -> dict[str, Any]:
        """Time the evaluation of the method, trained where it is in the cache."""
        cell, problem = self.cell, self.problem
        fitted = self.cache.path("fit", fit_digest(cell))
        if self.shape["stored"] and fitted.is_dir():
            coin, trained = load_coin(cell, problem, fitted), True
        else:
            coin, trained = registry.METHODS.load(cell.method.name).build(cell.method, problem, fit_rng(cell)), False
            contract.check_coin(coin, "build")
        samples = measure_evaluation(cell, problem, coin.eval(), folder, self.log)
        n_test = min(self.shape["test"], cell.evaluation.limit or self.shape["test"])
        last = samples[-1]
        return {
            "seconds": extrapolated(samples, cell, self.shape["train"], n_test),
            "images": [sample.test for sample in samples],
            "memory": max(sample.memory for sample in samples),
            "disk": round(last.disk * n_test / last.test),
            "weights": _bytes(own_state(coin, problem.networks)),
            "trained": trained,
            "failed": last.failed,
        }


def serve(device: str) -> None:
    """Do the trials that one line of JSON on stdin asks for; tell each as a line of JSON on stdout.

    Stops when stdin closes: whoever asked is gone.
    """
    request = json.loads(sys.stdin.readline())
    tell, stop = teller(), threading.Event()
    threading.Thread(target=watch_parent, args=(stop,), daemon=True).start()
    torch.set_num_threads(request["threads"])
    log = Log(Path(), tell, stop)
    place = choose_device(device)
    tell({"ready": str(place)})
    for number, task in enumerate(request["tasks"]):
        with tempfile.TemporaryDirectory(prefix="coinbench-plan-") as folder:
            tell({"task": number, "found": _tried(task, request, place, Path(folder), log)})


def _tried(
    task: dict[str, Any], request: dict[str, Any], device: torch.device, folder: Path, log: Log
) -> dict[str, Any]:
    """Return what a task found; where it cannot be tried, why."""
    found: dict[str, Any] = {"trainings": {}}
    try:
        trial = Trial(Cell.model_validate(task["cell"]), task["shape"], Cache(Path(request["cache"])), device, log)
        found["untrained"] = trial.untrained
        found["weights"] = {kind: _bytes(s.network.state_dict()) for kind, s in trial.networks.stages.items()}
        if task["decode"]:
            found["decoding"] = trial.decoding()
        if task["choose"]:
            found["choosing"] = trial.choosing()
        for kind in task["trainings"]:
            found["trainings"][kind] = asdict(trial.training(kind, request["steps"], folder))
        if task["evaluate"]:
            found["evaluation"] = trial.evaluation(folder / "evaluation")
    except Interrupted:
        raise
    except Exception as error:
        known = error if isinstance(error, CoinbenchError) else refused(error)
        found["error"] = str(known or plugins.told(error))
    return found


def _quick(config: Any, steps: int, **changes: Any) -> Any:
    return config.model_copy(update={"train": quick(config.train, steps), **changes})


def _bytes(state: dict[str, torch.Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in state.values())
