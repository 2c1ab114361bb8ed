"""FLINT against its formulas: every loss term, the warm-up, the decoder at any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import Tensor

from coinbench.methods.flint import FLINT, Decoder, FLINTConfig, build, losses
from coinbench.problem import Problem
from coinbench.rng import Rng

WEIGHTS = {"beta": 0.5, "gamma": 5.0, "delta": 0.1, "eta": 0.3}
TERM = {"beta": "fidelity", "gamma": "mse", "delta": "conciseness", "eta": "sparsity"}


def make(problem: Problem, **changes: Any) -> FLINT:
    config = tiny.method_config("flint", **{"channels": 16, **WEIGHTS, **changes})
    assert isinstance(config, FLINTConfig)
    coin = build(config, problem, Rng(0)).eval()
    # At initialisation the concepts of two images differ too little to tell a wrong formula.
    coin.to_concepts.weight.data.mul_(30)
    return coin


@pytest.fixture(scope="module")
def problem() -> Problem:
    return tiny.make_problem()


@pytest.fixture(scope="module")
def images(problem: Problem) -> Tensor:
    return problem.train.take(np.arange(6)).images


def test_every_term_is_its_formula(problem: Problem, images: Tensor) -> None:
    coin = make(problem)
    with torch.no_grad():
        found = {name: term.item() for name, term in losses(coin, problem, images, 0.5).items()}
        concepts = coin.encode(images)
        f, g = problem.classifier(images).logits.numpy(), coin.predict(concepts).numpy()
        difference = (coin.decode(concepts) - images).numpy().astype(np.float64)
    phi = concepts.pooled.numpy().astype(np.float64)
    assert phi.any()
    diversity = entropy(softmax(phi, 1), axis=1).mean() - entropy(softmax(phi.mean(0)))
    expected = {
        "fidelity": 0.5 * -(softmax(f, 1) * log_softmax(g, 1)).sum(1).mean(),
        "mse": 5.0 * (difference**2).mean(),
        "conciseness": 0.1 * diversity,
        "sparsity": 0.3 * np.abs(phi).mean(),
    }
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_weight_of_zero_switches_its_term_off_and_no_other(weight: str, problem: Problem, images: Tensor) -> None:
    every = losses(make(problem), problem, images, 1.0)
    found = losses(make(problem, **{weight: 0}), problem, images, 1.0)
    assert set(every) - set(found) == {TERM[weight]}
    assert all(torch.equal(term, every[name]) for name, term in found.items())


def test_conciseness_and_sparsity_begin_after_the_warm_up(problem: Problem, images: Tensor) -> None:
    coin = make(problem, warmup=0.25)
    for progress, begun in ((0.0, False), (0.24, False), (0.25, True), (0.9, True)):
        terms = losses(coin, problem, images, progress)
        assert set(terms) == set(TERM.values())
        assert bool(terms["sparsity"] != 0) is begun
        assert bool(terms["conciseness"] != 0) is begun
        assert terms["fidelity"] > 0
        assert terms["mse"] > 0


def test_the_gradient_reaches_psi_head_and_decoder_and_not_f(problem: Problem, images: Tensor) -> None:
    coin = make(problem).train()
    problem.classifier.eval()
    torch.stack(list(losses(coin, problem, images, 1.0).values())).sum().backward()
    frozen = {id(p) for p in problem.classifier.parameters()}
    for name, parameter in coin.named_parameters():
        if id(parameter) in frozen:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_concepts_are_scalars_and_the_head_is_linear(problem: Problem, images: Tensor) -> None:
    coin = make(problem)
    concepts = coin.encode(images)
    assert concepts.phi.shape == (6, 5, 1)
    assert concepts.support is None
    assert torch.equal(concepts.phi[..., 0], concepts.pooled)
    torch.testing.assert_close(coin.predict(concepts), concepts.pooled @ coin.theta.weight.T + coin.theta.bias)


@pytest.mark.parametrize("size", [8, 16, 27, 28, 32, 48, 50, 63, 64, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_decoder_draws_any_size(size: int, channels: int) -> None:
    decoder = Decoder(5, channels, size, 4).eval()
    images = decoder(torch.rand(2, 5))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert 4 <= decoder.seed <= 8
