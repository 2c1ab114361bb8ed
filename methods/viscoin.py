"""VisCoIN: a frozen classifier explained through concepts that a frozen generator draws.

Parekh, Bouniot, Mozharovskyi, Newson, d'Alché-Buc, "Restyling Unsupervised Concept Based Interpretable Networks with
Generative Models", ICLR 2025, section 3 and appendix C. Symbols are the paper's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from coinbench.coin import CoIN
from coinbench.concepts import Concepts
from coinbench.config import MethodConfig
from coinbench.errors import UsageError
from coinbench.fast import replayed
from coinbench.log import Log
from coinbench.methods import start
from coinbench.methods.chance import Chance, Chances, images_of
from coinbench.methods.losses import orthogonality, overlap, soft_cross_entropy
from coinbench.networks.psi import FusedTaps, tap_shapes
from coinbench.networks.stylegan2_layers import FullyConnected, normalise_second_moment
from coinbench.problem import Problem
from coinbench.rng import Rng, seeded
from coinbench.specs import MethodSpec
from coinbench.training import Loss, train

_ADDED: dict[str, Any] = {
    "pooled_sparsity": False,
    "cosines": "squared",
    "held": 0,
    "rectified_support": False,
    "theta_dropout": 0.0,
    "random_noise": False,
}
"""Settings that came later, with what was done before: at it they are left out, so that digests stay."""
_HELD = ("fidelity", "sparsity")
_NOTHING = Chance()


class VisCoINConfig(MethodConfig):
    """Settings of VisCoIN; a weight of 0 switches its term off."""

    name: str = "viscoin"
    K: int = Field(default=256, ge=2, le=4096)
    """Number of concepts."""
    side: int = Field(default=3, ge=1, le=16)
    """A concept is a side x side map, b = side² (paper: 3)."""
    channels: int = Field(default=512, ge=4, le=2048)
    """Channels that Ψ makes of each tap (paper: 512)."""
    variant: Literal["paper", "released"] = "paper"
    """Ω: linear layers on the w̄ of G (paper), or the public code's rectified ones on a learnt w̄ (and other styles)."""
    support: bool = True
    """Φ′, where G has more than one style vector."""
    omega: bool = True
    """Ω; without it Φ, one cell a concept, is itself the latent vector, and K must be its size (paper table 20)."""
    fidelity: Literal["outputs", "labels"] = "outputs"
    """What g learns: f's outputs, or labels, which images sampled from G lack (paper table 21)."""
    alpha: float = Field(default=0.5, ge=0)
    """α: output fidelity CE(g(x), f(x)) (eq. 2); CE of g(x) to labels where `fidelity` says so."""
    mse: float = Field(default=1.0, ge=0)
    """Weight of ‖x̃ − x‖²₂ (eq. 3; paper: 1)."""
    l1: float = Field(default=1.0, ge=0)
    """Weight of ‖x̃ − x‖₁ (eq. 3; paper: 1)."""
    beta: float = Field(default=3.0, ge=0)
    """β: perceptual distance of x̃ to x (eq. 3)."""
    perceptual: Literal["none", "p"] = "p"
    """The net of the perceptual term."""
    gamma: float = Field(default=0.1, ge=0)
    """γ: reconstruction classification CE(f(x̃), f(x)) (eq. 3)."""
    delta: float = Field(default=0.2, ge=0)
    """δ: sparsity ‖Φ(x)‖₁ (eq. 4)."""
    orthogonality: float = Field(default=1.0, ge=0)
    """Weight of L_orth(Ψ) (eq. 4; paper: 1)."""
    latent: float = Field(default=1.0, ge=0)
    """Weight of ‖w_x − w̄‖²₂ (eq. 4; paper: 1)."""
    standardised: bool = False
    """Φ and Φ′ begin with mean 0 and variance 1 over training images, before the ReLU (ours; paper: as drawn)."""
    synthetic: int | None = Field(default=None, ge=0)
    """Images sampled from G in a step; default: as many as real ones (paper: 8 and 8)."""
    pooled_sparsity: bool = False
    """δ also weighs the mean of pooled Φ, of norm 1 in each image (public code; paper: ‖Φ(x)‖₁ alone)."""
    cosines: Literal["squared", "absolute"] = "squared"
    """L_orth: the mean squared cosine of different kernels (ours), or the sum of products of their moduli over K²
    (public code)."""
    held: int = Field(default=0, ge=0)
    """Steps at the beginning in which output fidelity and sparsity count 0 (public code: 100)."""
    rectified_support: bool = False
    """Φ′ ends without a bias and with a ReLU (public code); then `standardised` leaves it as drawn."""
    theta_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the cells of Φ that Θ does not see in a training step (public code: 0.01)."""
    random_noise: bool = False
    """In training G draws each image with other noise (public code); measured is always with the constant one."""

    def key(self) -> dict[str, Any]:
        """Return what determines the network."""
        return {name: value for name, value in super().key().items() if (name, value) not in _ADDED.items()}


def support_styles(n_styles: int, variant: str = "paper") -> frozenset[int]:
    """Return the style vectors that Φ′ predicts: the coarsest and the finest ones.

    Of 14 the paper takes the first 3 and the last 2, its public code the first 2 and the last 3, and of 16 one more of
    the first. The paper's first 3 act on maps of at most 1/32 of the image's size, so that is its rule for other sizes
    of StyleGAN2: each doubling of the image has two such styles more, and at 32 and 64 pixels there is none. There the
    first styles are no posture: those of the birds' G decide in 7 of 10 pairs which class f sees, and Φ′ would tell
    what Φ should.

    >>> sorted(support_styles(14)), sorted(support_styles(16)), sorted(support_styles(8)), sorted(support_styles(1))
    ([0, 1, 2, 12, 13], [0, 1, 2, 3, 4, 14, 15], [6, 7], [])
    >>> sorted(support_styles(14, "released")), sorted(support_styles(16, "released"))
    ([0, 1, 11, 12, 13], [0, 1, 2, 13, 14, 15])
    """
    more = n_styles - 14
    first, fine = (3 + more, 2) if variant == "paper" else (2 + more // 2, 3)
    first, last = max(0, first), min(fine, n_styles // 4)
    return frozenset({*range(first), *range(n_styles - last, n_styles)})


class Rectified(nn.Module):
    """Ω's layer in the public code: of the input's direction alone, rectified, with a hundredth of the rate."""

    def __init__(self, n_in: int, n_out: int) -> None:
        """Make the layer."""
        super().__init__()
        self.layer = FullyConnected(n_in, n_out, rectified=True, rate=0.01)

    def forward(self, x: Float[Tensor, "B _i"]) -> Float[Tensor, "B _o"]:
        """Apply the layer; all concepts scaled alike give the same latent."""
        return self.layer(normalise_second_moment(x))


class VisCoIN(CoIN):
    """Ψ on taps of f gives Φ and Φ′; Θ predicts from pooled Φ; Ω translates both to latents of G."""

    mean_latent: Tensor

    def __init__(self, config: VisCoINConfig, problem: Problem) -> None:
        """Make Ψ, Θ and Ω around the frozen f and G."""
        super().__init__()
        self.config = config
        self.classifier = problem.classifier
        self.generator = problem.generator
        self.n_concepts = config.K
        shapes = tap_shapes(problem.classifier, problem.channels, problem.size, problem.device)
        self.trunk = FusedTaps(shapes, config.channels)
        self.to_concepts = nn.Conv2d(self.trunk.channels, config.K, 1)
        side = config.side if config.omega else 1
        self.pool = nn.AdaptiveAvgPool2d(side)
        self.cells = config.K, side**2
        width = config.K * side**2
        styles = problem.generator.n_styles
        self.from_support = support_styles(styles, config.variant) if config.support else frozenset()
        self.to_support = None
        if self.from_support:
            self.to_support = nn.Sequential(
                nn.Linear(self.trunk.channels * side**2, width),
                nn.ReLU(),
                nn.Linear(width, width, bias=not config.rectified_support),
                *([nn.ReLU()] if config.rectified_support else []),
            )
        self.theta = nn.Linear(config.K, problem.n_classes)
        mean = problem.generator.mean_latent().detach().cpu().clone()
        if not config.omega:
            if len(mean) != width:
                raise UsageError(f"method.omega=false: Φ is the latent vector, set method.K={len(mean)}, got {width}")
            self.omega = nn.ModuleList(nn.Identity() for _ in range(styles))
            # Still what ‖w_x − w̄‖²₂ draws to; Φ alone is the latent.
            self.register_buffer("mean_latent", mean)
        elif config.variant == "released":
            self.omega = nn.ModuleList(Rectified(width, len(mean)) for _ in range(styles))
            self.mean_latent = nn.Parameter(torch.zeros_like(mean))
        else:
            self.omega = nn.ModuleList(nn.Linear(width, len(mean), bias=False) for _ in range(styles))
            self.register_buffer("mean_latent", mean)

    def concepts_of(self, maps: tuple[Tensor, ...]) -> Concepts:
        """Return Φ and Φ′ from the tapped maps of f (section 3.2)."""
        fused = self.trunk(maps)
        phi = self.pool(self.to_concepts(fused).relu()).flatten(2)
        support = None
        if self.to_support is not None:
            support = self.to_support(self.pool(fused).flatten(1))
        return Concepts(phi, phi.amax(2), support)

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return Φ(x), Φ′(x)."""
        return self.concepts_of(self.classifier.taps(images))

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        """Return Θ: a linear layer on max-pooled concepts."""
        return self.theta(concepts.pooled)

    def latent(self, concepts: Concepts) -> Float[Tensor, "B L V"]:
        """Return w_x = Ω(Φ, Φ′): one layer per style vector, biased by w̄ (eq. 7); without Ω, Φ and Φ′ themselves."""
        phi = concepts.phi.flatten(1)
        origin = self.mean_latent if self.config.omega else torch.zeros_like(self.mean_latent)
        vectors = []
        for number, layer in enumerate(self.omega):
            source = phi if number not in self.from_support else concepts.support
            assert source is not None
            vectors.append(origin + layer(source))
        return torch.stack(vectors, 1)

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Return x̃ = G(Ω(Φ, Φ′)), cut to [-1, 1]."""
        return self.generator(self.latent(concepts)).clamp(-1, 1)


def losses(
    coin: VisCoIN,
    problem: Problem,
    images: Float[Tensor, "B C H W"],
    labels: Int[Tensor, "R"] | None = None,
    chance: Chance = _NOTHING,
) -> dict[str, Float[Tensor, ""]]:
    """Return the weighted terms of L_train (eq. 5) for a batch of real and sampled images.

    Args:
        coin: the network.
        problem: gives f, G and p.
        images: real ones first.
        labels: of the real ones, where they are what g learns.
        chance: what is drawn at random in training.
    """
    config = coin.config
    with torch.no_grad():
        features = problem.classifier(images)
    concepts = coin.concepts_of(features.maps)
    w = coin.latent(concepts)
    reconstruction = images_of(problem, w, chance.noise)
    difference = reconstruction - images
    terms = {}
    if config.alpha:
        seen = concepts
        if chance.kept is not None:
            seen = replace(concepts, pooled=(concepts.phi * chance.kept).amax(2))
        logits = coin.predict(seen)
        if config.fidelity == "labels":
            assert labels is not None
            terms["fidelity"] = config.alpha * cross_entropy(logits[: len(labels)], labels)
        else:
            terms["fidelity"] = config.alpha * soft_cross_entropy(logits, features.logits)
    if config.mse:
        terms["mse"] = config.mse * difference.square().mean()
    if config.l1:
        terms["l1"] = config.l1 * difference.abs().mean()
    if config.beta and config.perceptual == "p":
        with torch.no_grad():
            of_images = problem.perceptual(images)
        distance = problem.perceptual.distance(of_images, problem.perceptual(reconstruction))
        terms["perceptual"] = config.beta * distance.mean()
    if config.gamma:
        of_reconstruction = problem.classifier(reconstruction)
        terms["classification"] = config.gamma * soft_cross_entropy(of_reconstruction.logits, features.logits)
    if config.delta:
        size = concepts.phi.abs().mean()
        if config.pooled_sparsity:
            size = size + normalize(concepts.pooled, dim=1).abs().mean()
        terms["sparsity"] = config.delta * size
    if config.orthogonality:
        kernels = coin.to_concepts.weight.flatten(1)
        form = orthogonality if config.cosines == "squared" else overlap
        terms["orthogonality"] = config.orthogonality * form(kernels)
    if config.latent:
        terms["latent"] = config.latent * (w - coin.mean_latent).square().mean()
    return terms


def build(config: VisCoINConfig, problem: Problem, rng: Rng) -> VisCoIN:
    """Return the network at initialisation."""
    with seeded(rng.child("init")):
        return VisCoIN(config, problem).to(problem.device)


def standardise(coin: VisCoIN, problem: Problem, rng: Rng) -> None:
    """Give each map of Φ, before its ReLU, and each output of Φ′ mean 0 and variance 1 over training images."""
    if coin.to_support is None or coin.config.rectified_support:
        start.standardise((coin.to_concepts,), lambda x: (coin.trunk(problem.classifier.taps(x)),), problem, rng)
        return
    *hidden, last = coin.to_support
    assert isinstance(last, nn.Linear)

    def inputs(images: Tensor) -> tuple[Tensor, ...]:
        fused = coin.trunk(problem.classifier.taps(images))
        return fused, nn.Sequential(*hidden)(coin.pool(fused).flatten(1))

    start.standardise((coin.to_concepts, last), inputs, problem, rng)


def loss_of(coin: VisCoIN, problem: Problem, rng: Rng) -> Loss:
    """Return L_train of a step: half of its images are drawn from the training split, half from G."""
    config, n_real = coin.config, coin.config.train.batch
    n_sampled = n_real if config.synthetic is None else config.synthetic
    chances = Chances(problem, n_real, n_sampled, coin.cells, config.theta_dropout, config.random_noise)

    def terms(images: Tensor, labels: Tensor, w: Tensor, *drawn: Tensor) -> dict[str, Tensor]:
        chance, noise = chances.split(drawn)
        if n_sampled:
            with torch.no_grad():
                images = torch.cat([images, images_of(problem, w, noise)])
        return losses(coin, problem, images, labels, chance)

    pure = replayed(terms, coin, config.train)

    def loss(step: int) -> dict[str, Tensor]:
        batch = problem.train.draw(step, n_real, rng.child("data"))
        with torch.no_grad():
            w = problem.group.share(problem.generator.sample(n_sampled, rng.child("synthetic", step)))
            drawn = chances.draw(rng.child("chance", step))
        found = pure(batch.images, batch.labels, w, *drawn)
        if step < config.held * config.train.accumulate:
            found |= {name: 0 * found[name] for name in _HELD if name in found}
        return found

    return loss


def optimise(coin: VisCoIN, problem: Problem, rng: Rng, log: Log) -> None:
    """Minimise L_train over what of the network is to be trained, in place."""
    train(coin, loss_of(coin, problem, rng), coin.config.train, log, problem.networks)


def fit(config: VisCoINConfig, problem: Problem, rng: Rng, log: Log) -> VisCoIN:
    """Train Ψ, Θ and Ω together; f and G stay frozen."""
    coin = build(config, problem, rng)
    if config.standardised:
        standardise(coin, problem, rng)
    optimise(coin, problem, rng, log)
    return coin


METHOD = MethodSpec(
    config=VisCoINConfig,
    build=build,
    fit=fit,
    title="VisCoIN",
    source="Parekh et al., ICLR 2025",
    notes=(
        "paper: Ψ on three taps, 3x3 maps, max-pooled linear Θ, linear Ω biased by w̄, all losses and their weights; "
        "public code: kernel sizes of the taps, pooling before Φ′, and what --variant released sets (docs/methods.md); "
        "ours: means as reductions, closed form of L_orth, shares of Φ′ where L is not 14, small-scale presets and the "
        "standardised start of Ψ in them, constant noise of G in training too"
    ),
)
