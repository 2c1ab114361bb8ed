"""What only a CUDA device can tell of StyleGAN2-ADA's training: it agrees with the CPU, goes on, and never waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import split
from torch import Tensor

from coinbench.cache import CHECKPOINT
from coinbench.config import TrainConfig
from coinbench.conformance.generators import small_generator
from coinbench.fast import tensor_float
from coinbench.generators import ada, gan_losses
from coinbench.generators.stylegan2 import GENERATOR, build
from coinbench.generators.stylegan2_config import StyleGAN2Config
from coinbench.generators.stylegan2_training import Duel, build_discriminator
from coinbench.rng import Rng

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
RNG = Rng(5).child("generator")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Products without TF32, so that the CPU's numbers come out."""
    with tensor_float(False):
        yield


def duel(device: str, precision: str = "fp32") -> Duel:
    train = {"steps": 40, "batch": 8, "lr": 2e-3, "betas": (0.0, 0.99), "precision": precision}
    config = small_generator(GENERATOR, ada_kimg=1.0, r1=1.0, train=TrainConfig.model_validate(train))
    assert isinstance(config, StyleGAN2Config)
    generator = build(config, 16, 3, RNG).network
    discriminator = build_discriminator(config, generator, RNG)
    found = Duel(config, generator.to(device), discriminator, split("train", 12, 16))
    found.controller.p = 0.6
    return found


@pytest.mark.parametrize("size", [16, 64])
def test_augmentation_draws_and_computes_what_the_cpu_does(size: int) -> None:
    images = torch.rand(8, 3, size, size, generator=RNG.torch()) * 2 - 1
    here, there = (ada.augment(images.to(device), 0.8, RNG.child("dice").torch()).cpu() for device in ("cpu", "cuda"))
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


def test_g_d_and_r1_through_augmentation_are_those_of_the_cpu() -> None:
    found: dict[str, list[Tensor]] = {}
    for device in ("cpu", "cuda"):
        one = duel(device)
        z = torch.randn(8, one.generator.z_dim, generator=RNG.torch()).to(device)
        images = one.generator(z).detach().requires_grad_(True)
        logits = one.discriminator(ada.augment(images, 0.8, RNG.child("dice").torch()))
        penalty = gan_losses.r1(logits, images)
        gradients = torch.autograd.grad(penalty, one.of_d, allow_unused=True)
        found[device] = [t.detach().cpu() for t in (images, logits, penalty, *gradients) if t is not None]
    for there, here in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_goes_on_from_its_checkpoint(precision: str, tmp_path: Path) -> None:
    one = duel("cuda", precision)
    for number in range(18):
        one.step(number, RNG)
    assert one.check(18, "generator")["r1"] > 0
    one.save(tmp_path / CHECKPOINT, 18)
    other = duel("cuda", precision)
    assert other.load(tmp_path / CHECKPOINT) == 18
    for number in range(18, 22):
        one.step(number, RNG)
        other.step(number, RNG)
    other.check(22, "generator")
    for a, b in zip(one.average.parameters(), other.average.parameters(), strict=True):
        # Sums of the device come in no fixed order.
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)


def test_a_step_does_not_wait_for_the_device() -> None:
    one = duel("cuda")
    one.step(0, RNG)
    torch.cuda.set_sync_debug_mode("error")
    try:
        # With path lengths and R1; p is read, and waited for, in every fourth step.
        for number in (16, 17, 18):
            one.step(number, RNG)
    finally:
        torch.cuda.set_sync_debug_mode("default")
