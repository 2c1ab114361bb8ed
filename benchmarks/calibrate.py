"""Measures how long a training step of each method takes at a data set's preset, and which step counts take equal time.

    python benchmarks/calibrate.py birds

Methods take turns in blocks, so that a slow moment of the machine falls on all; one thread each, as with --jobs 2 on
two cores, in the allocator's settings of a worker. The step counts of coinbench/presets.py come from here; they are
fixed, never measured at run time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from collect import RESULTS, origin

from coinbench import registry
from coinbench.config import Experiment
from coinbench.executors.local import ALLOCATION
from coinbench.files import write_json
from coinbench.models import channels_last
from coinbench.networks.perceptual import PerceptualNet
from coinbench.noise import Noise, noise_split
from coinbench.presets import preset
from coinbench.pretrain import build_classifier
from coinbench.problem import Problem, Split
from coinbench.rng import Rng
from coinbench.trial import Clock, measure, quick

CLASSES, CHANNELS = 10, 3


def noise(experiment: Experiment, name: str, n: int) -> Split:
    """Return a split of noise of the preset's size."""
    return noise_split(name, experiment.data, Noise(classes=CLASSES, channels=CHANNELS, train=n, test=n), n)


def problem_of(experiment: Experiment) -> Problem:
    """Return a problem of the preset's size with untrained f and G."""
    size, networks = experiment.data.size, experiment.problem
    f = build_classifier(networks.classifier, CLASSES, CHANNELS, size)
    generator = registry.GENERATORS.load(networks.generator.net)
    g = generator.build(networks.generator, size, CHANNELS, Rng(0))
    p = PerceptualNet(CHANNELS, networks.perceptual.width, Rng(0))
    for network in (f, g, p):
        channels_last(network.requires_grad_(False).eval())
    g.freeze()
    return Problem(
        name=experiment.data.name,
        class_names=tuple(map(str, range(CLASSES))),
        train=noise(experiment, "train", 512),
        val=noise(experiment, "val", 10),
        test=noise(experiment, "test", 256),
        classifier=f,
        generator=g,
        perceptual=p,
        fingerprints=dict.fromkeys(("data", "classifier", "generator", "perceptual"), "noise"),
    )


def block(name: str, experiment: Experiment, problem: Problem, steps: int, folder: Path) -> list[float]:
    """Return the seconds of each of some steps of a method's training, which begins anew."""
    spec, config = registry.METHODS.load(name), experiment.methods[name]
    config = config.model_copy(update={"train": quick(config.train, steps)})
    clock = Clock(folder, steps)
    return measure(lambda log: spec.fit(config, problem, Rng(0), log), clock, problem.device).seconds


def main() -> None:
    """Print seconds per step and the step counts of equal time."""
    parser = argparse.ArgumentParser(description="Seconds per training step, and step counts of equal time.")
    parser.add_argument("dataset", nargs="?", default="birds")
    parser.add_argument("--methods", default="viscoin,flint,flaem,random", help="the first sets the time")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20, help="in a block, after one that warms up")
    parser.add_argument("--keep", action="store_true", help="write the medians into results/calibrate.json")
    given = parser.parse_args()
    if not ALLOCATION.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**ALLOCATION, **os.environ})
    torch.set_num_threads(1)
    names = tuple(given.methods.split(","))
    experiment = preset(given.dataset, names)
    problem = problem_of(experiment)
    times: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            for name in names:
                times[name] += block(name, experiment, problem, given.steps, Path(folder))
    first = names[0]
    median = {name: statistics.median(values) for name, values in times.items()}
    budget = median[first] * experiment.methods[first].train.steps
    print(f"{given.dataset}: {given.rounds} rounds of {given.steps} steps, one thread")
    print(f"{'method':<10}  {'ms/step':>8}  {'quartiles':>15}  {'preset':>7}  {'equal time':>10}")
    for name in names:
        low, high = np.percentile(times[name], (25, 75)) * 1e3
        steps = experiment.methods[name].train.steps
        equal = round(budget / median[name])
        print(f"{name:<10}  {median[name] * 1e3:>8.1f}  {low:>7.1f}-{high:<7.1f}  {steps:>7}  {equal:>10}")
    if given.keep:
        path = RESULTS / "calibrate.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        command = f"python benchmarks/calibrate.py {given.dataset} --rounds {given.rounds} --steps {given.steps}"
        measured = {name: round(seconds * 1e3, 1) for name, seconds in median.items()}
        write_json(path, {**kept, given.dataset: {**origin(command), "ms_per_step": measured}})
    print(f"budget: {budget:.0f} s ({experiment.methods[first].train.steps} steps of {first})")


if __name__ == "__main__":
    main()
