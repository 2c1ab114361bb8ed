"""A start of concept layers that fits the data: outputs of mean 0 and variance 1 over training images.

As drawn, Ψ gives almost the same small values for every image, and what is built on it (Θ, Ω, a decoder) first has to
learn a scale: at the small presets that was most of the training. Data-dependent initialisation is known from Salimans
and Kingma 2016 (weight normalisation, section 3) and Krähenbühl et al. 2016.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coinbench.problem import Problem
from coinbench.rng import Rng

_IMAGES = 512
_AT_ONCE = 64
"""Large images would not fit into memory all together."""


@torch.no_grad()
def standardise(
    layers: tuple[nn.Conv2d | nn.Linear, ...],
    inputs: Callable[[Float[Tensor, "B C H W"]], tuple[Tensor, ...]],
    problem: Problem,
    rng: Rng,
) -> None:
    """Fold into each layer what gives each of its outputs mean 0 and variance 1, in place; a constant one mean 0.

    Args:
        layers: with biases.
        inputs: (images) -> what each of the layers is given for them.
        problem: whose training images are used, 512 of them or all.
        rng: chooses them.
    """
    rows = rng.child("standardise").choose(problem.train.index, _IMAGES)
    parts = [rows[i : i + _AT_ONCE] for i in range(0, len(rows), _AT_ONCE)]
    given = [inputs(problem.train.take(part).images) for part in parts]
    for layer, batches in zip(layers, zip(*given, strict=True), strict=True):
        outputs = torch.cat([layer(batch).transpose(0, 1).flatten(1) for batch in batches], 1)
        mean, deviation = outputs.mean(1), outputs.std(1)
        # What does not depend on the image, but for rounding, has no variance to scale.
        deviation = deviation.where(deviation > 1e-5 * (mean.abs() + deviation), torch.ones_like(deviation))
        assert layer.bias is not None
        layer.weight.div_(deviation.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.sub_(mean).div_(deviation)
