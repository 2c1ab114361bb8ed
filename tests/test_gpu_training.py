"""The training loop on CUDA: no step waits for the device, and nothing that is not finite reaches the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from trainings import loss_of, network, settings, stop_at

from coinbench import registry
from coinbench.conformance.tiny import moved
from coinbench.errors import CoinbenchError, Interrupted
from coinbench.generators import stylegan2
from coinbench.generators.stylegan2_config import StyleGAN2Config
from coinbench.log import Log
from coinbench.rng import Rng
from coinbench.training import learning_rate, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


def on_cuda(module: nn.Module, at: Callable[[int], None] = lambda step: None) -> Callable[[int], dict[str, Tensor]]:
    """The loss of the small trainings, on inputs that are sent to the device."""

    def loss(step: int) -> dict[str, Tensor]:
        at(step)
        x = torch.randn(6, 3, generator=Rng(2).child(step).torch()).to(CUDA)
        y = module(x)
        return {"fit": (y - x.sum(1, keepdim=True)).square().mean(), "size": 0.1 * y.abs().mean()}

    return loss


def close(a: nn.Module, b: nn.Module) -> None:
    for key, value in a.state_dict().items():
        torch.testing.assert_close(b.state_dict()[key].cpu(), value.cpu(), rtol=1e-4, atol=1e-5, msg=key)


class Sentinel(Log):
    """Forbids every wait for the device from the second step on, up to the last one, which is looked at."""

    def progress(self, step: int, steps: int, seconds_left: float, text: str = "") -> None:
        torch.cuda.set_sync_debug_mode("error" if 1 <= step < steps - 1 else "default")
        self.seen = step


@pytest.mark.parametrize("name", ["viscoin", "flint", "flaem"])
def test_no_step_waits_for_the_device(name: str, tmp_path: Path) -> None:
    problem = tiny.make_problem(size=32)
    styles = stylegan2.build(StyleGAN2Config(most=16, base=512), 32, tiny.CHANNELS, Rng(0))
    problem = moved(tiny.with_generator(problem, styles), CUDA)
    problem.generator.freeze()
    train_settings = tiny.TrainConfig(steps=6, batch=4, log_every=100, checkpoint_seconds=1e9, ema=0.9, clip=1.0)
    log = Sentinel(tmp_path)
    try:
        registry.METHODS.load(name).fit(tiny.method_config(name, train=train_settings), problem, Rng(1), log)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert log.seen == 6
    assert [row[0] for row in tiny.rows(tmp_path / "train.csv")[1:]] == ["6"]


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_the_fused_step_is_that_of_the_plain_optimiser(optimiser: str, tmp_path: Path) -> None:
    config = settings(optimiser=optimiser, accumulate=1, clip=None, ema=None)
    found = network().to(CUDA)
    train(found, on_cuda(found), config, Log(tmp_path))
    plain = network().to(CUDA).train()
    decay = {"weight_decay": config.weight_decay, "foreach": False, "fused": False}
    steps: Any = {
        "adam": lambda p: torch.optim.Adam(p, config.lr, betas=config.betas, **decay),
        "sgd": lambda p: torch.optim.SGD(p, config.lr, momentum=config.momentum, **decay),
    }[optimiser](plain.parameters())
    loss = on_cuda(plain)
    for step in range(config.steps):
        steps.param_groups[0]["lr"] = learning_rate(config, step)
        steps.zero_grad()
        torch.stack(list(loss(step).values())).sum().backward()
        steps.step()
    close(plain, found)


def test_a_training_on_cuda_is_that_on_the_cpu(tmp_path: Path) -> None:
    there, here = network().to(CUDA), network()
    train(there, on_cuda(there), settings(), Log(tmp_path / "cuda"))
    train(here, loss_of(here), settings(), Log(tmp_path / "cpu"))
    close(here, there)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("ema", [None, 0.8])
def test_weights_stay_those_of_the_last_good_step_until_somebody_looks(
    ema: float | None, precision: str, tmp_path: Path
) -> None:
    config = settings(accumulate=1, log_every=100, checkpoint_seconds=1e9, ema=ema, precision=precision)
    module, kept = network().to(CUDA), {}

    def poisoned(step: int) -> dict[str, Tensor]:
        terms = on_cuda(module)(step)
        if step == 5:
            kept.update({name: p.detach().clone() for name, p in module.named_parameters()})
            terms["size"] = terms["size"] + math.inf
        return terms

    with pytest.raises(CoinbenchError, match=r"not finite at step 5 \(fit [\d.]+, size inf\); no checkpoint"):
        train(module, poisoned, config, Log(tmp_path, stage="fit"))
    # Three steps came after it.
    assert all(torch.equal(p, kept[name]) for name, p in module.named_parameters())


def test_a_cut_training_in_fp16_goes_on_with_its_scale(tmp_path: Path) -> None:
    config = settings(accumulate=1, precision="fp16", steps=12)

    def scale(folder: Path) -> list[str]:
        with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
            return [file.metadata()[name] for name in ("scale", "growth")]

    whole, cut, log = network().to(CUDA), network().to(CUDA), Log(tmp_path / "cut")
    train(whole, on_cuda(whole), config, Log(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train(cut, on_cuda(cut, stop_at(5)(log)), config, log)
    again = network().to(CUDA)
    train(again, on_cuda(again), config, Log(tmp_path / "cut"))
    close(whole, again)
    assert scale(tmp_path / "cut") == scale(tmp_path / "whole")


def test_no_checkpoint_holds_what_is_not_finite(tmp_path: Path) -> None:
    module = network().to(CUDA)

    def loss(step: int) -> dict[str, Tensor]:
        terms = on_cuda(module)(step)
        if step == 4:
            terms["root"] = (0 * module(torch.ones(2, 3, device=CUDA))).sum().sqrt()
        return terms

    config = settings(accumulate=1, log_every=100, checkpoint_seconds=0)
    with pytest.raises(CoinbenchError, match=r"not finite at step 4 \(.*gradient nan\); last good checkpoint"):
        train(module, loss, config, Log(tmp_path, stage="fit"))
    assert all(value.isfinite().all() for value in load_file(tmp_path / "checkpoint.safetensors").values())
    again, whole = network().to(CUDA), network().to(CUDA)
    train(again, on_cuda(again), config, Log(tmp_path))
    train(whole, on_cuda(whole), config, Log(tmp_path / "whole"))
    close(whole, again)


def test_batches_hold_the_same_bits_as_on_the_cpu() -> None:
    here = tiny.make_problem().train
    there = replace(here, device=CUDA)
    a, b = here.draw(3, 8, Rng(1)), there.draw(3, 8, Rng(1))
    assert torch.equal(a.images, b.images.cpu())
    assert torch.equal(a.labels, b.labels.cpu())
    assert torch.equal(a.index, b.index.cpu())
