"""StyleGAN2: G beside its grouped-convolution form, D, and a whole step of ADA's training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from grouped import synthesise
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from coinbench.config import TrainConfig
from coinbench.generators.stylegan2 import build
from coinbench.generators.stylegan2_config import StyleGAN2Config
from coinbench.generators.stylegan2_training import Duel, build_discriminator
from coinbench.models import channels_last
from coinbench.networks.stylegan2 import StyleGAN2
from coinbench.networks.stylegan2_discriminator import Discriminator
from coinbench.presets import stylegan2
from coinbench.problem import Split
from coinbench.rng import Rng, seeded

BATCH = {64: 8, 256: 2}
WAYS = ("activations scaled", "grouped convolution")


def _frozen(side: int) -> StyleGAN2:
    """G of the recipe `auto`, with weights that no longer change."""
    with seeded(Rng(0)):
        network = StyleGAN2(size=side, depth=2, base=16384)
    channels_last(network)
    network.freeze()
    return network


def _latents(network: StyleGAN2, n: int) -> Tensor:
    with torch.no_grad():
        z = torch.randn(n, network.z_dim, generator=Rng(1).torch())
        return network.mapping(z)[:, None].repeat(1, network.n_styles, 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("side", BATCH)
@pytest.mark.parametrize("what", ["forward", "forward and backward to w"])
def bench_generator(benchmark: BenchmarkFixture, what: str, side: int, way: str) -> None:
    network = _frozen(side)
    draw: Callable[[Tensor], Tensor] = (
        network.synthesis if way == WAYS[0] else lambda w: synthesise(network.synthesis, w)
    )
    w = _latents(network, BATCH[side])
    with torch.no_grad():
        torch.testing.assert_close(draw(w[:1]), network.synthesis(w[:1]), rtol=1e-3, atol=1e-3)

    def forward() -> Tensor:
        with torch.no_grad():
            return draw(w)

    def both() -> Tensor:
        given = w.detach().requires_grad_(True)
        return torch.autograd.grad(draw(given).square().mean(), given)[0]

    benchmark.group = f"G {side} px, {what}, batch {BATCH[side]}"
    found = benchmark.pedantic(forward if what == "forward" else both, rounds=5, warmup_rounds=1)
    assert found.isfinite().all()


@pytest.mark.parametrize("side", BATCH)
def bench_discriminator(benchmark: BenchmarkFixture, side: int) -> None:
    with seeded(Rng(0)):
        network = Discriminator(size=side, base=16384, group=2)
    channels_last(network)
    images = torch.rand(BATCH[side], 3, side, side, generator=Rng(1).torch()) * 2 - 1
    benchmark.group = f"D {side} px, forward, batch {BATCH[side]}"
    with torch.no_grad():
        assert len(benchmark.pedantic(network, (images,), rounds=5, warmup_rounds=1)) == BATCH[side]


@pytest.mark.parametrize("p", [0.0, 0.3])
def bench_step(benchmark: BenchmarkFixture, p: float) -> None:
    """16 steps: one R1 and four path length penalties, as often as they come in training."""
    config = stylegan2(32, kimg=1)
    assert isinstance(config, StyleGAN2Config)
    config = config.model_copy(update={"train": TrainConfig(steps=16, batch=16, lr=2.5e-3, betas=(0.0, 0.99))})
    dice = Rng(2).numpy()
    pixels = dice.integers(0, 256, (64, 32, 32, 3), dtype="uint8")
    labels = dice.integers(0, 2, 64)
    split = Split("train", pixels, labels, labels, pixels)
    generator = build(config, 32, 3, Rng(0)).network
    duel = Duel(config, generator, build_discriminator(config, generator, Rng(0)), split)

    def steps() -> None:
        for number in range(16):
            duel.controller.p = p
            duel.step(number, Rng(3))

    benchmark.group = f"16 steps of ADA, the birds' G and D, 32 px, batch 16, p = {p:g}"
    benchmark.pedantic(steps, rounds=3)
    assert all(float(value) == float(value) for value in duel.terms.values())
