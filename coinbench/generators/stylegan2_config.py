"""Settings of StyleGAN2-ADA: what the user may set, and the numbers of each published recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from coinbench.config import GeneratorConfig, TrainConfig, absolute
from coinbench.errors import DataError
from coinbench.published_weights import converted, generator_file, key_of


class StyleGAN2Config(GeneratorConfig):
    """StyleGAN2 as G, and its training by StyleGAN2-ADA; a setting of None takes the recipe's value."""

    net: str = "stylegan2"
    recipe: Literal["auto", "paper256", "stylegan2"] = "auto"
    """Published numbers, but for batch and rate: auto (paper of VisCoIN), paper256 (its CelebA-HQ G), stylegan2."""
    resolution: int | None = Field(default=None, ge=16, le=1024)
    """Pixels a side that G draws, a power of two; default: the next one from the images' size."""
    crop: Literal["none", "wide"] = "none"
    """wide: cut the middle 3/4 of the height out before resizing (LSUN-Cars generators: 384 x 512 of 512 x 512)."""
    space: Literal["w+", "w"] = "w+"
    """w+: one latent per style; w: one latent for all styles (L = 1)."""
    z_dim: int = Field(default=512, ge=1, le=2048)
    """Width of z."""
    w_dim: int = Field(default=512, ge=1, le=2048)
    """V, the width of a latent vector."""
    base: int | None = Field(default=None, ge=64, le=131072)
    """Channels at resolution r are min(base / r, most)."""
    most: int = Field(default=512, ge=4, le=1024)
    """Largest number of channels."""
    depth: int | None = Field(default=None, ge=1, le=16)
    """Layers of the mapping."""
    clamp: float | None = Field(default=256.0, gt=0)
    """Bound of activations, which half precision needs (published: 256); None: none."""
    r1: float | None = Field(default=None, ge=0)
    """γ of R1."""
    group: int | None = Field(default=None, ge=1)
    """Images behind one minibatch deviation of D."""
    ema_kimg: float | None = Field(default=None, gt=0)
    """Half-life of the average of G, in thousand images."""
    ema_ramp: float | None = Field(default=None, gt=0)
    """The half-life is at most this share of the images seen so far."""
    path: float = Field(default=2.0, ge=0)
    """Weight of the path length penalty; 0 switches it off."""
    mixing: float = Field(default=0.9, ge=0, le=1)
    """Share of images drawn from two latents."""
    augment: bool = True
    """ADA; off: D sees the images as they are."""
    target: float = Field(default=0.6, gt=0, lt=1)
    """Of E[sign D(x)], which ADA's controller holds."""
    ada_kimg: float | None = Field(default=None, gt=0)
    """Thousand images in which p could go from 0 to 1 (default 500; 100 when fine-tuning)."""
    flip: float = Field(default=1.0, ge=0)
    """Mirroring as a multiple of p (VisCoIN's Stanford Cars: 0.1)."""
    colour: float = Field(default=1.0, ge=0)
    """Changes of colour as a multiple of p."""
    freeze_d: int = Field(default=0, ge=0)
    """So many first layers of D do not learn (Freeze-D)."""
    truncation: float = Field(default=1.0, ge=0, le=1)
    """ψ of samples that a method learns from: w̄ + ψ (w - w̄), closer to the mean and less varied below 1. The weights
    of G and what is judged while it is trained are without it."""
    cutoff: int | None = Field(default=None, ge=1)
    """So many first styles are truncated; default: all."""
    init: Literal["scratch", "celebahq256", "imagenet256", "lsuncars512"] | Path = "scratch"
    """Where training starts: anew, from a published G (`coinbench weights list`), or from a file that `coinbench
    weights convert` or a training wrote."""
    init_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the converted file of a published G; a run notes that of the file that is here when it is planned."""
    finetune: bool = True
    """Train what `init` holds on the data set; off: take its G_ema as it is."""
    judge_kimg: float = Field(default=20.0, gt=0)
    """Thousand images between sample grids, with the Fréchet distance on f where f is at hand."""
    train: TrainConfig = TrainConfig(steps=62_500, batch=16, lr=2.5e-3, betas=(0.0, 0.99))
    """steps x batch images; the rate, its schedule, and Adam's betas before lazy regularisation corrects them."""

    def key(self) -> dict[str, Any]:
        """Return what determines G: of a file its content, not where it lies; not when it is looked at.

        Raises:
            DataError: the file is not there or cannot be read; found out before anything is fitted.
        """
        key = super().key()
        del key["judge_kimg"], key["init_sha256"]
        if self.truncation == 1:
            # As before there was one, so that what was trained is found.
            del key["truncation"], key["cutoff"]
        if isinstance(self.init, Path):
            remedy = "make it with `coinbench weights convert`, or set it to scratch"
            key["init"] = key_of(self.init, "problem.generator.init", remedy)
        elif self.init_sha256 is not None:
            key["init"] = self.init_sha256
        return key

    def pinned(self, weights: Path) -> StyleGAN2Config:
        """Return the settings with the digest of a published G that is here: another file makes another G.

        Raises:
            DataError: it cannot be read, or is another one than `init_sha256` says.
        """
        if isinstance(self.init, Path) or self.init == "scratch":
            return self
        path = converted(self.init, weights)
        if not path.is_file():
            return self
        found = key_of(path, "problem.generator.init")
        if self.init_sha256 not in (None, found):
            raise DataError(
                f"{path}: sha256 is {found}, problem.generator.init_sha256 says {self.init_sha256}; restore that file, "
                "or give the command of the run again for the new one"
            )
        return self.model_copy(update={"init_sha256": found})

    def weights_key(self) -> dict[str, Any]:
        """Return the same without truncation, which acts on samples of a trained G."""
        return self.untruncated().key()

    def untruncated(self) -> StyleGAN2Config:
        """Return the settings with which samples are as G learnt to draw them."""
        return self.model_copy(update={"truncation": 1.0, "cutoff": None})

    def begin(self, weights: Path) -> StyleGAN2Config:
        """Return the settings with the file of a published G in place of its name.

        Raises:
            DataError: it is not there.
        """
        if isinstance(self.init, Path) or self.init == "scratch":
            return self
        path = generator_file(self.init, weights, "problem.generator.init")
        self.pinned(weights)
        return self.model_copy(update={"init": path, "init_sha256": None})

    @field_validator("resolution")
    @classmethod
    def _power(cls, value: int | None) -> int | None:
        if value is not None and value & (value - 1):
            raise ValueError("must be a power of two from 16 to 1024")
        return value

    @field_validator("train")
    @classmethod
    def _fits(cls, value: TrainConfig) -> TrainConfig:
        plain = {"optimiser": "adam", "weight_decay": 0.0, "accumulate": 1, "clip": None, "ema": None, "keep_every": 0}
        for name, only in plain.items():
            if getattr(value, name) != only:
                raise ValueError(f"{name} has no part in StyleGAN2's training; leave it at {only}")
        return value

    @field_validator("init")
    @classmethod
    def _anywhere(cls, value: Path | str) -> Path | str:
        # A worker may run in another folder than the command that was given.
        return absolute(value) if isinstance(value, Path) else value

    @model_validator(mode="after")
    def _starts(self) -> StyleGAN2Config:
        if not self.finetune and self.init == "scratch":
            raise ValueError("finetune=false needs a file to take G from: set init")
        if self.init_sha256 and (isinstance(self.init, Path) or self.init == "scratch"):
            raise ValueError("init_sha256 is that of a published G: set init to its name, or leave it out")
        return self

    @model_validator(mode="after")
    def _truncated(self) -> StyleGAN2Config:
        if self.cutoff is not None and (self.space == "w" or self.truncation == 1):
            why = "one latent for all styles cannot be cut" if self.space == "w" else "nothing is truncated"
            raise ValueError(
                f"cutoff={self.cutoff} has no effect: {why}; leave it out, or set truncation with space=w+"
            )
        return self

    @model_validator(mode="after")
    def _groups(self) -> StyleGAN2Config:
        group = settle(self, 32).group
        if self.train.batch % group:
            raise ValueError(f"batch {self.train.batch} does not divide into groups of {group} (minibatch deviation)")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a recipe leaves open, resolved for a resolution and a batch."""

    base: int
    depth: int
    r1: float
    group: int
    ema_kimg: float
    ema_ramp: float | None
    ada_kimg: float


def resolution_of(config: StyleGAN2Config, size: int) -> int:
    """Return the pixels a side that G draws for images of `size` pixels.

    >>> resolution_of(StyleGAN2Config(), 28), resolution_of(StyleGAN2Config(), 256)
    (32, 256)
    """
    return config.resolution or max(16, 1 << (size - 1).bit_length())


def settle(config: StyleGAN2Config, size: int) -> Settings:
    """Return the numbers of a recipe, or what was set in their place.

    Karras et al. 2020 (ADA), table 5 and appendix C; auto: its released code's formulas.

    >>> s = settle(StyleGAN2Config(), 256)
    >>> s.base, s.depth, round(s.r1, 4), s.ema_kimg, s.ema_ramp
    (16384, 2, 0.8192, 5.0, 0.05)
    """
    resolution, batch = resolution_of(config, size), config.train.batch
    large = resolution >= 512
    few, many = min(4, batch), min(8, batch)
    auto = {"base": 32768 if large else 16384, "depth": 2, "r1": 0.0002 * resolution**2 / batch, "group": few}
    recipes: dict[str, dict[str, Any]] = {
        "auto": {**auto, "ema_kimg": batch * 10 / 32, "ema_ramp": 0.05},
        "paper256": {"base": 16384, "depth": 8, "r1": 1.0, "group": many, "ema_kimg": 20.0, "ema_ramp": None},
        "stylegan2": {"base": 32768, "depth": 8, "r1": 10.0, "group": few, "ema_kimg": 10.0, "ema_ramp": None},
    }
    tuned = config.init != "scratch"
    values: dict[str, Any] = recipes[config.recipe] | {"ada_kimg": 100.0 if tuned else 500.0}
    if tuned:
        # The average starts from a trained one: nothing to forget.
        values["ema_ramp"] = None
    for name in values:
        if (given := getattr(config, name)) is not None:
            values[name] = given
    return Settings(**values)
