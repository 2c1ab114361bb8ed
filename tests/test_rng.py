"""Named, index-keyed randomness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from coinbench.rng import Rng, seeded


def test_a_draw_depends_on_its_index_alone() -> None:
    rng = Rng(3).child("arm")
    index = np.arange(500)
    whole = rng.uniform(index, 4)
    shuffled = np.random.default_rng(0).permutation(index)
    np.testing.assert_array_equal(rng.uniform(shuffled, 4), whole[shuffled])
    np.testing.assert_array_equal(rng.uniform(index[17:18], 4)[0], whole[17])
    np.testing.assert_array_equal(rng.uniform(index, 2), whole[:, :2])


@pytest.mark.parametrize("start", [0, 10_000_000])
def test_draws_are_uniform_and_do_not_follow_index_or_column(start: int) -> None:
    draws = Rng(0).child("uniform").uniform(np.arange(start, start + 20_000), 3)
    assert draws.min() >= 0
    assert draws.max() < 1
    # Five standard errors of the mean; p-values of honest draws fall below 1e-6 once in a million.
    assert abs(draws.mean() - 0.5) < 5 * (1 / 12 / draws.size) ** 0.5
    for column in draws.T:
        assert kstest(column, "uniform").pvalue > 1e-6
    together = np.corrcoef(np.column_stack([draws[:-1], draws[1:]]).T)
    assert np.abs(together - np.eye(6)).max() < 5 / len(draws) ** 0.5


def test_names_seeds_and_depths_are_independent_sources() -> None:
    root = Rng(0)
    sources = [
        root,
        Rng(1),
        root.child("a"),
        root.child("b"),
        root.child("a", "b"),
        root.child("ab"),
        root.child("b", "a"),
    ]
    assert len({source.key for source in sources}) == len(sources)
    draws = np.array([source.uniform(np.arange(5_000), 1)[:, 0] for source in sources])
    assert np.abs(np.corrcoef(draws) - np.eye(len(sources))).max() < 5 / 5_000**0.5


def test_child_by_parts_is_child_at_once_and_numbers_are_names() -> None:
    assert Rng(2).child("a").child(3) == Rng(2).child("a", 3) == Rng(2).child("a", "3")


def test_generators_start_anew_each_time() -> None:
    rng = Rng(4).child("x")
    assert torch.equal(torch.rand(5, generator=rng.torch()), torch.rand(5, generator=rng.torch()))
    np.testing.assert_array_equal(rng.numpy().random(5), rng.numpy().random(5))


def test_keys_do_not_change_between_versions() -> None:
    # Every cached number hangs on them.
    assert Rng(0).child("fit", "viscoin").key == 8975516908948920198


def test_seeded_fixes_initialisation_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeded(Rng(0).child("init")):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(Rng(0).child("init")):
        assert torch.equal(torch.rand(3), inside)
    with seeded(Rng(0).child("other")):
        assert not torch.equal(torch.rand(3), inside)
