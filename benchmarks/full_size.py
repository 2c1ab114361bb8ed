"""The paper's experiment at full size, cut to a step or two, with random weights: does it run here, and at what cost?

    python benchmarks/full_size.py cub200 --root cub --out runs/full

Takes the command of the README and the presets as they are, all metrics included, but for steps, batches and the
images that are measured. G, the trunks of LPIPS and Inception are files with random values, which tables call so; f
starts anew. --root may hold a part of the data set. Prints what benchmarks/results/full_size.json keeps: seconds of a
step, peak memory, parameters, shapes.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import random_weights
import torch
from collect import RESULTS, origin
from torch import nn

from coinbench import presets
from coinbench.artefact import Artefact
from coinbench.cache import Cache
from coinbench.files import read_json, write_json
from coinbench.generators.stylegan2_config import settle

METHODS = "viscoin,flint,flaem,random"
SIZE, BASE = 256, 16384
"""Pixels and channels of G. The preset's G of Stanford Cars has 512 px and twice the channels: four times the cost."""
SETS = (
    "data.complete=false",
    "problem.classifier.init=scratch",
    *("problem.classifier.train.steps=2", "problem.classifier.train.batch=2", "problem.classifier.select_every=0"),
    *("problem.generator.finetune=false", f"problem.generator.resolution={SIZE}"),
    *("problem.generator.crop=none", f"problem.generator.base={BASE}"),
    *("method.train.steps=2", "method.train.log_every=1", "methods.viscoin.train.batch=1"),
    *("methods.random.train.batch=1", "methods.flint.train.batch=2", "methods.flaem.train.batch=2"),
    *("evaluation.bootstrap=100", "evaluation.permutations=1", "evaluation.random_draws=1"),
)


def files(folder: Path, depth: int) -> dict[str, Path]:
    """Write weights with random values; return them by the setting that reads them."""
    found = {"problem.generator.init": random_weights.generator(folder / "G.safetensors", SIZE, depth, BASE)}
    for name in ("vgg16", "alexnet"):
        found[f"evaluation.weights.{name}"] = random_weights.trunk(name, folder / f"{name}.pth")
    found["problem.perceptual.weights"] = found["evaluation.weights.vgg16"]
    found["evaluation.weights.inception"] = random_weights.inception(folder / "inception.pth")
    return found


def command(name: str, root: Path, out: Path, weights: dict[str, Path], methods: str = METHODS) -> list[str]:
    """Return the command of the run."""
    given = [f"data.root={root.absolute()}", *SETS, *(f"{key}={path}" for key, path in weights.items())]
    # Settings of methods that are left out would be refused.
    given = [text for text in given if not text.startswith("methods.") or text.split(".")[1] in methods.split(",")]
    words = ["--methods", methods, "--dataset", name, "--limit", "2", "--out", str(out)]
    words += ["--cache", str(out.with_name("cache"))]
    return [sys.executable, "-m", "coinbench", "run", *words, *(w for text in given for w in ("--set", text))]


def told(cell: Path) -> dict[str, Any]:
    """Return what a cell's log says of its training and evaluation."""
    with (cell / "train.csv").open(newline="", encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    seconds = read_json(cell / "provenance.json")["seconds"]
    return {
        "seconds a step": [round(float(s), 2) for s in np.diff([0.0, *(row["seconds"] for row in rows)])],
        "evaluate": seconds["evaluate"],
        "losses": [{k: v for k, v in row.items() if k not in ("step", "seconds", "rate")} for row in rows],
    }


@torch.no_grad()
def anatomy(cell: Path, cache: Cache) -> dict[str, Any]:
    """Return parameters, in millions, and the shapes of what VisCoIN makes of one image."""
    coin: Any
    coin, problem = Artefact(cell).load(cache)
    image = problem.test.take(np.arange(1)).images
    maps = problem.classifier.taps(image)
    concepts = coin.concepts_of(maps)
    w = coin.latent(concepts)
    shapes = {"taps of f": maps, "Φ": concepts.phi, "Φ′": concepts.support, "w": w, "x̃": coin.decode(concepts)}
    parts: dict[str, tuple[nn.Module, ...]] = {
        "f": (problem.classifier,),
        "G": (problem.generator,),
        "Ψ, convolutions": (coin.trunk, coin.to_concepts),
        "Φ′": (coin.to_support,),
        "Ω": tuple(coin.omega),
        "Θ": (coin.theta,),
    }
    return {
        "millions": {
            k: round(sum(p.numel() for m in part for p in m.parameters()) / 1e6, 2) for k, part in parts.items()
        },
        "shapes": {k: [list(m.shape) for m in v] if isinstance(v, tuple) else list(v.shape) for k, v in shapes.items()},
    }


def main() -> None:
    """Run one data set, and add it to the results."""
    parser = argparse.ArgumentParser(description="The paper's experiment at full size, cut to two steps.")
    parser.add_argument("name", choices=("cub200", "celebahq", "stanfordcars"))
    parser.add_argument("--root", type=Path, required=True, help="the data set or a part of it, prepared")
    parser.add_argument("--out", type=Path, required=True, help="folder of weights, cache and run")
    parser.add_argument("--methods", default=METHODS, help="viscoin among them")
    given = parser.parse_args()
    generator: Any = getattr(presets, given.name)(("viscoin",)).problem.generator
    folder = given.out / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    # Drawn with one seed: the same command resumes.
    weights = files(folder, settle(generator, SIZE).depth)
    done = subprocess.run(command(given.name, given.root, given.out / "run", weights, given.methods))
    if done.returncode:
        sys.exit(done.returncode)
    cells = {read_json(path)["method"]["name"]: path.parent for path in given.out.glob("run/cells/*/cell.json")}
    found = anatomy(cells["viscoin"], Cache(given.out / "cache"))
    # Linux counts in KiB: the largest process below this one, which is a worker.
    found["peak GiB"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2)
    found["methods"] = {method: told(cell) for method, cell in cells.items()}
    path = RESULTS / "full_size.json"
    results = read_json(path) if path.is_file() else {}
    results[given.name] = {**origin(f"python benchmarks/full_size.py {given.name}", torch.get_num_threads()), **found}
    write_json(path, results)
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
