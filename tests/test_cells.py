"""Digests, cells and presets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from pydantic import ValidationError

from coinbench import registry
from coinbench.cache import Cache
from coinbench.config import Cell, EvaluationConfig, TrainConfig
from coinbench.digests import cell_digest, classifier_digest, evaluate_digest, fit_digest
from coinbench.errors import CoinbenchError
from coinbench.metrics.accuracy import Accuracy
from coinbench.plan import (
    Request,
    RunConfig,
    cells,
    read_cell,
    resolve,
)
from coinbench.presets import PRESETS

BOTH = "viscoin,flint"


def resolved(*sets: str, datasets: str = "birds", methods: str = BOTH, **given: Any) -> RunConfig:
    return resolve(Request(methods=methods, datasets=datasets, sets=sets, **given))


def changed(cell: Cell, path: str, value: Any) -> Cell:
    tree = cell.model_dump(mode="json")
    *parents, last = path.split(".")
    node = tree
    for key in parents:
        node = node[key]
    assert last in node
    assert node[last] != value
    node[last] = value
    return Cell.model_validate(tree)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("method.train.log_every", 17),
        ("method.train.checkpoint_seconds", 1.5),
        ("problem.classifier.train.log_every", 17),
        ("evaluation.workers", 2),
    ],
)
def test_what_changes_no_number_changes_no_digest(path: str, value: Any) -> None:
    cell = tiny.make_cell()
    other = changed(cell, path, value)
    assert cell_digest(other) == cell_digest(cell)
    assert fit_digest(other) == fit_digest(cell)


def test_the_folder_of_the_images_and_the_order_of_keys_change_no_digest() -> None:
    a, b = ({"name": "imagefolder", "root": root} for root in ("one", "two"))
    cell = tiny.make_cell(data=a)
    assert cell_digest(tiny.make_cell(data=b)) == cell_digest(cell)

    def turned(tree: Any) -> Any:
        return {key: turned(tree[key]) for key in reversed(tree)} if isinstance(tree, dict) else tree

    tree = cell.model_dump(mode="json")
    assert list(turned(tree)) != list(tree)
    assert cell_digest(Cell.model_validate(turned(tree))) == cell_digest(cell)


@pytest.mark.parametrize(
    ("path", "value", "refit"),
    [
        ("method.gamma", 0.123, True),
        ("method.train.steps", 4, True),
        ("method.train.lr", 0.123, True),
        ("seed", 1, True),
        ("data_fingerprint", "other", True),
        ("data.size", 32, True),
        ("data.flip", True, True),
        ("problem.classifier.seed", 1, True),
        ("problem.generator.beta", 1.0, True),
        ("problem.perceptual.width", 16, True),
        ("evaluation.seed", 1, False),
        ("evaluation.taus", [0.5], False),
        ("evaluation.limit", 3, False),
        ("metrics", ["mse"], False),
    ],
)
def test_what_changes_a_number_changes_the_digest(path: str, value: Any, refit: bool) -> None:
    cell = tiny.make_cell()
    other = changed(cell, path, value)
    assert cell_digest(other) != cell_digest(cell)
    assert (fit_digest(other) != fit_digest(cell)) is refit


def test_another_method_and_a_new_metric_version_change_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = tiny.make_cell()
    assert fit_digest(tiny.make_cell("flint")) != fit_digest(cell)
    before, fit = cell_digest(cell), fit_digest(cell)
    first, *others = Accuracy.specs
    monkeypatch.setattr(Accuracy, "specs", (replace(first, version=first.version + 1), *others))
    assert cell_digest(cell) != before
    assert fit_digest(cell) == fit
    without = tiny.make_cell(metrics=("mse",))
    monkeypatch.undo()
    assert cell_digest(tiny.make_cell(metrics=("mse",))) == cell_digest(without)


def test_the_order_of_metrics_changes_no_digest() -> None:
    assert cell_digest(tiny.make_cell(metrics=("mse", "accuracy"))) == cell_digest(tiny.make_cell())


def test_cells_are_data_sets_by_variants_by_seeds_by_methods(tmp_path: Path) -> None:
    config = resolved(
        "data.n_train=10", "data.n_test=10", seeds="3,1", variants=("a:method.K=4", "b:method.K=5"), metrics="mse"
    )
    planned = cells(config, Cache(tmp_path / "cache"), tmp_path / "out")
    assert [(p.cell.variant, p.cell.seed, p.cell.method.name) for p in planned] == [
        (variant, seed, method) for variant in "ab" for seed in (3, 1) for method in ("viscoin", "flint")
    ]
    assert len({p.digest for p in planned}) == len(planned)
    assert all(p.folder == tmp_path / "out" / "cells" / p.digest and not p.done for p in planned)
    assert planned[0].label == "birds/viscoin [a] seed 3"
    again = cells(config, Cache(tmp_path / "other"), tmp_path / "elsewhere")
    assert [p.digest for p in again] == [p.digest for p in planned]


def test_a_cell_survives_its_file(tmp_path: Path) -> None:
    cell = tiny.make_cell()
    path = tmp_path / "cell.json"
    path.write_text(json.dumps(cell.model_dump(mode="json")), encoding="utf-8")
    assert read_cell(path) == cell
    tree = cell.model_dump(mode="json")
    for wrong in (
        {},
        tree | {"seed": -1},
        tree | {"more": 1},
        tree | {"method": {"K": 3}},
        tree | {"data": {"name": "x"}},
    ):
        path.write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(CoinbenchError) as caught:
            read_cell(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dataset", registry.PROBLEMS.names())
@pytest.mark.parametrize("methods", [("viscoin",), ("flint",), ("flint", "viscoin")])
def test_every_preset_validates_for_every_choice_of_methods(
    dataset: str, methods: tuple[str, ...], tmp_path: Path
) -> None:
    root = (f"data.root={tmp_path}",) if dataset == "imagefolder" else ()
    config = resolved(*root, datasets=dataset, methods=",".join(methods))
    only = config.experiments[dataset]["default"]
    assert tuple(only.methods) == methods
    assert only.data.name == dataset
    for train in (
        only.problem.classifier.train,
        only.problem.generator.train,
        *(m.train for m in only.methods.values()),
    ):
        assert train.precision == "fp32"
        assert train.warmup < train.steps
    assert dataset in PRESETS


def test_the_preset_of_the_paper_keeps_the_settings_of_the_paper() -> None:
    config = resolved(datasets="fashionmnist").experiments["fashionmnist"]["default"]
    method = config.methods["viscoin"].model_dump()
    assert (method["K"], method["perceptual"], method["alpha"], method["side"]) == (25, "none", 0.5, 3)
    generator = config.problem.generator.model_dump()
    assert (config.problem.classifier.net, generator["latent"], generator["beta"]) == ("lenet", 48, 2)


def test_configurations_are_frozen_and_refuse_unknown_keys() -> None:
    config = TrainConfig(steps=3)
    with pytest.raises(ValidationError, match="frozen"):
        config.steps = 4
    with pytest.raises(ValidationError, match="Extra inputs"):
        EvaluationConfig.model_validate({"batches": 3})


@pytest.mark.parametrize(("path", "value"), [("variant", "other"), ("dataset", "renamed")])
def test_a_cell_of_another_name_has_a_folder_of_its_own_and_shares_its_numbers(path: str, value: str) -> None:
    cell = tiny.make_cell()
    other = changed(cell, path, value)
    assert cell_digest(other) != cell_digest(cell)
    assert evaluate_digest(other) == evaluate_digest(cell)


def test_a_changed_source_of_a_method_is_trained_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = tiny.make_cell("flint")
    before = fit_digest(cell), classifier_digest(cell), fit_digest(tiny.make_cell("viscoin"))
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + b"#" * (self.name == "flint.py"))
    after = fit_digest(cell), classifier_digest(cell), fit_digest(tiny.make_cell("viscoin"))
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_a_method_that_is_built_on_a_changed_one_is_trained_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    random, flint = tiny.make_cell("random"), tiny.make_cell("flint")
    before = fit_digest(random), fit_digest(flint)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + b"#" * (self.name == "viscoin.py"))
    assert fit_digest(random) != before[0]
    assert fit_digest(flint) == before[1]
