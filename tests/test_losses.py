"""Loss terms against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy as reference_entropy

from coinbench.methods.losses import conciseness_diversity, entropy, orthogonality, soft_cross_entropy


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def test_soft_cross_entropy_is_that_of_numpy() -> None:
    g, f = 3 * normal(7, 5), 3 * normal(7, 5, seed=1)
    expected = -(softmax(f.numpy(), 1) * log_softmax(g.numpy().astype(np.float64), 1)).sum(1).mean()
    assert soft_cross_entropy(g, f).item() == pytest.approx(expected, rel=1e-5)
    # Gibbs: no g does better than f itself, whose cross-entropy is its entropy.
    assert soft_cross_entropy(f, f).item() == pytest.approx(
        reference_entropy(softmax(f.numpy(), 1), axis=1).mean(), rel=1e-5
    )
    assert soft_cross_entropy(f, f) < soft_cross_entropy(g, f)


def test_soft_cross_entropy_is_stable_at_large_logits() -> None:
    g = torch.tensor([[1000.0, 0.0], [1000.0, 0.0]], requires_grad=True)
    value = soft_cross_entropy(g, torch.tensor([[0.0, 1000.0], [1000.0, 0.0]]))
    assert value.item() == pytest.approx(500.0)
    value.backward()
    assert g.grad is not None
    torch.testing.assert_close(g.grad, torch.tensor([[0.5, -0.5], [0.0, 0.0]]))


def test_the_target_of_the_fidelity_carries_no_gradient() -> None:
    g, f = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
    soft_cross_entropy(g, f).backward()
    assert f.grad is None
    assert g.grad is not None


def test_orthogonality_runs_from_orthogonal_to_parallel_whatever_the_lengths() -> None:
    lengths = torch.tensor([[0.1], [1.0], [50.0]])
    assert orthogonality(torch.eye(3, 6) * lengths).item() == 0
    assert orthogonality(torch.ones(3, 6) * lengths).item() == pytest.approx(1)
    assert orthogonality(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])).item() == pytest.approx(1)
    assert orthogonality(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).item() == pytest.approx(0.5)


def test_orthogonality_is_the_mean_squared_cosine_of_pairs() -> None:
    kernels = normal(4, 9)
    x = kernels.numpy().astype(np.float64)
    pairs = [(x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])) ** 2 for i in range(4) for j in range(i)]
    assert orthogonality(kernels).item() == pytest.approx(np.mean(pairs), rel=1e-5)


def test_entropy_is_that_of_scipy() -> None:
    weights = 2 * normal(3, 4, 6)
    np.testing.assert_allclose(entropy(weights), reference_entropy(softmax(weights.numpy(), -1), axis=-1), rtol=1e-5)
    assert entropy(torch.zeros(8)).item() == pytest.approx(np.log(8))
    assert entropy(torch.tensor([1000.0, 0.0])).item() == 0


def test_conciseness_and_diversity_reward_few_concepts_an_image_and_all_in_a_batch() -> None:
    best = conciseness_diversity(50 * torch.eye(4))
    assert best.item() == pytest.approx(-np.log(4), abs=1e-3)
    assert conciseness_diversity(torch.zeros(4, 4)).item() == pytest.approx(0, abs=1e-6)
    assert conciseness_diversity(50 * torch.eye(4)[:1].expand(4, 4)).item() == pytest.approx(0, abs=1e-6)
