"""Typed configuration: every field has its unit, range and paper symbol below it; unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from coinbench import registry
from coinbench.config_base import Config as Config
from coinbench.config_base import TrainConfig as TrainConfig
from coinbench.config_base import absolute as absolute
from coinbench.config_base import digest as digest
from coinbench.published_weights import TRUNKS, Found, find, key_of, known


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

    def pinned(self, weights: Path) -> GeneratorConfig:
        """Return the settings with the content of published weights that are here as a part of `key`.

        Raises:
            DataError: it cannot be read, or is not what the settings say.
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
    """Draws behind each permuted control (labels in consistency, classes in sparsity, images in concept flags)."""
    part_images: int = Field(default=600, ge=20)
    """Test scenes redrawn with independent parts, to find the part that a concept follows; half of them test."""
    locality_images: int = Field(default=16, gt=0)
    """Of these, how many a concept is raised on."""
    use_images: int = Field(default=200, gt=0)
    """Test images on which f's use of each part is measured by redrawing it."""
    sparsity_thresholds: tuple[float, ...] = (0.7, 0.5, 0.2)
    """t: concepts with r_{k,c} > t are counted (paper table 13)."""
    top_counts: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    """N of top-N accuracy below K (paper table 10); K is always among them."""
    add_counts: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 200)
    """N of AUC-FF between 0 and K (paper section 4), both of which are always among them."""
    auc_ff_images: int = Field(default=1000, gt=0)
    """Test images of AUC-FF; 200 in small presets."""
    leakage_images: int = Field(default=1000, gt=0)
    """Test images between which Φ′ and Φ are swapped; 200 in small presets."""
    duplicate: float = Field(default=0.95, gt=0, le=1)
    """Correlation of the activations of two concepts from which on the later one repeats the earlier."""
    leaky: float = Field(default=0.99, gt=0.5, le=1)
    """Area under the ROC curve from which on a concept alone tells a class from all others."""
    part_lambda: float = Field(default=3.0, gt=0)
    """λ of part consistency (paper: 3)."""
    part_thresholds: tuple[float, ...] = (0.05, 0.1, 0.2)
    """τ of part consistency: a part must rise by more (paper table 12)."""
    part_consistency_images: int = Field(default=1000, ge=10)
    """Test images of a concept in part consistency, chosen by index; 50 in small presets."""
    visualisation_pairs: int = Field(default=400, gt=0)
    """Class-concept pairs that are drawn and shown on three training images each (paper: 400)."""
    visualisation_lambda: float = Field(default=4.0, gt=0)
    """λ of what is shown (paper: 4)."""
    activation_steps: int = Field(default=1000, gt=0)
    """Steps of activation maximisation, which FLINT is shown by (paper: 1000); 100 in small presets."""
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

    @field_validator("top_counts", "add_counts")
    @classmethod
    def _counts(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or any(n < 1 for n in value) or len(set(value)) != len(value):
            raise ValueError("must be one or more different numbers >= 1")
        return value

    @field_validator("taus", "lambdas", "svm_c", "sparsity_thresholds", "part_thresholds")
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
