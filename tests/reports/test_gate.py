"""`coinbench gate`: tolerances, directions, what is written and what refused. Defects: test_gate_mutations.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from commands import Cli, in_process, one_line

from coinbench import results
from coinbench.reports import baseline as baselines
from coinbench.reports.folder import read_records

Maker = Callable[..., Path]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return partial(in_process, capfd)


@pytest.fixture(scope="module")
def run(make_run: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), datasets=("birds",), seeds=(0, 1), images=False)


@pytest.fixture
def baseline(cli: Cli, run: Path, tmp_path: Path) -> Path:
    path = tmp_path / "baseline.json"
    assert cli("gate", run, "--baseline", path, "--update").out.startswith(f"{path}: ")
    return path


def moved(run: Path, folder: Path, by: float, arm: str = "method", **values: object) -> Path:
    """The run with some numbers moved."""
    shutil.copytree(run / "cells", folder / "cells")
    table = results.read(run)
    hit = pd.Series(table["arm"] == arm)
    for name, value in values.items():
        hit &= table[name] == value
    assert hit.any()
    table.loc[hit, "value"] += by
    results.write(table, folder)
    return folder


def test_an_unchanged_run_passes_and_xml_says_so(cli: Cli, run: Path, baseline: Path, tmp_path: Path) -> None:
    ran = cli("gate", run, "--baseline", baseline, "--junit", tmp_path / "junit.xml")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("gate passed: ")
    assert "|" not in ran.out
    suites = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert [suite.get("name") for suite in suites] == ["birds/flint", "birds/viscoin"]
    assert suites.get("failures") == "0"
    assert int(suites.get("tests", "")) == len(baselines.read(baseline).numbers)


@pytest.mark.parametrize(
    ("metric", "arm", "by", "verdict"),
    [
        ("accuracy", "method", -0.2, "worse"),
        ("accuracy", "method", 0.2, "better"),
        ("mse", "method", 0.2, "worse"),
        ("mse", "method", -0.2, "better"),
        ("removed", "method", 5.0, "changed"),
        ("mse", "mean image", -0.2, "changed"),
        ("accuracy", "method", 0.001, "same"),
    ],
)
def test_a_number_is_judged_in_its_direction(
    cli: Cli, run: Path, baseline: Path, tmp_path: Path, metric: str, arm: str, by: float, verdict: str
) -> None:
    other = moved(run, tmp_path / "moved", by, arm, metric=metric, method="viscoin")
    ran = cli("gate", other, "--baseline", baseline, "--junit", tmp_path / "junit.xml")
    failing = verdict in ("worse", "changed")
    assert ran.code == (3 if failing else 0)
    lines = [line for line in ran.out.splitlines() if line.startswith("| birds")]
    assert len(lines) == (0 if verdict == "same" else 3 if metric == "removed" else 1)
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == "birds/viscoin"
        assert cells[-1] == (f"**{verdict}**" if failing else verdict)
        assert float(cells[4].replace("−", "-")) == pytest.approx(by)
    failures = ElementTree.parse(tmp_path / "junit.xml").getroot().findall(".//failure")
    assert len(failures) == failing * len(lines)


def test_two_sided_refuses_what_is_better(cli: Cli, run: Path, baseline: Path, tmp_path: Path) -> None:
    content = json.loads(baseline.read_text()) | {"two_sided": True, "note": "made by hand"}
    baseline.write_text(json.dumps(content))
    other = moved(run, tmp_path / "moved", 0.2, metric="accuracy", method="viscoin")
    assert "1 changed" in cli("gate", other, "--baseline", baseline).out
    # An update takes the numbers and keeps what a person wrote.
    assert cli("gate", other, "--baseline", baseline, "--update").code == 0
    assert cli("gate", other, "--baseline", baseline).code == 0
    found = baselines.read(baseline)
    assert (found.two_sided, found.note) == (True, "made by hand")


def test_a_number_a_line(baseline: Path) -> None:
    lines = baseline.read_text(encoding="utf-8").splitlines()
    assert sum('"tolerance"' in line for line in lines) == len(baselines.read(baseline).numbers)


def test_tolerances_are_given_or_of_seeds_or_of_the_sample_or_rounding(
    cli: Cli, make_run: Maker, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", methods=("flint",), datasets=("birds",), seeds=range(5), images=False)
    path = tmp_path / "baseline.json"
    given = {"faithfulness tau=0.1": 0.5, "faithfulness": "10%"}
    path.write_text(json.dumps({"format": 1, "tolerances": given}))
    cli("gate", run, "--baseline", path, "--update")
    numbers = {(n.name.metric, n.name.params, n.name.arm): n for n in baselines.read(path).numbers}
    first, second = (numbers["faithfulness", f"tau={tau}", "method"] for tau in (0.1, 0.2))
    assert (first.tolerance, first.origin) == (0.5, "given")
    assert second.tolerance == pytest.approx(0.1 * abs(second.value))
    mse = numbers["mse", "", "method"]
    spread = np.std(list(mse.values.values()), ddof=1) * (2 / 5) ** 0.5
    assert mse.tolerance == pytest.approx(scipy.stats.t.ppf(0.995, 4) * spread)
    assert mse.origin == "seeds"
    one = baselines.read(_of_one_seed(cli, make_run, tmp_path))
    origins = {n.name.metric: n for n in one.numbers if n.name.arm == "method"}
    assert origins["mse"].origin == "sample"
    assert origins["mse"].tolerance == pytest.approx(0.08 / 30)


def test_a_tolerance_of_one_method_goes_before_that_of_all(run: Path) -> None:
    given = {
        "mse": 8.0,
        "removed tau=0.1": 4.0,
        "flint/removed": 0.25,
        "flint/faithfulness tau=0.4": 0.5,
        "flint/*": 0.125,
    }
    found = {
        (name.method, name.number): baselines.tolerance(number, given)
        for name, number in baselines.numbers_of(read_records(run)).items()
    }
    assert {key[1] for key, (_, origin) in found.items() if origin != "given" and key[0] == "flint"} == set()
    assert found["flint", "mse"] == (0.125, "given")
    assert found["viscoin", "mse"] == (8.0, "given")
    assert found["flint", "removed at tau=0.1"] == (0.25, "given")
    assert found["viscoin", "removed at tau=0.1"] == (4.0, "given")
    assert found["flint", "faithfulness at tau=0.4"] == (0.5, "given")
    assert found["viscoin", "accuracy"][1] == "sample"


@pytest.mark.parametrize("given", ["5%", 0, "0%"])
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_given_tolerance_is_never_less_than_rounding(
    given: str | int, value: float, cli: Cli, make_run: Maker, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", methods=("flint",), datasets=("birds",), seeds=(0,), images=False)
    exact = moved(run, tmp_path / "exact", value - _mse(run), metric="mse")
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"format": 1, "two_sided": True, "tolerances": {"mse": given}}))
    assert cli("gate", exact, "--baseline", path, "--update").code == 0
    rounded = moved(exact, tmp_path / "rounded", 1e-7 * value + 1e-10, metric="mse")
    assert cli("gate", rounded, "--baseline", path).code == 0
    other = moved(exact, tmp_path / "other", 0.06 * value + 1e-3, metric="mse")
    assert cli("gate", other, "--baseline", path).code == 3


def _mse(run: Path) -> float:
    (value,) = (r.value for r in read_records(run) if (r.metric, r.arm, r.subject) == ("mse", "method", "all"))
    return value


def _of_one_seed(cli: Cli, make_run: Maker, folder: Path) -> Path:
    run = make_run(folder / "one", methods=("flint",), datasets=("birds",), seeds=(0,), images=False)
    cli("gate", run, "--baseline", folder / "one.json", "--update")
    return folder / "one.json"


def test_missing_cells_and_seeds_fail_and_new_numbers_do_not(
    cli: Cli, run: Path, baseline: Path, make_run: Maker, tmp_path: Path
) -> None:
    fewer = make_run(tmp_path / "fewer", methods=("flint",), datasets=("birds",), seeds=(0, 1), images=False)
    ran = cli("gate", fewer, "--baseline", baseline)
    assert ran.code == 3
    assert "- missing: birds/viscoin: accuracy (chance), accuracy" in ran.out
    seed = make_run(tmp_path / "seed", datasets=("birds",), seeds=(1,), images=False)
    assert "seed 0 missing" in cli("gate", seed, "--baseline", baseline).out
    other = make_run(tmp_path / "other", datasets=("birds",), seeds=(0, 1), images=False, fingerprint="f00d")
    assert "images or labels differ" in cli("gate", other, "--baseline", baseline).out
    small = _of_one_seed(cli, make_run, tmp_path)
    more = cli("gate", run, "--baseline", small)
    assert more.code == 0
    assert "numbers are not in the baseline: --update adds them" in more.out


def test_what_is_no_baseline_and_what_cannot_be_one_is_one_line(
    cli: Cli, run: Path, make_run: Maker, tmp_path: Path
) -> None:
    path = tmp_path / "b.json"
    one_line(cli("gate", run, "--baseline", path), 2, "no such baseline", "--update")
    one_line(cli("gate", tmp_path / "none", "--baseline", path, "--update"), 4, "no results.parquet")
    for content, said in (
        ("{", "no baseline"),
        ('{"numbers": [1]}', "numbers.0"),
        ('{"format": 9}', "format 9"),
        ('{"tolerances": {"mse": "much"}}', "'mse' is 'much'"),
    ):
        path.write_text(content)
        one_line(cli("gate", run, "--baseline", path, "--update"), 2, said)
        assert path.read_text() == content, "nothing is written over what was not understood"
    broken = make_run(tmp_path / "broken", datasets=("birds",), failed=[("flint", "birds", 0)], images=False)
    one_line(cli("gate", broken, "--baseline", tmp_path / "new.json", "--update"), 1, "not complete", "flint")
    assert not (tmp_path / "new.json").exists()
