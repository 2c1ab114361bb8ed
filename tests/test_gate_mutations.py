"""The gate passes on an unchanged re-run and fails on each seeded defect (docs/gate.md lists them).

A defect is a change of a line of coinbench's own sources: the planted model is measured with the changed metric, the
other numbers stay, and `coinbench gate` is asked. Nothing is trained here, so the tolerance is given: 1 %, then that
which CI gives the method that is solved.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import planted
import pytest
import yaml
from commands import Cli, in_process

from coinbench import results
from coinbench.metric import Metric
from coinbench.problem import Problem
from coinbench.reports.baseline import read as read_baseline
from coinbench.results import Score

ROOT = Path(__file__).resolve().parents[1]
CI = ROOT / ".ci" / "birds-small.json"
SOLVED = "closed_form"
"""The method of CI's run that is not trained."""
METRICS = {
    "accuracy": "Accuracy",
    "consistency": "Consistency",
    "faithfulness": "Faithfulness",
    "frechet": "FrechetDistance",
    "mse": "MeanSquaredError",
    "perceptual": "PerceptualDistance",
    "sparsity": "Sparsity",
}
SETTINGS = {"lambdas": (2.0, 0.1), "taus": (0.1, 0.4), "random_draws": 2, "permutations": 5}
SETTINGS |= {"sparsity_thresholds": (0.5, 0.05)}


@dataclass(frozen=True)
class Defect:
    """A line of a metric's source, and what somebody made of it."""

    metric: str
    old: str
    new: str
    caught: str
    """A number that tells."""


DEFECTS = {
    "wrong side of τ": Defect("faithfulness", "relevance > tau", "relevance < tau", "faithfulness at tau=0.1"),
    "softmax dropped": Defect(
        "faithfulness",
        "torch.softmax(logits, 1).gather(1,",
        "logits.gather(1,",
        "faithfulness at tau=0.1",
    ),
    "mean for median": Defect(
        "faithfulness", "np.median(samples, axis=1)", "np.mean(samples, axis=1)", "faithfulness at tau=0.4"
    ),
    "random arm removes nothing": Defect(
        "faithfulness",
        "lowest(uniform, mask.sum(1))",
        "lowest(uniform, 0 * mask.sum(1))",
        "faithfulness at tau=0.1 (random)",
    ),
    "test split for train in the SVM": Defect(
        "consistency",
        ".astype(np.float64) for e in embedded)",
        ".astype(np.float64) for e in embedded[1:] * 2)",
        "consistency at lambda=0.1 (untrained)",
    ),
    "x⁺ without λ": Defect(
        "consistency",
        "np.repeat(factors * c.peak,",
        "np.repeat(np.minimum(factors, 1) * c.peak,",
        "consistency_shift at lambda=2",
    ),
    "MSE of images in [0, 1]": Defect("mse", ".square().mean(", ".square().div(4).mean(", "mse"),
    "x̃ compared with itself": Defect(
        "perceptual", "p.distance(original, maps)", "p.distance(original, original)", "pd_p"
    ),
    "covariances forgotten": Defect("frechet", ".sum() + traces)", ".sum())", "fd_f"),
    "f for the label": Defect("accuracy", "ACCURACY, hits(g, label)", "ACCURACY, hits(g, f)", "accuracy"),
    "label for ĉ": Defect(
        "accuracy",
        "trace.probability(trace.logits_of_reconstruction.double())",
        "trace.logits_of_reconstruction.double().softmax(1).gather(1, trace.batch.labels[:, None])[:, 0]",
        "probability_reconstruction",
    ),
    "|r| for r": Defect("sparsity", "(relevance > threshold)", "(np.abs(relevance) > threshold)", "sparsity at t=0.05"),
}
"""In one file; what is lost on the way to the results is in the tests below."""


def mutated(defect: Defect, patch: pytest.MonkeyPatch) -> type[Metric]:
    """The metric with the defect in it."""
    module = importlib.import_module(f"coinbench.metrics.{defect.metric}")
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    assert source.count(defect.old) == 1, "the line that is to be broken is not there (once) any more"
    broken = types.ModuleType(f"{module.__name__}_broken")
    patch.setitem(sys.modules, broken.__name__, broken)
    exec(compile(source.replace(defect.old, defect.new), str(module.__file__), "exec"), broken.__dict__)
    return getattr(broken, METRICS[defect.metric])


def plain(name: str) -> type[Metric]:
    return getattr(importlib.import_module(f"coinbench.metrics.{name}"), METRICS[name])


def measured(metric: type[Metric], problem: Problem) -> list[Score]:
    coin = planted.Planted(problem.classifier)
    return planted.measure(metric, coin, problem, planted.config(**SETTINGS))[1]


def write_run(folder: Path, scores: Sequence[Score], methods: Sequence[str] = ("planted", "other")) -> Path:
    """A run folder in which two methods have the same numbers."""
    import pandas as pd

    tables = []
    for method in methods:
        keys = {"run": "r", "dataset": "planted", "method": method, "seed": 0, "variant": "default"}
        tables.append(results.frame(list(scores), **keys, classifier_digest="f", cell=method))
        (folder / "cells" / method).mkdir(parents=True)
        cell = {"dataset": "planted", "method": {"name": method}, "seed": 0, "data_fingerprint": "d"}
        (folder / "cells" / method / "cell.json").write_text(json.dumps(cell))
    results.write(pd.concat(tables, ignore_index=True), folder)
    return folder


@pytest.fixture(scope="module")
def problem() -> Problem:
    return planted.problem()


@pytest.fixture(scope="module")
def scores(problem: Problem) -> dict[str, list[Score]]:
    return {name: measured(plain(name), problem) for name in METRICS}


def flat(scores: dict[str, list[Score]]) -> list[Score]:
    return [score for of_metric in scores.values() for score in of_metric]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return partial(in_process, capfd)


@pytest.fixture
def baseline(cli: Cli, scores: dict[str, list[Score]], tmp_path: Path) -> Path:
    """That of the unbroken metrics; nothing may change, in either direction."""
    path = tmp_path / "baseline.json"
    path.write_text('{"format": 1, "two_sided": true, "tolerances": {"*": "1%"}}')
    assert cli("gate", write_run(tmp_path / "first", flat(scores)), "--baseline", path, "--update").code == 0
    return path


@pytest.fixture
def ci_baseline(cli: Cli, scores: dict[str, list[Score]], tmp_path: Path) -> Path:
    """The same by the tolerances that CI holds the method to that is solved, not trained."""
    path = tmp_path / "ci.json"
    path.write_text(json.dumps({"format": 1, "two_sided": True, "tolerances": read_baseline(CI).tolerances}))
    run = write_run(tmp_path / "by-ci", flat(scores), (SOLVED,))
    assert cli("gate", run, "--baseline", path, "--update").code == 0
    return path


def test_an_unchanged_run_passes(cli: Cli, baseline: Path, scores, problem: Problem, tmp_path: Path) -> None:
    again = scores | {name: measured(plain(name), problem) for name in ("faithfulness", "mse", "sparsity")}
    ran = cli("gate", write_run(tmp_path / "again", flat(again)), "--baseline", baseline)
    assert (ran.code, ran.err) == (0, "")
    assert re.fullmatch(r"gate passed: (\d+) of \1 numbers within tolerance", ran.out.strip())


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_fails_the_gate(
    name: str,
    cli: Cli,
    baseline: Path,
    ci_baseline: Path,
    scores,
    problem: Problem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    defect = DEFECTS[name]
    broken = scores | {defect.metric: measured(mutated(defect, monkeypatch), problem)}
    run = write_run(tmp_path / "broken", flat(broken))
    ran = cli("gate", run, "--baseline", baseline, "--json")
    assert ran.code == 3, ran.out
    found = json.loads(ran.out)
    failed = {
        " at ".join(filter(None, (row["metric"], row["params"])))
        + (f" ({row['arm']})" if row["arm"] != "method" else "")
        for row in found["numbers"]
        if row["verdict"] != "same"
    }
    assert defect.caught in failed
    assert {row["method"] for row in found["numbers"] if row["verdict"] == "changed" or row["verdict"] == "worse"} == {
        "planted",
        "other",
    }

    by_ci = cli("gate", write_run(tmp_path / "ci", flat(broken), (SOLVED,)), "--baseline", ci_baseline, "--json")
    assert by_ci.code == 3, by_ci.out


@pytest.mark.parametrize("name", ["faithfulness", "accuracy", "consistency", "mse", "sparsity"])
def test_numbers_that_vanish_fail_by_the_rule_of_ci(
    name: str, cli: Cli, ci_baseline: Path, scores, tmp_path: Path
) -> None:
    gone = [replace(s, value=0.0) if s.metric == name and s.arm == "method" else s for s in flat(scores)]
    ran = cli("gate", write_run(tmp_path / "gone", gone, (SOLVED,)), "--baseline", ci_baseline)
    assert ran.code == 3


def test_no_number_of_ci_can_vanish_unseen() -> None:
    """The committed baseline itself: of each metric some number of the method that is solved would be missed."""
    numbers = [n for n in read_baseline(CI).numbers if n.name.method == SOLVED and n.name.arm == "method"]
    seen = {n.name.metric for n in numbers if abs(n.value) > n.tolerance}
    zero = {n.name.metric for n in numbers} - seen
    assert zero <= {metric for metric in zero if all(n.value == 0 for n in numbers if n.name.metric == metric)}
    assert {"faithfulness", "auc_ff", "accuracy_reconstruction", "leakage", "part_use", "consistency", "mse"} <= seen


LOST = {
    "a cell is missing": lambda scores, folder: write_run(folder, scores, ("planted",)),
    "a number is missing": lambda scores, folder: write_run(folder, [s for s in scores if s.metric != "mse"]),
    "a number is NaN": lambda scores, folder: write_run(folder, [changed(s, value=np.nan) for s in scores]),
    "other images": lambda scores, folder: write_run(folder, [changed(s, n=45) for s in scores]),
    "another protocol": lambda scores, folder: write_run(folder, [changed(s, protocol="resized") for s in scores]),
}


def changed(score: Score, **fields) -> Score:
    return replace(score, **fields) if (score.metric, score.arm) == ("mse", "method") else score


@pytest.mark.parametrize("name", LOST)
def test_what_is_lost_fails_the_gate(name: str, cli: Cli, baseline: Path, scores, tmp_path: Path) -> None:
    ran = cli("gate", LOST[name](flat(scores), tmp_path / "lost"), "--baseline", baseline)
    assert ran.code == 3
    assert ran.out.startswith("gate failed: ")
    assert re.search(r"^- (missing|not comparable): planted/(planted|other): ", ran.out, flags=re.MULTILINE)


def test_the_docs_list_every_defect() -> None:
    table = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8").replace("\\|", "|")
    assert [name for name in DEFECTS if f"| {name} " not in table] == []


def test_the_workflow_for_users_asks_for_what_there_is(cli: Cli) -> None:
    workflow = yaml.safe_load((ROOT / "examples" / "github-actions" / "coinbench-gate.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for step in workflow["jobs"]["gate"]["steps"]]
    assert cli("run", *workflow["env"]["ARGUMENTS"].split(), "--dry-run").code == 0
    (gate,) = [step for step in steps if "coinbench gate" in step]
    options = re.findall(r"--[a-z]+", gate)
    assert options == ["--baseline", "--junit"]
    # A pipe hides the exit code of the gate unless its shell is asked not to: `shell: bash` sets pipefail.
    assert [step["shell"] for step in workflow["jobs"]["gate"]["steps"] if step.get("run") == gate] == ["bash"]


def test_ci_gates_the_run_that_it_makes() -> None:
    small = (ROOT / ".ci" / "small-run").read_text(encoding="utf-8")
    (methods,) = re.findall(r"--methods (\S+)", small)
    found = read_baseline(ROOT / ".ci" / "birds-small.json")
    assert found.two_sided
    assert {(n.name.dataset, n.name.method) for n in found.numbers} == {("birds", m) for m in methods.split(",")}
    assert {n.n for n in found.numbers if n.name.metric == "mse"} == {60}
    assert all(n.origin == "given" for n in found.numbers)
