"""`coinbench compare --paired`: verdicts with intervals, Holm over all numbers, and what cannot be compared."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import Cli, in_process, one_line

from coinbench import resampled, results
from coinbench.inference import holm
from coinbench.results import Resamples

Maker = Callable[..., Path]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return partial(in_process, capfd)


@pytest.fixture(scope="module")
def run(make_run: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("a"), methods=("flint",), datasets=("birds",), seeds=(0,), images=False)


def moved(run: Path, folder: Path, metric: str, by: float, error: float) -> Path:
    """The run with one number moved, on the same images: the difference has that standard error."""
    shutil.copytree(run / "cells", folder / "cells")
    table, drawn = results.read(run), resampled.read(run)
    hit = (table["metric"] == metric) & (table["arm"] == "method") & (table["subject"] == "all")
    table.loc[hit, "value"] += by
    results.write(table, folder)
    noise = np.random.default_rng(0).normal(size=200)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * error
    for place, found in drawn.items():
        if place.metric == metric:
            drawn[place] = Resamples(found.draws + by + noise, found.over, found.source)
    resampled.write(drawn, folder)
    return folder


@pytest.mark.parametrize(
    ("metric", "by", "verdict"),
    [
        ("mse", 0.01, "worse"),
        ("mse", -0.01, "better"),
        ("accuracy", 0.01, "better"),
        ("accuracy_f", -0.01, "worse"),
        ("mse", 0.0015, "tie"),
    ],
)
def test_one_number_that_moved_is_found(
    cli: Cli, run: Path, tmp_path: Path, metric: str, by: float, verdict: str
) -> None:
    other = moved(run, tmp_path / "b", metric, by, 0.001)
    found = json.loads(cli("compare", run, other, "--paired", "--json").out)
    tests = {(test["metric"], test["params"]): test for test in found["tests"]}
    one = tests.pop((metric, ""))
    assert one["verdict"] == verdict
    assert one["difference"] == pytest.approx(by)
    assert (one["error"], one["over"]) == (pytest.approx(0.001, rel=0.01), "images")
    assert (one["low"] + one["high"]) / 2 == pytest.approx(by)
    assert {test["verdict"] for test in tests.values()} == {"tie"}
    assert {test["difference"] for test in tests.values()} == {0.0}
    corrected = holm([test["p"] for test in found["tests"]])
    assert [test["p_holm"] for test in found["tests"]] == pytest.approx(corrected)


def test_holm_makes_one_of_many_a_tie(cli: Cli, run: Path, tmp_path: Path) -> None:
    other = moved(run, tmp_path / "b", "mse", 0.0025, 0.001)
    (alone,) = json.loads(cli("compare", run, other, "--paired", "--json", "--metrics", "mse").out)["tests"]
    assert alone["p"] == alone["p_holm"] < 0.05
    assert alone["verdict"] == "worse"
    among = json.loads(cli("compare", run, other, "--paired", "--json").out)["tests"]
    assert [test["verdict"] for test in among if test["metric"] == "mse"] == ["tie"]


def test_the_table_says_what_it_is_over(cli: Cli, run: Path, tmp_path: Path) -> None:
    other = moved(run, tmp_path / "b", "mse", 0.01, 0.001)
    ran = cli("compare", run, other, "--paired")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("B against A: 0 better, 1 worse, ")
    (line,) = [line for line in ran.out.splitlines() if "| mse ↓" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[-2:] == ["< 0.001", "B worse"]
    assert re.fullmatch(r"0\.010+ \[0\.0080\d*, 0\.01(19|20)\d*\]", cells[-3]), cells
    assert "paired over images" in ran.out
    assert "between-seed uncertainty not estimable" in ran.out


def test_where_no_image_tells_anything_no_error_is_claimed(cli: Cli, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "a")
    drawn = resampled.read(run)
    for place, found in drawn.items():
        if place.metric == "accuracy":
            drawn[place] = Resamples(np.ones_like(found.draws), found.over, found.source)
    resampled.write(drawn, tmp_path / "a")
    chosen = ("compare", tmp_path / "a", tmp_path / "a", "--paired", "--metrics", "accuracy")
    assert "[not estimable]" in cli(*chosen).out
    (one,) = json.loads(cli(*chosen, "--json").out)["tests"]
    assert (one["verdict"], one["difference"]) == ("tie", 0)
    assert [one[name] for name in ("low", "high", "error", "detectable")] == [None] * 4


def test_five_seeds_are_tested_over_seeds_too(cli: Cli, make_run: Maker, tmp_path: Path) -> None:
    a, b = (
        make_run(tmp_path / name, methods=("flint",), datasets=("birds",), seeds=range(5), images=False)
        for name in "ab"
    )
    table = results.read(b)
    hit = (table["metric"] == "mse") & (table["arm"] == "method")
    # As much from seed to seed as on average: no difference, however certain each seed's is.
    table.loc[hit, "value"] += 0.02 * np.array([-1.0, 3.0, 1.0, -1.0, 3.0])
    results.write(table, b)
    ran = cli("compare", a, b, "--paired", "--metrics", "mse")
    assert "paired over images and 5 seeds" in ran.out
    assert "not estimable" not in ran.out
    assert ran.out.startswith("B against A: 0 better, 0 worse, 1 tie")


def test_what_cannot_be_compared_is_said(cli: Cli, run: Path, make_run: Maker, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    (bare / resampled.NAME).unlink()
    ran = cli("compare", run, bare, "--paired")
    assert "not comparable" in ran.out.splitlines()[0]
    assert "no resamples stored" in ran.out
    assert "`coinbench score RUN` stores the resamples" in ran.out
    table = results.read(run)
    table.loc[table["metric"] == "mse", "protocol"] = "resized"
    other = tmp_path / "protocol"
    shutil.copytree(run, other)
    results.write(table, other)
    assert "- not comparable: mse of flint on birds: protocol differs" in cli("compare", run, other, "--paired").out
    (bare / resampled.NAME).write_bytes(b"nothing")
    one_line(cli("compare", run, bare, "--paired"), 4, "resamples.parquet", "not readable")
