"""Splits: batches, training draws, and how f and G come into a problem."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from coinbench.cache import Cache
from coinbench.config import Cell
from coinbench.errors import Interrupted
from coinbench.log import Event, Log
from coinbench.pretrain import load_problem
from coinbench.problem import _floats, to_float
from coinbench.rng import Rng


@pytest.mark.parametrize(("size", "workers"), [(1, 0), (5, 0), (64, 0), (5, 2)])
def test_batches_go_through_a_split_once_in_order(size: int, workers: int) -> None:
    data = tiny.split("test", 13, 40)
    batches = list(data.batches(size, workers))
    assert torch.equal(torch.cat([b.images for b in batches]), to_float(data.pixels))
    assert torch.cat([b.index for b in batches]).tolist() == list(range(40, 53))
    assert torch.cat([b.labels for b in batches]).tolist() == data.labels.tolist()


def test_an_epoch_shows_every_image_once_whatever_the_batch() -> None:
    data, rng = tiny.split("train", 12, 0), Rng(0).child("data")
    for size in (1, 5, 7, 12, 30):
        drawn = torch.cat([data.draw(step, size, rng).index for step in range(-(-36 // size))])[:36]
        for epoch in drawn.view(3, 12):
            assert sorted(epoch.tolist()) == list(range(12))
        assert not torch.equal(drawn[:12], drawn[12:24])


def test_a_draw_is_a_function_of_source_and_step() -> None:
    data = tiny.split("train", 12, 0)
    steps = [data.draw(step, 4, Rng(0)) for step in range(4)]
    again = data.draw(2, 4, Rng(0))
    assert torch.equal(again.images, steps[2].images)
    assert torch.equal(again.labels, steps[2].labels)
    assert not torch.equal(data.draw(2, 4, Rng(1)).images, again.images)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_cut_on_a_device_are_those_cut_on_the_host(channels: int) -> None:
    data, rows = tiny.split("train", 12, 0, channels=channels), np.array([7, 0, 7, 11, 3, 2])
    for margin in (0, 5):
        large = Rng(1).numpy().integers(0, 256, (12, 16 + margin, 16 + margin, channels), dtype=np.uint8)
        crops = replace(data, large=large, flip=True)._crops(6, Rng(margin))
        assert 0 < crops.mirror.sum() < 6
        here = crops.cut(large, rows)
        there = crops.cut_there(large, rows, torch.device("cpu"))
        assert here.shape == (6, 16, 16, channels)
        assert np.array_equal(there.numpy(), here)
        assert torch.equal(_floats(there), to_float(here))


def test_training_images_are_crops_of_the_larger_ones_mirrored_only_if_asked() -> None:
    data = tiny.split("train", 12, 0)
    places, mirrored = set(), 0
    for flip in (False, True):
        for step in range(30):
            batch = replace(data, flip=flip).draw(step, 8, Rng(0))
            for image, label, row in zip(batch.images, batch.labels, batch.index, strict=True):
                large = to_float(data.large[int(row)][None])[0]
                found = [
                    (top, left, turned)
                    for top in range(3)
                    for left in range(3)
                    for turned in (False, True)
                    if torch.equal(
                        large[:, top : top + 16, left : left + 16].flip(2)
                        if turned
                        else large[:, top : top + 16, left : left + 16],
                        image,
                    )
                ]
                assert len(found) == 1
                assert int(label) == data.labels[int(row)]
                places.add(found[0][:2])
                assert flip or not found[0][2]
                mirrored += found[0][2]
    assert len(places) == 9
    assert 80 < mirrored < 160


def birds_cell() -> Cell:
    cell = tiny.make_cell()
    tree = cell.model_dump(mode="json")
    tree["data"] |= {"n_train": 30, "n_test": 10}
    for part in ("classifier", "generator"):
        tree["problem"][part] |= {"width": 4}
        tree["problem"][part]["train"] |= {"steps": 3, "batch": 8, "lr": 1e-3, "log_every": 1}
    tree["problem"]["generator"]["latent"] = 4
    return Cell.model_validate(tree)


def test_f_and_g_are_trained_once_frozen_and_the_same_when_read_back(tmp_path: Path) -> None:
    cache, events = Cache(tmp_path), []
    first = load_problem(birds_cell(), cache, torch.device("cpu"), Log(tmp_path, events.append))
    assert {e["stage"] for e in events if "step" in e} == {"classifier", "generator"}
    events.clear()
    second = load_problem(birds_cell(), cache, torch.device("cpu"), Log(tmp_path, events.append))
    assert not [e for e in events if "step" in e]
    assert first.fingerprints == second.fingerprints
    assert set(first.fingerprints) == {"data", "classifier", "generator", "perceptual"}
    for a, b in ((first.classifier, second.classifier), (first.generator, second.generator)):
        assert tiny.same_state(a, b)
        assert not a.training
        assert not any(p.requires_grad for p in a.parameters())
    assert (first.size, first.channels, len(first.class_names)) == (16, 3, 10)
    assert len(first.train) + len(first.val) == 30
    assert not set(first.train.index) & set(first.val.index)
    assert first.train.large.shape[1] == 18
    assert first.generator.mean_latent().any()


def _stop_in(stage: str, stop: threading.Event) -> Callable[[Event], None]:
    return lambda event: stop.set() if event["stage"] == stage and "step" in event else None


def test_a_cut_pretraining_ends_in_the_same_f_and_g(tmp_path: Path) -> None:
    whole = load_problem(birds_cell(), Cache(tmp_path / "a"), torch.device("cpu"), Log(tmp_path))
    cache = Cache(tmp_path / "b")
    for stage in ("classifier", "generator"):
        # Progress is told at most twice a second: the first step of a stage always is.
        log = Log(tmp_path)
        log.emit = _stop_in(stage, log.stop)
        with pytest.raises(Interrupted):
            load_problem(birds_cell(), cache, torch.device("cpu"), log)
    resumed = load_problem(birds_cell(), cache, torch.device("cpu"), Log(tmp_path))
    assert resumed.fingerprints == whole.fingerprints


def test_another_seed_of_f_is_another_f_and_the_same_g(tmp_path: Path) -> None:
    cell = birds_cell()
    tree = cell.model_dump(mode="json")
    tree["problem"]["classifier"]["seed"] = 1
    cache = Cache(tmp_path)
    a = load_problem(cell, cache, torch.device("cpu"), Log(tmp_path)).fingerprints
    b = load_problem(Cell.model_validate(tree), cache, torch.device("cpu"), Log(tmp_path)).fingerprints
    assert {name for name in a if a[name] != b[name]} == {"classifier"}
    assert len(list((tmp_path / "generator").glob("*/weights.safetensors"))) == 1


def test_pixels_are_the_unaugmented_ones_at_evaluation() -> None:
    data = tiny.split("train", 6, 0)
    rows = np.array([4, 1])
    batch = data.take(rows)
    assert torch.equal(batch.images, to_float(data.pixels[rows]))
    assert batch.index.tolist() == [4, 1]
