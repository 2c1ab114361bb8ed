"""Drawing birds, decoding image files, and the host's part of a training batch, each beside another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from coinbench.data.birds import Birds, BirdsConfig
from coinbench.data.imagefolder import ImageFolder, ImageFolderConfig
from coinbench.problem import Crops

N = 200


@pytest.fixture(scope="module")
def birds() -> Birds:
    return Birds(BirdsConfig(n_train=N, n_test=10))


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("way", ["chunks", "one by one"])
def bench_birds(benchmark: BenchmarkFixture, birds: Birds, size: int, way: str) -> None:
    benchmark.group = f"draw {N} birds at {size} px"
    index = np.arange(N)

    def one_by_one() -> np.ndarray:
        return np.concatenate([birds.images(index[i : i + 1], size) for i in range(N)])

    drawn = benchmark(one_by_one if way == "one by one" else lambda: birds.images(index, size))
    benchmark.extra_info["images"] = N
    assert (drawn == birds.images(index, size)).all()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, dice = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(N):
        folder = root / ("test" if i % 5 == 0 else "train") / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        smooth = dice.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize((178, 218), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
    return root


@pytest.mark.parametrize("way", ["imagefolder", "pillow loop"])
def bench_decode(benchmark: BenchmarkFixture, photos: Path, tmp_path: Path, way: str) -> None:
    benchmark.group = f"decode {N} JPEGs of 178x218 to 64 px"
    source = ImageFolder(ImageFolderConfig(root=photos, size=64), tmp_path)
    paths = sorted(photos.rglob("*.jpg"))

    def loop() -> np.ndarray:
        small = []
        for path in paths:
            with Image.open(path) as image:
                small.append(np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)))
        return np.stack(small)

    decoded = benchmark(loop if way == "pillow loop" else lambda: source.images(np.arange(N), 64))
    benchmark.extra_info["images"] = N
    assert decoded.shape == (N, 64, 64, 3)


@pytest.mark.parametrize("way", ["whole rows", "rows and cut there", "crops"])
def bench_batch(benchmark: BenchmarkFixture, tmp_path: Path, way: str) -> None:
    """Whole rows are all that the host does where crops are cut on a device; the CPU as one is beside it."""
    benchmark.group = "16 crops of 256 px, half of them mirrored, out of a map of 281 px"
    dice, shape, device = np.random.default_rng(0), (N, 281, 281, 3), torch.device("cpu")
    large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.uint8, shape)
    large[:] = dice.integers(0, 256, shape, dtype=np.uint8)
    rows, mirror = dice.permutation(N)[:16], np.arange(16) % 2 == 0
    top, left = dice.integers(0, 26, (2, 16))
    crops = Crops(256, top, left, mirror)
    whole = np.empty((16, *shape[1:]), np.uint8)
    ways = {
        "whole rows": lambda: np.take(large, rows, 0, out=whole, mode="clip"),
        "rows and cut there": lambda: crops.cut_there(large, rows, device).numpy(),
        "crops": lambda: crops.cut(large, rows),
    }
    found = benchmark(ways[way])
    benchmark.extra_info["images"] = 16
    expected = large[rows] if way == "whole rows" else crops.cut(large, rows)
    assert (found == expected).all()
