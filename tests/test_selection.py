"""The state of f that is kept is the best on the validation split; a cut training chooses as an uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from commands import Cli, files, in_process, one_line
from small_cell import Place
from tiny import make_cell, make_problem
from torch import Tensor, nn
from trainings import Killed, kill_at, loss_of, network, settings, stop_at

from coinbench import presets_paper, registry, weights
from coinbench.classifiers import small
from coinbench.classifiers.labels import accuracy_on, fit
from coinbench.classifiers.small import ResNetConfig
from coinbench.config import ClassifierConfig, TrainConfig
from coinbench.errors import DataError, Interrupted
from coinbench.files import read_json
from coinbench.log import Log
from coinbench.models import Classifier
from coinbench.networks.resnet import ResNet
from coinbench.presets import other_classifier, preset
from coinbench.problem import Problem, Split
from coinbench.rng import Rng, seeded
from coinbench.selection import LAST, RECORD, Selection
from coinbench.training import train

SCORES = (0.2, 0.7, 0.7, 0.1, 0.4)
"""Of the states after steps 2, 4, 6, 8 and 9: the best is seen twice, the last is none of them."""


def scripted(module: nn.Module, seen: dict[int, dict[str, Tensor]] | None = None) -> Selection:
    """A selection with scores that are known; `seen` receives the state of each step."""
    selection: Selection

    def score() -> float:
        done = (selection.seen[-1][0] if selection.seen else 0) + 2
        if seen is not None:
            seen[min(done, 9)] = {k: v.detach().clone() for k, v in module.state_dict().items()}
        assert not any(part.training for part in module.modules())
        return SCORES[len(selection.seen)]

    selection = Selection(2, score, "score")
    return selection


def chosen(folder: Path, at: Callable[[Log], Callable[[int], None]] | None = None, **changes: Any) -> nn.Module:
    """A training with a selection, cut where `at` says and then brought to its end."""
    config = settings(**changes)
    if at is not None:
        module, log = network(), Log(folder, stage="fit")
        with pytest.raises((Killed, Interrupted)):
            train(module, loss_of(module, at(log)), config, log, selection=scripted(module))
    module = network()
    train(module, loss_of(module), config, Log(folder, stage="fit"), selection=scripted(module))
    return module


def read(path: Path, module: nn.Module) -> dict[str, Tensor]:
    weights.load(module, path)
    return module.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("ema", [None, 0.8])
def test_the_earliest_of_the_best_states_is_kept_and_the_last_lies_beside_it(tmp_path: Path, ema: float | None) -> None:
    module, seen = network(), {}
    train(module, loss_of(module), settings(ema=ema), Log(tmp_path), selection=scripted(module, seen))
    assert sorted(seen) == [2, 4, 6, 8, 9]
    assert same(module.state_dict(), seen[4])
    assert same(read(tmp_path / LAST, network()), seen[9])
    assert not same(seen[4], seen[9])
    assert not any(part.training for part in module.modules())
    assert read_json(tmp_path / RECORD) == {
        "every": 2,
        "best": {"file": "weights.safetensors", "step": 4, "score": 0.7},
        "last": {"file": LAST, "step": 9, "score": 0.4},
        "seen": [[2, 0.2], [4, 0.7], [6, 0.7], [8, 0.1], [9, 0.4]],
    }
    # Looking changes nothing of the training itself.
    plain = network()
    train(plain, loss_of(plain), settings(ema=ema), Log(tmp_path / "plain"))
    assert same(plain.state_dict(), seen[9])
    assert tiny.rows(tmp_path / "plain" / "train.csv") == tiny.rows(tmp_path / "train.csv")


@pytest.mark.parametrize("how", [stop_at, kill_at])
@pytest.mark.parametrize("cut", [3, 7, 9, 15])
def test_a_cut_training_chooses_the_same_state_bit_for_bit(tmp_path: Path, cut: int, how: Callable) -> None:
    whole = chosen(tmp_path / "whole")
    resumed = chosen(tmp_path / "cut", how(cut))
    assert tiny.same_state(whole, resumed)
    for name in (RECORD, LAST):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_checkpoint_of_another_selection_is_refused(tmp_path: Path) -> None:
    def cut(folder: Path) -> None:
        module, log = network(), Log(folder)
        with pytest.raises(Interrupted):
            train(module, loss_of(module, stop_at(9)(log)), settings(), log, selection=scripted(module))

    def goes_on(folder: Path, selection: Selection) -> None:
        module = network()
        train(module, loss_of(module), settings(), Log(folder), selection=selection)

    cut(tmp_path)
    with pytest.raises(DataError, match=r"chosen every 2 steps, expected 3\); delete it to start anew"):
        goes_on(tmp_path, Selection(3, lambda: 0.0, "score"))
    module, log = network(), Log(tmp_path / "plain")
    with pytest.raises(Interrupted):
        train(module, loss_of(module, stop_at(9)(log)), settings(), log)
    with pytest.raises(DataError, match=r"checkpoint\.safetensors: .*'selection'.*delete it"):
        goes_on(tmp_path / "plain", scripted(module))


# --- f


def f_and_problem() -> tuple[Classifier, Problem]:
    problem = make_problem(train=30)
    with seeded(Rng(3)):
        return ResNet(problem.n_classes, problem.channels, problem.size, 4), problem


def config() -> ResNetConfig:
    return ResNetConfig(width=4, select_every=2, train=TrainConfig(steps=7, batch=8, lr=0.02, log_every=1))


def accuracy(f: Classifier, split: Split) -> float:
    with torch.no_grad():
        batch = split.take(np.arange(len(split)))
        return float((f(batch.images).logits.argmax(1) == batch.labels).double().mean())


def test_f_is_the_state_that_is_best_on_val_and_never_sees_test(tmp_path: Path) -> None:
    f, problem = f_and_problem()
    # Labels of val that change from image to image, so that states differ in how many they name right.
    val = replace(problem.test, name="val")
    fit(config(), f, problem.train, Rng(0), Log(tmp_path), None, val)
    told = read_json(tmp_path / RECORD)
    scores = [score for _, score in told["seen"]]
    assert [step for step, _ in told["seen"]] == [2, 4, 6, 7]
    assert len(set(scores)) > 1, "states that all score alike show nothing"
    assert told["best"]["val accuracy"] == max(scores) == pytest.approx(accuracy(f.eval(), val))
    assert told["best"]["step"] == told["seen"][scores.index(max(scores))][0]
    last, _ = f_and_problem()
    weights.load(last, tmp_path / LAST)
    assert told["last"]["val accuracy"] == pytest.approx(accuracy(last.eval(), val))


@pytest.mark.parametrize("size", [1, 4, 9, 64])
def test_the_score_does_not_depend_on_the_batch(size: int) -> None:
    f, problem = f_and_problem()
    val = replace(problem.test, name="val")
    expected = accuracy(f.eval(), val)
    assert accuracy_on(f, val, size)() == expected


def test_choosing_without_images_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    f, problem = f_and_problem()
    for val in (None, problem.val.subset(np.arange(0))):
        with pytest.raises(ValueError, match="needs a validation split"):
            fit(config(), f, problem.train, Rng(0), Log(tmp_path), None, val)


def test_off_it_leaves_the_key_as_it_was_and_on_it_is_part_of_it() -> None:
    off, on = config().model_copy(update={"select_every": 0}), config()
    assert "select_every" not in off.key()
    assert on.key() == {**off.key(), "select_every": 2}
    assert "select_every" not in make_cell().problem.classifier.key()


def test_the_papers_recipes_choose_f_every_epoch_and_the_small_ones_do_not() -> None:
    for name, paper, val in (
        ("cub200", presets_paper.CUB200, 5994 - 5395),
        ("celebahq", presets_paper.CELEBAHQ, 2993),
        ("stanfordcars", presets_paper.STANFORDCARS, 8144 - 7330),
    ):
        f = preset(name, ("viscoin",)).problem.classifier
        assert 0 < f.select_every == paper.select_every <= f.train.steps // 9, name
        assert val > 500
    experiment = preset("cub200", ("viscoin",))
    assert other_classifier(experiment, "resnet101").problem.classifier.select_every == 5395 // 32
    for name in registry.PROBLEMS.names():
        if name not in ("cub200", "celebahq", "stanfordcars"):
            assert preset(name, ("viscoin",)).problem.classifier.select_every == 0
    assert ClassifierConfig.model_fields["select_every"].default == 0


# --- in a run


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    return partial(in_process, capfd)


def test_a_run_uses_the_best_state_and_keeps_the_last(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = Place(tmp_path)
    sets = (
        *place.sets,
        "problem.classifier.select_every=1",
        "problem.classifier.train.steps=5",
        "data.val_fraction=0.3",
    )
    place = Place(tmp_path, sets)
    words = [word for change in sets if not change.startswith("method") for word in ("--set", change)]
    command = ("pretrain", "classifier", "-d", "birds", *words, "--cache", place.cache.root, "--quiet", "--json")
    ran = in_process(capfd, *command)
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    folder = Path(told["folder"])
    assert {path.name for path in folder.iterdir()} == {RECORD, LAST, "weights.safetensors", "train.csv"}
    record = read_json(folder / RECORD)
    best = record["best"]
    assert told["best"] == f"file weights.safetensors, step {best['step']}, val accuracy {best['val accuracy']}"
    assert [step for step, _ in record["seen"]] == [1, 2, 3, 4, 5]
    assert folder == place.stage("classifier")


def test_a_classifier_that_chooses_nothing_says_so(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "RESNET", replace(small.RESNET, fit=lambda *_: None))
    words = [word for change in Place(tmp_path).sets if "method" not in change for word in ("--set", change)]
    ran = cli("pretrain", "classifier", "-d", "birds", *words, "--set", "problem.classifier.select_every=1", "--quiet")
    one_line(ran, 2, "classifier 'resnet' chooses no state", "problem.classifier.select_every=0")


def test_without_validation_images_the_setting_is_refused_before_anything_is_made(cli: Cli, tmp_path: Path) -> None:
    for words in (("run", "-m", "flint"), ("plan", "-m", "flint"), ("pretrain", "classifier")):
        ran = cli(*words, "-d", "birds", "--set", "data.val_fraction=0", "--set", "problem.classifier.select_every=10")
        one_line(ran, 2, "problem.classifier.select_every=10", "birds has no validation images", "data.val_fraction")
    assert files(tmp_path) == {}
