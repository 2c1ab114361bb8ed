"""The guard of the training loop as CUDA has it, where nobody looks at each step: played on the CPU."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from trainings import STEPS, loss_of, network, settings, trained

from coinbench import guard
from coinbench.config import TrainConfig
from coinbench.errors import CoinbenchError
from coinbench.log import Log
from coinbench.training import train


@pytest.fixture(autouse=True)
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    # The fused optimisers, which leave out steps, exist on the CPU too.
    monkeypatch.setattr(guard, "is_lazy", lambda device: True)


def spoilt(module: nn.Module, bad: int, kept: list[dict[str, Tensor]], how: str = "loss"):
    """The small loss, from step `bad` on not finite; keeps the parameters as they are before it."""

    def loss(step: int) -> dict[str, Tensor]:
        terms = loss_of(module)(step)
        if step == bad:
            kept.append({name: p.detach().clone() for name, p in module.named_parameters()})
            if how == "loss":
                terms["size"] = terms["size"] + math.inf
            elif how == "late term":
                terms["late"] = terms["size"] * math.nan
            else:
                # sqrt at 0: the loss is finite, its gradient is not.
                terms["size"] = terms["size"] + (0 * module(torch.ones(2, 3))).sum().sqrt()
        return terms

    return loss


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("how", ["loss", "late term", "gradient"])
def test_weights_are_those_of_the_last_good_step_whenever_somebody_looks(
    optimiser: str, how: str, tmp_path: Path
) -> None:
    module, kept = network(), []
    config = settings(accumulate=1, log_every=100, checkpoint_seconds=1e9, optimiser=optimiser)
    named = {"loss": "size inf", "late term": "late nan", "gradient": "gradient nan"}[how]
    with pytest.raises(CoinbenchError, match=rf"fit: the loss is not finite at step 4 \(.*({named})\); no checkpoint"):
        train(module, spoilt(module, 4, kept, how), config, Log(tmp_path, stage="fit"))
    # Four steps came after it.
    assert all(torch.equal(p, kept[0][name]) for name, p in module.named_parameters())


def test_no_checkpoint_and_no_average_holds_what_is_not_finite(tmp_path: Path) -> None:
    module, kept = network(), []
    config = settings(accumulate=1, log_every=100, checkpoint_seconds=0)
    with pytest.raises(CoinbenchError, match=r"not finite at step 4 .*last good checkpoint"):
        train(module, spoilt(module, 4, kept), config, Log(tmp_path, stage="fit"))
    assert all(value.isfinite().all() for value in load_file(tmp_path / "checkpoint.safetensors").values())
    again = network()
    train(again, loss_of(again), config, Log(tmp_path))
    assert tiny.same_state(again, trained(tmp_path / "whole", config))


def test_a_sound_training_is_the_same_and_looks_when_a_row_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    look = guard.Guard.look
    monkeypatch.setattr(guard.Guard, "look", lambda self: looks.append(1) or look(self))
    found = trained(tmp_path / "lazy", settings(log_every=4, checkpoint_seconds=1e9))
    # After steps 4, 8 and the last.
    assert len(looks) == len(tiny.rows(tmp_path / "lazy" / "train.csv")) - 1 == 3
    monkeypatch.setattr(guard, "is_lazy", lambda device: False)
    plain = trained(tmp_path / "plain", settings(log_every=4))
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, rtol=1e-5, atol=1e-6, msg=key)
    assert len(looks) == 3 + STEPS


def test_a_stop_looks_before_it_writes(tmp_path: Path) -> None:
    module, log, kept = network(), Log(tmp_path, stage="fit"), []
    spoil = spoilt(module, 4, kept)

    def loss(step: int) -> dict[str, Tensor]:
        if step == 6:
            log.stop.set()
        return spoil(step)

    config: TrainConfig = settings(accumulate=1, log_every=100, checkpoint_seconds=1e9)
    with pytest.raises(CoinbenchError, match="not finite at step 4"):
        train(module, loss, config, log)
    assert not (tmp_path / "checkpoint.safetensors").exists()
