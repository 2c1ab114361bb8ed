"""f, p and G of our own, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from coinbench.config import TrainConfig
from coinbench.generators.beta_vae import GENERATOR, BetaVAE, BetaVAEConfig, negative_elbo
from coinbench.log import Log
from coinbench.models import Classifier, check_images
from coinbench.networks.lenet import LeNet
from coinbench.networks.perceptual import PerceptualNet, perceptual_distance
from coinbench.networks.psi import tap_shapes
from coinbench.networks.resnet import ResNet
from coinbench.problem import to_float, to_uint8
from coinbench.rng import Rng

CLASSIFIERS = {
    "resnet 16": lambda: (ResNet(3, 3, 16, 4), 16),
    "resnet 28 grey": lambda: (ResNet(3, 1, 28, 4), 28),
    "resnet 50": lambda: (ResNet(3, 3, 50, 4), 50),
    "resnet 32, block 1 at 16": lambda: (ResNet(3, 3, 32, 4, resolution=16), 32),
    "resnet 64": lambda: (ResNet(3, 3, 64, 4), 64),
    "resnet 128": lambda: (ResNet(3, 3, 128, 4), 128),
    "lenet 28 grey": lambda: (LeNet(3, 1, 4), 28),
    "lenet 32": lambda: (LeNet(3, 3, 4), 32),
}


@pytest.fixture(params=CLASSIFIERS)
def classifier(request: pytest.FixtureRequest) -> tuple[Classifier, int]:
    torch.manual_seed(0)
    network, size = CLASSIFIERS[request.param]()
    return network.eval(), size


def noise(n: int, channels: int, size: int) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_no_strided_1x1_convolution_learns(classifier: tuple[Classifier, int]) -> None:
    """Its weight gradient corrupts the heap on CPUs (oneDNN issue 6035), at random moments later."""
    for name, part in classifier[0].named_modules():
        if isinstance(part, torch.nn.Conv2d) and part.kernel_size == (1, 1):
            assert part.stride == (1, 1), name


@torch.no_grad()
def test_a_classifier_offers_what_it_promises(classifier: tuple[Classifier, int]) -> None:
    network, size = classifier
    images = noise(5, network.channels, size)
    found = network(images)
    assert found.logits.shape == (5, network.n_classes)
    assert torch.equal(network.head(found.embedding), found.logits)
    assert len(found.maps) == len(network.tap_names)
    assert tap_shapes(network, network.channels, size, torch.device("cpu")) == [
        (m.shape[1], m.shape[2]) for m in found.maps
    ]
    sides = [m.shape[2] for m in found.maps]
    assert sides == sorted(sides, reverse=True)
    assert all(m.shape[2] == m.shape[3] and m.min() >= 0 for m in found.maps)
    torch.testing.assert_close(network.embed(images), found.maps[0].flatten(2).mean(2))
    alone = network(images[2:3])
    torch.testing.assert_close(alone.logits, found.logits[2:3], rtol=1e-4, atol=1e-5)


def test_the_resnet_has_the_taps_of_the_paper() -> None:
    network = ResNet(3, 3, 64, 4).eval()
    assert network.tap_names == ("block 2", "block 3", "block 4, penultimate unit")
    shapes = tap_shapes(network, 3, 64, torch.device("cpu"))
    assert [c for c, _ in shapes] == [8, 16, 32]
    assert [side for _, side in shapes] == [16, 8, 4]
    # The third tap is the first of the two units of block 4: the embedding is the second one of it.
    images = noise(2, 3, 64)
    with torch.no_grad():
        found = network(images)
        last = network.blocks[3]
        assert isinstance(last, torch.nn.Sequential)
        torch.testing.assert_close(last[1](found.maps[2]).mean((2, 3)), found.embedding)


@pytest.mark.parametrize(
    ("size", "resolution", "sides"),
    [(32, 32, [16, 8, 4]), (32, 16, [8, 4, 4]), (64, 8, [4] * 3), (38, 12, [6] * 3), (73, 24, [12, 6, 6])],
)
def test_no_block_goes_below_four_positions_a_side(size: int, resolution: int, sides: list[int]) -> None:
    shapes = tap_shapes(ResNet(3, 3, size, 4, resolution).eval(), 3, size, torch.device("cpu"))
    assert [side for _, side in shapes] == sides


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 1, 16, 16),
        torch.zeros(3, 16, 16),
        torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
        torch.full((1, 3, 16, 16), 1.5),
        torch.full((1, 3, 16, 16), -1.1),
        torch.full((1, 3, 16, 16), torch.inf),
    ],
    ids=["channels", "no batch", "uint8", "bright", "dark", "infinite"],
)
def test_what_is_no_image_in_range_is_refused_with_who_and_what(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"who expects .*, got "):
        check_images(images, 3, "who")
    check_images(torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16), 3, "who")


@torch.no_grad()
def test_the_perceptual_net_is_drawn_from_its_source_alone_and_frozen() -> None:
    torch.manual_seed(0)
    a = PerceptualNet(3, 8, Rng(0).child("p"))
    torch.manual_seed(1)
    b = PerceptualNet(3, 8, Rng(0).child("p"))
    assert tiny.same_state(a, b)
    assert not tiny.same_state(a, PerceptualNet(3, 8, Rng(1).child("p")))
    assert not any(p.requires_grad for p in a.parameters())


@torch.no_grad()
def test_the_perceptual_distance_is_a_distance_that_sees_what_changed() -> None:
    net = PerceptualNet(3, 8, Rng(0))
    images = noise(3, 3, 16)
    maps = net(images)
    near, far = net((images + 0.02).clamp(-1, 1)), net(images.flip(0))
    assert not perceptual_distance(maps, maps).any()
    torch.testing.assert_close(perceptual_distance(maps, far), perceptual_distance(far, maps))
    assert (perceptual_distance(maps, near) > 0).all()
    assert perceptual_distance(maps, near).mean() < perceptual_distance(maps, far).mean()
    # At most 2 per map: squared distance of non-negative unit vectors.
    assert (perceptual_distance(maps, far) <= 8).all()
    # Brightness alone is seen too.
    grey = [net(torch.full((1, 3, 16, 16), v)) for v in (-0.5, 0.5)]
    assert perceptual_distance(*grey) > 1e-3


def test_pixels_round_trip_between_files_and_networks() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    images = to_float(pixels)
    assert images.shape == (1, 3, 16, 16)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (-1, 1)
    np.testing.assert_array_equal(to_uint8(images), pixels)
    np.testing.assert_array_equal(to_uint8(torch.tensor([-2.0, 2.0, 0.0]).view(1, 3, 1, 1)).ravel(), [0, 255, 128])


# β-VAE


@pytest.mark.parametrize("size", [8, 16, 20, 28, 32, 48, 64])
@torch.no_grad()
def test_the_vae_draws_images_of_its_size_from_one_latent(size: int) -> None:
    vae = BetaVAE(size, 3, 6, 4)
    w = vae.sample(4, Rng(0))
    assert w.shape == (4, vae.n_styles, vae.w_dim) == (4, 1, 6)
    images = vae(w)
    assert images.shape == (4, 3, size, size)
    assert images.abs().max() <= 1
    assert torch.equal(vae(w), images)
    mean, log_variance = vae.encode(images)
    assert mean.shape == log_variance.shape == (4, 6)


@pytest.mark.parametrize("size", [18, 30, 33, 50, 100])
@torch.no_grad()
def test_a_vae_draws_any_size(size: int) -> None:
    vae = BetaVAE(size, 3, 6, 4)
    mean, log_variance = vae.encode(torch.zeros(2, 3, size, size))
    assert mean.shape == log_variance.shape == (2, 6)
    assert vae(mean[:, None]).shape == (2, 3, size, size)


@torch.no_grad()
def test_latents_are_standard_normal_and_drawn_by_name() -> None:
    vae = BetaVAE(16, 1, 8, 4)
    w = vae.sample(4000, Rng(0).child("a"))
    assert torch.equal(vae.sample(4000, Rng(0).child("a")), w)
    assert not torch.equal(vae.sample(4000, Rng(0).child("b")), w)
    assert abs(float(w.mean())) < 0.03
    assert abs(float(w.std()) - 1) < 0.03


@torch.no_grad()
def test_the_elbo_is_its_formula() -> None:
    torch.manual_seed(0)
    vae, images, noise_ = BetaVAE(16, 3, 4, 4), noise(5, 3, 16), torch.randn(5, 4)
    terms = negative_elbo(vae, images, 2.0, noise_)
    mean, log_variance = (t.double().numpy() for t in vae.encode(images))
    w = mean + noise_.numpy() * np.sqrt(np.exp(log_variance))
    drawn = vae(torch.from_numpy(w).float()[:, None]).double().numpy()
    pixels = 3 * 16 * 16
    squared = ((drawn - images.double().numpy()) ** 2).sum((1, 2, 3)).mean() / pixels
    # KL of two normal distributions, from its definition.
    kl = (np.exp(log_variance) / 2 + mean**2 / 2 - 0.5 - log_variance / 2).sum(1).mean() / pixels
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"reconstruction": squared, "kl": 2.0 * kl}, rel=1e-4
    )


def test_fitting_the_vae_lowers_the_error_and_records_the_mean_latent(tmp_path: Path) -> None:
    config = BetaVAEConfig(latent=4, width=4, train=TrainConfig(steps=60, batch=8, lr=1e-2, log_every=1))
    data, rng = tiny.split("train", 24, 0), Rng(0).child("generator")
    vae = GENERATOR.build(config, tiny.SIZE, tiny.CHANNELS, rng)
    assert isinstance(vae, BetaVAE)
    assert not vae.mean_latent().any()
    GENERATOR.fit(config, vae, data, rng, Log(tmp_path))
    losses = [float(row[3]) for row in tiny.rows(tmp_path / "train.csv")[1:]]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    with torch.no_grad():
        expected = vae.encode(to_float(data.pixels))[0].mean(0)
    torch.testing.assert_close(vae.mean_latent(), expected, rtol=1e-3, atol=1e-5)
    assert vae.mean_latent().any()
    again = GENERATOR.build(config, tiny.SIZE, tiny.CHANNELS, rng)
    GENERATOR.fit(config, again, data, rng, Log(tmp_path / "again"))
    assert tiny.same_state(again, vae)
