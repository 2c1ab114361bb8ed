"""fashionmnist and cifar10 on tiny files in the official layout, and a local server in place of the mirrors."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from coinbench.data.torchvision_sets import CIFAR10, FASHIONMNIST, CIFAR10Config, FashionMNISTConfig
from coinbench.errors import DataError

N_TRAIN, N_TEST = 12, 5


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve the folder `served`; yields (its path, its address)."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{http.server_port}/"
    http.shutdown()
    thread.join()
    http.server_close()


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def _fashion(folder: Path, monkeypatch) -> dict[str, np.ndarray]:
    """Write the four archives and enter their md5 as the official ones."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(0)
    arrays, resources = {}, []
    for split, n in (("train", N_TRAIN), ("t10k", N_TEST)):
        arrays[f"{split}-images-idx3-ubyte"] = dice.integers(0, 256, (n, 28, 28))
        arrays[f"{split}-labels-idx1-ubyte"] = dice.integers(0, 10, n)
    for name, array in arrays.items():
        packed = gzip.compress(_idx(array))
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", _md5(packed)))
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    return arrays


def _unpack(folder: Path) -> None:
    for packed in folder.glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))


def _cifar(folder: Path, monkeypatch) -> np.ndarray:
    """Write the batches and enter their md5 as the official ones; returns the pixels [N, 32, 32, 3]."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    sums = {}
    for i, name in enumerate(names):
        data = pickle.dumps({"data": pixels[i : i + 1], "labels": [i]})
        (folder / name).write_bytes(data)
        sums[name] = _md5(data)
    meta = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[n, sums[n]] for n in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [[names[5], sums[names[5]]]])
    official = {"filename": "batches.meta", "key": "label_names", "md5": _md5(meta)}
    monkeypatch.setattr(datasets.CIFAR10, "meta", official)
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def test_fashionmnist_from_a_local_path(tmp_path, monkeypatch):
    folder = tmp_path / "FashionMNIST" / "raw"
    arrays = _fashion(folder, monkeypatch)
    _unpack(folder)
    source = FASHIONMNIST.open(FashionMNISTConfig(root=tmp_path), tmp_path / "cache")
    assert source.channels == 1
    assert source.is_test.tolist() == [False] * N_TRAIN + [True] * N_TEST
    assert source.labels[N_TRAIN:].tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()
    assert np.array_equal(source.images(np.array([0, 3]), 28)[..., 0], arrays["train-images-idx3-ubyte"][[0, 3]])
    assert source.images(np.array([16]), 32).shape == (1, 32, 32, 1)
    assert source.card.class_names[9] == "Ankle boot"
    assert source.notes() == []


def test_fashionmnist_without_its_archives_says_that_it_is_unchecked(tmp_path, monkeypatch):
    folder = tmp_path / "FashionMNIST" / "raw"
    _fashion(folder, monkeypatch)
    _unpack(folder)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    source = FASHIONMNIST.open(FashionMNISTConfig(root=tmp_path), tmp_path)
    assert [line for line in source.notes() if "t10k-labels-idx1-ubyte" in line and "not checked" in line]


@pytest.mark.parametrize("kind", ["truncated", "flipped", "archive"])
def test_a_corrupt_fashionmnist_is_a_data_error(tmp_path, monkeypatch, kind):
    folder = tmp_path / "FashionMNIST" / "raw"
    _fashion(folder, monkeypatch)
    _unpack(folder)
    path = folder / ("train-images-idx3-ubyte" + (".gz" if kind == "archive" else ""))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + (b"" if kind == "truncated" else bytes([data[-1] ^ 1])))
    with pytest.raises(DataError, match="delete the folder and fetch it again") as caught:
        FASHIONMNIST.open(FashionMNISTConfig(root=tmp_path), tmp_path)
    assert "\n" not in str(caught.value)


def test_fashionmnist_is_fetched_once_and_checked(tmp_path, monkeypatch, server, capsys):
    served, address = server
    arrays = _fashion(served, monkeypatch)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
    cache = tmp_path / "cache"
    source = FASHIONMNIST.open(FashionMNISTConfig(download=True), cache)
    assert np.array_equal(source.images(np.array([1]), 28)[0, ..., 0], arrays["train-images-idx3-ubyte"][1])
    assert capsys.readouterr().out == "", "stdout is for results"
    for path in served.iterdir():
        path.unlink()
    again = FASHIONMNIST.open(FashionMNISTConfig(download=False), cache)
    assert again.fingerprint == source.fingerprint


def test_a_download_with_a_wrong_checksum_is_a_data_error(tmp_path, monkeypatch, server):
    served, address = server
    _fashion(served, monkeypatch)
    wrong = [(name, "0" * 32) for name, _ in datasets.FashionMNIST.resources]
    monkeypatch.setattr(datasets.FashionMNIST, "resources", wrong)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
    with pytest.raises(DataError, match="orrupted"):
        FASHIONMNIST.open(FashionMNISTConfig(root=tmp_path, download=True), tmp_path)


def test_an_offline_download_is_a_data_error(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    for spec, config in ((FASHIONMNIST, FashionMNISTConfig), (CIFAR10, CIFAR10Config)):
        with pytest.raises(DataError, match="check the connection") as caught:
            spec.open(config(root=tmp_path, download=True), tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", [FASHIONMNIST, CIFAR10])
def test_missing_data_name_both_remedies(tmp_path, spec):
    with pytest.raises(DataError) as caught:
        spec.open(spec.config(), tmp_path)
    assert "--set data.root=DIR" in str(caught.value)
    assert "--set data.download=true" in str(caught.value)


def test_cifar10_from_a_local_path(tmp_path, monkeypatch):
    pixels = _cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    source = CIFAR10.open(CIFAR10Config(root=tmp_path), tmp_path)
    assert source.channels == 3
    assert np.array_equal(source.images(np.arange(6), 32), pixels)
    assert source.labels.tolist() == list(range(6))
    assert source.is_test.tolist() == [False] * 5 + [True]
    assert len({digest for _, digest in source.contents()}) == 6


def test_a_corrupt_cifar10_is_a_data_error(tmp_path, monkeypatch):
    _cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    with (tmp_path / "cifar-10-batches-py" / "data_batch_3").open("ab") as file:
        file.write(b"!")
    with pytest.raises(DataError, match="cifar-10-batches-py cannot be fetched or read"):
        CIFAR10.open(CIFAR10Config(root=tmp_path), tmp_path)


def test_cifar10_is_fetched(tmp_path, monkeypatch, server):
    served, address = server
    pixels = _cifar(tmp_path / "made" / "cifar-10-batches-py", monkeypatch)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    (served / "cifar-10-python.tar.gz").write_bytes(packed.getvalue())
    monkeypatch.setattr(datasets.CIFAR10, "url", address + "cifar-10-python.tar.gz")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", _md5(packed.getvalue()))
    source = CIFAR10.open(CIFAR10Config(download=True), tmp_path / "cache")
    assert np.array_equal(source.images(np.arange(6), 32), pixels)


def test_a_label_beyond_the_classes_is_a_data_error(tmp_path, monkeypatch):
    folder = tmp_path / "FashionMNIST" / "raw"
    _fashion(folder, monkeypatch)
    _unpack(folder)
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    (folder / "train-labels-idx1-ubyte").write_bytes(_idx(np.full(N_TRAIN, 10)))
    with pytest.raises(DataError, match="label 10 beyond 10 classes"):
        FASHIONMNIST.open(FashionMNISTConfig(root=tmp_path), tmp_path)
