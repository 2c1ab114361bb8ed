"""A method or metric of someone else that misbehaves costs its own cell or numbers, in one line that names it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import commands
import plugin_files
import pytest
from commands import Ran, files, subprocess_run

from coinbench import results

pytestmark = pytest.mark.slow

BAD = {
    "raises": {"encode": 'raise ValueError("no idea")'},
    "not_a_number": {"decode": 'return torch.full((len(concepts), *self.shape), float("nan"))'},
    "wrong_shape": {"decode": "return torch.zeros(len(concepts), 3, 16, 17)"},
    "negative": {"encode": "phi = -images[:, 0, 0].square(); return Concepts(phi.unsqueeze(2), phi)"},
    "fails_to_fit": {"fit": 'raise RuntimeError("no data")'},
    "fits_nothing": {"fit": "return None"},
}
SMALLER = {"data.size": "16", "data.n_train": "80", "problem.classifier.train.steps": "2"}
TINY = {key: value for key, value in (commands.TINY | SMALLER).items() if not key.startswith("method.")}


@dataclass(frozen=True)
class Runs:
    """A run of an honest method, then the same with all others beside it."""

    before: dict[str, bytes]
    after: dict[str, bytes]
    out: Path
    ran: Ran

    def line(self, name: str) -> str:
        """The one line about a method or a metric on stdout."""
        (line,) = [line for line in self.ran.out.splitlines() if name in line and line.startswith("birds/")]
        return line

    def at(self, name: str) -> int:
        """The line of a plug-in that raises."""
        lines = (self.out.parent / f"{name}.py").read_text(encoding="utf-8").splitlines()
        (number,) = [number for number, line in enumerate(lines, 1) if line.strip().startswith("raise ")]
        return number


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("foreign")
    plugins = [
        plugin_files.method(folder, "honest"),
        *(plugin_files.method(folder, name, **at) for name, at in BAD.items()),
    ]
    plugins += [plugin_files.metric(folder, "fragile", update='raise KeyError("part")')]
    plugins += [plugin_files.metric(folder, "wordy", score='return "bright"')]
    given = [word for path in plugins for word in ("--plugin", path)]
    tiny = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    common = ("run", "--dataset", "birds", *given, *tiny, "--out", "out", "--quiet")
    first = subprocess_run(folder, *common, "--methods", "honest", "--metrics", "mse", timeout=600)
    assert first.code == 0, first
    (cell,) = (folder / "out" / "cells").iterdir()
    before = files(cell)
    ran = subprocess_run(folder, *common, "--methods", ",".join(["honest", *BAD]), "--metrics", "mse", timeout=900)
    after = files(cell)
    metrics = subprocess_run(folder, *common, "--methods", "honest", "--metrics", "mse,fragile,wordy", timeout=600)
    assert metrics.code == 1, metrics
    return Runs(before, after, folder / "out", Ran(ran.code, ran.out + metrics.out, ran.err + metrics.err))


def says(runs: Runs, name: str, *pieces: str) -> None:
    line = runs.line(name)
    for piece in (f"method '{name}': ", *pieces, f"`coinbench check {name}`"):
        assert piece in line, line
    assert "Traceback" not in runs.ran.err
    assert runs.ran.code == 1


def test_method_that_raises(runs: Runs) -> None:
    says(runs, "raises", f"encode raised ValueError: no idea in raises.py:{runs.at('raises')}")
    says(runs, "fails_to_fit", f"fit raised RuntimeError: no data in fails_to_fit.py:{runs.at('fails_to_fit')}")
    says(runs, "fits_nothing", "fit returned None, expected a CoIN")


def test_method_returns_nan(runs: Runs) -> None:
    says(runs, "not_a_number", "decode returned images [B, C, H, W] with", "values NaN or infinite")


def test_method_returns_wrong_shapes(runs: Runs) -> None:
    says(runs, "wrong_shape", "decode returned images [B, C, H, W] of shape [40, 3, 16, 17], expected [40, 3, 16, 16]")


def test_method_returns_negative_phi(runs: Runs) -> None:
    says(runs, "negative", "encode returned phi [B, K, b] with values from -", "expected values >= 0")


def test_metric_that_raises(runs: Runs) -> None:
    line = runs.line("fragile")
    place = f"fragile.py:{runs.at('fragile')}"
    assert f"fragile: not available, because KeyError: 'part' in {place}; `coinbench check fragile`" in line
    assert "wordy: not available, because score returned a str, expected a list of Score" in runs.line("wordy")
    assert set(results.read(runs.out)["metric"]) == {"mse"}


def test_finished_cells_stay_as_they_were(runs: Runs) -> None:
    assert runs.before == runs.after
