"""Which files of a folder are images of which class and split: root/{train,test}/CLASS/* or root/labels.csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from coinbench.data.decode import EXTENSIONS
from coinbench.errors import DataError

SPLITS = ("train", "val", "test")
LABEL_COLUMNS = ("label", "young")
"""Columns of labels.csv that are taken for the class, the first that exists; `young` is CelebA's attribute."""
_YOUNG = {"0": "old", "1": "young"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One image that the folder offers."""

    name: str
    """Path below the root, with forward slashes."""
    label: str
    """Class name."""
    split: str | None
    """train, val or test; None where the folder does not say."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All images, sorted by name, and what was passed over."""

    entries: list[Entry]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Found:
    images: list[str]
    hidden: int
    other: int


def shown(name: str) -> str:
    """Return a file name that can be printed and encoded, whatever bytes it holds."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def read_listing(root: Path, label_column: str | None) -> Listing:
    """Find out the layout of `root` and read it.

    Raises:
        DataError: no such folder, no known layout, or a wrong labels.csv; names the row.
    """
    if root.is_file():
        raise DataError(f"data.root={root}: a file, not a folder; unpack it first")
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder; name one with --set data.root=DIR")
    table = root / "labels.csv"
    found = _walk(root)
    if table.is_file():
        entries, notes = _from_table(table, label_column, found)
    else:
        entries, notes = _from_folders(root, found)
    passed = [
        (found.hidden, "hidden files or folders ignored"),
        (found.other - table.is_file(), "files ignored, whose extension is no image's"),
    ]
    notes += [f"{count} {what}" for count, what in passed if count]
    return Listing(sorted(entries, key=lambda entry: entry.name), notes)


def _walk(root: Path) -> _Found:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); change its permissions") from error

    images, hidden, other, seen = [], 0, 0, set()
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        hidden += sum(map(_is_hidden, [*folders, *files]))
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in sorted(name for name in files if not _is_hidden(name)):
            if os.path.splitext(name)[1].lower() in EXTENSIONS:
                images.append(Path(folder, name).relative_to(root).as_posix())
            else:
                other += 1
    return _Found(images, hidden, other)


def _is_hidden(name: str) -> bool:
    # Archives packed on a Mac hold a shadow of every file under this name.
    return name.startswith(".") or name == "__MACOSX"


def _from_folders(root: Path, found: _Found) -> tuple[list[Entry], list[str]]:
    entries, outside = [], 0
    for name in found.images:
        split, *inner = name.split("/")
        if split in SPLITS and len(inner) >= 2:
            entries.append(Entry(name, inner[0], split))
        else:
            outside += 1
    if not entries:
        nested = sorted({path.parent for mark in ("train", "labels.csv") for path in root.glob(f"*/{mark}")})
        hint = f"did you mean {nested[0]}?" if nested else "name the right folder with --set data.root=DIR"
        raise DataError(f"data.root={root}: no images in train/CLASS/ or test/CLASS/, and no labels.csv; {hint}")
    _refuse_empty(root, entries)
    notes = [f"{outside} images outside train/CLASS and test/CLASS ignored"] if outside else []
    return entries, notes


def _refuse_empty(root: Path, entries: list[Entry]) -> None:
    """Refuse a class folder without an image: most often a copy that failed, and a class that nobody would miss."""
    filled = {(entry.split, entry.label) for entry in entries}
    for split in SPLITS:
        for folder in sorted((root / split).glob("*/")):
            if (split, folder.name) not in filled and not _is_hidden(folder.name):
                raise DataError(
                    f"data.root={root}: class {shown(folder.name)!r}: {split}/{shown(folder.name)} holds no image; "
                    "add some, or remove the folder"
                )


def _from_table(table: Path, label_column: str | None, found: _Found) -> tuple[list[Entry], list[str]]:
    rows = _rows(table)
    header = [cell.strip() for cell in next(rows, (0, []))[1]]
    if not header:
        raise DataError(f"{table}: empty; write file,label[,split] and a row for each image")
    label_column = _label_column(table, header, label_column)
    if "file" not in header:
        raise DataError(f"{table}: no column 'file' (there are: {', '.join(header)}); add it")
    for column in ("file", label_column, "split"):
        if header.count(column) > 1:
            raise DataError(f"{table}: {header.count(column)} columns {column!r}; keep one")
    # What a row lacks at its end reads as empty, and is refused as such below.
    records = [
        (line, dict(zip(header, [*cells, *[""] * (len(header) - len(cells))], strict=False))) for line, cells in rows
    ]
    folder = _image_folder(table.parent, [record["file"] for _, record in records])
    entries: dict[str, tuple[int, Entry]] = {}
    for line, record in records:
        where = f"{table} row {line}"
        name = _name(where, table.parent, folder, record["file"].strip())
        label = record[label_column].strip()
        if not label:
            raise DataError(f"{where}: empty {label_column} of {shown(name)}; fill it in")
        split = record["split"].strip() if "split" in header else None
        if split is not None and split not in SPLITS:
            raise DataError(f"{where}: unknown split {split!r}; write one of {', '.join(SPLITS)}")
        if name in entries:
            first = entries[name][0]
            raise DataError(f"{where}: {shown(name)} is listed already in row {first}; remove one")
        entries[name] = (line, Entry(name, label, split))
    notes = [] if label_column == "label" else [f"classes are the column {label_column!r} of labels.csv"]
    unlisted = sum(name not in entries for name in found.images)
    if unlisted:
        notes.append(f"{unlisted} images ignored, which labels.csv does not list")
    return _named([entry for _, entry in entries.values()], label_column), notes


def _rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of the rows that are not blank."""
    try:
        # utf-8-sig: spreadsheets put a byte-order mark in front.
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read ({error}); save it as CSV in UTF-8") from error


def _label_column(table: Path, header: list[str], asked: str | None) -> str:
    for column in LABEL_COLUMNS if asked is None else (asked,):
        if column in header:
            return column
    others = [column for column in header if column not in ("file", "split")]
    raise DataError(
        f"{table}: no column {asked or LABEL_COLUMNS[0]!r}; "
        f"name one with --set data.label_column=NAME (there are: {', '.join(others)})"
    )


def _image_folder(root: Path, files: Iterable[str]) -> Path:
    """Return what file names are relative to: the root or, if it holds none of them, its only sub-folder."""
    inner = [path for path in root.iterdir() if path.is_dir() and not _is_hidden(path.name)]
    if len(inner) != 1 or any(_is_file(root / file.strip()) for file in files):
        return root
    return inner[0]


def _name(where: str, root: Path, folder: Path, file: str) -> str:
    path = PurePosixPath(file)
    if not file:
        raise DataError(f"{where}: empty file; fill it in")
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: {shown(file)} lies outside data.root; move it inside")
    if not _is_file(folder / path):
        raise DataError(f"{where}: {shown(file)} is not in {folder}; add the file or remove the row")
    return (folder / path).relative_to(root).as_posix()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for this file system
        return False


def _named(entries: list[Entry], label_column: str) -> list[Entry]:
    # The task of the papers, in words, so that tables do not read "0" and "1".
    if label_column != "young" or not {entry.label for entry in entries} <= set(_YOUNG):
        return entries
    return [Entry(entry.name, _YOUNG[entry.label], entry.split) for entry in entries]
