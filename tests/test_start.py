"""A standardised start: every concept map has mean 0 and variance 1 over the training images before it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from coinbench import registry
from coinbench.log import Log
from coinbench.methods.start import standardise
from coinbench.rng import Rng


@pytest.mark.parametrize("name", ["viscoin", "flint", "flaem"])
def test_concepts_begin_standardised_where_that_is_asked_for(name: str, tmp_path: Path) -> None:
    problem = tiny.make_problem(generator=tiny.StyleGenerator())
    config = tiny.method_config(name)
    still = config.train.model_copy(update={"steps": 1, "lr": 1e-12})
    images = problem.train.take(np.arange(len(problem.train))).images

    def maps(standardised: bool) -> Tensor:
        given = config.model_copy(update={"train": still, "standardised": standardised})
        coin = registry.METHODS.load(name).fit(given, problem, Rng(0), Log(tmp_path / str(standardised)))
        # Batch norm of FLAEM's own classifier: as in training.
        coin.train()
        seen: list[Tensor] = []
        coin.get_submodule("to_concepts").register_forward_hook(lambda module, given, out: seen.append(out))
        with torch.no_grad():
            coin.encode(images)
        return seen[0].transpose(0, 1).flatten(1)

    drawn, begun = maps(False), maps(True)
    assert (drawn.std(1) < 0.9).all()
    torch.testing.assert_close(begun.mean(1), torch.zeros(len(begun)), rtol=0, atol=1e-3)
    torch.testing.assert_close(begun.std(1), torch.ones(len(begun)), rtol=1e-3, atol=0)


def test_many_images_are_read_in_parts_and_count_alike() -> None:
    problem = tiny.make_problem()
    layer = nn.Linear(problem.channels, 4)
    sizes: list[int] = []

    def inputs(images: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(images))
        return (images.mean((2, 3)),)

    standardise((layer,), inputs, problem, Rng(0))
    assert sum(sizes) == len(problem.train)
    assert max(sizes) <= 64
    with torch.no_grad():
        outputs = layer(problem.train.take(np.arange(len(problem.train))).images.mean((2, 3)))
    torch.testing.assert_close(outputs.mean(0), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(outputs.std(0), torch.ones(4))


def test_an_output_that_never_changes_is_left_finite() -> None:
    problem = tiny.make_problem()
    layer = nn.Linear(1, 2)
    standardise((layer,), lambda images: (torch.ones(len(images), 1),), problem, Rng(0))
    assert layer.weight.isfinite().all()
    torch.testing.assert_close(layer(torch.ones(3, 1)), torch.zeros(3, 2), rtol=0, atol=1e-3)
