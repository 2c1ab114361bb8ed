"""Training of StyleGAN2-ADA: G and D against each other, and everything of it in one checkpoint.

Karras et al. 2020 (StyleGAN2), section 3 and appendix B (lazy regularisation, equalised rates), and Karras et al. 2020
(ADA), section 3. All random numbers of a step are keyed by its number, so a training that was cut computes after its
checkpoint what an uninterrupted one computes: bit for bit on the CPU.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from coinbench import checkpoints
from coinbench.config import TrainConfig
from coinbench.errors import CoinbenchError, DataError, UsageError
from coinbench.generators import gan_losses
from coinbench.generators.ada import Controller, Strengths, augment
from coinbench.generators.stylegan2_config import Settings, StyleGAN2Config, settle
from coinbench.models import channels_last
from coinbench.networks.stylegan2 import StyleGAN2
from coinbench.networks.stylegan2_discriminator import Discriminator
from coinbench.problem import Split, on_device
from coinbench.rng import Rng, seeded
from coinbench.training import learning_rate

PATH_EVERY, R1_EVERY, CONTROL_EVERY = 4, 16, 4
"""Steps between path length penalties, R1 penalties (lazy regularisation), and updates of p."""


def lazy_adam(parameters: list[nn.Parameter], config: TrainConfig, every: int) -> torch.optim.Adam:
    """Return Adam with rate and betas corrected by c = every / (every + 1) (StyleGAN2, appendix B); every = 0: as is.

    >>> adam = lazy_adam([nn.Parameter(torch.zeros(1))], TrainConfig(steps=1, lr=0.001, betas=(0.0, 0.99)), 16)
    >>> [round(adam.param_groups[0]["lr"], 7), round(adam.param_groups[0]["betas"][1], 5)]
    [0.0009412, 0.99059]
    """
    c = every / (every + 1) if every else 1.0
    betas = config.betas[0] ** c, config.betas[1] ** c
    return torch.optim.Adam(parameters, config.lr * c, betas, eps=1e-8, fused=parameters[0].is_cuda or None)


def averaging(settings: Settings, batch: int, seen: int) -> float:
    """Return the decay of G's average in a step: 0.5^(batch / half-life), the half-life ramped up with `seen` images.

    >>> s = settle(StyleGAN2Config(), 256)
    >>> round(averaging(s, 16, 16), 4), round(averaging(s, 16, 10**6), 4)
    (0.0, 0.9978)
    """
    images = settings.ema_kimg * 1000
    if settings.ema_ramp is not None:
        images = min(images, settings.ema_ramp * seen)
    return 0.5 ** (batch / max(images, 1e-8))


def build_discriminator(config: StyleGAN2Config, generator: StyleGAN2, rng: Rng) -> Discriminator:
    """Return the D that belongs to a G, at initialisation."""
    settings = settle(config, generator.size)
    with seeded(rng.child("discriminator")):
        return Discriminator(
            size=generator.size,
            channels=generator.channels,
            base=settings.base,
            most=config.most,
            group=settings.group,
            clamp=config.clamp,
            frozen=config.freeze_d,
        )


class Duel:
    """G, D, the average of G, both optimisers, p and the mean path length."""

    def __init__(
        self, config: StyleGAN2Config, generator: StyleGAN2, discriminator: Discriminator, split: Split
    ) -> None:
        """Begin; both networks are trained in place, on the device where G is."""
        self.config, self.split = config, split
        self.settings = settle(config, generator.size)
        self.device = next(generator.parameters()).device
        self.average = copy.deepcopy(generator).requires_grad_(False).eval()
        self.generator = generator.requires_grad_(True).train()
        self.discriminator = discriminator.to(self.device).train()
        for network in (self.generator, self.discriminator, self.average):
            channels_last(network)
        low = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.train.precision]
        self.generator.synthesis.lower(low)
        self.discriminator.lower(low)
        self.of_g = [p for p in self.generator.parameters() if p.requires_grad]
        self.of_d = [p for p in self.discriminator.parameters() if p.requires_grad]
        self.adam_g = lazy_adam(self.of_g, config.train, PATH_EVERY if config.path else 0)
        self.adam_d = lazy_adam(self.of_d, config.train, R1_EVERY if self.settings.r1 else 0)
        self.controller = Controller(target=config.target, kimg=self.settings.ada_kimg)
        self.strengths = Strengths(flip=config.flip, colour=config.colour)
        self.mean_path = torch.zeros((), device=self.device)
        names = ("generator", "discriminator", "path", "r1", "p", "sign")
        self.terms: dict[str, Tensor | float] = dict.fromkeys(names, 0.0)
        """The latest value of each, for the log."""
        self._host_dice = torch.Generator()

    def step(self, number: int, rng: Rng) -> None:
        """Do step `number` (0-based): G, its path lengths, D, its R1, the average, p."""
        config = self.config
        rate = learning_rate(config.train, number) / config.train.lr
        for adam in (self.adam_g, self.adam_d):
            # What each was made with is corrected for lazy regularisation.
            adam.param_groups[0]["lr"] = adam.defaults["lr"] * rate
        # On the device itself: noise is more than half a million numbers an image at 256 px.
        dice = rng.child("step", number).torch(self.device)
        self._host_dice = dice if dice.device.type == "cpu" else rng.child("augment", number).torch()
        rows = self.split.rows(number, config.train.batch, rng.child("data"))
        self._teach_generator(dice)
        if config.path and number % PATH_EVERY == 0:
            self._smooth_paths(dice)
        self._teach_discriminator(rows, dice)
        if self.settings.r1 and number % R1_EVERY == 0:
            self._flatten_discriminator(rows, dice)
        self._follow((number + 1) * config.train.batch)
        if number % CONTROL_EVERY == CONTROL_EVERY - 1:
            self.terms["sign"] = self.controller.update(config.train.batch * CONTROL_EVERY)
            if not config.augment:
                self.controller.p = 0.0
            self.terms["p"] = self.controller.p

    def _latents(self, n: int, dice: torch.Generator, *, track: bool = False) -> Float[Tensor, "n L V"]:
        """Map z of two draws to w and mix them; `track` moves w̄."""
        mapping, styles = self.generator.mapping, self.generator.n_styles
        z = torch.randn(2 * n, self.generator.z_dim, generator=dice, device=self.device)
        first, second = mapping(z).chunk(2)
        if track:
            mapping.track(first)
        cuts = gan_losses.draw_cuts(n, styles, self.config.mixing, dice)
        return gan_losses.mix(first, second, cuts, styles)

    def _augment(self, images: Tensor, dice: torch.Generator) -> Tensor:
        return augment(images, self.controller.p, self._host_dice, self.strengths)

    def _real(self, rows: Int[np.ndarray, "B"]) -> Float[Tensor, "B C H W"]:
        """Return images as G draws them: at its resolution, between black bars where only the middle is shown."""
        images, side = on_device(self.split.pixels[rows], self.device), self.generator.size
        border = side // 8 if self.config.crop == "wide" else 0
        shape = (side - 2 * border, side)
        if images.shape[2:] != shape:
            images = nn.functional.interpolate(images, size=shape, mode="bilinear", antialias=True)
        return nn.functional.pad(images, (0, 0, border, border), value=-1.0)

    def _teach_generator(self, dice: torch.Generator) -> None:
        w = self._latents(self.config.train.batch, dice, track=True)
        images = self.generator.synthesis(w, "random", dice)
        loss = gan_losses.generator_loss(self.discriminator(self._augment(images, dice)))
        self.terms["generator"] = loss.detach()
        self._descend(self.adam_g, self.of_g, loss)

    def _smooth_paths(self, dice: torch.Generator) -> None:
        w = self._latents(max(1, self.config.train.batch // 2), dice)
        images = self.generator.synthesis(w, "random", dice)
        noise = torch.randn(images.shape, generator=dice, device=self.device)
        penalty, self.mean_path = gan_losses.path_penalty(gan_losses.path_lengths(images, w, noise), self.mean_path)
        self.terms["path"] = penalty.detach()
        self._descend(self.adam_g, self.of_g, penalty * (self.config.path * PATH_EVERY))

    def _teach_discriminator(self, rows: Int[np.ndarray, "B"], dice: torch.Generator) -> None:
        with torch.no_grad():
            fake = self.generator.synthesis(self._latents(len(rows), dice), "random", dice)
            fake = self._augment(fake, dice)
            real = self._augment(self._flip(self._real(rows), dice), dice)
        of_fake, of_real = self.discriminator(fake), self.discriminator(real)
        self.controller.see(of_real)
        loss = gan_losses.discriminator_loss(of_real, of_fake)
        self.terms["discriminator"] = loss.detach()
        self._descend(self.adam_d, self.of_d, loss)

    def _flatten_discriminator(self, rows: Int[np.ndarray, "B"], dice: torch.Generator) -> None:
        images = self._flip(self._real(rows), dice).requires_grad_(True)
        # R1 is of the images themselves: its gradient goes through the augmentation twice.
        logits = self.discriminator(self._augment(images, dice))
        self.controller.see(logits)
        penalty = gan_losses.r1(logits, images)
        self.terms["r1"] = penalty.detach()
        self._descend(self.adam_d, self.of_d, penalty * (self.settings.r1 * R1_EVERY))

    def _flip(self, images: Tensor, dice: torch.Generator) -> Tensor:
        """Mirror every second image at random, where the data set's images may be mirrored."""
        if not self.split.flip:
            return images
        mirrored = torch.rand(len(images), generator=dice, device=self.device) < 0.5
        return torch.where(mirrored[:, None, None, None], images.flip(3), images)

    def _descend(self, adam: torch.optim.Adam, parameters: list[nn.Parameter], loss: Tensor) -> None:
        # grad, not backward: only the gradients of these parameters are computed.
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                # The root in a path length has no gradient at 0, and half precision overflows: cut, not followed.
                gradient = gradient.nan_to_num(0.0, 1e5, -1e5)
                if gradient.stride() != parameter.stride():
                    # One pass over all parameters wants each gradient laid out like its own.
                    gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        adam.step()
        adam.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _follow(self, seen: int) -> None:
        decay = averaging(self.settings, self.config.train.batch, seen)
        # All parameters in one pass.
        follow = get_ema_multi_avg_fn(decay)
        follow(list(self.average.parameters()), list(self.generator.parameters()), seen)
        state = self.generator.state_dict()
        for name, buffer in self.average.named_buffers():
            if name in state:
                buffer.copy_(state[name])

    def check(self, step: int, stage: str) -> dict[str, float]:
        """Return the latest terms, all finite, as are the weights of G and D.

        Raises:
            CoinbenchError: one is not; names step and terms.
        """
        terms = {name: float(value) for name, value in self.terms.items()}
        sound = bool(torch.stack([p.isfinite().all() for p in (*self.of_g, *self.of_d)]).all())
        if not (sound and math.isfinite(math.fsum(terms.values()))):
            listed = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
            raise CoinbenchError(
                f"{stage}: a loss or a weight is not finite near step {step} ({listed}); the last good checkpoint is "
                "kept; lower problem.generator.train.lr or raise problem.generator.r1"
            )
        return terms

    def networks(self) -> dict[str, Tensor]:
        """Return G, D and the average of G under the names of converted files, which training can start from."""
        parts = {"G_ema": self.average, "G": self.generator, "D": self.discriminator}
        return {f"{part}.{k}": v for part, network in parts.items() for k, v in network.state_dict().items()}

    def _tensors(self) -> dict[str, Tensor]:
        parts = {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}
        found = {f"{part}.{k}": v for part, network in parts.items() for k, v in network.state_dict().items()}
        return found | {"mean_path": self.mean_path}

    def save(self, path: Path, step: int) -> None:
        """Write a checkpoint of everything, whole or not at all."""
        tensors = self._tensors()
        for name, adam in (("adam_g", self.adam_g), ("adam_d", self.adam_d)):
            tensors |= checkpoints.of_optimiser(adam, name)
        c = self.controller
        state = {"p": repr(c.p), "signs": repr(float(c.signs)), "count": str(c.count)}
        # Penalties are not computed in every step: what the log says of them goes on too.
        state["terms"] = json.dumps({name: float(value) for name, value in self.terms.items()})
        checkpoints.save(path, tensors, {"step": str(step), "train": self.config.digest(), **state})

    @torch.no_grad()
    def load(self, path: Path) -> int:
        """Continue from a checkpoint; return the step to do next.

        Raises:
            DataError: it is damaged, or of another network or training.
        """
        try:
            tensors, metadata = checkpoints.read(path, self.config.digest())
            mine = self._tensors()
            checkpoints.check(mine, tensors)
            of_g = checkpoints.to_optimiser(tensors, "adam_g", self.of_g, sgd=False)
            of_d = checkpoints.to_optimiser(tensors, "adam_d", self.of_d, sgd=False)
            step = checkpoints.count(metadata, self.config.train.steps)
            p, signs, seen = float(metadata["p"]), float(metadata["signs"]), int(metadata["count"])
            terms = {name: float(json.loads(metadata["terms"])[name]) for name in self.terms}
            if not 0 <= p <= 1:
                raise ValueError(f"p = {p:g}")
        except DataError:
            raise
        # Besides its own errors safetensors passes on those of the system and of torch.
        except Exception as error:
            raise checkpoints.foreign(path, error) from error
        for key, value in mine.items():
            value.copy_(tensors[key])
        checkpoints.restore(self.adam_g, of_g)
        checkpoints.restore(self.adam_d, of_d)
        self.controller.p, self.controller.signs, self.controller.count = p, signs, seen
        self.terms |= terms
        return step


def check_precision(config: StyleGAN2Config, device: torch.device) -> None:
    """Refuse what a device cannot do.

    Raises:
        UsageError: fp16 without CUDA.
    """
    if config.train.precision == "fp16" and device.type != "cuda":
        raise UsageError("problem.generator.train.precision=fp16 needs a CUDA device; use fp32 or bf16")
