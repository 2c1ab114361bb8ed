"""Trainings that memory is short for, and the states of a training that stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from coinbench import registry
from coinbench.config import ClassifierConfig, TrainConfig
from coinbench.group import Group
from coinbench.log import Log
from coinbench.problem import Problem
from coinbench.rng import Rng, seeded
from coinbench.training import train

STEPS = 6


@dataclass
class Memory:
    """Holds so many images at a time."""

    room: int
    asked: list[int] = field(default_factory=list)

    def hold(self, images: Tensor) -> None:
        self.asked.append(len(images))
        if len(images) > self.room:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")


def batch_loss(module: nn.Sequential, memory: Memory, group: Group) -> Callable[[int], dict[str, Tensor]]:
    """The loss of a batch of eight, of which the group's part is computed; memory is short after the first layer."""

    def loss(step: int) -> dict[str, Tensor]:
        x = group.share(torch.randn(8, 3, generator=Rng(2).child(step).torch()))
        first = module[0](x)
        memory.hold(x)
        return {"fit": (module[1](first) - x.sum(1, keepdim=True)).square().mean()}

    return loss


def trained(folder: Path, room: int, auto: bool = True, **changes: int) -> tuple[nn.Module, Memory, Log]:
    said: list[str] = []
    log = Log(folder, lambda event: said.append(event["text"]), stage="fit", auto_batch=auto)
    with seeded(Rng(1)):
        module = nn.Sequential(nn.Identity(), nn.Linear(3, 1))
    memory = Memory(room)
    config = TrainConfig(**{"steps": STEPS, "batch": 8, "lr": 0.05, "log_every": 1, "checkpoint_seconds": 0, **changes})
    train(module, batch_loss(module, memory, log.group), config, log)
    log.emit = lambda event: None
    (folder / "said.txt").write_text("\n".join(said))
    return module, memory, log


@pytest.mark.parametrize(("room", "size"), [(8, 8), (7, 4), (3, 2), (1, 1)])
def test_parts_of_a_batch_give_the_step_of_the_whole(room: int, size: int, tmp_path: Path) -> None:
    whole, _, _ = trained(tmp_path / "whole", 8, auto=False)
    found, memory, log = trained(tmp_path / "parts", room)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, rtol=1e-5, atol=1e-6, msg=key)
    tries = [n for n in (8, 4, 2, 1) if n >= size]
    assert memory.asked == [*tries[:-1], *[size] * (8 // size * STEPS)], (
        "it tries what is smaller once, and stays there"
    )
    header, *rows = tiny.rows(tmp_path / "parts" / "train.csv")
    assert [row[header.index("micro_batch")] for row in rows] == [str(size)] * STEPS
    losses = [[float(row[2]) for row in tiny.rows(tmp_path / at / "train.csv")[1:]] for at in ("whole", "parts")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    said = re.findall(
        r"out of memory at step 0: goes on with (\d) of 8 images", (tmp_path / "parts/said.txt").read_text()
    )
    assert [int(n) for n in said] == tries[1:]
    # Whatever is trained next begins with whole batches.
    assert log.group == Group()


def test_without_the_option_or_a_smaller_part_the_error_stays(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        trained(tmp_path / "a", 7, auto=False)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        trained(tmp_path / "b", 0)


def test_running_statistics_forget_the_pass_that_memory_was_short_for(tmp_path: Path) -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    log, memory = Log(tmp_path, auto_batch=True), Memory(4)
    train(module, batch_loss(module, memory, log.group), TrainConfig(steps=1, batch=8), log)
    assert memory.asked == [8, 4, 4]
    assert module[0].num_batches_tracked == 2


@pytest.mark.parametrize("name", ["viscoin", "flaem"])
def test_a_method_goes_on_with_smaller_parts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its draws come in parts; what there is of a batch besides images (sampled ones, labels) goes with them."""
    problem, log = tiny.make_problem(train=24), Log(tmp_path, auto_batch=True)
    problem = shared(problem, log.group)
    memory, seen = Memory(4), []
    whole = problem.train.draw(0, 8, Rng(3).child("data")).index
    draw = type(problem.train).draw

    def watched(*arguments: object):
        batch = draw(*arguments)  # pyright: ignore[reportArgumentType]
        memory.hold(batch.images)
        seen.append(batch.index)
        return batch

    monkeypatch.setattr(type(problem.train), "draw", watched)
    config = tiny.method_config(name, train=TrainConfig(steps=2, batch=8, log_every=1))
    registry.METHODS.load(name).fit(config, problem, Rng(3), log)
    assert memory.asked == [8, 4, 4, 4, 4]
    assert torch.equal(torch.cat(seen[:2]), whole)


def shared(problem: Problem, group: Group) -> Problem:
    return replace(problem, train=replace(problem.train, group=group))


def test_states_stay_as_they_were_and_only_the_newest(tmp_path: Path) -> None:
    for steps in (2, 4, 6):
        trained(tmp_path / str(steps), 8, auto=False, steps=steps)
    module, _, _ = trained(tmp_path / "kept", 8, auto=False, keep_every=2, keep=2)
    files = sorted((tmp_path / "kept" / "states").iterdir())
    assert [path.name for path in files] == ["00000004.safetensors", "00000006.safetensors"]
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in load_file(files[-1]).items())
    # A constant rate: the state after 4 steps is what a training of 4 steps ends with.
    four, _, _ = trained(tmp_path / "four", 8, auto=False, steps=4)
    assert all(torch.equal(value, four.state_dict()[key]) for key, value in load_file(files[0]).items())


def test_states_of_an_average_are_those_of_the_average(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with seeded(Rng(1)):
        module = nn.Sequential(nn.Identity(), nn.Linear(3, 1))
    config = TrainConfig(steps=STEPS, batch=8, lr=0.05, ema=0.5, keep_every=STEPS)
    train(module, batch_loss(module, Memory(8), log.group), config, log)
    (path,) = (tmp_path / "states").iterdir()
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in load_file(path).items())


def test_what_stays_changes_no_key() -> None:
    plain = ClassifierConfig(train=TrainConfig(steps=3))
    kept = ClassifierConfig(train=TrainConfig(steps=3, keep_every=1, keep=2))
    assert plain.digest() == kept.digest()
    assert "keep" not in str(plain.key())
