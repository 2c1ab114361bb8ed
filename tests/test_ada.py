"""ADA: every transformation against its matrix, exact pixels where they are defined, and derivatives twice."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from coinbench.generators import ada

DOUBLE = torch.float64


def images(n: int = 2, side: int = 16, channels: int = 3) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * 2 - 1


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def test_sym6_is_a_wavelet_with_six_vanishing_moments() -> None:
    taps = torch.tensor(ada.SYM6, dtype=DOUBLE)
    assert float(taps.sum()) == pytest.approx(math.sqrt(2))
    for shift in range(6):
        assert float(taps[2 * shift :] @ taps[: 12 - 2 * shift]) == pytest.approx(float(shift == 0), abs=1e-9)
    signs = torch.tensor([(-1.0) ** k for k in range(12)], dtype=DOUBLE)
    for moment in range(6):
        assert float((signs * taps * torch.arange(12, dtype=DOUBLE) ** moment).sum()) == pytest.approx(0, abs=1e-5)


EXACT: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], Tensor]]] = {
    "nothing": (lambda: ada.scaling(column(1, 1), column(1, 1)), lambda x: x),
    "three pixels right": (lambda: ada.translation(column(-3, -3), column(0, 0)), lambda x: _moved(x, 3, 3)),
    "two pixels up": (lambda: ada.translation(column(0, 0), column(2, 2)), lambda x: _moved(x, -2, 2)),
}


def _moved(x: Tensor, by: int, dim: int) -> Tensor:
    """Move, and mirror at the edge that opens."""
    pad = (abs(by),) * 2
    wide = torch.nn.functional.pad(x, (*pad, 0, 0) if dim == 3 else (0, 0, *pad), mode="reflect")
    return wide.narrow(dim, abs(by) - by, x.shape[dim])


@pytest.mark.parametrize("name", EXACT)
def test_pixels_move_to_where_the_matrix_says(name: str) -> None:
    inverse, expected = EXACT[name]
    x = images()
    torch.testing.assert_close(ada.warp(x, inverse()), expected(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "inverse",
    [
        ada.scaling(column(-1), column(1)),
        ada.rotation(column(math.pi / 2)),
        ada.rotation(column(math.pi)),
        ada.scaling(column(0.8), column(0.8)),
        ada.scaling(column(1.2), column(1 / 1.2)),
        ada.rotation(column(0.4)),
        ada.translation(column(1.3), column(-0.6)),
        ada.rotation(column(0.4)) @ ada.translation(column(1.3), column(-0.6)) @ ada.scaling(column(0.9), column(1.1)),
    ],
)
def test_a_smooth_picture_is_sampled_where_the_matrix_says(inverse: Tensor) -> None:
    side = 32
    line = torch.arange(side, dtype=DOUBLE) - (side - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")

    def bump(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-((x - 2) ** 2 + (y + 1) ** 2 / 2) / 18)

    at = (inverse[0] @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)).reshape(3, side, side)
    found = ada.warp(bump(x, y)[None, None], inverse)[0, 0]
    # Beyond the edges the picture is mirrored.
    inside = at[:2].abs().amax(0) < side / 2 - 2
    assert inside.double().mean() > 0.5
    torch.testing.assert_close(found[inside], bump(at[0], at[1])[inside], rtol=0, atol=0.01)


def test_a_wide_picture_keeps_its_shape() -> None:
    x = images()[:, :, :, :10]
    torch.testing.assert_close(ada.warp(x, ada.scaling(column(1, 1), column(1, 1))), x, rtol=0, atol=1e-9)


# Colours


def test_hue_turns_about_the_axis_of_grey() -> None:
    third = ada.hue(torch.tensor([2 * math.pi / 3]))[0]
    red = torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert sorted((third @ red)[:3].round(decimals=5).tolist()) == [0.0, 0.0, 1.0]
    grey = torch.tensor([0.3, 0.3, 0.3, 1.0])
    torch.testing.assert_close(third @ grey, grey)


def test_colours_keep_the_axis_of_grey_grey() -> None:
    matrices = ada.colour(ada._Dice(64, dice()), 1.0)
    greys = matrices @ torch.tensor([0.4, 0.4, 0.4, 1.0])
    assert (greys[:, :3].amax(1) - greys[:, :3].amin(1)).max() < 1e-5
    torch.testing.assert_close(greys[:, 3], torch.ones(64))


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_applied_pixel_by_pixel(channels: int) -> None:
    x = images(channels=channels)
    matrix = torch.randn(2, 4, 4, generator=dice(), dtype=DOUBLE)
    found = ada.recolour(x, matrix)
    for i in range(2):
        pixel = x[i, :, 5, 7].expand(3)
        expected = matrix[i, :3, :3] @ pixel + matrix[i, :3, 3]
        torch.testing.assert_close(found[i, :, 5, 7], expected if channels == 3 else expected.mean()[None])
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        ada.recolour(images(channels=2), matrix)


# The whole pipeline


def test_p_0_leaves_images_and_strengths_choose_groups() -> None:
    x = images(64).float()
    assert ada.augment(x, 0.0, dice()) is x
    only = {
        name: ada.Strengths(**dict.fromkeys(("flip", "blit", "geometry", "colour"), 0.0) | {name: 1.0})
        for name in ("flip", "blit", "geometry", "colour")
    }
    flipped = ada.augment(x, 1.0, dice(), only["flip"])
    same = [float((a - b).square().mean()) for a, b in zip(flipped, x, strict=True)]
    mirrored = [float((a - b.flip(2)).square().mean()) for a, b in zip(flipped, x, strict=True)]
    # Noise is the hardest picture: the filter is not quite symmetric.
    assert all(min(a, b) < 0.05 < 0.3 < max(a, b) for a, b in zip(same, mirrored, strict=True))
    assert 15 < sum(b < a for a, b in zip(same, mirrored, strict=True)) < 49
    for name in ("blit", "geometry", "colour"):
        assert (ada.augment(x, 1.0, dice(), only[name]) - x).abs().mean() > 0.1
    still = ada.augment(x, 0.02, dice())
    assert sum((a - b).abs().max() < 1e-3 for a, b in zip(still, x, strict=True)) > 32


def test_draws_follow_the_dice() -> None:
    x = images().float()
    assert torch.equal(ada.augment(x, 0.8, dice(1)), ada.augment(x, 0.8, dice(1)))
    assert not torch.equal(ada.augment(x, 0.8, dice(1)), ada.augment(x, 0.8, dice(2)))


def test_the_distributions_are_the_papers() -> None:
    draws = ada._Dice(20000, dice())
    inverse = ada.geometry(draws, 1.0, 100, 100, ada.Strengths(flip=0.0, blit=0.0))
    # det of the inverse: the inverse square of the isotropic scale, 2^(-2 · 0.2 n).
    scale = -torch.linalg.det(inverse).log2() / 2
    assert float(scale.mean()) == pytest.approx(0, abs=0.01)
    assert float(scale.std()) == pytest.approx(0.2, abs=0.01)
    brightness = ada.colour(draws, 1.0)[:, :3, 3].mean(1)
    # Contrast comes after it and scales it: the mean of a log-normal.
    contrast = math.exp((0.5 * math.log(2)) ** 2 / 2)
    assert float(brightness.abs().mean()) == pytest.approx(0.2 * math.sqrt(2 / math.pi) * contrast, rel=0.05)


def test_the_pipeline_is_differentiable_twice() -> None:
    x = images(1, side=4)
    assert torch.autograd.gradcheck(lambda x: ada.augment(x, 1.0, dice(3)), x.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda x: ada.augment(x, 1.0, dice(3)) ** 3, x)


def test_grid_sample_is_differentiable_twice() -> None:
    grid = torch.rand(2, 5, 6, 2, generator=dice(), dtype=DOUBLE) * 2.2 - 1.1
    x = images(2, side=7).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ada._GridSample.apply(x, grid), x)
    assert torch.autograd.gradgradcheck(lambda x: ada._GridSample.apply(x, grid) ** 2, x)


def test_the_controller_follows_a_trace_made_by_hand() -> None:
    controller = ada.Controller(target=0.6, kimg=1.0)
    trace = []
    # r_t: 1, 1, 0.5, 0.6 (neither way), then -1 until p is 0.
    for signs in ([1, 1], [1, 1], [1, 1, 1, -1], [1, 1, 1, 1, -1], [-1], [-1], [-1]):
        controller.see(torch.tensor(signs, dtype=torch.float32))
        controller.update(100)
        trace.append(round(controller.p, 6))
    assert trace == [0.1, 0.2, 0.1, 0.1, 0.0, 0.0, 0.0]
    controller.p = 0.95
    controller.see(torch.ones(3))
    controller.update(100)
    assert controller.p == 1.0
    assert controller.update(100) == 0.6
    assert controller.p == 1.0
