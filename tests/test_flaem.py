"""FLAEM against its formulas: every loss term, the decoder at any size, its own classifier, the rotation task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scipy.special import log_softmax, softmax

from coinbench.log import Log
from coinbench.methods.flaem import FLAEM, Decoder, FLAEMConfig, build, fit, losses, turned
from coinbench.problem import Batch, Problem
from coinbench.rng import Rng

WEIGHTS = {"classification": 2.0, "alpha": 5.0, "beta": 0.5, "gamma": 0.3, "xi": 0.1}
TERM = {"alpha": "mse", "beta": "fidelity", "gamma": "rotation", "xi": "sparsity"}
TURNS = torch.tensor([0, 1, 2, 3, 1, 2])


def config(**changes: Any) -> FLAEMConfig:
    made = tiny.method_config("flaem", **{"width": 4, **WEIGHTS, **changes})
    assert isinstance(made, FLAEMConfig)
    return made


@pytest.fixture(scope="module")
def problem() -> Problem:
    return tiny.make_problem()


@pytest.fixture(scope="module")
def batch(problem: Problem) -> Batch:
    return problem.train.take(np.arange(6))


@torch.no_grad()
def test_every_term_is_its_formula(problem: Problem, batch: Batch) -> None:
    coin = build(config(), problem, Rng(0)).eval()
    coin.to_concepts.weight.mul_(30)
    found = {name: term.item() for name, term in losses(coin, batch, TURNS).items()}
    concepts = coin.encode(batch.images)
    f, g = coin.classifier(batch.images).logits.numpy(), coin.predict(concepts).numpy()
    rows = np.arange(6)
    # numpy turns counter-clockwise in (H, W) of an image like torch does.
    rotated = np.stack([np.rot90(x, t, (1, 2)) for x, t in zip(batch.images.numpy(), TURNS.numpy(), strict=True)])
    assert coin.to_turn is not None
    turn = coin.to_turn(coin.encode(torch.from_numpy(rotated)).pooled).numpy()
    expected = {
        "classification": 2.0 * -log_softmax(f, 1)[rows, batch.labels.numpy()].mean(),
        "mse": 5.0 * ((coin.decode(concepts) - batch.images).numpy().astype(np.float64) ** 2).mean(),
        "fidelity": 0.5 * -(softmax(f, 1) * log_softmax(g, 1)).sum(1).mean(),
        "sparsity": 0.1 * concepts.pooled.numpy().mean(),
        "rotation": 0.3 * -log_softmax(turn, 1)[rows, TURNS.numpy()].mean(),
    }
    assert concepts.pooled.any()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("weight", TERM)
def test_a_weight_of_zero_switches_its_term_off(problem: Problem, batch: Batch, weight: str) -> None:
    coin = build(config(**{weight: 0.0}), problem, Rng(0))
    assert set(losses(coin, batch, TURNS)) == {"classification", *TERM.values()} - {TERM[weight]}


@pytest.mark.parametrize("size", [8, 15, 16, 28, 32, 50, 64, 224])
@torch.no_grad()
def test_the_decoder_draws_any_size(size: int) -> None:
    drawn = Decoder(3, 1, size, 4).eval()(torch.rand(2, 3))
    assert drawn.shape == (2, 1, size, size)
    assert drawn.abs().max() <= 1


def test_only_the_interpretable_head_learns_from_fidelity(problem: Problem, batch: Batch) -> None:
    coin = build(config(), problem, Rng(0))
    losses(coin, batch, TURNS)["fidelity"].backward()
    fc = coin.classifier.get_submodule("fc")
    assert all(p.grad is None for p in fc.parameters())
    assert all(p.grad is not None and p.grad.any() for p in coin.theta.parameters())


def test_it_trains_a_classifier_of_its_own(problem: Problem, tmp_path: Any) -> None:
    coin = fit(config(start="f"), problem, Rng(0), Log(tmp_path))
    assert coin.classifier is not problem.classifier
    before, after = problem.classifier.state_dict(), coin.classifier.state_dict()
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[key], after[key]) for key in before if key.endswith("weight"))
    assert not any(p.requires_grad for p in problem.classifier.parameters())


def test_from_f_it_begins_as_f_and_from_scratch_as_itself(problem: Problem) -> None:
    copied, own = (build(config(start=start), problem, Rng(0)) for start in ("f", "scratch"))
    assert tiny.same_state(copied.classifier, problem.classifier)
    assert not tiny.same_state(own.classifier, problem.classifier)
    assert isinstance(own, FLAEM)


def test_its_classifier_may_be_torchvisions() -> None:
    problem = tiny.make_problem(size=64)
    coin = build(config(base="resnet50"), problem, Rng(0))
    assert sum(p.numel() for p in coin.classifier.parameters()) > 23_000_000
    concepts = coin.encode(problem.train.take(np.arange(2)).images)
    assert concepts.phi.shape == (2, coin.n_concepts, 1)


def test_a_quarter_turn_four_times_is_none(batch: Batch) -> None:
    once = torch.ones(6, dtype=torch.int64)
    image = batch.images
    for _ in range(4):
        image = turned(image, once)
    assert torch.equal(image, batch.images)
    assert not torch.equal(turned(batch.images, once), batch.images)
