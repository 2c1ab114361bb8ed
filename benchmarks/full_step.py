"""VisCoIN's training step at the paper's size, with networks of random weights, and the same step written plainly.

The problem: ResNet50 f, StyleGAN2 G at 256 px (recipe `auto`), LPIPS-vgg on a trunk of random weights, K = 256. The
peer follows the public code's way: each network is called once per loss, LPIPS sees both images each time, G modulates
weights by a grouped convolution, two optimisers of torch's default kind. Noise of G is constant in both, so that they
compute the same losses.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from pathlib import Path

import random_weights
import torch
from grouped import synthesise
from torch import Tensor, nn

from coinbench.config import DataConfig, TrainConfig
from coinbench.fast import accelerated, tensor_float
from coinbench.generators.stylegan2 import StyleGAN2Generator, build
from coinbench.generators.stylegan2_config import StyleGAN2Config
from coinbench.log import Log
from coinbench.methods import viscoin
from coinbench.methods.losses import orthogonality, soft_cross_entropy
from coinbench.models import channels_last, trusting
from coinbench.networks.lpips import LPIPS
from coinbench.networks.torchvision_nets import BUILDERS, TorchvisionNet
from coinbench.noise import Noise, noise_split
from coinbench.problem import Problem
from coinbench.published_weights import Found
from coinbench.rng import Rng, seeded
from coinbench.training import train

LOW = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of autocast; all but fp32 let the rest go in TF32."""
FLOP = 3.86e12 / 16
"""Of a step for each image, real or sampled, at the paper's size: f, G, p and Ψ once forward, and back where gradients
pass; 2 a multiply-add."""
ENOUGH = 6.0
"""Seconds of plain steps that count, after which there are no more of them."""
AGREE = 1e-4
"""Largest relative difference of a loss between the two, both in fp32."""


@dataclass(frozen=True, slots=True)
class Size:
    """What is measured; the default is the paper's CUB-200."""

    pixels: int = 256
    base: int = 16384
    """Channels of G at resolution r: min(base / r, 512)."""
    K: int = 256
    channels: int = 512
    """Of Ψ."""
    classes: int = 200
    batch: int = 8
    """Real images of a step, and sampled ones."""


def trunk(path: Path) -> Found:
    """Write VGG16's features with random weights."""
    return Found(name="vgg16", path=random_weights.trunk("vgg16", path), sha256="0" * 64, genuine=False)


def settle_norms(f: TorchvisionNet, images: Tensor) -> None:
    """Take batch norm's statistics from images, and let each unit add little to its input, as in a trained network.

    At initialisation activations would grow from unit to unit, and rounding with them.
    """
    for name, part in f.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
            if name.endswith("bn3"):
                nn.init.constant_(part.weight, 0.2)
    with torch.no_grad():
        f.train()(images)
    f.eval()


def make_problem(size: Size, folder: Path, device: torch.device) -> Problem:
    """Return noise images with f, G and p of random weights, frozen and laid out as a run does it.

    Args:
        size: of the networks.
        folder: for the file of LPIPS's trunk.
        device: of everything.
    """
    data = DataConfig(name="noise", size=size.pixels)
    source = Noise(classes=size.classes, channels=3, train=64, test=8)
    splits = [noise_split(name, data, source, 8 if name == "test" else 64, device) for name in ("train", "val", "test")]
    with seeded(Rng(1)):
        f = BUILDERS["resnet50"](size.classes, 3, size.pixels).to(device)
    settle_norms(f, splits[0].draw(0, 16, Rng(2)).images)
    g = build(StyleGAN2Config(base=size.base), size.pixels, 3, Rng(3)).to(device)
    with torch.no_grad():
        g.mapping.w_avg.copy_(g.sample(1000, Rng(4))[:, 0].mean(0))
    p = LPIPS("lpips_vgg", trunk(folder / "vgg16-random.pth")).to(device)
    for network in (f, g, p):
        channels_last(network.requires_grad_(False).eval())
    g.freeze()
    return Problem(
        name="noise",
        class_names=tuple(map(str, range(size.classes))),
        train=splits[0],
        val=splits[1],
        test=splits[2],
        classifier=f,
        generator=g,
        perceptual=p,
        fingerprints={},
    )


def settings(size: Size, precision: str, fast: str, steps: int) -> viscoin.VisCoINConfig:
    """Return VisCoIN's settings for CUB-200 (its table 3), trained for so many steps that nothing interrupts."""
    kept = {"precision": precision if LOW[precision] else "fp32", "tf32": precision != "fp32", "fast": fast}
    training = TrainConfig(steps=steps, batch=size.batch, lr=1e-4, log_every=steps, checkpoint_seconds=1e9, **kept)
    return viscoin.VisCoINConfig(K=size.K, channels=size.channels, gamma=0.1, delta=0.2, train=training)


@dataclass
class Laps:
    """Moments of the device, marked without waiting for it."""

    device: torch.device
    marks: list = field(default_factory=list)

    def mark(self) -> None:
        """Note the moment at which the device has done all it was given so far."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def seconds(self, warm: int) -> list[float]:
        """Return the time between moments, without the first `warm` ones."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        pairs = zip(self.marks[warm:], self.marks[warm + 1 :], strict=False)
        return [a.elapsed_time(b) / 1000 if self.device.type == "cuda" else b - a for a, b in pairs]


@dataclass(frozen=True, slots=True)
class Timed:
    """What a training of a few steps took."""

    seconds: list[float]
    """Of each step that counts."""
    first: dict[str, float]
    """Terms of the loss of the first step."""


def ours(
    size: Size,
    problem: Problem,
    folder: Path,
    rounds: int,
    *,
    precision: str = "fp32",
    fast: str = "off",
    warm: int = 3,
) -> Timed:
    """Train with coinbench's own loop, as `run` does; the first `warm` steps do not count."""
    # The last step is followed by what ends a training.
    config = settings(size, precision, fast, warm + rounds + 1)
    laps, first = Laps(problem.device), {}
    coin = viscoin.build(config, problem, Rng(0))
    with accelerated(problem, config.train):
        loss = viscoin.loss_of(coin, problem, Rng(0))

        def marked(step: int) -> dict[str, Tensor]:
            laps.mark()
            terms = loss(step)
            if not first:
                first.update({name: value.detach().clone() for name, value in terms.items()})
            return terms

        train(coin, marked, config.train, Log(folder), problem.networks)
    return Timed(laps.seconds(warm), {name: float(value) for name, value in first.items()})


class Plain:
    """The step in the way of the public code, on copies of the networks in torch's default layout."""

    def __init__(self, coin: viscoin.VisCoIN, problem: Problem) -> None:
        """Copy a method at initialisation, with its f and G, and p."""
        self.problem = problem
        # In one go, so that what the method shares with the problem stays shared.
        self.coin, self.p = copy.deepcopy((coin, problem.perceptual))
        for parameter in (*self.coin.parameters(), *self.p.parameters()):
            parameter.data = parameter.data.contiguous()
        assert isinstance(self.coin.generator, StyleGAN2Generator)
        assert isinstance(self.p, LPIPS)
        # The package's own forward pass.
        self.lpips: nn.Module = self.p.network
        self.g = self.coin.generator
        of_omega = list(self.coin.omega.parameters())
        known = {id(p) for p in of_omega}
        rest = [p for p in self.coin.parameters() if p.requires_grad and id(p) not in known]
        lr = coin.config.train.lr
        self.optimisers = torch.optim.Adam(of_omega, lr), torch.optim.Adam(rest, lr)

    def batch(self, step: int) -> Tensor:
        """Return real and sampled images, the same as coinbench's step sees."""
        n = self.coin.config.train.batch
        images = self.problem.train.draw(step, n, Rng(0).child("data")).images.contiguous()
        with torch.no_grad():
            w = self.g.sample(n, Rng(0).child("synthetic", step))
            return torch.cat([images, synthesise(self.g.synthesis, w).clamp(-1, 1)])

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms of L_train."""
        coin, config, f = self.coin, self.coin.config, self.coin.classifier
        concepts = coin.concepts_of(f(images).maps)
        w = coin.latent(concepts)
        drawn = synthesise(self.g.synthesis, w).clamp(-1, 1)
        return {
            "fidelity": config.alpha * soft_cross_entropy(coin.predict(concepts), f(images).logits),
            "mse": config.mse * (drawn - images).square().mean(),
            "l1": config.l1 * (drawn - images).abs().mean(),
            "perceptual": config.beta * self.lpips(drawn, images).mean(),
            "classification": config.gamma * soft_cross_entropy(f(drawn).logits, f(images).logits),
            "sparsity": config.delta * concepts.phi.abs().mean(),
            "orthogonality": config.orthogonality * orthogonality(coin.to_concepts.weight.flatten(1)),
            "latent": config.latent * (w - coin.mean_latent).square().mean(),
        }

    def step(self, number: int, low: torch.dtype | None = None) -> dict[str, Tensor]:
        """Do one step; `low` is the type of autocast."""
        kind = self.problem.device.type
        # Automatic scaling of fp16's loss is left out: it only costs.
        with torch.autocast(kind, low, enabled=low is not None):
            terms = self.losses(self.batch(number))
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        for optimiser in self.optimisers:
            optimiser.step()
        return terms


def plain(size: Size, problem: Problem, rounds: int, *, precision: str = "fp32", warm: int = 3) -> Timed:
    """Train by the plain step; the first `warm` ones do not count."""
    made = Plain(viscoin.build(settings(size, "fp32", "off", 1), problem, Rng(0)), problem)
    laps, first = Laps(problem.device), {}
    # Its f does not look at the values of images either.
    with trusting(), tensor_float(precision != "fp32"):
        number = 0
        while number < warm + rounds:
            laps.mark()
            terms = made.step(number, LOW[precision])
            first = first or {name: value.detach().clone() for name, value in terms.items()}
            number += 1
            if number == warm + 2:
                # Only here, as it waits for the device.
                rounds = min(rounds, max(2, round(ENOUGH / laps.seconds(warm)[0])))
        laps.mark()
    return Timed(laps.seconds(warm), {name: float(value) for name, value in first.items()})


def disagreement(size: Size, problem: Problem) -> dict[str, float]:
    """Return the largest relative difference between the two ways, in fp32: of a loss, and of the gradient."""
    coin = viscoin.build(settings(size, "fp32", "off", 1), problem, Rng(0))
    # As `train` does it.
    channels_last(coin)
    other = Plain(coin, problem)
    with tensor_float(False):
        a = viscoin.loss_of(coin, problem, Rng(0))(0)
        b = other.losses(other.batch(0))
        loss = max(abs(float(a[name].detach() / b[name].detach()) - 1) for name in a.keys() | b.keys())
        gradients = [_gradient(terms, network) for terms, network in ((a, coin), (b, other.coin))]
    return {"loss": loss, "gradient": float((gradients[0] - gradients[1]).norm() / gradients[1].norm())}


def _gradient(terms: dict[str, Tensor], network: nn.Module) -> Tensor:
    own = [parameter for parameter in network.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(torch.stack(list(terms.values())).sum(), own)
    return torch.cat([gradient.flatten() for gradient in found])
