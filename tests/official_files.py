"""Small archives in the layouts of the official data sets, and a server that can cut, refuse and lie."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import encode
from PIL import Image
from scipy.io import savemat

from coinbench import registry
from coinbench.data import celebahq, cub200, stanfordcars
from coinbench.data.official import Counts

MODULES: dict[str, Any] = {"cub200": cub200, "celebahq": celebahq, "stanfordcars": stanfordcars}
Files = dict[str, bytes]


def photo(i: int) -> bytes:
    """A picture that no other number has; larger than a packet, so that it can be cut."""
    pixels = np.random.default_rng(i).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), "JPEG")


def tgz(files: Files) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def zipped(files: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def lines(*rows: object) -> bytes:
    return ("\n".join(map(str, rows)) + "\n").encode()


def cub_files() -> Files:
    """Two kinds, two images each to train and to test with; two parts, three attributes."""
    kinds = ("001.Black_Bird", "002.White_Bird")
    names = [f"{kind}/{kind[4:]}_{i}.jpg" for kind in kinds for i in range(4)]
    inner = {
        "classes.txt": lines("1 001.Black_Bird", "2 002.White_Bird"),
        "images.txt": lines(*(f"{i} {name}" for i, name in enumerate(names, 1))),
        "image_class_labels.txt": lines(*(f"{i} {1 + (i > 4)}" for i in range(1, 9))),
        "train_test_split.txt": lines(*(f"{i} {i % 2}" for i in range(1, 9))),
        "parts/parts.txt": lines("1 back", "2 left eye"),
        "parts/part_locs.txt": lines("1 1 10.5 20.0 1", "1 2 0.0 0.0 0", "8 2 3.0 4.0 1"),
        "attributes/class_attribute_labels_continuous.txt": lines("0.0 50.0 100.0", "25.0 0.0 12.5"),
        "attributes/image_attribute_labels.txt": lines("1 1 1 3 2.1", "1 2 0 1 0.5", "8 3 1 4 0 9.9"),
    } | {f"images/{name}": photo(i) for i, name in enumerate(names)}
    found = {f"CUB_200_2011/{name}": content for name, content in inner.items()}
    return found | {"attributes.txt": lines("1 bill::long", "2 bill::short", "3 wing::red")}


def celebahq_files() -> dict[str, Files]:
    """Eight faces; CelebA numbers them otherwise, and splits them 4, 2, 2."""
    young = (1, -1, 1, -1, 1, -1, 1, -1)
    rows = [f"{i}.jpg  -1 {value}" for i, value in enumerate(young)]
    inner = {celebahq.ATTRIBUTES: lines(8, "Male Young", *rows)}
    origin = [f"{100 - i:06d}.jpg" for i in range(8)]
    inner[celebahq.MAPPING] = lines("idx orig_idx orig_file", *(f"{i} {99 - i} {n}" for i, n in enumerate(origin)))
    inner |= {f"{celebahq.IMAGES}/{i}.jpg": photo(20 + i) for i in range(8)}
    split = (0, 0, 0, 0, 1, 1, 2, 2)
    return {
        "CelebAMask-HQ.zip": {f"CelebAMask-HQ/{name}": content for name, content in inner.items()},
        celebahq.PARTITION: {"": lines(*(f"{name} {s}" for name, s in zip(origin, split, strict=True)))},
        celebahq.OF_CELEBA: {"": lines(8, "Male Young", *(f"{n} 1 {-y}" for n, y in zip(origin, young, strict=True)))},
    }


def matlab(**rows: Any) -> bytes:
    out = io.BytesIO()
    savemat(out, rows)
    return out.getvalue()


def annotated(labels: Sequence[object], first: int = 1) -> bytes:
    kinds = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    found = np.empty((1, len(labels)), dtype=kinds)
    for i, label in enumerate(labels):
        found[0, i] = (7, label, f"{i + first:05d}.jpg")
    return matlab(annotations=found)


def car_files() -> dict[str, Files]:
    """Two kinds; six images to train with, four to test with."""
    names = np.array([["AM General Hummer 2000", "Audi S4"]], dtype=object)
    return {
        "cars_train.tgz": {f"cars_train/{i:05d}.jpg": photo(40 + i) for i in range(1, 7)},
        "cars_test.tgz": {f"cars_test/{i:05d}.jpg": photo(60 + i) for i in range(1, 5)},
        "car_devkit.tgz": {
            "devkit/cars_meta.mat": matlab(class_names=names),
            "devkit/cars_train_annos.mat": annotated([1, 2, 1, 2, 1, 2]),
            "devkit/cars_test_annos.mat": matlab(annotations=np.zeros((1, 4))),
        },
        stanfordcars.LABELLED: {"": annotated([2, 1, 2, 1])},
    }


def archives(name: str) -> dict[str, Files]:
    """Archive -> what it holds; "" for a file that is no archive."""
    if name == "cub200":
        return {"CUB_200_2011.tgz": cub_files()}
    return celebahq_files() if name == "celebahq" else car_files()


def packed(contents: dict[str, Files]) -> Files:
    """The archives as bytes."""
    return {
        name: files[""] if "" in files else (zipped if name.endswith(".zip") else tgz)(files)
        for name, files in contents.items()
    }


def publish(monkeypatch: pytest.MonkeyPatch, name: str, files: Files) -> None:
    """Let `files` be what the authors of a data set publish: sizes, digests where there are official ones, counts."""
    module = MODULES[name]
    made = []
    for archive in module.ARCHIVES:
        content = files[archive.remote.name]
        digests = tuple((kind, hashlib.new(kind, content).hexdigest()) for kind, _ in archive.remote.digests)
        size = len(content) if archive.remote.size is not None else None
        made.append(replace(archive, remote=replace(archive.remote, size=size, digests=digests)))
    official = replace(module.DATASET.official, archives=tuple(made))
    monkeypatch.setattr(module, "DATASET", replace(module.DATASET, official=official))
    small = {
        "cub200": Counts(images=8, classes=2, train=4, test=4),
        "stanfordcars": Counts(images=10, classes=2, train=6, test=4),
        "celebahq": {
            "celeba": Counts(images=8, classes=2, train=6, test=2, val=2),
            "hash": Counts(images=8, classes=2, train=6, test=2),
        },
    }
    monkeypatch.setattr(module, "COUNTS", small[name])


@dataclass
class Served:
    """A server on this machine."""

    url: str
    files: Files
    script: dict[str, list[int]] = field(default_factory=dict)
    """File -> what happens to its next requests: an error code, or, below 0, a cut after so many bytes."""
    ranges: bool = True
    how: str = "length"
    """length, no length (the end of the connection is that of the file), chunked; the latter two once."""
    kind: str = "application/octet-stream"
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(file, range) of each request."""


@contextmanager
def serve(files: Files) -> Iterator[Served]:
    """Serve files by name, with ranges and ETags."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            served.asked.append((name, self.headers.get("Range")))
            fate = served.script[name].pop(0) if served.script.get(name) else None
            if fate is not None and fate > 0:
                self.send_error(fate)
            elif name not in served.files:
                self.send_error(404)
            else:
                self.answer(served.files[name], None if fate is None else -fate)

        def answer(self, content: bytes, cut: int | None) -> None:
            tag, start = f'"{hashlib.md5(content).hexdigest()}"', 0
            asked = self.headers.get("Range")
            if served.ranges and asked and self.headers.get("If-Range") == tag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content) and start:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("ETag", tag)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Type", served.kind)
            how, served.how = served.how, "length"
            if how == "length":
                self.send_header("Content-Length", str(len(content) - start))
            elif how == "chunked":
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if how == "chunked":
                # A chunk whose rest never comes.
                self.wfile.write(f"{len(content) - start:x}\r\n".encode())
            self.wfile.write(content[start:][:cut])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(f"http://127.0.0.1:{server.server_port}", files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write(root: Path, files: Files) -> Path:
    """Lay files below a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def command(name: str, root: Path, *more: object) -> tuple[object, ...]:
    return ("data", "prepare", name, "--root", root, "--quiet", *more)


def from_server(name: str, root: Path, served: Served) -> tuple[object, ...]:
    return command(name, root, "--download", "--mirror", served.url)


def opened(name: str, root: Path, tmp_path: Path, **settings: object):
    spec = registry.PROBLEMS.load(name)
    return spec.open(spec.config(root=root, **settings), tmp_path / "cache")
