"""One pass for all metrics: what is written, what a failing metric costs, what the numbers may depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny

from coinbench import records, registry, results
from coinbench.cache import Cache
from coinbench.coin import CoIN
from coinbench.config import Cell
from coinbench.errors import Interrupted
from coinbench.evaluate import evaluate, fit_rng
from coinbench.files import read_json, write_json
from coinbench.log import Log
from coinbench.metrics.mse import MeanSquaredError
from coinbench.plan import Planned
from coinbench.problem import Problem
from coinbench.run import collect
from coinbench.trace import Trace

METRICS = ("accuracy", "mse", "faithfulness", "consistency", "sparsity", "perceptual", "frechet")


@pytest.fixture(scope="module")
def problem() -> Problem:
    return tiny.make_problem()


@pytest.fixture(scope="module")
def coin(problem: Problem) -> CoIN:
    cell = tiny.make_cell()
    return registry.METHODS.load("viscoin").build(cell.method, problem, fit_rng(cell)).eval()


def run(
    coin: CoIN, problem: Problem, folder: Path, log: Log | None = None, **changes: Any
) -> tuple[Cell, pd.DataFrame]:
    cell = tiny.make_cell()
    tree = cell.model_dump(mode="json")
    tree["evaluation"] |= changes.pop("evaluation", {})
    cell = Cell.model_validate(tree | changes)
    evaluate(coin, registry.METHODS.load("viscoin"), problem, cell, Cache(folder / "cache"), log or Log(folder))
    return cell, results.read(folder)


class FailsLater(MeanSquaredError):
    """Measures, and cannot score."""

    @staticmethod
    def score(records: Any, config: Any) -> list[results.Score]:
        raise ValueError("nothing\nto see")


class FailsAtOnce(MeanSquaredError):
    """Cannot measure."""

    def update(self, trace: Trace) -> None:
        raise RuntimeError("broken")


class FailsToStart(MeanSquaredError):
    """Cannot even be made."""

    def __init__(self, evaluation: Any) -> None:
        raise RuntimeError("no start")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.Registry.load
    mine = {"later": FailsLater, "at_once": FailsAtOnce, "never": FailsToStart}
    monkeypatch.setattr(registry.Registry, "load", lambda self, name: mine.get(name) or load(self, name))


def test_a_pass_writes_rows_records_images_and_seconds(coin: CoIN, problem: Problem, tmp_path: Path) -> None:
    _, table = run(coin, problem, tmp_path, metrics=METRICS)
    assert read_json(tmp_path / "unavailable.json") == {}
    assert {file.stem for file in (tmp_path / "samples").iterdir()} == set(METRICS)
    known = {spec.name for name in METRICS for spec in registry.METRICS.load(name).specs}
    assert set(table["metric"]) == known - {"accuracy_own_f", "agreement_own_f"}
    assert set(table["classifier_digest"]) == {"f"}
    assert set(table["method"]) == {"viscoin"}
    assert read_json(tmp_path / "seconds.json")["evaluate"] > 0
    index = read_json(tmp_path / "images" / "index.json")
    assert (tmp_path / "images" / index["reconstructions"]["originals"]).is_file()
    assert records.read(tmp_path / "samples" / "mse.parquet")["index"].min() == 200
    numbers = table[(table["subject"] == "all") & (table["arm"] == "method")]
    assert np.isfinite(numbers["value"]).all()


def test_a_failing_metric_is_named_and_the_others_keep_their_numbers(
    coin: CoIN, problem: Problem, tmp_path: Path, broken: None
) -> None:
    _, table = run(coin, problem, tmp_path / "a", metrics=("never", "at_once", "accuracy", "later", "sparsity"))
    failures = read_json(tmp_path / "a" / "unavailable.json")
    assert set(failures) == {"later", "at_once", "never"}
    assert failures["at_once"].startswith("RuntimeError: broken in test_evaluate.py:")
    _, alone = run(coin, problem, tmp_path / "b", metrics=("accuracy", "sparsity"))
    pd.testing.assert_frame_equal(table, alone)


def test_a_metric_gives_the_same_numbers_alone_and_with_others(coin: CoIN, problem: Problem, tmp_path: Path) -> None:
    _, together = run(coin, problem, tmp_path / "a", metrics=METRICS)
    for metric in ("faithfulness", "mse"):
        _, alone = run(coin, problem, tmp_path / metric, metrics=(metric,))
        names = set(alone["metric"])
        mine = together.loc[[name in names for name in together["metric"]]].reset_index(drop=True)
        # A column of truth values becomes one of objects where a metric has no direction.
        pd.testing.assert_frame_equal(mine, alone, check_dtype=False)


@pytest.mark.parametrize("evaluation", [{"batch": 1}, {"batch": 64}, {"batch": 7, "workers": 1}])
def test_no_number_depends_on_batch_or_workers(
    coin: CoIN, problem: Problem, tmp_path: Path, evaluation: dict[str, int]
) -> None:
    _, base = run(coin, problem, tmp_path / "a", metrics=METRICS)
    _, other = run(coin, problem, tmp_path / "b", metrics=METRICS, evaluation=evaluation)
    pd.testing.assert_frame_equal(base, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("limit", [1, 4, 6, 9, 50])
def test_the_limit_is_kept_to_the_image(coin: CoIN, problem: Problem, tmp_path: Path, limit: int) -> None:
    events: list[dict[str, Any]] = []
    _, table = run(coin, problem, tmp_path, Log(tmp_path, events.append), metrics=("mse",), evaluation={"limit": limit})
    found = records.read(tmp_path / "samples" / "mse.parquet")
    assert set(found["index"]) <= set(range(200, 209))
    assert len(set(found["index"])) == min(limit, 9)
    assert set(table.loc[table["arm"] == "method", "n"]) == {min(limit, 9)}
    steps = [event for event in events if "step" in event]
    assert steps[-1]["step"] == steps[-1]["steps"] == min(limit, 9)


def test_a_stop_ends_the_pass_and_is_no_failure_of_a_metric(coin: CoIN, problem: Problem, tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.stop.set()
    with pytest.raises(Interrupted):
        run(coin, problem, tmp_path, log)
    assert not (tmp_path / "unavailable.json").exists()
    assert not (tmp_path / "results.csv").exists()


def test_a_second_pass_writes_the_same_bytes(coin: CoIN, problem: Problem, tmp_path: Path) -> None:
    run(coin, problem, tmp_path / "a", metrics=METRICS)
    run(coin, problem, tmp_path / "b", metrics=METRICS)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) > 10
    for file in files:
        if file.name != "seconds.json":
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_a_trace_computes_each_thing_once_and_only_when_asked(
    coin: CoIN, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("encode", "decode", "predict"):
        method = getattr(coin, name)
        monkeypatch.setattr(coin, name, lambda x, name=name, method=method: calls.append(name) or method(x))
    trace = Trace(coin, problem, problem.test.take(np.arange(3)))
    assert not calls
    for _ in range(2):
        assert trace.predicted.shape == (3,)
    assert calls == ["encode", "predict"]
    for _ in range(2):
        assert trace.reconstruction.shape == (3, 3, 16, 16)
    assert calls == ["encode", "predict", "decode"]


def test_a_run_names_what_has_no_value_and_takes_a_dead_concept_for_what_it_is(tmp_path: Path) -> None:
    spec = MeanSquaredError.specs[0]
    rows = [
        spec.score(0.5, n=9),
        spec.score(0.5, n=0, subject="concept:1"),
        replace(spec.score(np.nan, n=9), metric="not a number"),
        replace(spec.score(0.5, n=0), metric="nothing measured"),
    ]
    cell = tiny.make_cell(variant="flat")
    planned = Planned(cell, "d", tmp_path / "cells" / "d")
    given = {"run": "", "dataset": "tiny", "method": "viscoin", "seed": 0, "variant": "default"}
    results.write(results.frame(rows, **given, classifier_digest="f", cell=""), planned.folder)
    write_json(planned.folder / "unavailable.json", {"frechet": "broken"})
    missing = Planned(cell, "e", tmp_path / "cells" / "e")
    label = "tiny/viscoin [flat] seed 0"
    assert collect([planned, missing], tmp_path) == {
        f"{label}: frechet": "broken",
        f"{label}: not a number": "no valid value",
        f"{label}: nothing measured": "no valid value",
    }
    table = results.read(tmp_path)
    assert set(table["cell"]) == {"d"}
    assert set(table["variant"]) == {"flat"}
    assert set(table["run"]) == {tmp_path.name}
