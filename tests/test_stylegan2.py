"""StyleGAN2 against its definitions, written plainly in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from coinbench.models import channels_last
from coinbench.networks import fir
from coinbench.networks.stylegan2 import Mapping, Noise, StyleGAN2, SynthesisLayer, ToRGB, count_styles
from coinbench.networks.stylegan2_discriminator import Discriminator, minibatch_deviation
from coinbench.networks.stylegan2_layers import Convolution, FullyConnected


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def filtered(x: Tensor, pad: tuple[int, int], up: int = 1, down: int = 1, gain: float = 1.0) -> Tensor:
    """Zeros between the pixels, padding, the true convolution with the filter, every `down`-th pixel."""
    b, c, h, w = x.shape
    wide = torch.zeros(b, c, h * up, w * up, dtype=x.dtype)
    wide[:, :, ::up, ::up] = x
    wide = nn.functional.pad(wide, (*pad, *pad))
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8
    weight = (taps[:, None] * taps).flip(0, 1).expand(c, 1, 4, 4)
    return nn.functional.conv2d(wide, weight, groups=c)[:, :, ::down, ::down] * gain


# Filters


def test_the_filter_is_the_outer_product() -> None:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    assert torch.equal(fir.kernel(), torch.outer(taps, taps))


@pytest.mark.parametrize("side", [4, 5, 8])
def test_blurring_and_halving_follow_their_definitions(side: int) -> None:
    x = rand(2, 3, side, side + 2)
    for pad in (1, 2):
        torch.testing.assert_close(fir.blur(x, pad, gain=4.0), filtered(x, (pad, pad), gain=4))
    torch.testing.assert_close(fir.halve(x), filtered(x, (1, 1), down=2))


def test_doubling_inserts_zeros_and_filters() -> None:
    x = rand(2, 3, 5, 5)
    torch.testing.assert_close(fir.double(x), filtered(x, (2, 1), up=2, gain=4))


# Layers


def modulated(layer: SynthesisLayer | ToRGB, x: Tensor, w: Tensor, demodulate: bool, up: bool = False) -> Tensor:
    """The grouped form: weights of each sample, scaled and demodulated (StyleGAN2, eq. 1 and 3)."""
    style = layer.affine(w) if demodulate else layer.affine(w) / math.sqrt(x.shape[1])
    weight = layer.weight * style[:, None, :, None, None]
    if demodulate:
        weight = weight / (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    outputs = []
    for one, kernels in zip(x, weight, strict=True):
        if up:
            raw = nn.functional.conv_transpose2d(one[None], kernels.transpose(0, 1), stride=2)
            outputs.append(filtered(raw, (1, 1), gain=4))
        else:
            outputs.append(nn.functional.conv2d(one[None], kernels, padding=kernels.shape[-1] // 2))
    return torch.cat(outputs)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("noise", ["const", "none"])
def test_a_synthesis_layer_is_its_grouped_form(up: bool, noise: str) -> None:
    layer = SynthesisLayer(6, 5, 7, 8, up=up, clamp=1.5).double()
    layer.noise_strength.data.fill_(0.3)
    layer.bias.data.normal_()
    x, w = rand(3, 6, 4 if up else 8, 4 if up else 8), rand(3, 7)
    plain = modulated(layer, x, w, demodulate=True, up=up) + layer.bias[:, None, None]
    if noise == "const":
        plain = plain + 0.3 * layer.noise_const
    expected = (nn.functional.leaky_relu(plain, 0.2) * math.sqrt(2)).clamp(-1.5, 1.5)
    assert expected.abs().max() == 1.5
    torch.testing.assert_close(layer(x, w, noise), expected)
    layer.freeze()
    torch.testing.assert_close(layer(x, w, noise), expected)


def test_random_noise_follows_its_dice_and_its_strength() -> None:
    layer = SynthesisLayer(6, 5, 7, 8, up=False, clamp=None).double()
    x, w = rand(3, 6, 8, 8), rand(3, 7)

    def drawn(seed: int) -> Tensor:
        return layer(x, w, "random", torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(1), drawn(2))
    layer.noise_strength.data.fill_(0.5)
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_frozen_squares_are_forgotten_when_weights_are_loaded() -> None:
    layer, other = (SynthesisLayer(4, 4, 4, 4, up=False, clamp=None).double() for _ in range(2))
    x, w = rand(1, 4, 4, 4), rand(1, 4)
    layer.freeze()
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer(x, w), other(x, w))


def test_the_image_of_a_block_is_not_demodulated() -> None:
    layer = ToRGB(6, 3, 7, clamp=None).double()
    layer.bias.data.normal_()
    x, w = rand(3, 6, 8, 8), rand(3, 7)
    expected = modulated(layer, x, w, demodulate=False) + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x, w), expected)


def test_a_fully_connected_layer_scales_weights_and_biases() -> None:
    layer = FullyConnected(6, 4, rectified=True, rate=0.01, bias=2.0).double()
    x = rand(3, 6)
    plain = x @ (layer.weight * 0.01 / math.sqrt(6)).t() + 0.02
    torch.testing.assert_close(layer(x), nn.functional.leaky_relu(plain, 0.2) * math.sqrt(2))


@pytest.mark.parametrize(("size", "down"), [(1, False), (3, False), (1, True), (3, True)])
def test_a_convolution_of_d_follows_its_definition(size: int, down: bool) -> None:
    layer = Convolution(4, 5, size, down=down, clamp=1.0).double()
    x = rand(2, 4, 8, 8)
    weight = layer.weight / math.sqrt(4 * size**2)
    if not down:
        plain = nn.functional.conv2d(x, weight, padding=size // 2)
    elif size == 1:
        plain = nn.functional.conv2d(filtered(x, (1, 1), down=2), weight)
    else:
        plain = nn.functional.conv2d(filtered(x, (2, 2)), weight, stride=2)
    expected = (nn.functional.leaky_relu(plain, 0.2) * math.sqrt(2 * 0.5)).clamp(-math.sqrt(0.5), math.sqrt(0.5))
    assert layer(x).shape[-1] == (4 if down else 8)
    torch.testing.assert_close(layer(x, math.sqrt(0.5)), expected)


def test_the_minibatch_deviation_is_that_of_each_group() -> None:
    x = rand(6, 4, 3, 3)
    found = minibatch_deviation(x, 3)
    for i in range(6):
        group = x[[i % 2, i % 2 + 2, i % 2 + 4]]
        expected = (group.var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(found[i], expected.expand(1, 3, 3))
    with pytest.raises(ValueError, match="a batch of 6 does not divide into groups of 4"):
        minibatch_deviation(x, 4)


# Whole networks


def tiny(size: int = 32, **changes) -> StyleGAN2:
    return StyleGAN2(size=size, z_dim=12, w_dim=10, depth=2, base=8 * size, most=16, **changes)


@pytest.mark.parametrize(("size", "styles"), [(16, 6), (32, 8), (64, 10), (128, 12), (256, 14), (512, 16), (1024, 18)])
def test_as_many_styles_as_published(size: int, styles: int) -> None:
    assert count_styles(size) == styles


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512, 1024])
def test_each_style_index_moves_the_layers_that_read_it(size: int) -> None:
    """torgb of a block reads the index of the next block's conv0; the last one has an index of its own."""
    # A channel at the full size, at most two, so that large ones are drawn in no time.
    network = StyleGAN2(size=size, z_dim=12, w_dim=10, depth=2, base=size, most=2).eval()
    read: dict[int, list[str]] = {i: [] for i in range(network.n_styles)}

    def note(name: str):
        def hook(_: nn.Module, given: tuple) -> None:
            # Row i of the latents holds the number i.
            read[round(float(given[1][0, 0]))].append(name)

        return hook

    for name, part in network.synthesis.named_modules():
        if isinstance(part, SynthesisLayer | ToRGB):
            part.register_forward_pre_hook(note(name))
    w = torch.arange(network.n_styles, dtype=torch.float32)[None, :, None].expand(1, -1, 10)
    with torch.no_grad():
        assert network.synthesis(w).shape == (1, 3, size, size)
    expected = {0: ["b4.conv1"], 1: ["b4.torgb", "b8.conv0"]}
    for i, side in enumerate(network.synthesis.sides[1:]):
        expected[2 + 2 * i] = [f"b{side}.conv1"]
        expected[3 + 2 * i] = [f"b{side}.torgb", *([f"b{2 * side}.conv0"] if side < size else [])]
    assert read == expected


def test_single_precision_is_near_double() -> None:
    network = tiny().eval()
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    z = torch.randn(4, 12)
    with torch.no_grad():
        single = network(z)
        network.freeze()
        torch.testing.assert_close(network(z), single, rtol=0, atol=1e-5)
        double = network.double()(z.double())
    assert (single - double).abs().max() < 1e-5 * max(1, double.abs().max())


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_half_precision_draws_the_same_images(low: torch.dtype) -> None:
    network = tiny().eval()
    z = torch.randn(4, 12)
    with torch.no_grad():
        single = network(z)
        network.synthesis.lower(low)
        half = network(z)
    assert half.dtype == torch.float32
    error = (half - single).square().mean().sqrt() / single.std()
    assert 0 < error < (0.03 if low == torch.bfloat16 else 0.005)


@pytest.mark.parametrize("noise", ["const", "none", "random"])
def test_channels_stand_last_from_layer_to_layer(noise: Noise) -> None:
    network = StyleGAN2(size=32, z_dim=8, w_dim=8, base=256, most=16)
    channels_last(network)
    given: list[bool] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for layer in network.modules():
        if isinstance(layer, SynthesisLayer | ToRGB):
            layer.register_forward_pre_hook(look)
    network.synthesis(torch.randn(2, network.n_styles, 8), noise)
    assert len(given) == 11
    assert all(given), "a convolution would turn its input round"


def test_the_keys_are_those_of_the_published_checkpoints() -> None:
    keys = set(StyleGAN2(size=16, z_dim=4, w_dim=4, depth=2, base=64, most=4).state_dict())
    layer = ("weight", "bias", "noise_strength", "noise_const", "resample_filter", "affine.weight", "affine.bias")
    torgb = ("weight", "bias", "affine.weight", "affine.bias")
    expected = {"mapping.w_avg", "synthesis.b4.const"}
    expected |= {f"mapping.fc{i}.{part}" for i in range(2) for part in ("weight", "bias")}
    for side in (4, 8, 16):
        expected |= {f"synthesis.b{side}.resample_filter"} | {f"synthesis.b{side}.torgb.{part}" for part in torgb}
        for conv in ("conv0", "conv1") if side > 4 else ("conv1",):
            expected |= {f"synthesis.b{side}.{conv}.{part}" for part in layer}
    assert keys == expected
    d = set(Discriminator(size=16, base=64, most=4).state_dict())
    expected = {f"b4.{part}.{name}" for part in ("fc", "out") for name in ("weight", "bias")}
    expected |= {f"b4.conv.{name}" for name in ("weight", "bias", "resample_filter")}
    for side in (8, 16):
        expected |= {f"b{side}.resample_filter", f"b{side}.skip.weight", f"b{side}.skip.resample_filter"}
        for conv in ("conv0", "conv1", *(["fromrgb"] if side == 16 else [])):
            expected |= {f"b{side}.{conv}.{name}" for name in ("weight", "bias", "resample_filter")}
    assert d == expected


@pytest.mark.slow
def test_the_sizes_are_those_of_the_published_networks() -> None:
    """Parameters of synthesis and D at 256 pixels, in millions (paper256 and auto; stylegan2)."""
    with torch.device("meta"):
        for base, synthesis, d in ((16384, 22.7, 24.0), (32768, 27.9, 28.9)):
            found = StyleGAN2(size=256, base=base).synthesis
            assert sum(p.numel() for p in found.parameters()) / 1e6 == pytest.approx(synthesis, abs=0.06)
            found = Discriminator(size=256, base=base)
            assert sum(p.numel() for p in found.parameters()) / 1e6 == pytest.approx(d, abs=0.06)


def test_conditional_networks_read_the_label() -> None:
    network, d = tiny(c_dim=3).eval(), Discriminator(size=32, base=256, most=16, c_dim=3)
    z, label = torch.randn(1, 12).expand(3, -1), torch.eye(3)
    images = network(z, label)
    assert (images[0] - images[1]).abs().max() > 0
    assert len(set(d(images[:1].expand(3, -1, -1, -1), label).tolist())) == 3
    with pytest.raises(ValueError, match="conditional"):
        network(z)


def test_mean_latent_and_truncation() -> None:
    mapping = Mapping(8, 0, 5, 2)
    w = torch.randn(64, 5)
    for _ in range(3):
        mapping.track(w, decay=0.5)
    torch.testing.assert_close(mapping.w_avg, w.mean(0) * (1 - 0.5**3))
    many = w[:, None].repeat(1, 4, 1)
    expected = mapping.w_avg + 0.7 * (many - mapping.w_avg)
    torch.testing.assert_close(mapping.truncate(many, 0.7), expected)
    some = mapping.truncate(many, 0.7, 3)
    torch.testing.assert_close(some[:, :3], expected[:, :3])
    assert torch.equal(some[:, 3:], many[:, 3:])
    assert torch.equal(mapping.truncate(many, 0.0), mapping.w_avg.expand_as(many))
    assert mapping.truncate(many, 1.0) is many


def test_freeze_d_leaves_the_first_layers() -> None:
    d = Discriminator(size=16, base=64, most=4, frozen=5)
    still = {name for name, p in d.named_parameters() if not p.requires_grad}
    first = ("b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip", "b8.conv0")
    assert {name.rpartition(".")[0] for name in still} == set(first)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="not 48"):
        StyleGAN2(size=48)
