"""Random concepts: VisCoIN's losses on Θ and Ω, a Ψ that stays as it was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from coinbench.errors import UsageError
from coinbench.log import Log
from coinbench.methods import viscoin
from coinbench.methods.random_concepts import RandomConceptsConfig, build, fit
from coinbench.plan import Request, resolve
from coinbench.problem import Problem
from coinbench.rng import Rng


@pytest.fixture
def problem() -> Problem:
    return tiny.make_problem(generator=tiny.StyleGenerator())


def config() -> RandomConceptsConfig:
    made = tiny.method_config("random")
    assert isinstance(made, RandomConceptsConfig)
    return made


def test_psi_stays_and_theta_and_omega_learn(problem: Problem, tmp_path: Path) -> None:
    before, after = build(config(), problem, Rng(0)), fit(config(), problem, Rng(0), Log(tmp_path))
    viscoin.standardise(before, problem, Rng(0))
    for part in ("trunk", "to_concepts", "to_support"):
        assert tiny.same_state(before.get_submodule(part), after.get_submodule(part)), part
    for part in ("theta", "omega"):
        assert not tiny.same_state(before.get_submodule(part), after.get_submodule(part)), part


@torch.no_grad()
def test_each_random_map_has_mean_0_and_variance_1_over_the_training_images(problem: Problem) -> None:
    coin = build(config(), problem, Rng(0)).eval()
    viscoin.standardise(coin, problem, Rng(0))
    images = problem.train.take(np.arange(len(problem.train))).images
    fused = coin.trunk(problem.classifier(images).maps)
    maps = coin.to_concepts(fused).transpose(0, 1).flatten(1)
    assert coin.to_support is not None
    support = coin.to_support(coin.pool(fused).flatten(1)).T
    # An output of Φ′ that does not depend on the image has no variance to scale.
    moving = support[support.std(1) > 0.5]
    assert len(moving) > 0.8 * len(support)
    for outputs in (maps, moving):
        torch.testing.assert_close(outputs.mean(1), torch.zeros(len(outputs)), rtol=0, atol=1e-3)
        torch.testing.assert_close(outputs.std(1), torch.ones(len(outputs)), rtol=1e-3, atol=0)


def test_it_begins_as_viscoin_and_has_its_losses_but_those_of_psi(problem: Problem) -> None:
    same = viscoin.VisCoINConfig(**config().model_dump(exclude={"name", "delta", "orthogonality"}))
    mine, theirs = build(config(), problem, Rng(0)), viscoin.build(same, problem, Rng(0))
    assert tiny.same_state(mine, theirs)
    images = problem.train.take(np.arange(4)).images
    with torch.no_grad():
        found, full = (viscoin.losses(coin, problem, images) for coin in (mine, theirs))
    assert set(full) - set(found) == {"sparsity", "orthogonality"}
    assert all(torch.equal(found[name], full[name]) for name in found)


def test_a_term_that_only_acts_on_psi_cannot_be_switched_on() -> None:
    with pytest.raises(UsageError, match=r"methods\.random\.delta"):
        resolve(Request(methods="random", datasets="birds", sets=("method.delta=0.2",)))
