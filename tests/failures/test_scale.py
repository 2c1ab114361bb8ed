"""A data set of 10,000 classes: the run ends, and its report is still one that can be read."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_cell import SETS

from coinbench import reports, results
from coinbench.cache import Cache
from coinbench.log import Log
from coinbench.plan import Request, cells, resolve
from coinbench.run import collect
from coinbench.work import work

N_CLASSES = 10_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images of 8 px in each class, one of them for testing."""
    folder = tmp_path / "images"
    folder.mkdir()
    dice, rows = np.random.default_rng(0), ["file,label,split"]
    for number in range(2 * N_CLASSES):
        pixels = dice.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png", compress_level=0)
        rows.append(f"{number}.png,class {number // 2:05d},{('train', 'test')[number % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_ten_thousand_classes(root: Path, tmp_path: Path) -> None:
    sets = tuple(text for text in SETS if not text.startswith("data."))
    sets += (f"data.root={root}", "data.size=16", "evaluation.limit=60")
    config = resolve(Request(methods="flint", datasets="imagefolder", metrics="accuracy,mse,sparsity", sets=sets))
    planned = cells(config, Cache(tmp_path / "cache"), tmp_path / "out")
    began = time.process_time()
    work(planned[0], Cache(tmp_path / "cache"), torch.device("cpu"), Log(planned[0].folder))
    assert collect(planned, tmp_path / "out") == {}
    reports.report(tmp_path / "out")
    assert time.process_time() - began < 600
    table = results.read(tmp_path / "out")
    assert len(table) < 1000
    assert set(table.loc[table["metric"] == "sparsity", "n"]) == {N_CLASSES}
    assert (tmp_path / "out" / "report.html").stat().st_size < 2_000_000
    assert all(path.stat().st_size < 100_000 for path in (tmp_path / "out" / "tables").iterdir())
