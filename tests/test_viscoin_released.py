"""What the public code of VisCoIN does otherwise than the paper, setting by setting, against its formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from coinbench.concepts import Concepts
from coinbench.generators import stylegan2
from coinbench.generators.stylegan2_config import StyleGAN2Config
from coinbench.group import Group
from coinbench.methods.chance import Chance, Chances, images_of
from coinbench.methods.viscoin import VisCoIN, VisCoINConfig, build, loss_of, losses, standardise, support_styles
from coinbench.plan import Request, resolve
from coinbench.problem import Problem
from coinbench.rng import Rng

SETTINGS: dict[str, Any] = {
    "held": 100,
    "pooled_sparsity": True,
    "cosines": "absolute",
    "rectified_support": True,
    "theta_dropout": 0.01,
    "random_noise": True,
}


@pytest.fixture(scope="module")
def styled() -> Problem:
    return tiny.make_problem(generator=tiny.StyleGenerator())


@pytest.fixture(scope="module")
def noisy() -> Problem:
    """G is a StyleGAN2 whose noise shows."""
    g = stylegan2.build(StyleGAN2Config(most=8, base=256, w_dim=8, z_dim=8), 16, tiny.CHANNELS, Rng(0))
    with torch.no_grad():
        for name, parameter in g.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.5)
    return tiny.with_generator(tiny.make_problem(16), g)


@pytest.fixture(scope="module")
def images(styled: Problem) -> Tensor:
    return styled.train.take(np.arange(4)).images


def make(problem: Problem, **changes: Any) -> VisCoIN:
    config = tiny.method_config("viscoin", **changes)
    assert isinstance(config, VisCoINConfig)
    return build(config, problem, Rng(0))


def test_the_variant_sets_all_of_it_and_paper_nothing() -> None:
    plans = resolve(Request(methods="viscoin", datasets="digits", variants=("paper", "released")))
    paper, released = (plans.experiments["digits"][name].methods["viscoin"] for name in ("paper", "released"))
    assert {name: getattr(released, name) for name in SETTINGS} == SETTINGS
    before = paper.key()
    assert not SETTINGS.keys() & before.keys(), "what was trained without these settings is found again"
    assert paper.digest() == paper.model_copy(update={"held": 0, "theta_dropout": 0.0}).digest()
    for name, value in SETTINGS.items():
        assert paper.model_copy(update={name: value}).key() == before | {name: value}


def test_released_rectifies_the_direction_of_the_concepts_on_a_learnt_mean(styled: Problem, images: Tensor) -> None:
    coin = make(styled, variant="released")
    assert coin.from_support == support_styles(14, "released") == {0, 1, 11, 12, 13}
    mean = dict(coin.named_parameters())["mean_latent"]
    assert not mean.any(), "learnt from zero"
    with torch.no_grad():
        mean.copy_(torch.linspace(-1, 1, len(mean)))
        concepts = coin.encode(images)
        w = coin.latent(concepts)
        twice = Concepts(2 * concepts.phi, 2 * concepts.pooled, concepts.support)
        torch.testing.assert_close(coin.latent(twice), w, msg="scaling every concept together changes nothing")
        layer = coin.omega[3].get_submodule("layer")
        weight, bias = layer.get_parameter("weight").double(), layer.get_parameter("bias").double()
        x = concepts.phi.flatten(1).double()
        x = x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()
        y = 0.01 * (x @ weight.t() / x.shape[1] ** 0.5 + bias)
        expected = mean + 2**0.5 * torch.where(y > 0, y, 0.2 * y)
    torch.testing.assert_close(w[:, 3].double(), expected, rtol=1e-4, atol=1e-5)
    losses(coin, styled, images)["latent"].backward()
    assert mean.grad is not None


def test_rectified_support_ends_without_a_bias_in_a_rectifier(styled: Problem, images: Tensor) -> None:
    plain, coin = make(styled), make(styled, rectified_support=True)
    assert coin.to_support is not None
    assert plain.to_support is not None
    support = coin.encode(images).support
    assert support is not None
    assert (support == 0).any()
    assert (support >= 0).all()
    *_, last, _ = coin.to_support
    assert isinstance(last, nn.Linear)
    assert last.bias is None
    fused = coin.trunk(styled.classifier.taps(images))
    hidden = coin.to_support[0](coin.pool(fused).flatten(1)).relu()
    torch.testing.assert_close(support, (hidden @ last.weight.T).relu())
    # A standardised start is of Φ alone.
    before = last.weight.clone(), coin.to_concepts.weight.clone()
    standardise(coin, styled, Rng(0))
    assert torch.equal(last.weight, before[0])
    assert not torch.equal(coin.to_concepts.weight, before[1])


def test_sparsity_and_orthogonality_are_those_of_the_public_code(styled: Problem, images: Tensor) -> None:
    coin = make(styled, delta=0.3, orthogonality=1.7, pooled_sparsity=True, cosines="absolute")
    with torch.no_grad():
        terms = losses(coin, styled, images)
        phi = coin.encode(images).phi.double().numpy()
    pooled = phi.max(2)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    assert terms["sparsity"].item() == pytest.approx(0.3 * (unit.mean() + phi.mean()), rel=1e-5)
    kernels = coin.to_concepts.weight.detach().double().flatten(1).numpy()
    kernels = np.abs(kernels / np.linalg.norm(kernels, axis=1, keepdims=True))
    k = len(kernels)
    assert terms["orthogonality"].item() == pytest.approx(1.7 * ((kernels @ kernels.T).sum() - k) / k**2, rel=1e-5)


def test_held_terms_count_nothing_at_first_and_then_as_ever(styled: Problem) -> None:
    train = tiny.TrainConfig(steps=9, batch=4, accumulate=2)
    plain, coin = make(styled, train=train), make(styled, held=2, train=train)
    expected, found = loss_of(plain, styled, Rng(1)), loss_of(coin, styled, Rng(1))
    for number in range(6):
        a, b = expected(number), found(number)
        assert a.keys() == b.keys()
        for name in a:
            on = number >= 4 or name not in ("fidelity", "sparsity")
            assert torch.equal(b[name], a[name] if on else torch.zeros(())), (number, name)
        coin.zero_grad()
        torch.stack(list(b.values())).sum().backward()
        assert coin.theta.weight.grad is not None
        assert bool(coin.theta.weight.grad.any()) == (number >= 4)


def test_dropout_is_of_the_cells_that_theta_sees_in_training(styled: Problem, images: Tensor) -> None:
    coin = make(styled, theta_dropout=0.4, alpha=1.0)
    chances = Chances(styled, 3, 2, coin.cells, 0.4, noisy=False)
    (kept,) = chances.draw(Rng(5))
    assert kept.shape == (5, 5, 9)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert 0.5 < float((kept > 0).float().mean()) < 0.7
    chance, noise = chances.split((kept[:4],))
    assert noise == chance.noise == ()
    with torch.no_grad():
        concepts = coin.encode(images)
        terms, plain = losses(coin, styled, images, chance=chance), losses(coin, styled, images)
        f = styled.classifier(images).logits.double().numpy()
        logits = coin.theta((concepts.phi * kept[:4]).amax(2)).double().numpy()
    expected = -(softmax(f, 1) * log_softmax(logits, 1)).sum(1).mean()
    assert terms["fidelity"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["fidelity"] != plain["fidelity"]
    assert all(torch.equal(terms[name], plain[name]) for name in terms if name != "fidelity")


def test_noise_takes_the_place_of_the_constant_one(noisy: Problem) -> None:
    g = noisy.generator
    w, noise = g.sample(3, Rng(1)), g.draw_noise(3, Rng(2))
    assert [tuple(layer.shape) for layer in noise] == [(3, side, side) for side in (4, 8, 8, 16, 16)]
    drawn, constant = images_of(noisy, w, noise), images_of(noisy, w, ())
    assert torch.equal(constant, g(w))
    assert (drawn - constant).abs().max() > 0.01
    buffers = dict(g.named_buffers())
    names = ["b4.conv1", *(f"b{side}.conv{i}" for side in (8, 16) for i in (0, 1))]
    same = tuple(buffers[f"synthesis.{name}.noise_const"].expand(3, -1, -1) for name in names)
    torch.testing.assert_close(images_of(noisy, w, same), constant)
    # Each image has its own, whatever stands beside it.
    torch.testing.assert_close(images_of(noisy, w[1:], tuple(layer[1:] for layer in noise)), drawn[1:])
    assert tiny.StyleGenerator().draw_noise(3, Rng(2)) == ()


def test_a_step_draws_by_its_number_alone(noisy: Problem) -> None:
    changes: dict[str, Any] = {"theta_dropout": 0.3, "random_noise": True, "synthetic": 2}
    coin = make(noisy, **changes)
    loss, again = loss_of(coin, noisy, Rng(1)), loss_of(coin, noisy, Rng(1))
    plain = loss_of(make(noisy, synthetic=2), noisy, Rng(1))(3)
    loss(2)
    found, same = loss(3), again(3)
    assert all(torch.equal(found[name], same[name]) for name in found)
    assert all(found[name] != plain[name] for name in ("fidelity", "mse", "classification"))
    # What is measured knows nothing of it.
    x = noisy.test.take(np.arange(2)).images
    assert torch.equal(coin.decode(coin.encode(x)), coin.decode(coin.encode(x)))


def test_two_processes_draw_what_one_draws(noisy: Problem) -> None:
    def drawn(group: Group) -> tuple[Chance, tuple[Tensor, ...]]:
        shared = replace(noisy, train=replace(noisy.train, group=group))
        chances = Chances(shared, 4, 2, (5, 9), 0.3, noisy=True)
        return chances.split(tuple(chances.draw(Rng(1))))

    (whole, sampled), *parts = (drawn(group) for group in (Group(), Group(0, 2), Group(1, 2)))
    rows = ([0, 1, 4], [2, 3, 5])
    for (chance, noise), mine, new in zip(parts, rows, ([0], [1]), strict=True):
        assert whole.kept is not None
        assert chance.kept is not None
        assert torch.equal(chance.kept, whole.kept[mine])
        for a, b in zip(chance.noise, whole.noise, strict=True):
            assert torch.equal(a, b[mine])
        for a, b in zip(noise, sampled, strict=True):
            assert torch.equal(a, b[new])
