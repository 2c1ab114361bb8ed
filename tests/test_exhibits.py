"""Images for the reports: which test images and concepts are shown, and that what is shown is what a method decodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from coinbench import registry
from coinbench.bank import build_bank
from coinbench.coin import CoIN, normalise, relevance
from coinbench.evaluate import fit_rng
from coinbench.exhibits import save_exhibits
from coinbench.files import read_json
from coinbench.problem import Problem, to_uint8
from coinbench.rng import Rng


def coin_of(method: str, problem: Problem) -> CoIN:
    cell = tiny.make_cell(method)
    return registry.METHODS.load(method).build(cell.method, problem, fit_rng(cell)).eval()


def local(coin: CoIN, problem: Problem, folder: Path) -> list[dict]:
    bank = build_bank(coin, problem, problem.train.batches(8))
    save_exhibits(coin, problem, bank, Rng(0), folder)
    return read_json(folder / "index.json")["local"]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return tiny.make_problem()


def test_single_images_are_of_different_classes_and_the_same_for_all_methods(problem: Problem, tmp_path: Path) -> None:
    shown = {name: local(coin_of(name, problem), problem, tmp_path / name) for name in ("viscoin", "flint")}
    assert {item["label"] for item in shown["viscoin"]} == set(problem.class_names)
    assert [i["index"] for i in shown["viscoin"]] == [i["index"] for i in shown["flint"]]
    rows = np.arange(9)[::-1]
    turned = replace(problem, test=problem.test.subset(rows))
    again = local(coin_of("viscoin", problem), turned, tmp_path / "turned")
    assert [i["index"] for i in again] == [i["index"] for i in shown["viscoin"]], "the order of the split shows"


def test_the_tiles_are_the_image_and_its_concepts_scaled(problem: Problem, tmp_path: Path) -> None:
    coin = coin_of("viscoin", problem)
    for item in local(coin, problem, tmp_path):
        batch = problem.test.take(np.flatnonzero(problem.test.index == item["index"]))
        concepts = coin.encode(batch.images)
        target = coin.predict(concepts).argmax(1)
        r = normalise(relevance(coin, concepts, target))[0]
        assert item["predicted"] == problem.class_names[int(target)]
        found = [(part["concept"], part["relevance"]) for part in item["concepts"]]
        assert [k for k, value in found if value > 0] == [k for k in r.argsort(descending=True).tolist() if r[k] > 0][
            :4
        ]
        assert [k for k, value in found if value < 0] == ([int(r.argmin())] if r.min() < 0 else [])
        tiles = np.split(np.asarray(Image.open(tmp_path / item["tiles"])), 1 + 3 * len(found), axis=1)
        np.testing.assert_array_equal(tiles[0], to_uint8(batch.images)[0])
        for position, (k, value) in enumerate(found):
            assert value == pytest.approx(float(r[k]), abs=1e-4)
            for step, factor in enumerate((0.0, 1.0, 4.0)):
                scale = torch.ones_like(concepts.pooled)
                scale[:, k] = factor
                decoded = to_uint8(coin.decode(concepts.scale(scale)).detach())[0]
                np.testing.assert_array_equal(tiles[1 + 3 * position + step], decoded)
