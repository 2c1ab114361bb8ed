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
    for part in ("trunk", "to_concepts", "to_support"):
        assert tiny.same_state(before.get_submodule(part), after.get_submodule(part)), part
    for part in ("theta", "omega"):
        assert not tiny.same_state(before.get_submodule(part), after.get_submodule(part)), part


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
