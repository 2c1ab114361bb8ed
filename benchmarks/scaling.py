"""Measures what an evaluation costs for more images and more concepts, and a run for more seeds; writes the page.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --page

Each point is the median of some repeats; the repeats are the outer loop, so that a slow moment of the machine falls on
all points. Every sample is written to benchmarks/results/scaling.json at once: the same command resumes, `--fresh`
begins anew. `--page` only writes docs/performance.md and its figures from the stored results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from calibrate import noise, problem_of
from collect import HERE, RESULTS, origin
from measured import prepare, run
from performance_page import write_page

from coinbench.config import EvaluationConfig
from coinbench.files import write_json
from coinbench.presets import preset

METHOD = "viscoin"
METRICS = ("accuracy", "mse", "perceptual", "frechet", "faithfulness", "sparsity", "consistency")
SETTINGS: dict[str, Any] = {
    "random_draws": 1,
    "lambdas": (2.0,),
    "consistency_images": 10,
    "permutations": 2,
    "bootstrap": 100,
    "faithfulness_images": 1_000_000,
}
"""Of the evaluation: the cheapest of each, so that a point takes seconds; faithfulness uses all images."""
AXES = {
    "images": (125, 250, 500, 1000),
    "concepts": (8, 16, 32, 64, 128),
    "seeds": (1, 2, 3, 4),
}
SMALL = {"images": (8, 16, 24), "concepts": (4, 8, 12), "seeds": (1, 2)}
"""Points of --small, which tries the script out."""
CELL = [
    word
    for setting in (
        "data.n_train=240",
        "data.n_test=40",
        "problem.classifier.train.steps=20",
        "problem.generator.net=beta_vae",
        "problem.generator.train.steps=20",
        "method.K=6",
        "method.train.steps=12",
        "evaluation.consistency_images=10",
        "evaluation.bootstrap=100",
        "evaluation.permutations=2",
        "evaluation.random_draws=2",
    )
    for word in ("--set", setting)
]
"""Flags of the small cell that is run with more and more seeds."""
FIXED = {"images": "K = 24", "concepts": "64 test images", "seeds": "cells of 12 steps"}

Timer = Callable[[str, int], float]


def evaluation_timer(largest: int) -> Timer:
    """Return what times an evaluation of the birds preset at a number of test images or concepts."""
    torch.set_num_threads(1)
    experiment = preset("birds", (METHOD,))
    problem = replace(problem_of(experiment), test=noise(experiment, "test", largest))

    def seconds(axis: str, value: int) -> float:
        images, changes = (value, {}) if axis == "images" else (min(64, largest), {"K": value})
        with tempfile.TemporaryDirectory() as folder:
            settings = EvaluationConfig(**SETTINGS)
            ready = prepare(METHOD, experiment, problem, Path(folder), settings, (64, images), **changes)
            began = time.perf_counter()
            run(ready, [METRICS])
            return time.perf_counter() - began

    return seconds


def cell_timer(root: Path) -> Timer:
    """Return what times `coinbench run` for a number of seeds, one after the other; f and G are trained beforehand."""

    def call(seeds: str, place: Path) -> float:
        words = ["--methods", METHOD, "--dataset", "birds", "--seeds", seeds, "--quiet", *CELL]
        words += ["--out", str(place / "out"), "--cache", str(place / "cache")]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        began = time.perf_counter()
        command = [sys.executable, "-m", "coinbench", "run", *words]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    ready = root / "ready"

    def seconds(axis: str, value: int) -> float:
        if not ready.is_dir():
            call("99", root / "first")
            shutil.copytree(root / "first" / "cache", ready)
        place = root / "run"
        shutil.copytree(ready, place / "cache")
        try:
            return call(f"0:{value}", place)
        finally:
            shutil.rmtree(place)

    return seconds


def measure(axes: dict[str, tuple[int, ...]], repeats: int, path: Path, fresh: bool) -> None:
    """Fill the samples of all points up to `repeats`."""
    state = {**origin("python benchmarks/scaling.py"), "method": METHOD, "settings": SETTINGS, "fixed": FIXED}
    state = json.loads(json.dumps(state))
    samples: dict[str, dict[str, list[float]]] = {axis: {str(v): [] for v in values} for axis, values in axes.items()}
    if path.is_file() and not fresh:
        old = json.loads(path.read_text(encoding="utf-8"))
        if {**old, "samples": None} != {**state, "samples": None}:
            sys.exit(f"{path}: measured on another commit, machine or with other settings; --fresh begins anew")
        samples = {axis: {v: old["samples"].get(axis, {}).get(v, []) for v in samples[axis]} for axis in samples}
    with tempfile.TemporaryDirectory() as folder:
        evaluation, cells = evaluation_timer(max(axes["images"])), cell_timer(Path(folder))
        for repeat in range(repeats):
            for axis, values in axes.items():
                for value in values:
                    found = samples[axis][str(value)]
                    if len(found) > repeat:
                        continue
                    found.append(round((cells if axis == "seeds" else evaluation)(axis, value), 3))
                    write_json(path, {**state, "samples": samples})
                    print(f"repeat {repeat + 1} of {repeats}: {axis} {value}: {found[-1]:.2f} s", flush=True)


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description="Cost against images, concepts and seeds.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fresh", action="store_true", help="drop the stored samples")
    parser.add_argument("--page", action="store_true", help="only write the page from the stored results")
    parser.add_argument("--small", action="store_true", help="few small points, to try the script out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the stored results")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs", help="where the page goes")
    given = parser.parse_args()
    if not given.page:
        measure(SMALL if given.small else AXES, given.repeats, given.results / "scaling.json", given.fresh)
    write_page(given.results, given.docs)
    print(given.docs / "performance.md")


if __name__ == "__main__":
    main()
