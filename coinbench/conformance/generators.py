"""The laws of a generator G: build, fit, latents, images, storage."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from coinbench import contract, weights
from coinbench.config import GeneratorConfig, TrainConfig
from coinbench.conformance.report import Law, Report, Skipped, Steps, alike, demand, examine
from coinbench.conformance.tiny import make_problem, moved
from coinbench.digests import source_file
from coinbench.log import Log
from coinbench.models import ImageGenerator
from coinbench.problem import Problem
from coinbench.rng import Rng
from coinbench.specs import GeneratorSpec

_RNG = Rng(3).child("generator")


SMALL: dict[str, Any] = {"latent": 6, "width": 4, "z_dim": 6, "w_dim": 6, "base": 64, "most": 4}
"""Settings of a tiny network, where a generator has them."""


def small_generator(spec: GeneratorSpec, **changes: Any) -> GeneratorConfig:
    """Return settings of a tiny network of a generator, trained for three steps of four images."""
    fields = spec.config.model_fields
    usual = TrainConfig(steps=3, lr=1e-3) if fields["train"].is_required() else fields["train"].get_default()
    train = usual.model_copy(update={"steps": 3, "batch": 4, "log_every": 1})
    given = {name: value for name, value in SMALL.items() if name in fields}
    return spec.config.model_validate({**given, "train": train, **changes})


class GeneratorBench:
    """A generator on tiny images; what several laws need is made once."""

    def __init__(self, spec: GeneratorSpec, folder: Path) -> None:
        """Hold the generator; nothing is built yet."""
        self.spec, self.folder, self.steps = spec, folder, Steps()
        self.problem = make_problem()
        self.config = small_generator(spec)

    def build(self, rng: Rng = _RNG, problem: Problem | None = None) -> ImageGenerator:
        """Return the network at initialisation."""
        problem = problem or self.problem
        with contract.raising("build", self.spec.build):
            network = self.spec.build(self.config, problem.size, problem.channels, rng)
        demand(isinstance(network, ImageGenerator), f"build returned a {type(network).__name__}, no ImageGenerator")
        return network.to(problem.device)

    def fit(self, name: str, problem: Problem | None = None) -> ImageGenerator:
        """Return the network after a short training."""
        network = self.build(problem=problem)
        with torch.enable_grad(), contract.raising("fit", self.spec.fit):
            self.spec.fit(self.config, network, (problem or self.problem).train, _RNG, Log(self.folder / name))
        return network.eval()

    @property
    def fitted(self) -> ImageGenerator:
        """The trained network."""
        return self.steps.once("fit", lambda: self.fit("first"))

    @property
    def latents(self) -> Tensor:
        """Some of its latents."""
        network = self.fitted
        return self.steps.once("sample", lambda: network.sample(5, _RNG))

    @property
    def images(self) -> Tensor:
        """What it draws from them."""
        network, latents = self.fitted, self.latents
        return self.steps.once("forward", lambda: network(latents))


def check_generator(spec: GeneratorSpec, name: str | None = None) -> Report:
    """Try every law on a generator; seconds on a CPU.

    Args:
        spec: the generator.
        name: what it is registered as, where it is.
    """
    with TemporaryDirectory(prefix="coinbench-check-") as folder, torch.random.fork_rng(devices=[]), torch.no_grad():
        files = [file for file in {source_file(spec.build), source_file(spec.fit)} if file]
        return examine(f"generator {name or spec.source}", LAWS, GeneratorBench(spec, Path(folder)), files)


def _build(bench: GeneratorBench) -> None:
    network = bench.steps.once("build", bench.build)
    torch.manual_seed(99)
    again = bench.build()
    demand(weights.digest(network) == weights.digest(again), "build gives other weights for the same rng; use `seeded`")
    for name in ("n_styles", "w_dim"):
        value = getattr(network, name, None)
        demand(isinstance(value, int) and value > 0, f"{name} is {value!r}, expected a number >= 1")


def _fit(bench: GeneratorBench) -> None:
    first = bench.fitted
    wrong = [k for k, v in first.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]
    demand(not wrong, f"after fit {wrong[0] if wrong else ''!r} holds NaN or infinite values")
    torch.manual_seed(99)
    demand(weights.digest(first) == weights.digest(bench.fit("again")), "fit gives other weights for the same seed")


def _latents(bench: GeneratorBench) -> None:
    network, shape = bench.fitted, (bench.fitted.n_styles, bench.fitted.w_dim)
    contract.check_tensor(bench.latents, (5, *shape), "sample", "latents [n, L, V]")
    contract.check_tensor(network.mean_latent(), shape[1:], "mean_latent", "w̄ [V]")
    torch.manual_seed(99)
    demand(torch.equal(network.sample(5, _RNG), bench.latents), "sample gives other latents for the same rng")
    demand(not torch.equal(network.sample(5, Rng(4)), bench.latents), "sample does not depend on the rng")


def _images(bench: GeneratorBench) -> None:
    shape = (5, bench.problem.channels, bench.problem.size, bench.problem.size)
    contract.check_tensor(bench.images, shape, "forward", "images [B, C, H, W]", (-1.0, 1.0))


def _repeatable(bench: GeneratorBench) -> None:
    network, latents, images = bench.fitted, bench.latents, bench.images
    torch.manual_seed(99)
    alike(network(latents), images, "forward gives another image for the same latents", 0.0, 0.0)
    alike(network(latents[2:3]), images[2:3], "an image is another one alone than in a batch")


def _stored(bench: GeneratorBench) -> None:
    path, images = bench.folder / "weights.safetensors", bench.images
    weights.save(bench.fitted, path)
    again = bench.build(Rng(77)).eval()
    weights.load(again, path)
    alike(again(bench.latents), images, "images differ after saving and loading")
    alike(again.mean_latent(), bench.fitted.mean_latent(), "w̄ differs after saving and loading")


def _grey(bench: GeneratorBench) -> None:
    _images(bench)
    problem = make_problem(32, 1)
    network = bench.fit("grey", problem)
    images = network(network.sample(2, _RNG))
    contract.check_tensor(images, (2, 1, 32, 32), "forward", "images [B, C, H, W]", (-1.0, 1.0))


def _cuda(bench: GeneratorBench) -> None:
    images = bench.images
    if not torch.cuda.is_available():
        raise Skipped("no CUDA device here")
    problem, path = moved(bench.problem, torch.device("cuda")), bench.folder / "cuda.safetensors"
    weights.save(bench.fitted, path)
    there = bench.build(problem=problem).eval()
    weights.load(there, path)
    alike(there(bench.latents.to(problem.device)), images, "images differ between CUDA and the CPU", 1e-2, 1e-2)
    bench.fit("cuda", problem)


LAWS = (
    Law("build makes an ImageGenerator from the rng it is given", _build),
    Law("fit trains in place in a few steps, and gives the same for the same seed", _fit),
    Law("sample gives latents [n, L, V] from the rng alone, mean_latent w̄ [V]", _latents),
    Law("forward gives images [B, C, H, W] in [-1, 1]", _images),
    Law("an image depends on its latents alone", _repeatable),
    Law("weights saved and loaded give the same network", _stored),
    Law("grey images of 32 px", _grey),
    Law("CUDA agrees with the CPU", _cuda),
)
