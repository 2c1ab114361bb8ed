"""fashionmnist and cifar10 through torchvision: a local copy, or a download that is checked by md5."""

from __future__ import annotations

import gzip
import hashlib
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from PIL import Image
from pydantic import field_validator

from coinbench.config import DataConfig, absolute
from coinbench.data.decode import resized
from coinbench.data.source import Card, Source
from coinbench.errors import DataError
from coinbench.fetch import OFFLINE, offline
from coinbench.specs import DatasetSpec


class TorchvisionConfig(DataConfig):
    """Where torchvision's copy lies."""

    root: Path | None = None
    """Folder as torchvision lays it out; default: below the cache folder."""
    download: bool = False
    """Fetch what is not there yet."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else absolute(value)


class FashionMNISTConfig(TorchvisionConfig):
    """Fashion-MNIST at a size."""

    name: Literal["fashionmnist"] = "fashionmnist"  # pyright: ignore[reportIncompatibleVariableOverride]


class CIFAR10Config(TorchvisionConfig):
    """CIFAR-10 at a size."""

    name: Literal["cifar10"] = "cifar10"  # pyright: ignore[reportIncompatibleVariableOverride]


class ArraySource(Source):
    """A data set that fits in memory: the training images, then the test images, in official order."""

    def __init__(self, card: Card, train: Any, test: Any, remarks: list[str]) -> None:
        """Take over the arrays of torchvision's two splits."""
        self.card = card
        self._pixels = np.concatenate([np.asarray(part.data) for part in (train, test)])
        self.channels = self._pixels.shape[3] if self._pixels.ndim == 4 else 1
        self.labels = np.concatenate([np.asarray(part.targets) for part in (train, test)]).astype(np.int64)
        if len(self._pixels) != len(self.labels):
            raise ValueError(f"{len(self._pixels)} images but {len(self.labels)} labels")
        if self.labels.max() >= len(card.class_names):
            raise ValueError(f"a label {self.labels.max()} beyond {len(card.class_names)} classes")
        self.is_test = np.arange(len(self.labels)) >= len(train.data)
        self._remarks = remarks
        digest = hashlib.sha256(repr(self._pixels.shape).encode())
        for part in (self._pixels, self.labels, self.is_test):
            digest.update(np.ascontiguousarray(part).data)
        self.fingerprint = digest.hexdigest()

    def images(self, index: np.ndarray, size: int) -> np.ndarray:
        """Return uint8 [n, size, size, C], bilinear."""
        out = np.empty((len(index), size, size, self.channels), dtype=np.uint8)
        for row, position in enumerate(index):
            out[row] = resized(Image.fromarray(self._pixels[position]), size, self.channels)
        return out

    def notes(self) -> list[str]:
        """Return what could not be checked."""
        return self._remarks

    def contents(self) -> list[tuple[str, str]]:
        """Return (name, digest) of each image."""
        return [(f"image {i}", hashlib.sha256(pixels.tobytes()).hexdigest()) for i, pixels in enumerate(self._pixels)]


def _open(
    config: TorchvisionConfig,
    cache: Path,
    *,
    kind: str,
    folder: str,
    card: Callable[[tuple[str, ...]], Card],
    check: Callable[[Any, Path], list[str]] = lambda dataset, folder: [],
) -> ArraySource:
    """Open torchvision's `kind`, whose files lie in `folder` below the root."""
    root = config.root or cache / "torchvision"
    place, download = root / folder, config.download and not offline()
    if config.download and not download and not place.is_dir():
        raise DataError(
            f"{config.name}: no folder {folder} in {root}, and it is not fetched, since --offline or {OFFLINE} is "
            "given; name the folder that holds it with --set data.root=DIR, or give the command without"
        )
    if not download and not place.is_dir():
        raise DataError(
            f"{config.name}: no folder {folder} in {root}; name the folder that holds it with "
            "--set data.root=DIR, or fetch it with --set data.download=true"
        )
    from torchvision import datasets  # torch takes seconds to import

    try:
        if download:
            root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{kind}.lock") if download else nullcontext()
        # torchvision prints where it downloads from; stdout is for results.
        with lock, redirect_stdout(sys.stderr):
            load = partial(getattr(datasets, kind), root, download=download)
            train, test = load(train=True), load(train=False)
        return ArraySource(card(tuple(train.classes)), train, test, check(train, place))
    # Broken files end in assertions, struct, pickle, value and runtime errors; a missing net in OSError.
    except Exception as error:
        reason = " ".join((str(error) or type(error).__name__).split())
        remedy = (
            "check the connection and try again, delete the folder if it stays so, or"
            if download
            else "delete the folder and fetch it again with --set data.download=true, or"
        )
        raise DataError(
            f"{config.name}: {place} cannot be fetched or read ({reason}); "
            f"{remedy} name a good copy with --set data.root=DIR"
        ) from error


def _check_archives(dataset: Any, folder: Path) -> list[str]:
    """Compare Fashion-MNIST's unpacked files with the archives beside them, whose md5 is known.

    torchvision checks the archives after a download only, and the unpacked files never.
    """
    from torchvision.datasets.utils import check_integrity

    unchecked = []
    for archive, md5 in dataset.resources:
        packed, unpacked = folder / archive, folder / archive.removesuffix(".gz")
        if not packed.is_file():
            unchecked.append(unpacked.name)
        elif not check_integrity(packed, md5):
            raise ValueError(f"{archive} has another md5 than the official file")
        elif gzip.decompress(packed.read_bytes()) != unpacked.read_bytes():
            raise ValueError(f"{unpacked.name} differs from its archive {archive}")
    if not unchecked:
        return []
    return [f"not checked by md5, since the .gz is not beside it: {', '.join(unchecked)}"]


def _fashionmnist_card(class_names: tuple[str, ...]) -> Card:
    return Card(
        name="fashionmnist",
        title="Fashion-MNIST",
        source="Xiao, Rasul, Vollgraf 2017 (zalandoresearch/fashion-mnist), 28x28 grey, by torchvision",
        licence="MIT",
        class_names=class_names,
        notes="Official split. Resized from 28x28, bilinear.",
    )


def _cifar10_card(class_names: tuple[str, ...]) -> Card:
    return Card(
        name="cifar10",
        title="CIFAR-10",
        source="Krizhevsky 2009 (www.cs.toronto.edu/~kriz/cifar.html), 32x32 RGB, by torchvision",
        licence="none stated by its authors",
        class_names=class_names,
        notes="Official split; torchvision checks the md5 of every file on opening. Bilinear where not 32x32.",
    )


FASHIONMNIST = DatasetSpec(
    config=FashionMNISTConfig,
    open=partial(
        _open,
        kind="FashionMNIST",
        folder="FashionMNIST/raw",
        card=_fashionmnist_card,
        check=_check_archives,
    ),
    summary="70,000 grey pictures of clothes; local path or download",
)
CIFAR10 = DatasetSpec(
    config=CIFAR10Config,
    open=partial(_open, kind="CIFAR10", folder="cifar-10-batches-py", card=_cifar10_card),
    summary="60,000 small colour photographs; local path or download",
)
