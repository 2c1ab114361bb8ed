"""VisCoIN against its formulas: architecture, every loss term, gradients, generators of any kind."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from jaxtyping import Float
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from coinbench.concepts import Concepts
from coinbench.errors import UsageError
from coinbench.log import Log
from coinbench.methods.viscoin import METHOD, VisCoIN, VisCoINConfig, build, losses, support_styles
from coinbench.models import Classifier, Features
from coinbench.networks.psi import FusedTaps
from coinbench.networks.resnet import ResNet
from coinbench.networks.stylegan2 import count_styles
from coinbench.problem import Problem
from coinbench.rng import Rng

WEIGHTS = {
    "alpha": 0.5,
    "mse": 1.5,
    "l1": 0.7,
    "beta": 3.0,
    "gamma": 0.1,
    "delta": 0.2,
    "orthogonality": 1.3,
    "latent": 0.9,
}
"""All different, so that no two can be mistaken for each other."""
TERM = {
    "alpha": "fidelity",
    "mse": "mse",
    "l1": "l1",
    "beta": "perceptual",
    "gamma": "classification",
    "delta": "sparsity",
    "orthogonality": "orthogonality",
    "latent": "latent",
}


def make(problem: Problem, **changes: Any) -> VisCoIN:
    config = tiny.method_config("viscoin", **{**WEIGHTS, **changes})
    assert isinstance(config, VisCoINConfig)
    return build(config, problem, Rng(0))


@pytest.fixture(scope="module")
def vae() -> Problem:
    return tiny.make_problem()


@pytest.fixture(scope="module")
def styled() -> Problem:
    return tiny.make_problem(generator=tiny.StyleGenerator())


@pytest.fixture(scope="module")
def images(vae: Problem) -> Tensor:
    return vae.train.take(np.arange(4)).images


def expected_terms(coin: VisCoIN, problem: Problem, images: Tensor) -> dict[str, float]:
    """Equations 2 to 4 in numpy float64, from what the networks put out."""
    with torch.no_grad():
        concepts = coin.encode(images)
        w = coin.latent(concepts)
        x_tilde = problem.generator(w).clamp(-1, 1)
        f, g = problem.classifier(images).logits, coin.predict(concepts)
        f_tilde = problem.classifier(x_tilde).logits
        maps = [[m.numpy().astype(np.float64) for m in problem.perceptual(x)] for x in (images, x_tilde)]

    def cross_entropy(q: Tensor) -> float:
        return float(-(softmax(f.numpy(), 1) * log_softmax(q.numpy(), 1)).sum(1).mean())

    distance = 0.0
    for a, b in zip(*maps, strict=True):
        unit = [m / np.maximum(np.sqrt((m**2).sum(1, keepdims=True)), 1e-12) for m in (a, b)]
        distance += ((unit[0] - unit[1]) ** 2).sum(1).mean((1, 2)).mean()
    kernels = coin.to_concepts.weight.detach().numpy().astype(np.float64).reshape(coin.n_concepts, -1)
    kernels /= np.linalg.norm(kernels, axis=1, keepdims=True)
    cosines = (kernels @ kernels.T)[~np.eye(len(kernels), dtype=bool)]
    difference = (x_tilde - images).numpy().astype(np.float64)
    w_bar = problem.generator.mean_latent().numpy()
    return {
        "fidelity": 0.5 * cross_entropy(g),
        "mse": 1.5 * (difference**2).mean(),
        "l1": 0.7 * np.abs(difference).mean(),
        "perceptual": 3.0 * distance,
        "classification": 0.1 * cross_entropy(f_tilde),
        "sparsity": 0.2 * concepts.phi.abs().mean().item(),
        "orthogonality": 1.3 * (cosines**2).mean(),
        "latent": 0.9 * float(((w.numpy() - w_bar) ** 2).mean()),
    }


@pytest.mark.parametrize("which", ["vae", "styled"])
def test_every_term_is_its_formula(which: str, images: Tensor, request: pytest.FixtureRequest) -> None:
    problem = request.getfixturevalue(which)
    coin = make(problem)
    found = {name: term.item() for name, term in losses(coin, problem, images).items()}
    assert all(value > 1e-6 for value in found.values())
    assert found == pytest.approx(expected_terms(coin, problem, images), rel=1e-4)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_weight_of_zero_switches_its_term_off_and_no_other(weight: str, vae: Problem, images: Tensor) -> None:
    every = losses(make(vae), vae, images)
    found = losses(make(vae, **{weight: 0}), vae, images)
    assert set(every) - set(found) == {TERM[weight]}
    for name, term in found.items():
        assert torch.equal(term, every[name])


def test_the_perceptual_term_can_be_left_out(vae: Problem, images: Tensor) -> None:
    assert "perceptual" not in losses(make(vae, perceptual="none"), vae, images)


@pytest.mark.parametrize("which", ["vae", "styled"])
def test_the_gradient_reaches_all_of_psi_theta_omega_and_neither_f_nor_g(
    which: str, images: Tensor, request: pytest.FixtureRequest
) -> None:
    problem = request.getfixturevalue(which)
    coin = make(problem)
    torch.stack(list(losses(coin, problem, images).values())).sum().backward()
    frozen = {id(p) for net in (problem.classifier, problem.generator, problem.perceptual) for p in net.parameters()}
    own = {name: p for name, p in coin.named_parameters() if id(p) not in frozen}
    parts = {name.partition(".")[0] for name in own}
    assert {"trunk", "to_concepts", "theta", "omega"} <= parts
    assert ("to_support" in parts) == (which == "styled")
    for name, parameter in own.items():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    for network in (problem.classifier, problem.generator, problem.perceptual):
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_reconstruction_classification_alone_teaches_psi_and_omega_through_g_and_f(
    vae: Problem, images: Tensor
) -> None:
    coin = make(vae, **{name: 0 for name in WEIGHTS if name != "gamma"})
    (term,) = losses(coin, vae, images).values()
    term.backward()
    for layer in (coin.to_concepts, coin.omega[0]):
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert layer.weight.grad is not None
        assert layer.weight.grad.any()
    assert coin.theta.weight.grad is None


def test_output_fidelity_alone_leaves_omega_alone(vae: Problem, images: Tensor) -> None:
    coin = make(vae, **{name: 0 for name in WEIGHTS if name != "alpha"})
    (term,) = losses(coin, vae, images).values()
    term.backward()
    assert coin.theta.weight.grad is not None
    assert all(p.grad is None for p in coin.omega.parameters())


def test_support_is_predicted_for_the_coarsest_and_finest_styles() -> None:
    assert sorted(support_styles(14)) == [0, 1, 2, 12, 13]
    assert sorted(support_styles(8)) == [6, 7]
    assert not support_styles(1)
    for size in (32, 64, 128, 256, 512, 1024):
        styles, chosen = count_styles(size), support_styles(count_styles(size))
        # Style 2 i - 1 and 2 i act at 4 * 2^i pixels, 0 at 4.
        at = [4 * 2 ** ((number + 1) // 2) for number in range(styles)]
        assert chosen == {n for n in range(styles) if at[n] <= size / 32 or n >= styles - 2}
    for styles in range(1, 33):
        for variant in ("paper", "released"):
            assert support_styles(styles, variant) < set(range(styles)), "some style is left to the concepts"
    # The public code's constructor has (3, 12) for 16 styles: those below 3 and above 12.
    assert support_styles(16, "released") == {0, 1, 2, 13, 14, 15}


def test_omega_at_no_concepts_is_the_mean_latent(vae: Problem, images: Tensor) -> None:
    coin = make(vae)
    w = coin.latent(coin.encode(images).scale(0.0))
    assert w.shape == (4, 1, 4)
    torch.testing.assert_close(w, vae.generator.mean_latent().expand(4, 1, 4))
    expected = vae.generator(vae.generator.mean_latent().expand(1, 1, 4))
    torch.testing.assert_close(coin.decode(coin.encode(images).scale(0.0)), expected.expand(4, -1, -1, -1))


def test_omega_is_linear_in_the_concepts_around_the_mean_latent(vae: Problem, images: Tensor) -> None:
    coin = make(vae)
    concepts = coin.encode(images)
    w_bar = vae.generator.mean_latent()
    once, twice = coin.latent(concepts) - w_bar, coin.latent(concepts.scale(2.0)) - w_bar
    assert once.abs().max() > 1e-4
    torch.testing.assert_close(twice, 2 * once)


def test_support_drives_its_styles_and_the_concepts_drive_the_others(styled: Problem, images: Tensor) -> None:
    coin = make(styled)
    concepts = coin.encode(images)
    assert concepts.phi.shape == (4, 5, 9)
    assert concepts.support is not None
    assert concepts.support.shape == (4, 45)
    w = coin.latent(concepts)
    assert w.shape == (4, 14, 6)
    without = coin.latent(concepts.scale(0.0))
    assert (w != without).any(2).any(0).nonzero().flatten().tolist() == list(range(3, 12))
    torch.testing.assert_close(without[:, 3:12], styled.generator.mean_latent().expand(4, 9, 6))
    other = coin.latent(Concepts(concepts.phi, concepts.pooled, concepts.support + 1))
    assert (w != other).any(2).any(0).nonzero().flatten().tolist() == [0, 1, 2, 12, 13]


def test_support_can_be_switched_off_and_negative_support_is_allowed(styled: Problem, images: Tensor) -> None:
    plain = make(styled, support=False).encode(images)
    assert plain.support is None
    support = make(styled).encode(images).support
    assert support is not None
    assert (support < 0).any()


def test_concepts_are_max_pooled_maps_and_the_head_is_linear(vae: Problem, images: Tensor) -> None:
    coin = make(vae)
    concepts = coin.encode(images)
    assert torch.equal(concepts.pooled, concepts.phi.amax(2))
    expected = concepts.pooled @ coin.theta.weight.T + coin.theta.bias
    torch.testing.assert_close(coin.predict(concepts), expected)


class PaperTaps(Classifier):
    """A classifier with the taps of ResNet50 at 256 px (paper, appendix C), all zero."""

    n_classes, channels = tiny.Y, tiny.CHANNELS
    tap_names = ("block 2", "block 3", "block 4, penultimate unit")

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        n = len(images)
        maps = tuple(torch.zeros(n, c, s, s) for c, s in ((512, 32), (1024, 16), (2048, 8)))
        return Features(torch.zeros(n, tiny.Y), torch.zeros(n, 2), maps)

    def head(self, embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B Y"]:
        return torch.zeros(len(embedding), tiny.Y)


def test_psi_has_the_shapes_of_the_paper(images: Tensor) -> None:
    coin = make(tiny.make_problem(classifier=PaperTaps()), K=7)
    taps = [tap for tap in coin.trunk.taps if isinstance(tap, nn.Conv2d)]
    assert [(tap.in_channels, tap.kernel_size[0], tap.stride[0]) for tap in taps] == [
        (512, 5, 4),
        (1024, 3, 2),
        (2048, 3, 1),
    ]
    fused = coin.trunk(PaperTaps()(images).maps)
    assert fused.shape == (4, 12, 8, 8)
    assert coin.trunk.fuse.kernel_size == (3, 3)
    assert coin.to_concepts.kernel_size == (1, 1)
    assert coin.encode(images).phi.shape == (4, 7, 9)


@pytest.mark.parametrize("sides", [(12, 6, 3), (13, 7, 4), (8, 8, 8), (10, 3, 3), (25, 13, 7)])
def test_taps_of_any_resolution_are_fused_at_that_of_the_deepest(sides: tuple[int, ...]) -> None:
    trunk = FusedTaps([(2, side) for side in sides], 3)
    fused = trunk(tuple(torch.rand(2, 2, side, side) for side in sides))
    assert fused.shape == (2, 9, sides[-1], sides[-1])
    assert fused.min() >= 0


def test_a_generator_with_styles_trains_and_overdriven_concepts_stay_images(styled: Problem, tmp_path) -> None:
    config = tiny.method_config("viscoin")
    coin = METHOD.fit(config, styled, Rng(0).child("fit"), Log(tmp_path))
    x_tilde = coin.decode(coin.encode(styled.test.take(np.arange(3)).images).scale(100.0))
    assert x_tilde.shape == (3, tiny.CHANNELS, tiny.SIZE, tiny.SIZE)
    assert x_tilde.abs().max() <= 1


def test_half_of_a_batch_is_sampled_from_g(vae: Problem, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    forward = vae.classifier.forward

    def watch(images: Tensor) -> Features:
        seen.append(images.detach().clone())
        return forward(images)

    monkeypatch.setattr(vae.classifier, "forward", watch)
    rng = Rng(0).child("fit")
    METHOD.fit(tiny.method_config("viscoin", gamma=0, synthetic=3), vae, rng, Log(tmp_path))
    batches = [images for images in seen if len(images) > 1]
    assert [len(images) for images in batches] == [7, 7, 7]
    for step, images in enumerate(batches):
        assert torch.equal(images[:4], vae.train.draw(step, 4, rng.child("data")).images)
        sampled = vae.generator(vae.generator.sample(3, rng.child("synthetic", step)))
        torch.testing.assert_close(images[4:], sampled)
    assert not torch.equal(batches[0][4:], batches[1][4:])


def test_without_omega_the_concepts_and_the_support_are_the_latent(styled: Problem, images: Tensor) -> None:
    coin = make(styled, omega=False, K=6)
    concepts = coin.encode(images)
    assert concepts.support is not None
    assert concepts.phi.shape == (4, 6, 1)
    w = coin.latent(concepts)
    for style in range(14):
        expected = concepts.support if style in coin.from_support else concepts.phi[:, :, 0]
        assert torch.equal(w[:, style], expected)
    assert not list(coin.omega.parameters())
    expected = WEIGHTS["latent"] * (w - styled.generator.mean_latent()).square().mean()
    torch.testing.assert_close(losses(coin, styled, images)["latent"], expected)
    with pytest.raises(UsageError, match=r"set method\.K=6, got 7"):
        make(styled, omega=False, K=7)


def test_labels_take_the_place_of_the_outputs_of_f_for_real_images_alone(vae: Problem, images: Tensor) -> None:
    coin, labels = make(vae, fidelity="labels"), torch.tensor([1, 0])
    with torch.no_grad():
        logits = coin.predict(coin.encode(images)).double().numpy()
        terms = losses(coin, vae, images, labels)
        others = losses(make(vae), vae, images)
    expected = -0.5 * log_softmax(logits, 1)[[0, 1], [1, 0]].mean()
    assert terms["fidelity"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["fidelity"] != others["fidelity"]
    assert {name: terms[name] for name in terms if name != "fidelity"} == {
        name: others[name] for name in others if name != "fidelity"
    }


def test_the_last_tap_is_what_the_head_pools(vae: Problem, images: Tensor) -> None:
    f = copy.deepcopy(vae.classifier)
    assert isinstance(f, ResNet)
    before = f(images)
    f.tap = "last"
    after = f(images)
    assert torch.equal(before.logits, after.logits)
    torch.testing.assert_close(after.maps[-1].mean((2, 3)), after.embedding)
    assert not torch.equal(before.maps[-1], after.maps[-1])
    assert torch.equal(f.taps(images)[-1], after.maps[-1])
