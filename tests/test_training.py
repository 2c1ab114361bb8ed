"""The training loop: guards, schedules, averages, precision, shared networks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn
from trainings import STEPS, loss_of, network, settings, stop_at, trained

from coinbench.config import TrainConfig
from coinbench.errors import CoinbenchError, Interrupted, UsageError
from coinbench.log import Log
from coinbench.rng import Rng, seeded
from coinbench.training import learning_rate, train


def test_the_log_has_the_rows_asked_for_and_the_last_one(tmp_path: Path) -> None:
    module = network()
    train(module, loss_of(module), settings(log_every=4), Log(tmp_path))
    header, *rows = tiny.rows(tmp_path / "train.csv")
    assert header == ["step", "rate", "loss", "fit", "size"]
    assert [row[0] for row in rows] == ["4", "8", "9"]
    for _, _, total, *terms in rows:
        assert float(total) == pytest.approx(sum(map(float, terms)), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_with_step_terms_and_checkpoint(tmp_path: Path) -> None:
    module = network()

    def poisoned(step: int) -> dict[str, Tensor]:
        return loss_of(module)(step) | ({"bad": module(torch.ones(2, 3)).sum() * math.nan} if step == 5 else {})

    config = settings(accumulate=1)
    with pytest.raises(CoinbenchError) as caught:
        train(module, poisoned, config, Log(tmp_path, stage="fit"))
    message = str(caught.value)
    path = tmp_path / "checkpoint.safetensors"
    assert re.match(r"fit: the loss is not finite at step 5 \(fit [\d.]+, size [\d.]+, bad nan\); ", message)
    assert f"last good checkpoint: {path};" in message
    assert "train.lr" in message
    assert "\n" not in message
    # The weights are those after step 4, and the checkpoint continues from there as if nothing had been.
    whole = trained(tmp_path / "whole", config)
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    again = network()
    train(again, loss_of(again), config, Log(tmp_path))
    assert tiny.same_state(again, whole)


def test_without_a_checkpoint_the_guard_says_so(tmp_path: Path) -> None:
    module = network()
    config = settings(checkpoint_seconds=60)
    with pytest.raises(CoinbenchError, match=r"at step 0 \(only inf\); no checkpoint was written yet"):
        train(module, lambda step: {"only": module(torch.ones(2, 3)).sum() + math.inf}, config, Log(tmp_path))


@pytest.mark.parametrize("bad", [4, STEPS - 1], ids=["inside", "last step"])
def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint_or_the_result(tmp_path: Path, bad: int) -> None:
    # sqrt at 0: the loss is finite, its gradient is not.
    module = network()

    def loss(step: int) -> dict[str, Tensor]:
        terms = loss_of(module)(step)
        if step == bad:
            terms["root"] = (0 * module(torch.ones(2, 3))).sum().sqrt()
        return terms

    config = settings(accumulate=1)
    with pytest.raises(CoinbenchError, match=rf"not finite at step {bad} \(.*gradient nan\); last good checkpoint"):
        train(module, loss, config, Log(tmp_path, stage="fit"))
    whole = trained(tmp_path / "whole", config)
    again = network()
    train(again, loss_of(again), config, Log(tmp_path))
    assert tiny.same_state(again, whole)


def linear_step(batches: list[slice], tmp_path: Path, **changes: Any) -> Tensor:
    """Weights after one SGD step of a linear model on micro-batches that are rows of fixed data."""
    with seeded(Rng(0)):
        module = nn.Linear(5, 1)
    dice = np.random.default_rng(0)
    x, y = (torch.from_numpy(dice.normal(size=(8, n))).float() for n in (5, 1))
    config = TrainConfig(steps=1, lr=0.1, optimiser="sgd", momentum=0, accumulate=len(batches), **changes)
    train(
        module,
        lambda micro: {"mse": (module(x[batches[micro]]) - y[batches[micro]]).square().mean()},
        config,
        Log(tmp_path),
    )
    return torch.cat([module.weight.detach().flatten(), module.bias.detach()])


def test_two_batches_of_four_make_the_step_of_one_of_eight(tmp_path: Path) -> None:
    eight = linear_step([slice(8)], tmp_path)
    torch.testing.assert_close(linear_step([slice(4), slice(4, 8)], tmp_path), eight)
    assert not torch.allclose(linear_step([slice(4)], tmp_path), eight)


def test_clip_bounds_the_gradient_and_leaves_small_ones_alone(tmp_path: Path) -> None:
    with seeded(Rng(0)):
        start = nn.Linear(5, 1)
    before = torch.cat([start.weight.detach().flatten(), start.bias.detach()])
    free = linear_step([slice(8)], tmp_path) - before
    clipped = linear_step([slice(8)], tmp_path, clip=0.01) - before
    assert free.norm() > 0.01
    assert float(clipped.norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), atol=1e-3, rtol=0)
    torch.testing.assert_close(linear_step([slice(8)], tmp_path, clip=100.0) - before, free)


SCHEDULES: dict[str, tuple[dict[str, Any], Callable[[int], float]]] = {
    "constant": ({}, lambda t: 1.0),
    "linear": ({}, lambda t: 1 - t / 20),
    "late linear": ({"schedule": "linear", "decay_from": 0.6}, lambda t: min(1.0, (20 - t) / 8)),
    "cosine": ({}, lambda t: math.cos(math.pi * t / 40) ** 2),
    "staircase": (
        {"decay_from": 0.5, "decay": 0.8, "decay_every": 3},
        lambda t: 0.8 ** (0 if t < 13 else (t - 10) // 3),
    ),
    "step": ({"milestones": (0.5, 0.75)}, lambda t: 1.0 if t < 10 else 0.1 if t < 15 else 0.01),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_follows_its_schedule(name: str) -> None:
    changes, expected = SCHEDULES[name]
    config = TrainConfig(**{"steps": 20, "lr": 1.0, "schedule": name, **changes})
    found = [learning_rate(config, t) for t in range(20)]
    np.testing.assert_allclose(found, [expected(t) for t in range(20)], rtol=1e-9)
    warm = config.model_copy(update={"warmup": 4, "lr": 0.5})
    np.testing.assert_allclose(
        [learning_rate(warm, t) for t in range(20)],
        [0.5 * min(1.0, (t + 1) / 4) * expected(t) for t in range(20)],
        rtol=1e-9,
    )


class Scalar(nn.Module):
    """One weight, whose loss has a gradient given per step."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(2.0))


def slide(config: TrainConfig, gradients: list[float], tmp_path: Path) -> float:
    module = Scalar()
    train(module, lambda step: {"slope": module.w * gradients[step]}, config, Log(tmp_path))
    return float(module.w.detach())


def test_every_step_is_done_with_its_own_rate(tmp_path: Path) -> None:
    config = TrainConfig(steps=6, lr=0.1, optimiser="sgd", momentum=0, schedule="linear", warmup=2, log_every=1)
    rates = [0.05] + [0.1 * (1 - t / 6) for t in range(1, 6)]
    gradients = [1.0, -2.0, 3.0, 0.5, -1.0, 4.0]
    moved = sum(rate * slope for rate, slope in zip(rates, gradients, strict=True))
    assert slide(config, gradients, tmp_path) == pytest.approx(2 - moved, rel=1e-5)
    logged = [float(row[1]) for row in tiny.rows(tmp_path / "train.csv")[1:]]
    np.testing.assert_allclose(logged, rates, rtol=1e-5)


def test_the_average_is_what_is_kept(tmp_path: Path) -> None:
    config = TrainConfig(steps=5, lr=0.1, optimiser="sgd", momentum=0, ema=0.7)
    gradients = [1.0, -2.0, 3.0, 0.5, -1.0]
    w = average = 2.0
    for slope in gradients:
        w -= 0.1 * slope
        average = 0.7 * average + 0.3 * w
    assert abs(average - w) > 1e-2
    assert slide(config, gradients, tmp_path) == pytest.approx(average, rel=1e-5)
    assert slide(config.model_copy(update={"ema": None}), gradients, tmp_path) == pytest.approx(w, rel=1e-5)


def test_bf16_computes_in_bf16_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    module, kinds = network(), set()

    def loss(step: int) -> dict[str, Tensor]:
        x = torch.randn(6, 3, generator=Rng(2).child(step).torch())
        y = module(x)
        kinds.add(y.dtype)
        return {"fit": (y.float() - 1).square().mean()}

    before = [p.detach().clone() for p in module.parameters()]
    train(module, loss, settings(precision="bf16", steps=3), Log(tmp_path))
    assert kinds == {torch.bfloat16}
    after = list(module.parameters())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_fp16_needs_cuda(tmp_path: Path) -> None:
    module = network()
    with pytest.raises(UsageError, match=r"train\.precision=fp16 needs a CUDA device"):
        train(module, loss_of(module), settings(precision="fp16"), Log(tmp_path))


class Wrapped(nn.Module):
    """A frozen network with batch norm inside a trained one."""

    def __init__(self, frozen: nn.Module) -> None:
        super().__init__()
        self.frozen = frozen
        self.own = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self.frozen(x))


def test_shared_networks_stay_as_they_are_in_eval_mode_and_out_of_checkpoints(tmp_path: Path) -> None:
    frozen = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).requires_grad_(False).eval()
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    module, log, modes = Wrapped(frozen), Log(tmp_path), set()

    def watch(step: int) -> None:
        modes.add((module.training, module.own[0].training, frozen.training, frozen[1].training))

    train(module, loss_of(module, watch), settings(), log, (frozen,))
    assert modes == {(True, True, False, False)}
    assert not any(part.training for part in module.modules())
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())

    cut = Wrapped(frozen)
    log = Log(tmp_path / "cut")
    with pytest.raises(Interrupted):
        train(cut, loss_of(cut, stop_at(3)(log)), settings(), log, (frozen,))
    from safetensors import safe_open

    with safe_open(tmp_path / "cut" / "checkpoint.safetensors", framework="pt") as file:
        keys = list(file.keys())
    assert any(".own." in key for key in keys)
    assert not any("frozen" in key for key in keys)


def test_a_module_without_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        train(network().requires_grad_(False), lambda step: {}, settings(), Log(tmp_path))


def test_tensorboard_files_are_whole_when_training_ends(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    module = network()
    train(module, loss_of(module), settings(), Log(tmp_path, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"rate", "loss", "fit", "size"}
    logged = {int(row[0]): float(row[2]) for row in tiny.rows(tmp_path / "train.csv")[1:]}
    shown = {event.step: event.value for event in events.Scalars("loss")}
    assert shown == pytest.approx(logged, rel=1e-4)
    assert len(shown) == STEPS


def test_progress_is_told_at_the_end_with_nothing_left(tmp_path: Path) -> None:
    module, events = network(), []
    train(module, loss_of(module), settings(), Log(tmp_path, events.append, stage="fit"))
    assert events[-1]["step"] == events[-1]["steps"] == STEPS
    assert events[-1]["seconds_left"] == 0
    assert events[-1]["stage"] == "fit"
