"""celebahq: young against old on CelebA-HQ, split as CelebA is through the official mapping. No torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

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
    read_table,
    refuse_extra,
    root_of,
    whole,
)
from coinbench.data.source import Card
from coinbench.errors import DataError
from coinbench.fetch import Remote
from coinbench.rng import Rng
from coinbench.specs import DatasetSpec

COUNTS = {
    "celeba": Counts(images=30000, classes=2, train=27176, test=2824, val=2993),
    "hash": Counts(images=30000, classes=2, train=24000, test=6000),
}
"""As published, by partition; train includes the official validation images."""
IMAGES, ATTRIBUTES = "CelebA-HQ-img", "CelebAMask-HQ-attribute-anno.txt"
MAPPING, PARTITION, OF_CELEBA = "CelebA-HQ-to-CelebA-mapping.txt", "list_eval_partition.txt", "list_attr_celeba.txt"
_BY_HAND = "from its authors' cloud drive"
INNER = "CelebAMask-HQ"
ARCHIVES = (
    Archive(
        remote=Remote(
            name="CelebAMask-HQ.zip",
            hint=f"{_BY_HAND}, github.com/switchablenorms/CelebAMask-HQ (3.15 GB)",
        ),
        leaves=(IMAGES,),
    ),
    Archive(
        remote=Remote(
            name=PARTITION,
            size=2_836_386,
            digests=(("md5", "d32c9cbf5e040fd4025c592c306e6668"),),
            hint=f"{_BY_HAND}, mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        ),
        leaves=(PARTITION,),
        needed=lambda config: config.partition == "celeba",
    ),
    Archive(
        remote=Remote(
            name=OF_CELEBA,
            size=26_721_026,
            digests=(("md5", "75e246fa4810816ffd6ee81facbd244c"),),
            hint=f"{_BY_HAND}, mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        ),
        leaves=(OF_CELEBA, ATTRIBUTES),
        needed=lambda config: False,
    ),
)
_SPLITS = ("train", "val", "test")


class CelebAHQConfig(OfficialConfig):
    """CelebA-HQ at a size."""

    name: Literal["celebahq"] = "celebahq"  # pyright: ignore[reportIncompatibleVariableOverride]
    partition: Literal["celeba", "hash"] = "celeba"
    """celeba: CelebA's own train, val and test images, through the mapping; hash: every fifth image by a hash of its
    number is a test image. The paper does not say which split it used."""


def listed(config: CelebAHQConfig, cache: Path) -> Listed:
    """Read the lists; images by number, classes old (0) and young (1).

    Raises:
        DataError: the data set is not there, or not as published.
    """
    folder = find_folder(config, cache, IMAGES, INNER)
    where = f"celebahq: {folder}"
    others = (folder, folder.parent, root_of(config, cache))
    numbers = sorted(_number(where, path) for path in (folder / IMAGES).glob("*.jpg") if path.name[0] != ".")
    origin = _mapping(folder / MAPPING) if (folder / MAPPING).is_file() else None
    young = _young(folder, others, origin)
    split = _split(config, folder, others, origin)
    items = []
    # Of all faces one that is not there is missing by name; of a part nobody knows which ones should be.
    for number in sorted({*numbers, *young}) if config.complete else numbers:
        if number not in young:
            raise DataError(f"{where}: {number}.jpg has no attributes; {ANEW}")
        items.append(Item(f"{IMAGES}/{number}.jpg", young[number], split(number)))
    refuse_extra(where, folder, folder / IMAGES, [item.name for item in items])
    return Listed(folder=folder, items=items, counts=COUNTS[config.partition], card=_card(config.partition))


def _open(config: CelebAHQConfig, cache: Path) -> OfficialImages:
    return OfficialImages(config, cache, listed(config, cache))


def _number(where: str, path: Path) -> int:
    if not (path.stem.isascii() and path.stem.isdecimal()):
        raise DataError(f"{where}: {IMAGES}/{path.name} has no number for a name; move what does not belong there")
    return int(path.stem)


def _mapping(path: Path) -> dict[int, str]:
    """Return the file name in CelebA of each number; columns: idx, orig_idx, orig_file."""
    return {
        whole(f"{path} line {row}", number, 0, 29999): name
        for row, (number, _, name) in enumerate(read_table(path, 3), 1)
        if number.isdecimal() or row > 1
    }


def _young(folder: Path, others: tuple[Path, ...], origin: dict[int, str] | None) -> dict[int, int]:
    """Return 1 for young, by number: from the archive's own attributes, or CelebA's through the mapping."""
    if (own := folder / ATTRIBUTES).is_file():
        return {_number(str(own), Path(name)): value for name, value in _attribute(own).items()}
    found = next((path for place in others if (path := place / OF_CELEBA).is_file()), None)
    if found is None or origin is None:
        raise DataError(f"celebahq: {folder} has neither {ATTRIBUTES}, nor {OF_CELEBA} with {MAPPING}; add either")
    celeba = _attribute(found)
    if lost := [name for name in origin.values() if name not in celeba]:
        raise DataError(f"{found}: has no row for {lost[0]}, as for {len(lost) - 1} more; take the official file")
    return {number: celeba[name] for number, name in origin.items()}


def _attribute(path: Path) -> dict[str, int]:
    """Return the value of `Young`, 1 or 0, of each file; line 1 counts, line 2 names, 1 and -1 are the values."""
    lines = read_table(path, 1)
    header = lines[1][0].split() if len(lines) > 1 else []
    if "Young" not in header:
        raise DataError(f"{path}: line 2 names no attribute Young; take the official file")
    at, found = header.index("Young") + 1, {}
    for row, (line,) in enumerate(lines[2:], 3):
        cells = line.split()
        if len(cells) != len(header) + 1:
            raise DataError(
                f"{path} line {row}: {len(cells) - 1} values, {len(header)} attributes; take the official file"
            )
        if cells[at] not in ("1", "-1"):
            raise DataError(f"{path} line {row}: Young is {cells[at][:20]!r}, not 1 or -1; take the official file")
        found[cells[0]] = int(cells[at] == "1")
    return found


def _split(
    config: CelebAHQConfig, folder: Path, others: tuple[Path, ...], origin: dict[int, str] | None
) -> Callable[[int], str]:
    """Return what gives the split of a number."""
    if config.partition == "hash":
        # Exactly a fifth: the test images are those with the least hashes.
        drawn = Rng(0, ("celebahq", "test")).uniform(np.arange(30000), 1)[:, 0]
        tested = set(drawn.argsort(kind="stable")[:6000].tolist())
        return lambda number: "test" if number in tested else "train"
    path = next((path for place in others if (path := place / PARTITION).is_file()), None)
    if path is None or origin is None:
        lacking = PARTITION if path is None else MAPPING
        raise DataError(
            f"celebahq: {folder} has no {lacking}, which CelebA's split needs; add it, or split by a hash of the "
            "number with --set data.partition=hash"
        )
    parts = {name: whole(f"{path} line {row}", value, 0, 2) for row, (name, value) in enumerate(read_table(path, 2), 1)}

    def of(number: int) -> str:
        name = origin.get(number)
        if name is None or name not in parts:
            raise DataError(
                f"{path}: has no row for {number}.jpg ({name or 'not in the mapping'}); take the official file"
            )
        return _SPLITS[parts[name]]

    return of


def _card(partition: str) -> Card:
    told = {
        "celeba": "CelebA's own train, val and test images, through CelebA-HQ-to-CelebA-mapping.txt",
        "hash": "a fifth by a hash of the number; val is carved from train. People may occur in train and test",
    }
    return Card(
        name="celebahq",
        title="CelebA-HQ (young)",
        source="Karras et al. 2018 (CelebA-HQ), Lee et al. 2020 (CelebAMask-HQ), Liu et al. 2015 (CelebA)",
        licence="non-commercial research; no redistribution",
        class_names=("old", "young"),
        notes=f"Split: {told[partition]}. The paper of VisCoIN does not say which split it used.",
    )


DATASET = DatasetSpec(
    config=CelebAHQConfig,
    open=_open,
    summary="30,000 photographs of faces, young or old; `data prepare celebahq` says how to get them",
    official=Official(archives=ARCHIVES, inner=INNER, listed=listed, counts=lambda config: COUNTS[config.partition]),
)
