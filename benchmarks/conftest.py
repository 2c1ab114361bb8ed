"""What the benchmarks share: one thread, and the birds preset with untrained networks."""

from __future__ import annotations

import pytest
import torch
from calibrate import problem_of

from coinbench import registry
from coinbench.config import Experiment
from coinbench.presets import preset
from coinbench.problem import Problem


def pytest_configure() -> None:
    # One thread, as in a worker of --jobs 2 on two cores; timings of threads depend on who else is there.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    """The birds preset with all built-in methods."""
    return preset("birds", tuple(registry.METHODS.built_in))


@pytest.fixture(scope="session")
def problem(experiment: Experiment) -> Problem:
    """Noise images of the preset's size with untrained f and G."""
    return problem_of(experiment)
