"""stanfordcars: Stanford Cars in its official layout and split, labels from MATLAB files. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from coinbench.data.official import (
    ANEW,
    Archive,
    Counts,
    Item,
    Listed,
    Official,
    OfficialConfig,
    OfficialImages,
    find_folder,
    places,
    refuse_extra,
    root_of,
    whole,
)
from coinbench.data.source import Card
from coinbench.errors import DataError
from coinbench.fetch import Remote
from coinbench.specs import DatasetSpec

COUNTS = Counts(images=16185, classes=196, train=8144, test=8041)
# Their authors' address is dead since 2023; this copy is said to hold the same files.
_GONE = "from kaggle.com/datasets/rickyyyyyyy/torchvision-stanford-cars"
LABELLED, META, INNER = "cars_test_annos_withlabels.mat", "devkit/cars_meta.mat", "stanford_cars"
ARCHIVES = (
    Archive(
        remote=Remote(
            name="cars_train.tgz",
            size=979_269_282,
            digests=(("sha256", "512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288"),),
            hint=_GONE,
        ),
        leaves=("cars_train",),
    ),
    Archive(
        remote=Remote(
            name="cars_test.tgz",
            size=977_350_468,
            digests=(("sha256", "bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243"),),
            hint=_GONE,
        ),
        leaves=("cars_test",),
    ),
    Archive(
        remote=Remote(
            name="car_devkit.tgz",
            url="https://github.com/pytorch/vision/files/11644847/car_devkit.tgz",
            size=330_960,
            digests=(("sha256", "b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd"),),
            hint=_GONE,
        ),
        leaves=(META,),
    ),
    Archive(
        remote=Remote(
            name=LABELLED,
            size=185_758,
            digests=(("sha256", "790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05"),),
            hint=_GONE,
        ),
        leaves=(LABELLED, f"devkit/{LABELLED}"),
    ),
)


class StanfordCarsConfig(OfficialConfig):
    """Stanford Cars at a size."""

    name: Literal["stanfordcars"] = "stanfordcars"  # pyright: ignore[reportIncompatibleVariableOverride]


def listed(config: StanfordCarsConfig, cache: Path) -> Listed:
    """Read the annotations: the training images, then the test images, each in official order.

    Raises:
        DataError: the data set is not there, or not as published.
    """
    root = root_of(config, cache)
    # Its archives come one by one: some may lie in the root, some in the folder that a copy packs all into.
    folder = find_folder(config, cache, META, INNER).resolve()
    where = f"stanfordcars: {root}"
    around = (folder, *places(root, INNER))
    names = tuple(str(name).strip() for name in _matrix(folder / META, "class_names"))
    labelled = _first(around, LABELLED) or _first(around, f"devkit/{LABELLED}")
    if labelled is None:
        raise DataError(
            f"{where} has no {LABELLED}, the labels of the test images (cars_test_annos.mat has none); "
            "`coinbench data prepare stanfordcars` says where to get it"
        )
    top = root.resolve()
    items: list[Item] = []
    for split, table in (("train", folder / "devkit" / "cars_train_annos.mat"), ("test", labelled)):
        images = _images(around, f"cars_{split}", root)
        here = _items(table, images.resolve().relative_to(top).as_posix(), len(names), split)
        refuse_extra(where, top, images.resolve(), [item.name for item in here])
        items += here
    return Listed(folder=top, items=items, counts=COUNTS, card=_card(names))


def _open(config: StanfordCarsConfig, cache: Path) -> OfficialImages:
    return OfficialImages(config, cache, listed(config, cache))


def _first(around: tuple[Path, ...], name: str) -> Path | None:
    return next((place / name for place in around if (place / name).exists()), None)


def _images(around: tuple[Path, ...], name: str, root: Path) -> Path:
    """Return the folder of a split; some copies have it twice, one inside the other."""
    found = _first(around, name)
    if found is None:
        raise DataError(
            f"stanfordcars: {root} has no {name}; `coinbench data prepare stanfordcars` says where to get it"
        )
    return found / name if (found / name).is_dir() else found


def _items(table: Path, images: str, classes: int, split: str) -> list[Item]:
    rows, found = _matrix(table, "annotations"), {}
    for row, entry in enumerate(rows, 1):
        where = f"{table} row {row}"
        try:
            name, label = str(entry["fname"]), int(entry["class"])
            if label != entry["class"]:
                raise ValueError(f"class {entry['class']}")
        except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            raise DataError(f"{where}: no file name and class ({error}); take the official file") from error
        if not name or Path(name).name != name:
            raise DataError(f"{where}: {name[:40]!r} is no file name; take the official file")
        if name in found:
            raise DataError(f"{where}: {name} is listed already; take the official file")
        # Classes count from 1.
        found[name] = Item(f"{images}/{name}", whole(where, str(label), 1, classes) - 1, split)
    return list(found.values())


def _matrix(path: Path, key: str) -> np.ndarray:
    """Return a row of a MATLAB file, which holds arrays and structures and nothing that could run.

    Raises:
        DataError: it is missing, damaged, or has no such row.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise DataError(f"{path}: no such file; {ANEW}")
    try:
        found: Any = loadmat(path, squeeze_me=True, variable_names=[key])[key]
        rows = np.atleast_1d(found)
        if rows.ndim != 1 or not len(rows):
            raise ValueError(f"{key} is {list(rows.shape)}, not a row")
    # A damaged file raises almost anything: zlib.error, struct.error, KeyError, TypeError, MemoryError, ...
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{path}: no such MATLAB file as published ({reason}); take the official file") from error
    return rows


def _card(names: tuple[str, ...]) -> Card:
    return Card(
        name="stanfordcars",
        title="Stanford Cars",
        source="Krause, Stark, Deng, Fei-Fei 2013 (3D Object Representations for Fine-Grained Categorization)",
        licence="non-commercial research",
        class_names=names,
        notes="Official split; val is carved from train. Resized without cropping.",
    )


DATASET = DatasetSpec(
    config=StanfordCarsConfig,
    open=_open,
    summary="16,185 photographs of 196 kinds of cars; `data prepare stanfordcars` says how to get them",
    official=Official(archives=ARCHIVES, inner=INNER, listed=listed, counts=lambda config: COUNTS),
)
