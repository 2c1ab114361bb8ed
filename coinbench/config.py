"""Typed configuration: every field has its unit, range and paper symbol below it; unknown keys are errors."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, field_validator

from coinbench import registry
from coinbench.published_weights import TRUNKS, Found, find, key_of, known


def absolute(path: Path) -> Path:
    """Return a path from the root: a worker may run in another folder than the command that was given.

    Raises:
        ValueError: it begins with ~NAME and nobody has that name.
    """
    try:
        return Path(os.path.abspath(path.expanduser()))
    except RuntimeError as error:
        raise ValueError(f"no such user ({error})") from error


class Config(BaseModel):
    """Base of all configuration: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def key(self) -> dict[str, Any]:
        """Return the values as JSON, without those that change no number."""
        return _without(self.model_dump(mode="json"), _NO_NUMBER, _AS_BEFORE)

    def digest(self) -> str:
        """Return 16 hex digits that identify `key`."""
        return digest(self.key())


_NO_NUMBER = frozenset(
    {
        *("log_every", "checkpoint_seconds", "keep_every", "keep", "fast"),
        *("workers", "root", "download", "max_bad", "title"),
    }
)
"""How often something is written, how data are called, and where they lie: their fingerprint says what they are."""
_AS_BEFORE: dict[str, Any] = {"tf32": False}
"""Settings that came later, with what was done before: at it they are left out, so that digests stay."""


def _without(value: Any, names: frozenset[str], silent: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if key not in names and (key, part) not in silent.items()}
        return {key: _without(part, names, silent) for key, part in kept.items()}
    return value


def digest(*values: Any) -> str:
    """Return 16 hex digits that identify JSON values, whatever the order of keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TrainConfig(Config):
    """One training: how long, how fast, how precise."""

    steps: int = Field(gt=0)
    """Optimiser steps."""
    batch: int = Field(default=16, gt=0)
    """Training images in a step."""
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate (paper: 1e-4 for all sub-networks)."""
    optimiser: Literal["adam", "sgd"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD's momentum."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled from the gradient for neither optimiser (plain L2), as in the papers."""
    schedule: Literal["constant", "linear", "cosine", "step", "staircase"] = "constant"
    """linear and cosine fall to 0 after `decay_from`; step multiplies by 0.1 at each of `milestones`; staircase by
    `decay` after every `decay_every` steps from `decay_from` on."""
    decay_from: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps before the decay begins."""
    milestones: tuple[float, ...] = ()
    """Shares of the steps at which the step schedule divides the rate by 10."""
    decay: float = Field(default=0.8, gt=0, le=1)
    """What the staircase multiplies the rate with (public VisCoIN code: 0.8)."""
    decay_every: int = Field(default=1000, gt=0)
    """Steps of the staircase at one rate (public VisCoIN code: 1000)."""
    warmup: int = Field(default=0, ge=0)
    """Steps of linear warm-up of the rate."""
    accumulate: int = Field(default=1, gt=0)
    """Batches whose mean gradient makes one step."""
    clip: float | None = Field(default=None, gt=0)
    """Largest gradient norm."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is kept."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast type of the forward pass; fp16 scales the loss and needs CUDA."""
    tf32: bool = False
    """On CUDA, round the factors of float32 products to 10 bits of mantissa: seven times the peak."""
    fast: Literal["auto", "off", "fold", "graph", "compile", "full"] = "auto"
    """How f, G and p are run while a method is trained, to the same numbers but for the order of sums. fold: batch norm
    of f in its convolutions; graph: that, and the step as a CUDA graph; compile: fold, and G and p by torch.compile;
    full: all of it. auto: off on the CPU, graph on CUDA."""
    log_every: int = Field(default=25, gt=0)
    """Steps between rows of train.csv."""
    checkpoint_seconds: float = Field(default=30.0, ge=0)
    """Time between checkpoints; 0 writes one after every step."""
    keep_every: int = Field(default=0, ge=0)
    """Steps between states of the network that stay beside its weights, as states/STEP.safetensors; 0: none do."""
    keep: int = Field(default=5, gt=0)
    """So many of them stay, the newest."""


class DataConfig(Config):
    """A data set at a size. Each data set adds its own fields."""

    name: str
    size: int = Field(default=32, ge=8, le=1024)
    """H = W in pixels."""
    train_size: int | None = Field(default=None, ge=8, le=2048)
    """R: training images are resized to R and cropped to H at random; default 1.1 H."""
    flip: bool = True
    """Mirror training images at random."""
    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training split carved off by index hash for validation."""
    title: str | None = Field(default=None, min_length=1, max_length=60)
    """Name in tables and figures; default: the name of the data set, or of the folder of images."""

    @property
    def resized(self) -> int:
        """R in pixels."""
        return self.train_size or round(1.1 * self.size)

    @field_validator("title")
    @classmethod
    def _printable(cls, value: str | None) -> str | None:
        if value is not None and not (value.isprintable() and value.strip() == value):
            raise ValueError("must be one line of text without spaces at its ends")
        return value

    @field_validator("train_size")
    @classmethod
    def _not_smaller(cls, value: int | None, info: Any) -> int | None:
        if value is not None and value < info.data.get("size", 0):
            raise ValueError(f"must be at least size = {info.data['size']}, got {value}")
        return value


class ClassifierConfig(Config):
    """f, trained here when no weights are given. Each classifier adds its own fields."""

    net: str = "resnet"
    """A name in the classifier registry."""
    seed: int = Field(default=0, ge=0)
    train: TrainConfig
    select_every: int = Field(default=0, ge=0)
    """Steps between two looks at the validation split, whose best state f is then; 0: f is the last state."""

    def key(self) -> dict[str, Any]:
        """Return what determines f; without selection as it was before there was one, so that its weights are found."""
        key = super().key()
        if not self.select_every:
            del key["select_every"]
        return key

    @field_validator("net")
    @classmethod
    def _known(cls, value: str) -> str:
        return registry.CLASSIFIERS.check(value)


class GeneratorConfig(Config):
    """G, trained here when no weights are given. Each generator adds its own fields."""

    net: str = "beta_vae"
    """A name in the generator registry."""
    seed: int = Field(default=0, ge=0)
    train: TrainConfig

    @field_validator("net")
    @classmethod
    def _known(cls, value: str) -> str:
        return registry.GENERATORS.check(value)

    def begin(self, weights: Path) -> GeneratorConfig:
        """Return the settings with files in place of names of published weights, fetched into the folder `weights`.

        Raises:
            DataError: one is not there; says how to get it.
        """
        return self


class PerceptualConfig(Config):
    """p, the net of perceptual terms in losses and of PD-p and FD-p; independent of f's classes (docs/metrics.md 4)."""

    net: Literal["random", "parts", "lpips_vgg", "lpips_alex", "lpips_squeeze"] = "random"
    """random: fixed random weights; parts: trained to tell the parts, where the data set knows them (birds);
    lpips_vgg and others: LPIPS, whose trunk is a download (coinbench weights fetch vgg16)."""
    weights: Path | None = None
    """Of LPIPS: a file with the trunk under torchvision's names; default: the fetched one."""
    width: int = Field(default=32, ge=8, le=256)
    seed: int = Field(default=0, ge=0)
    train: TrainConfig = TrainConfig(steps=1500, batch=64, lr=2e-3, schedule="cosine", warmup=20)
    """Of p on parts; random weights need none."""

    @field_validator("weights")
    @classmethod
    def _of_lpips(cls, value: Path | None, info: Any) -> Path | None:
        if value is not None and info.data.get("net") not in TRUNKS:
            raise ValueError(f"only LPIPS reads weights: set net to one of {', '.join(TRUNKS)}")
        return None if value is None else absolute(value)

    def key(self) -> dict[str, Any]:
        """Return what determines p: of LPIPS the content of its trunk's file, not where it lies.

        Raises:
            DataError: the file is not there.
        """
        if self.net in TRUNKS:
            published = known(TRUNKS[self.net]).remote.name
            given = key_of(self.weights, "problem.perceptual.weights") if self.weights else published
            return {"net": self.net, "weights": given}
        return {name: value for name, value in super().key().items() if name != "weights"}

    def file(self, weights: Path) -> Found | None:
        """Return the file with the trunk of LPIPS, fetched into the folder `weights` or given; None for another net.

        Raises:
            DataError: it is not there, or not the published one; says how to get it.
        """
        if self.net not in TRUNKS:
            return None
        setting, otherwise = "problem.perceptual.weights", ", or train without it: --set problem.perceptual.net=random"
        return find(TRUNKS[self.net], self.weights, weights, setting, otherwise)


class ProblemConfig(Config):
    """The frozen networks that all methods share."""

    classifier: SerializeAsAny[ClassifierConfig]
    generator: SerializeAsAny[GeneratorConfig]
    perceptual: PerceptualConfig = PerceptualConfig()
    tap: Literal["penultimate", "last"] = "penultimate"
    """Which unit of f's block 4 the deepest tap is (paper: penultimate; public VisCoIN code: last); ResNets only."""
    pretrained: bool = True
    """Use the weights that come with coinbench where data and settings are those they were trained with."""

    @field_validator("classifier", mode="before")
    @classmethod
    def _classifier(cls, value: Any) -> Any:
        return registry.typed(registry.CLASSIFIERS, value, "net")

    @field_validator("generator", mode="before")
    @classmethod
    def _generator(cls, value: Any) -> Any:
        return registry.typed(registry.GENERATORS, value, "net")


class MethodConfig(Config):
    """Settings of a method. Each method adds its own fields."""

    name: str
    train: TrainConfig


class WeightFiles(Config):
    """Files in the place of published weights, by their names (coinbench weights list); default: the fetched ones."""

    vgg16: Path | None = None
    """Trunk of lpips_vgg."""
    alexnet: Path | None = None
    """Trunk of lpips_alex."""
    squeezenet1_1: Path | None = None
    """Trunk of lpips_squeeze."""
    inception: Path | None = None
    """Of FID and KID, under torch-fidelity's names."""

    @field_validator("*")
    @classmethod
    def _anywhere(cls, value: Path | None) -> Path | None:
        return None if value is None else absolute(value)


class EvaluationConfig(Config):
    """How all methods are measured (docs/metrics.md)."""

    seed: int = Field(default=0, ge=0)
    """Fixes indices and random arms for all methods alike."""
    batch: int = Field(default=64, gt=0)
    """Images in a pass; no number depends on it."""
    workers: int = Field(default=0, ge=0, le=64)
    """Loader processes; no number depends on it."""
    limit: int | None = Field(default=None, gt=0)
    """Use so many test images only, chosen at random by index."""
    taus: tuple[float, ...] = (0.1, 0.2, 0.4)
    """τ: concepts with r_k(x) > τ are removed (paper table 2b)."""
    faithfulness_images: int = Field(default=1000, gt=0)
    """Test images of the faithfulness metric (paper: 1000)."""
    random_draws: int = Field(default=5, gt=0)
    """Draws of the random arm per image."""
    lambdas: tuple[float, ...] = (2.0, 3.0)
    """λ of the consistency metric (paper: 2 and 3)."""
    consistency_images: int = Field(default=100, ge=10)
    """N: images per concept and split (paper: 100)."""
    svm_c: tuple[float, ...] = (0.01, 0.1, 1.0, 5.0)
    """C of the linear SVM, chosen by cross-validation (paper)."""
    folds: Literal["pairs", "paper"] = "pairs"
    """pairs: a pair x⁺, x⁻ stays in one fold; paper: plain stratified folds."""
    permutations: int = Field(default=20, gt=0)
    """Draws behind each permuted control (labels in consistency, classes in sparsity)."""
    sparsity_thresholds: tuple[float, ...] = (0.7, 0.5, 0.2)
    """t: concepts with r_{k,c} > t are counted (paper table 13)."""
    bootstrap: int = Field(default=1000, ge=100)
    """Resamples behind each 95 % interval."""
    weights: WeightFiles = WeightFiles()
    """Numbers made with other weights than the published ones carry other names than LPIPS, FID and KID."""

    def key(self) -> dict[str, Any]:
        """Return what determines numbers: of files of weights their content, not where they lie.

        Raises:
            DataError: a file is not there.
        """
        files = {name: key_of(path, f"evaluation.weights.{name}") for name, path in self.weights if path is not None}
        return super().key() | {"weights": files}

    @field_validator("taus", "lambdas", "svm_c", "sparsity_thresholds")
    @classmethod
    def _not_empty(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(v < 0 for v in value) or len(set(value)) != len(value):
            raise ValueError("must be one or more different numbers >= 0")
        return value


class Cell(Config):
    """Everything that determines the numbers of one (method, data set, seed, variant)."""

    dataset: str
    data_fingerprint: str
    """Digest of the images and labels."""
    data: SerializeAsAny[DataConfig]
    problem: ProblemConfig
    method: SerializeAsAny[MethodConfig]
    evaluation: EvaluationConfig
    metrics: tuple[str, ...]
    seed: int = Field(ge=0)
    variant: str = "default"

    @field_validator("data", mode="before")
    @classmethod
    def _data(cls, value: Any) -> Any:
        return registry.typed(registry.PROBLEMS, value)

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, value: Any) -> Any:
        return registry.typed(registry.METHODS, value)


def _method(value: Any) -> Any:
    return registry.typed(registry.METHODS, value)


class Experiment(Config):
    """One data set with the methods to run on it."""

    data: SerializeAsAny[DataConfig]
    problem: ProblemConfig
    methods: dict[str, Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_method)]] = Field(min_length=1)
    """Settings by name of the method."""
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("data", mode="before")
    @classmethod
    def _data(cls, value: Any) -> Any:
        return registry.typed(registry.PROBLEMS, value)

    @field_validator("methods")
    @classmethod
    def _under_their_names(cls, value: dict[str, MethodConfig]) -> dict[str, MethodConfig]:
        for key, method in value.items():
            if key != method.name:
                raise ValueError(f"the settings of {method.name!r} stand under {key!r}")
        return value
