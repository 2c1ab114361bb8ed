"""ADA's pipeline bgc: which transformations it draws, how strongly, and in which order they act."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from coinbench.generators import ada

WIDTH, HEIGHT = 32, 16


class Scripted(ada._Dice):
    """Draws what a test says: everything is applied, and the values come from lists."""

    def __init__(self, uniforms: list[float], normals: list[float]) -> None:
        super().__init__(1, torch.Generator())
        self.uniforms, self.normals = iter(uniforms), iter(normals)

    def uniform(self, *shape: int) -> Tensor:
        return torch.tensor([[next(self.uniforms) for _ in range(math.prod(shape))]]).reshape(1, *shape)

    def normal(self, *shape: int) -> Tensor:
        return torch.tensor([[next(self.normals) for _ in range(math.prod(shape))]]).reshape(1, *shape)

    def sometimes(self, probability: Tensor | float, value: Tensor, neutral: float) -> Tensor:
        assert probability > 0
        return value


def turn(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def test_geometry_is_drawn_and_ordered_as_published() -> None:
    # Flip, quarter turns, whole shifts, rotation before and after stretching; size, stretch, fractions of pixels.
    uniforms = [0.6, 0.3, 0.9, 0.2, 0.75, 0.1]
    normals = [0.5, -1.0, 0.8, 0.4]
    found = ada.geometry(Scripted(uniforms, normals), 0.5, HEIGHT, WIDTH, ada.Strengths())[0].double().numpy()
    inverse = np.diag([-1.0, 1, 1])
    inverse = inverse @ turn(1 * math.pi / 2)
    inverse = inverse @ shift(-round((0.9 * 2 - 1) * 0.125 * WIDTH), -round((0.2 * 2 - 1) * 0.125 * HEIGHT))
    size, stretch = 2 ** (0.2 * 0.5), 2 ** (0.2 * -1.0)
    inverse = inverse @ np.diag([1 / size, 1 / size, 1])
    inverse = inverse @ turn((0.75 * 2 - 1) * math.pi)
    inverse = inverse @ np.diag([1 / stretch, stretch, 1])
    inverse = inverse @ turn((0.1 * 2 - 1) * math.pi)
    inverse = inverse @ shift(-0.125 * 0.8 * WIDTH, -0.125 * 0.4 * HEIGHT)
    np.testing.assert_allclose(found, inverse, atol=1e-5)


def test_colours_are_drawn_and_ordered_as_published() -> None:
    uniforms, normals = [0.6, 0.9], [1.5, -0.5, 0.7]
    found = ada.colour(Scripted(uniforms, normals), 0.5)[0].double().numpy()
    grey = np.full((4, 4), 1 / 3)
    grey[3], grey[:, 3] = 0, 0
    eye, matrix = np.eye(4), np.eye(4)
    matrix[:3, 3] = 0.2 * 1.5
    contrast = 2 ** (0.5 * -0.5)
    matrix = np.diag([contrast] * 3 + [1]) @ matrix
    matrix = (eye - 2 * grey) @ matrix
    angle, v = (0.9 * 2 - 1) * math.pi, 1 / math.sqrt(3)
    cross = np.array([[0, -v, v, 0], [v, 0, -v, 0], [-v, v, 0, 0], [0, 0, 0, 0]])
    matrix = (eye + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross) @ matrix
    saturation = 2**0.7
    keep = grey.copy()
    keep[3, 3] = 1
    matrix = (keep + (eye - keep) * saturation) @ matrix
    np.testing.assert_allclose(found, matrix, atol=1e-5)


@pytest.mark.parametrize("p", [0.2, 0.7])
def test_each_transformation_is_drawn_with_its_probability(p: float) -> None:
    seen: list[float] = []

    class Counting(ada._Dice):
        def sometimes(self, probability: Tensor | float, value: Tensor, neutral: float) -> Tensor:
            seen.append(float(probability))
            return super().sometimes(probability, value, neutral)

    draws = Counting(4000, torch.Generator().manual_seed(0))
    ada.geometry(draws, p, HEIGHT, WIDTH, ada.Strengths(flip=0.5))
    half = 1 - math.sqrt(1 - p)
    assert seen == pytest.approx([p * 0.5, p, p, p, half, p, half, p]), "flip, quarters, shift, size, two turns, ..."
    seen.clear()
    ada.colour(draws, p)
    assert seen == pytest.approx([p] * 5)
    drawn = draws.sometimes(p, torch.ones(4000), 0.0)
    assert drawn.mean().item() == pytest.approx(p, abs=0.03)
