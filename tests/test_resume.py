"""A cut and resumed training is an uninterrupted one; checkpoints that do not fit are refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import tiny
from safetensors import safe_open
from torch import nn
from torch.amp.grad_scaler import GradScaler
from trainings import STEPS, Killed, kill_at, loss_of, network, settings, stop_at, trained

from coinbench import checkpoints, training
from coinbench.config import TrainConfig
from coinbench.errors import DataError, Interrupted
from coinbench.log import Log
from coinbench.training import train


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("cut", [3, 8, 15])
@pytest.mark.parametrize("how", [stop_at, kill_at])
def test_a_cut_and_resumed_training_is_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, optimiser: str, cut: int, how: Callable
) -> None:
    config = settings(optimiser=optimiser)
    whole = trained(tmp_path / "whole", config)
    resumed = trained(tmp_path / "cut", config, how(cut))
    assert tiny.same_state(whole, resumed)
    assert tiny.rows(tmp_path / "cut" / "train.csv") == tiny.rows(tmp_path / "whole" / "train.csv")


def test_a_training_cut_three_times_is_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", settings())
    resumed = trained(tmp_path / "cut", settings(), kill_at(3), stop_at(8), kill_at(13))
    assert tiny.same_state(whole, resumed)
    assert tiny.rows(tmp_path / "cut" / "train.csv") == tiny.rows(tmp_path / "whole" / "train.csv")


def scaled(monkeypatch: pytest.MonkeyPatch, scale: float) -> TrainConfig:
    """Let trainings on the CPU scale their losses as fp16 does on CUDA."""
    make = partial(GradScaler, init_scale=scale, growth_interval=3)
    monkeypatch.setattr(training, "GradScaler", lambda device, enabled: make(device))
    return settings(accumulate=1, steps=20, clip=None)


def scale_of(folder: Path) -> tuple[str, str]:
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
        return file.metadata()["scale"], file.metadata()["growth"]


@pytest.mark.parametrize("how", [stop_at, kill_at])
def test_a_resumed_training_goes_on_with_the_scale_of_its_losses(
    tmp_path: Path, how: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = trained(tmp_path / "free", scaled(monkeypatch, 2.0**10))
    # Here gradients overflow at the start and whenever the scale has grown: such steps are left out.
    config = scaled(monkeypatch, 2.0**127)
    whole = trained(tmp_path / "whole", config)
    assert not tiny.same_state(whole, free)
    resumed = trained(tmp_path / "cut", config, how(2), how(8), how(14))
    assert tiny.same_state(whole, resumed)
    assert scale_of(tmp_path / "cut") == scale_of(tmp_path / "whole") != (repr(2.0**127), "0")


@pytest.mark.parametrize("wrong", [{"scale": "0.0"}, {"scale": "nan"}, {"growth": "3"}, {"growth": "-1"}])
def test_a_scale_that_no_step_leaves_is_refused(
    tmp_path: Path, wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = scaled(monkeypatch, 1.0).model_copy(update={"steps": 3})
    trained(tmp_path, config)
    path = tmp_path / "checkpoint.safetensors"
    tensors, metadata = checkpoints.read(path, config.digest())
    checkpoints.save(path, tensors, metadata | wrong)
    module = network()
    with pytest.raises(DataError, match=r"not a checkpoint of this network \(scale .* steps ago\); delete it"):
        train(module, loss_of(module), config, Log(tmp_path))


def test_rows_later_than_the_checkpoint_are_not_logged_twice(tmp_path: Path) -> None:
    trained(tmp_path / "whole", settings())
    folder, module = tmp_path / "cut", network()
    path = folder / "checkpoint.safetensors"
    old: list[bytes] = []

    def at(micro: int) -> None:
        if micro == 8:
            old.append(path.read_bytes())
        if micro == 15:
            raise Killed

    with pytest.raises(Killed):
        train(module, loss_of(module, at), settings(), Log(folder))
    # Killed seven steps in, with a checkpoint that is three steps old.
    path.write_bytes(old[0])
    trained(folder, settings())
    assert tiny.rows(folder / "train.csv") == tiny.rows(tmp_path / "whole" / "train.csv")


def test_resuming_does_not_repeat_what_was_done(tmp_path: Path) -> None:
    module, log, seen = network(), Log(tmp_path), []
    with pytest.raises(Interrupted, match="the same command resumes"):
        train(module, loss_of(module, stop_at(9)(log)), settings(), log)
    train(module, loss_of(module, seen.append), settings(), Log(tmp_path))
    assert seen == list(range(10, 2 * STEPS))


def test_checkpoints_are_written_by_time(tmp_path: Path) -> None:
    module, path = network(), tmp_path / "checkpoint.safetensors"
    there = []
    train(module, loss_of(module, lambda step: there.append(path.exists())), settings(), Log(tmp_path))
    assert there == [False, False] + [True] * (2 * STEPS - 2)
    train(module, loss_of(module), settings(checkpoint_seconds=60), Log(tmp_path / "seldom"))
    assert not (tmp_path / "seldom" / "checkpoint.safetensors").exists()


def refused(folder: Path, config: TrainConfig, module: nn.Module) -> str:
    with pytest.raises(DataError) as caught:
        train(module, loss_of(module), config, Log(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder / "checkpoint.safetensors") in message
    assert "delete it" in message
    return message


def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    module, log = network(), Log(tmp_path)
    with pytest.raises(Interrupted):
        train(module, loss_of(module, stop_at(5)(log)), settings(), log)
    good = path.read_bytes()

    assert "another training configuration" in refused(tmp_path, settings(lr=0.06), network())
    other = nn.Sequential(nn.Linear(3, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 1))
    refused(tmp_path, settings(), other)
    refused(tmp_path, settings(), nn.Sequential(nn.Linear(3, 1)))
    for broken in (good[: len(good) // 2], good[:5], b"", b"no checkpoint " * 50):
        path.write_bytes(broken)
        refused(tmp_path, settings(), network())

    path.write_bytes(good)
    again = network()
    train(again, loss_of(again), settings(), Log(tmp_path))
    assert tiny.same_state(again, trained(tmp_path / "whole", settings()))


def test_a_larger_network_does_not_take_a_checkpoint_by_broadcasting(tmp_path: Path) -> None:
    def make(width: int) -> nn.Module:
        return nn.Linear(3, width)

    module, log = make(1), Log(tmp_path)
    with pytest.raises(Interrupted):
        train(module, loss_of(module, stop_at(2)(log)), settings(), log)
    refused(tmp_path, settings(), make(4))
