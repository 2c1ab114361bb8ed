"""f_part: a network that tells the parts of an image, the judge of part consistency (paper section 4, table 12).

Where p was trained on the parts (birds), logistic regressions on its features; elsewhere (CUB's attributes) a network
of f's kind that `coinbench pretrain parts` trains. It never sees a class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coinbench import weights
from coinbench.cache import Cache
from coinbench.config import ClassifierConfig
from coinbench.data.source import Attributes, Source
from coinbench.errors import Unavailable
from coinbench.log import Log
from coinbench.models import Classifier, channels_last
from coinbench.networks.perceptual import Perceptual
from coinbench.problem import Problem, Split
from coinbench.rng import Rng
from coinbench.training import train

TRAINED_P = "p trained on parts"
"""Origin of a perceptual net that was trained to tell the parts."""
_PENALTY = 1e-3
"""Of the squared weights of a regression: features may be dead, and parts separable."""


class PartJudge(nn.Module):
    """Images in [-1, 1] to the probability of each attribute; frozen."""

    def __init__(self, logits: Callable[[Tensor], Tensor], names: tuple[str, ...], origin: str) -> None:
        """Hold what gives the logits; `origin` is part of the protocol."""
        super().__init__()
        self.logits, self.names, self.origin = logits, names, origin

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B J"]:
        """Return f_part(x)."""
        return self.logits(images).sigmoid()


@dataclass(frozen=True, slots=True)
class Parts:
    """What a problem knows of f_part; nothing is read or made before `judge`."""

    source: Source
    digest: str
    """Of all that determines the network of `coinbench pretrain parts`."""
    build: Callable[[int], Classifier]
    """Number of attributes -> that network at initialisation."""

    def judge(self, problem: Problem, cache: Cache) -> PartJudge:
        """Return f_part.

        Raises:
            Unavailable: the data set tells no parts, or there is no network that does; says how to get one.
            DataError: its weights or the labels are damaged.
        """
        if (told := self.source.attributes()) is None:
            raise Unavailable(f"{problem.name} does not tell the parts of its images; birds and cub200 do")
        if problem.perceptual.origin == TRAINED_P:
            return fit_heads(problem.perceptual, problem.train, told)
        if not cache.has("parts", self.digest):
            raise Unavailable(
                f"there is no network that tells the parts of {problem.name}; train one: coinbench pretrain parts "
                f"--dataset {problem.name}, with the same --set and --cache"
            )
        network = self.build(len(told.names)).to(problem.device)
        weights.load(network, cache.path("parts", self.digest) / weights.FILE)
        channels_last(network.requires_grad_(False).eval())
        return PartJudge(lambda images: network(images).logits, told.names, "a network trained on the attributes")


def fit_heads(net: Perceptual, split: Split, told: Attributes) -> PartJudge:
    """Return logistic regressions on the spatial mean of p's last map, one for each attribute.

    Args:
        net: p.
        split: training images.
        told: attributes of all images of the data set.
    """
    with torch.no_grad():
        features = torch.cat([net(batch.images)[-1].mean((2, 3)) for batch in split.batches(256)]).double()
    target = torch.from_numpy(told.values[split.index]).to(features.device)
    centre, scale = features.mean(0), features.std(0).clamp_min(1e-6)
    layer = regression((features - centre) / scale, target)
    weight, bias = (value.to(features) for value in layer)

    def logits(images: Tensor) -> Tensor:
        found = net(images)[-1].mean((2, 3)).double()
        return ((found - centre) / scale) @ weight + bias

    return PartJudge(logits, told.names, f"logistic regressions on {net.origin}")


def regression(
    features: Float[Tensor, "N d"], target: Int[Tensor, "N J"], steps: int = 200
) -> tuple[Float[Tensor, "d J"], Float[Tensor, "J"]]:
    """Return weights and biases of J logistic regressions with a small penalty; a target of -1 is left out.

    >>> x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]], dtype=torch.float64)
    >>> weight, bias = regression(x, torch.tensor([[0], [0], [1], [1]]))
    >>> ((x @ weight + bias) > 0).flatten().tolist()
    [False, False, True, True]
    """
    known = (target >= 0).to(features)
    with torch.enable_grad():
        weight = torch.zeros(features.shape[1], target.shape[1], dtype=features.dtype, device=features.device)
        bias = torch.zeros(target.shape[1], dtype=features.dtype, device=features.device)
        found = [weight.requires_grad_(), bias.requires_grad_()]
        solver = torch.optim.LBFGS(found, max_iter=steps, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            solver.zero_grad()
            loss = masked_entropy(features @ weight + bias, target, known) + _PENALTY * weight.square().sum()
            loss.backward()
            return loss

        solver.step(closure)
    return weight.detach(), bias.detach()


def masked_entropy(
    logits: Float[Tensor, "B J"], target: Int[Tensor, "B J"], known: Float[Tensor, "B J"]
) -> Float[Tensor, ""]:
    """Return the binary cross-entropy of what is known, mean over images, sum over attributes.

    >>> masked_entropy(torch.zeros(1, 2), torch.tensor([[1, -1]]), torch.tensor([[1.0, 0.0]])).item()
    0.6931471824645996
    """
    each = nn.functional.binary_cross_entropy_with_logits(logits, target.clamp_min(0).to(logits), reduction="none")
    return ((each * known).sum(0) / known.sum(0).clamp_min(1)).sum()


def fit_parts_network(
    config: ClassifierConfig, network: Classifier, split: Split, told: Attributes, log: Log, start: Path | None
) -> None:
    """Train a network of f's kind, in place, to tell the attributes of augmented training images.

    Args:
        config: training and seed of f.
        network: with an output for each attribute.
        split: training images.
        told: attributes of all images of the data set.
        log: of the training.
        start: file of weights that f of this kind starts from; None for initialisation.

    Raises:
        DataError: the file does not fit.
        Interrupted: asked to stop; a checkpoint was written first.
    """
    if start is not None:
        # Only a network of torchvision has a file to start from, and torchvision takes its time to import.
        from coinbench.networks.torchvision_nets import TorchvisionNet, take

        assert isinstance(network, TorchvisionNet)
        take(network, start)
    values, rng = torch.from_numpy(told.values).to(split.device), Rng(config.seed).child("parts")

    def loss(step: int) -> dict[str, Tensor]:
        batch = split.draw(step, config.train.batch, rng.child("data"))
        target = values[batch.index]
        known = (target >= 0).float()
        return {"attributes": masked_entropy(network(batch.images).logits, target, known) / target.shape[1]}

    train(network, loss, config.train, log)
