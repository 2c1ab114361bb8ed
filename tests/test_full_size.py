"""The paper's networks at 256 px on the CPU: a few images, a step or two, weights drawn at random and told so."""

from __future__ import annotations

import csv
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import random_weights
import torch
from commands import Cli, Ran, in_process
from official_files import archives, write
from small_run import bring_to_end
from torch import nn

from coinbench import exhibits, presets
from coinbench.artefact import Artefact
from coinbench.cache import Cache
from coinbench.executors.local import LocalExecutor
from coinbench.generators.stylegan2_config import settle
from coinbench.methods import viscoin

pytestmark = pytest.mark.slow

METHODS = "viscoin,flint,flaem,random"
METRICS = "accuracy,mse,lpips_vgg"
"""benchmarks/full_size.py measures all."""
# What one core needs weeks for is cut to a step or two, and the archives hold eight images.
SETS = (
    "data.complete=false",
    "problem.classifier.init=scratch",
    "problem.classifier.select_every=0",
    *("problem.classifier.train.steps=1", "problem.classifier.train.batch=2"),
    "problem.generator.finetune=false",
    *("method.train.steps=1", "method.train.batch=2", "method.train.log_every=1"),
    *("evaluation.limit=2", "evaluation.taus=[0.2]", "evaluation.random_draws=1", "evaluation.bootstrap=100"),
)
# Each of them sees every image: one sampled from G beside one of the data set.
PAIRS = ("method.train.batch=1", "method.train.steps=2")
# The preset's G of Stanford Cars draws 512 px, of which the middle is cut out.
CARS = ("problem.generator.resolution=256", "problem.generator.crop=none", "problem.generator.base=16384")
TERMS = ("fidelity", "mse", "l1", "perceptual", "classification", "sparsity", "orthogonality", "latent")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with random values in the place of published ones; of G one for each depth of its mapping."""
    folder = tmp_path_factory.mktemp("weights")
    random_weights.trunk("vgg16", folder / "vgg16.pth")
    for depth in (2, 8):
        random_weights.generator(folder / f"g{depth}.safetensors", 256, depth, 16384)
    return folder


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> Callable[..., Ran]:
    """`coinbench run`, its workers in this process, with few pictures: each decodes an image a dozen times."""
    monkeypatch.setattr(LocalExecutor, "run", lambda self, planned, display: bring_to_end(planned, self.cache))
    for name in ("N_PAIRS", "N_IMAGES", "N_LOCAL", "N_RELEVANT"):
        monkeypatch.setattr(exhibits, name, 1)
    cli: Cli = functools.partial(in_process, capfd)

    def of(name: str, methods: str, *more: str) -> Ran:
        for archive, files in archives(name).items():
            write(tmp_path / name, {archive: files[""]} if "" in files else files)
        generator = getattr(presets, name)((methods.partition(",")[0],)).problem.generator
        depth = settle(generator, 256).depth
        given = (
            f"data.root={tmp_path / name}",
            f"problem.generator.init={weights / f'g{depth}.safetensors'}",
            f"problem.perceptual.weights={weights / 'vgg16.pth'}",
            f"evaluation.weights.vgg16={weights / 'vgg16.pth'}",
            *SETS,
            *more,
        )
        sets = [word for text in given for word in ("--set", text)]
        folders = ("--cache", tmp_path / "cache", "--out", tmp_path / "out", "--device", "cpu")
        words = ("run", "--methods", methods, "--dataset", name, "--metrics", METRICS)
        return cli(*words, *folders, "--offline", *sets)

    return of


def _losses(cell: Path) -> list[dict[str, float]]:
    with (cell / "train.csv").open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _cells(out: Path) -> dict[str, Path]:
    """Folders of the cells by method."""
    return {json.loads(path.read_text())["method"]["name"]: path.parent for path in out.glob("cells/*/cell.json")}


def _millions(*parts: nn.Module) -> float:
    return round(sum(parameter.numel() for part in parts for parameter in part.parameters()) / 1e6, 1)


def _checked(out: Path, name: str, K: int) -> None:
    """Check what must hold of any run: finite losses and numbers, shapes of paper part 1, weights that are told."""
    rows = pd.read_csv(out / "results.csv")
    of_all = rows[rows["subject"] == "all"]
    assert np.isfinite(of_all["value"]).all()
    assert set(rows["dataset"]) == {name}
    for method, cell in _cells(out).items():
        lines = _losses(cell)
        assert lines, method
        assert all(math.isfinite(value) for line in lines for value in line.values()), (method, lines)
    cell = _cells(out)["viscoin"]
    assert set(TERMS) < set(_losses(cell)[0])
    assert [line["step"] for line in _losses(cell)] == [1, 2]
    told = json.loads((cell / "provenance.json").read_text())["perceptual"]
    assert told.startswith("p: LPIPS vgg with weights of vgg16.pth (sha256 ")
    assert "not the published" in told
    assert "pd_vgg_file" in set(rows["metric"])
    assert "lpips_vgg" not in set(rows["metric"])
    _check_shapes(cell, out.parent / "cache", K)


@torch.no_grad()
def _check_shapes(cell: Path, cache: Path, K: int) -> None:
    coin, problem = Artefact(cell).load(Cache(cache))
    assert isinstance(coin, viscoin.VisCoIN)
    images = problem.test.take(np.arange(1)).images
    maps = problem.classifier.taps(images)
    assert [tuple(m.shape[1:]) for m in maps] == [(512, 32, 32), (1024, 16, 16), (2048, 8, 8)]
    assert [tuple(tap(m).shape[1:]) for tap, m in zip(coin.trunk.taps, maps, strict=True)] == 3 * [(512, 8, 8)]
    assert tuple(coin.trunk(maps).shape) == (1, 1536, 8, 8)
    concepts = coin.concepts_of(maps)
    assert tuple(concepts.phi.shape) == (1, K, 9)
    assert concepts.support is not None
    assert tuple(concepts.support.shape) == (1, 9 * K)
    assert coin.from_support == {0, 1, 2, 12, 13}
    assert [tuple(weight.shape) for layer in coin.omega for weight in layer.parameters()] == 14 * [(512, 9 * K)]
    w = coin.latent(concepts)
    assert tuple(w.shape) == (1, 14, 512)
    assert tuple(coin.generator(w).shape) == (1, 3, 256, 256)
    assert tuple(problem.classifier.embed(images).shape) == (1, 512)
    # Of the public code at K = 256: 42.3 M convolutions in Ψ, 37.2 M in the branch of Φ′, 16.5 M in Ω.
    changes = [text.partition("=") for text in presets.VARIANTS["released"] if "train" not in text]
    given = {path.removeprefix("methods.viscoin."): value for path, _, value in changes if path != "problem.tap"}
    config = viscoin.VisCoINConfig(**{**coin.config.model_dump(), **given, "K": 256})
    with torch.device("meta"):
        released = viscoin.VisCoIN(config, problem)
    assert released.to_support is not None
    counts = _millions(released.trunk, released.to_concepts), _millions(released.to_support)
    assert (*counts, _millions(released.omega)) == (42.3, 37.2, 16.5)


def test_four_methods_on_cub200(run: Callable[..., Ran], tmp_path: Path) -> None:
    more = ("methods.viscoin.train.steps=2", "methods.viscoin.train.batch=1", "methods.random.synthetic=0")
    ran = run("cub200", METHODS, *more)
    assert ran.code == 0, ran.err
    out = tmp_path / "out"
    _checked(out, "cub200", K=256)
    assert set(_cells(out)) == set(METHODS.split(","))
    assert "cub200 (part)" in ran.out
    assert "not LPIPS" in (out / "report.html").read_text(encoding="utf-8")


def test_viscoin_on_celebahq(run: Callable[..., Ran], tmp_path: Path) -> None:
    ran = run("celebahq", "viscoin", *PAIRS)
    assert ran.code == 0, ran.err
    _checked(tmp_path / "out", "celebahq", K=64)


def test_viscoin_on_stanfordcars(run: Callable[..., Ran], tmp_path: Path) -> None:
    ran = run("stanfordcars", "viscoin", *PAIRS, *CARS)
    assert ran.code == 0, ran.err
    _checked(tmp_path / "out", "stanfordcars", K=256)
