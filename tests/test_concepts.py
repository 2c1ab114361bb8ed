"""Laws of Concepts and of relevance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from coinbench.coin import CoIN, normalise, relevance
from coinbench.concepts import Concepts

Pooling = Callable[[Tensor], Tensor]
POOLINGS: dict[str, Pooling] = {
    "max": lambda phi: phi.amax(2),
    "mean": lambda phi: phi.mean(2),
    "norm": lambda phi: phi.norm(dim=2),
}


def draw(seed: int, pooling: Pooling = POOLINGS["max"], support: bool = True) -> Concepts:
    dice = torch.Generator().manual_seed(seed)
    phi = torch.rand(4, 5, 3, generator=dice)
    return Concepts(phi, pooling(phi), torch.randn(4, 2, generator=dice) if support else None)


def same(a: Concepts, b: Concepts) -> bool:
    supports = a.support is b.support or (
        a.support is not None and b.support is not None and torch.equal(a.support, b.support)
    )
    return torch.equal(a.phi, b.phi) and torch.equal(a.pooled, b.pooled) and supports


@pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
def test_edits_keep_pooled_what_pooling_the_edited_maps_gives(pooling: Pooling) -> None:
    concepts, donor = draw(0, pooling), draw(1, pooling)
    factor = torch.tensor([[0.0, 1.0, 2.0, 0.5, 3.0]])
    mask = torch.tensor([[True, False, True, False, False]])
    for edited in (concepts.scale(factor), concepts.scale(factor.expand(4, 5)), concepts.scale(2.0)):
        torch.testing.assert_close(edited.pooled, pooling(edited.phi))
    swapped = concepts.swap(mask, donor)
    torch.testing.assert_close(swapped.pooled, pooling(swapped.phi))


def test_scale_composes_and_one_is_the_identity() -> None:
    concepts = draw(0)
    assert same(concepts.scale(1.0), concepts)
    assert same(concepts.scale(2.0).scale(0.5), concepts)
    gone = concepts.scale(torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0]]))
    assert not gone.phi[:, 1].any()
    assert not gone.pooled[:, 1].any()
    assert torch.equal(gone.phi[:, 2:], concepts.phi[:, 2:])


def test_scale_by_sample_touches_that_sample_only() -> None:
    concepts = draw(0)
    factor = torch.ones(4, 5)
    factor[2, 3] = 7
    edited = concepts.scale(factor)
    changed = (edited.phi != concepts.phi).any(2)
    assert changed.nonzero().tolist() == [[2, 3]]
    torch.testing.assert_close(edited.phi[2, 3], 7 * concepts.phi[2, 3])


def test_swap_takes_the_masked_concepts_and_keeps_support() -> None:
    concepts, donor = draw(0), draw(1)
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(2)) > 0.5
    swapped = concepts.swap(mask, donor)
    assert torch.equal(swapped.phi[mask], donor.phi[mask])
    assert torch.equal(swapped.phi[~mask], concepts.phi[~mask])
    assert swapped.support is concepts.support
    assert same(concepts.swap(mask, concepts), concepts)
    assert same(swapped.swap(mask, concepts), concepts)


def test_edits_are_pure() -> None:
    concepts, donor = draw(0), draw(1)
    before = Concepts(concepts.phi.clone(), concepts.pooled.clone(), concepts.support)
    concepts.scale(0.0)
    concepts.swap(torch.ones(1, 5, dtype=torch.bool), donor)
    concepts.constant(3.0)
    assert same(concepts, before)


def test_constant_donor_fills_every_cell() -> None:
    value = torch.arange(5.0)[None]
    donor = draw(0).constant(value)
    assert torch.equal(donor.phi, value[..., None].expand(4, 5, 3))
    assert torch.equal(donor.pooled, value.expand(4, 5))


@pytest.mark.parametrize("support", [True, False])
def test_rows_and_cat_undo_each_other(support: bool) -> None:
    concepts = draw(0, support=support)
    parts = [concepts.rows(slice(0, 1)), concepts.rows(torch.tensor([1, 2])), concepts.rows(slice(3, 4))]
    assert [len(part) for part in parts] == [1, 2, 1]
    assert same(Concepts.cat(parts), concepts)


class Linear(CoIN):
    """A linear head on pooled concepts."""

    n_concepts = 5

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Linear(5, 3)

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        phi = images.flatten(1)[:, :15].relu().unflatten(1, (5, 3))
        return Concepts(phi, phi.amax(2))

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        return self.theta(concepts.pooled)

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        return torch.zeros(len(concepts), 1, 4, 4)


class Squared(Linear):
    """A head that is not linear in the concepts."""

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        return self.theta(concepts.pooled.square())


def test_relevance_of_a_linear_head_is_pooled_times_weight() -> None:
    coin, concepts, target = Linear(), draw(0), torch.tensor([0, 2, 1, 2])
    with torch.no_grad():
        alpha = relevance(coin, concepts, target)
    torch.testing.assert_close(alpha, concepts.pooled * coin.theta.weight[target])
    assert not alpha.requires_grad
    assert coin.theta.weight.grad is None


def test_relevance_of_another_head_is_the_derivative_by_the_scale() -> None:
    coin, concepts, target = Squared(), draw(0), torch.tensor([0, 2, 1, 2])
    torch.testing.assert_close(
        relevance(coin, concepts, target), 2 * concepts.pooled.square() * coin.theta.weight[target]
    )


def test_normalise_divides_by_the_largest_absolute_value_and_keeps_signs() -> None:
    alpha = torch.tensor([[2.0, -4.0, 1.0], [0.0, 0.0, 0.0], [1e-30, -5e-31, 0.0]])
    expected = torch.tensor([[0.5, -1.0, 0.25], [0.0, 0.0, 0.0], [1.0, -0.5, 0.0]])
    torch.testing.assert_close(normalise(alpha), expected)


def test_forward_is_encode_then_predict() -> None:
    coin, images = Linear(), torch.rand(2, 1, 4, 4)
    assert torch.equal(coin(images), coin.predict(coin.encode(images)))
