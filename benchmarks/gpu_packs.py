"""Faces and CUB-200-2011 from zips of a part of them, as `coinbench` reads them; and smaller zips of the same.

    python benchmarks/gpu_packs.py --packs DIR --only faces --unpack --out faces
    python benchmarks/gpu_packs.py --packs DIR --out SMALL --side 144 --quality 90
    python benchmarks/gpu_packs.py --packs DIR --out SMALL --side 256 --quality 80 --only cub

DIR holds

    utkface5k_200.zip   utkface/*.jpg and labels.csv (file, young, split): faces of the young (18-30) and the old (55+)
    cub50_256.zip       CUB_200_2011/ in the official layout, the lists cut to its first classes; attributes.txt
    weights/squeezenet1_1_caffe_fp16.npz    f before it is fine-tuned

The first command sorts the faces by labels.csv into faces/{train,test}/{old,young}, or with `--only cub` unpacks CUB.
The others shrink the zips for a machine that little can be carried to: no image is enlarged, boxes and parts of CUB
shrink with their image, names stay. Of 5,000 faces of 200 px and 50 classes of 256 px the second command makes 56 MB in
all, the third 59 MB with CUB alone. gpu_session.py takes either.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import squeezenet_from_caffe
from PIL import Image, UnidentifiedImageError

from coinbench.errors import CoinbenchError, DataError

FACES, CUB, F = "utkface5k_200.zip", "cub50_256.zip", "weights/squeezenet1_1_caffe_fp16.npz"
FILES = {"faces": FACES, "cub": CUB, "f": F}
INNER = "CUB_200_2011"
OF_IMAGES = (
    *("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"),
    "parts/part_locs.txt",
)
"""Lists of CUB whose lines begin with the number of an image."""
OF_CLASSES = ("classes.txt", "attributes/class_attribute_labels_continuous.txt")
"""Lists of CUB with a line for each class."""
POINTS = {"bounding_boxes.txt": slice(1, 5), "parts/part_locs.txt": slice(2, 4)}
"""Cells that are pixels of the image."""


def opened(path: Path) -> zipfile.ZipFile:
    """Return a zip to read.

    Raises:
        DataError: it is not there, or none.
    """
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); --packs names a folder with {', '.join(FILES.values())}"
        ) from error


def unpack_faces(pack: Path, root: Path, most: int | None = None) -> None:
    """Sort the faces into root/{train,test}/{old,young}, as labels.csv says.

    Args:
        pack: the zip.
        root: folder to make.
        most: images of a class and split at most, the first ones; None: all.

    Raises:
        DataError: the zip is not as described above.
    """
    taken: Counter[tuple[str, str]] = Counter()
    with opened(pack) as archive:
        try:
            with io.TextIOWrapper(archive.open("labels.csv"), encoding="utf-8") as lines:
                for row in csv.DictReader(lines):
                    place = row["split"], "young" if row["young"] == "1" else "old"
                    taken[place] += 1
                    if most is None or taken[place] <= most:
                        folder = root.joinpath(*place)
                        folder.mkdir(parents=True, exist_ok=True)
                        (folder / Path(row["file"]).name).write_bytes(archive.read(f"utkface/{row['file']}"))
        except KeyError as error:
            raise DataError(f"{pack}: lacks {error}; labels.csv has file, young, split, of utkface/*.jpg") from error


def unpack_cub(pack: Path, root: Path, classes: int | None = None) -> None:
    """Unpack CUB in its official layout, the first classes of it or all.

    Raises:
        DataError: the zip is not as described above.
    """
    with opened(pack) as archive:
        names = archive.namelist()
        lists = [name for name in (*OF_IMAGES, *OF_CLASSES) if f"{INNER}/{name}" in names]
        if not {"images.txt", "image_class_labels.txt", "classes.txt"} <= set(lists):
            raise DataError(f"{pack}: no {INNER}/images.txt with the lists beside it; it is not CUB's official layout")
        text = {name: archive.read(f"{INNER}/{name}").decode().splitlines() for name in lists}
        if classes is not None:
            images = sum(int(line.split()[1]) <= classes for line in text["image_class_labels.txt"])
            for name in lists:
                of_class = name in OF_CLASSES
                text[name] = [
                    line
                    for number, line in enumerate(text[name], 1)
                    if (number if of_class else int(line.split()[0])) <= (classes if of_class else images)
                ]
        wanted = {f"{INNER}/images/{line.split()[1]}" for line in text["images.txt"]}
        others = [n for n in names if n.endswith(".txt") and n.removeprefix(f"{INNER}/") not in lists]
        archive.extractall(root, sorted(wanted) + others)
    for name, lines in text.items():
        path = root / INNER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def squeezenet(packs: Path, target: Path) -> None:
    """Write SqueezeNet's weights as `problem.classifier.init` reads them.

    Raises:
        DataError: the pack is not there.
    """
    if not (packs / F).is_file():
        raise DataError(f"{packs / F}: no such file; --packs names a folder with {', '.join(FILES.values())}")
    squeezenet_from_caffe.main(packs / F, target)


def shrunk(content: bytes, side: int, quality: int) -> tuple[bytes, tuple[float, float]]:
    """Return a JPEG whose shorter side is `side` pixels at most, and by how much its width and height changed.

    The content stays where it is small enough and coding it anew would save nothing.
    """
    image = Image.open(io.BytesIO(content)).convert("RGB")
    share = min(1.0, side / min(image.size))
    size = max(1, round(image.width * share)), max(1, round(image.height * share))
    coded = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(coded, "JPEG", quality=quality, optimize=True)
    kept = size == image.size and len(content) <= coded.tell()
    return content if kept else coded.getvalue(), (size[0] / image.width, size[1] / image.height)


def shrink(pack: Path, target: Path, side: int, quality: int) -> None:
    """Write a zip with smaller images; boxes and parts of CUB follow their image.

    Raises:
        DataError: the zip cannot be read, or an image of it.
    """
    scales: dict[str, tuple[float, float]] = {}
    with opened(pack) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        names = source.namelist()
        for name in sorted(names, key=lambda name: name.endswith(".txt")):
            content = source.read(name)
            inner = name.removeprefix(f"{INNER}/")
            if name.endswith(".jpg"):
                try:
                    content, scales[name] = shrunk(content, side, quality)
                except (OSError, UnidentifiedImageError) as error:
                    raise DataError(f"{pack}: {name} cannot be read ({error}); get the zip anew") from error
                out.writestr(zipfile.ZipInfo(name), content)
                continue
            if inner in POINTS:
                files = dict(line.split() for line in source.read(f"{INNER}/images.txt").decode().splitlines())
                of_image = {number: scales[f"{INNER}/images/{file}"] for number, file in files.items()}
                content = "".join(
                    _moved(line, POINTS[inner], of_image) for line in content.decode().splitlines()
                ).encode()
            out.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def _moved(line: str, where: slice, of_image: dict[str, tuple[float, float]]) -> str:
    cells = line.split()
    scale = of_image[cells[0]]
    cells[where] = [f"{float(cell) * scale[i % 2]:.2f}" for i, cell in enumerate(cells[where])]
    return " ".join(cells) + "\n"


def main() -> None:
    """Write smaller packs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True, help="folder with the zips and weights above")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the same names")
    parser.add_argument("--side", type=int, default=144, help="pixels of the shorter side, at most (default: 144)")
    parser.add_argument("--quality", type=int, default=90, choices=range(1, 96), metavar="1..95", help="of JPEG")
    parser.add_argument("--only", choices=("faces", "cub"), help="one of the two")
    parser.add_argument("--unpack", action="store_true", help="unpack --only into --out instead")
    given = parser.parse_args()
    if given.unpack:
        if not given.only:
            parser.error("--unpack needs --only faces or --only cub")
        if given.out.exists():
            parser.error(f"--out {given.out}: already there; name another folder, or delete it")
    chosen = [given.only, "f"] if given.only else list(FILES)
    total = 0
    try:
        if given.unpack:
            (unpack_faces if given.only == "faces" else unpack_cub)(given.packs / FILES[given.only], given.out)
            return
        for name in chosen:
            target = given.out / FILES[name]
            target.parent.mkdir(parents=True, exist_ok=True)
            if name == "f":
                shutil.copyfile(given.packs / F, target)
            else:
                shrink(given.packs / FILES[name], target, given.side, given.quality)
            total += target.stat().st_size
            print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    except (CoinbenchError, OSError) as error:
        raise SystemExit(f"gpu_packs: {error}") from error
    print(f"{total / 1e6:.1f} MB in all")


if __name__ == "__main__":
    main()
