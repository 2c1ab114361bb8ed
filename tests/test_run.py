"""One small real run through the command line, and what may be done with it afterwards."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from commands import Ran, files, in_process, sets, start, subprocess_run

from coinbench import results
from coinbench.presets import default_metrics
from coinbench.registry import METRICS

pytestmark = pytest.mark.slow

BOTH = ("--methods", "viscoin,flint", "--dataset", "birds", "--jobs", "2")
MEASURED = default_metrics(("birds",))
LABELS = ("birds/viscoin seed 0", "birds/flint seed 0")


@dataclass(frozen=True)
class Finished:
    """The run that all tests look at and none changes."""

    folder: Path
    out: Path
    ran: Ran

    @property
    def cells(self) -> list[Path]:
        return sorted(path.parent for path in self.out.glob("cells/*/cell.json"))

    def copy(self, to: Path) -> Path:
        return Path(shutil.copytree(self.out, to / self.out.name))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("run")
    ran = subprocess_run(folder, "run", *BOTH, *sets(), "--cache", "own", "--out", "out")
    assert ran.code == 0, ran.err
    return Finished(folder, folder / "out", ran)


def again(capfd: pytest.CaptureFixture[str], finished: Finished, *words: object) -> Ran:
    """Give the same command in this process, which must start no worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished.folder)
        patch.setattr("coinbench.executors.local._Worker", _must_not_start)
        return in_process(capfd, "run", *BOTH, *sets(), "--cache", "own", "--out", "out", *words)


def _must_not_start(*_: object) -> None:
    pytest.fail("a worker was started")


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix != ".lock"}


def test_the_table_of_results(finished: Finished) -> None:
    with (finished.out / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(results.COLUMNS)
    assert {row["method"] for row in rows} == {"viscoin", "flint"}
    assert {row["run"] for row in rows} == {"out"}
    assert {row["cell"] for row in rows} == {cell.name for cell in finished.cells}
    expected = {spec.name for name in MEASURED for spec in METRICS.load(name).specs}
    # Both methods explain the shared f, and there is one seed.
    expected -= {"accuracy_own_f", "agreement_own_f", "concept_stability"}
    assert {row["metric"] for row in rows} == expected
    assert all(row["protocol"] and row["unit"] and row["version"] for row in rows)
    assert len({row["classifier_digest"] for row in rows}) == 1
    table = results.read(finished.out)
    assert len(table) == len(rows)
    assert bool(table["value"].notna().all())


def test_the_configuration_was_written_down(finished: Finished) -> None:
    config = json.loads((finished.out / "config.json").read_text())
    experiment = config["experiments"]["birds"]["default"]
    assert experiment["data"]["n_train"] == 240
    assert sorted(experiment["methods"]) == ["flint", "viscoin"]


def test_each_cell_is_whole(finished: Finished) -> None:
    assert len(finished.cells) == 2
    for cell in finished.cells:
        names = {path.name for path in cell.iterdir()}
        assert names >= {"cell.json", "weights.safetensors", "train.csv", "results.csv", "results.parquet", "images"}
        assert {path.stem for path in (cell / "samples").iterdir()} == set(MEASURED)
        assert {path.suffix for path in (cell / "samples").iterdir()} == {".parquet"}
        assert (cell / "images" / "originals.png").read_bytes().startswith(b"\x89PNG")
        assert "checkpoint.safetensors" not in names
        assert json.loads((cell / "unavailable.json").read_text()) == {}
    left = [p.name for p in (finished.out / "cells").iterdir() if not p.is_dir() or p.name.startswith(".")]
    assert left == []


def test_each_cell_says_where_it_comes_from(finished: Finished) -> None:
    origins = [json.loads((cell / "provenance.json").read_text()) for cell in finished.cells]
    for origin in origins:
        assert origin["machine"]["threads"] >= 1
        assert origin["device"] == "CPU"
        assert origin["versions"]["torch"]
        assert "git" in origin
        assert origin["seconds"]["fit"] > 0
        assert origin["seconds"]["evaluate"] > 0
        assert set(origin["fingerprints"]) == {"data", "classifier", "generator", "perceptual"}
    assert origins[0]["fingerprints"] == origins[1]["fingerprints"]


def test_the_log_of_a_training(finished: Finished) -> None:
    for cell in finished.cells:
        with (cell / "train.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["step"]) for row in rows] == [5, 10, 12]
        assert "fidelity" in rows[0]


def test_tables_figures_and_report(finished: Finished) -> None:
    tables = {path.name for path in (finished.out / "tables").iterdir()}
    wanted = ("accuracy", "consistency", "reconstruction", "faithfulness", "sparsity")
    assert tables >= {f"{name}.{kind}" for name in wanted for kind in ("md", "tex", "csv")}
    figures = {path.suffix for path in (finished.out / "figures").iterdir()}
    assert figures == {".png", ".pdf"}
    html = (finished.out / "report.html").read_text(encoding="utf-8")
    assert "VisCoIN" in html
    assert "data:image/png;base64," in html
    assert "http" not in html.replace("http://www.w3.org", "")


def test_results_go_to_stdout_and_progress_to_stderr(finished: Finished) -> None:
    assert "**Accuracy (%)**" in finished.ran.out
    assert "report.html" in finished.ran.out
    assert "seed 0: fit" not in finished.ran.out
    for label in LABELS:
        assert f"{label}: fit 12/12" in finished.ran.err
        assert f"{label}: done in" in finished.ran.err
    assert "|" not in finished.ran.err
    assert "\x1b" not in finished.ran.err


def test_the_same_command_again_trains_nothing(finished: Finished, capfd: pytest.CaptureFixture[str]) -> None:
    before = (finished.out / "results.csv").read_bytes()
    kept = stamps(finished.out / "cells")
    ran = again(capfd, finished, "--json")
    assert ran.code == 0
    assert all(f"{label}: kept" in ran.err for label in LABELS)
    assert (finished.out / "results.csv").read_bytes() == before
    assert stamps(finished.out / "cells") == kept
    found = json.loads(ran.out)
    assert found["exit"] == 0
    assert [cell["kept"] for cell in found["cells"]] == [True, True]
    assert len(found["results"]) == len(before.splitlines()) - 1
    assert list(found["results"][0]) == list(results.COLUMNS)


def test_another_folder_with_the_same_cache_trains_nothing(finished: Finished, tmp_path: Path) -> None:
    cached = stamps(finished.folder / "own")
    out = tmp_path / "out"
    ran = subprocess_run(finished.folder, "run", *BOTH, *sets(), "--cache", "own", "--out", out, "--quiet")
    assert (ran.code, ran.err) == (0, "")
    assert stamps(finished.folder / "own") == cached
    assert (out / "results.csv").read_bytes() == (finished.out / "results.csv").read_bytes()


def test_scoring_needs_no_model(finished: Finished, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = finished.copy(tmp_path)
    for path in out.rglob("weights.safetensors"):
        path.unlink()
    ran = in_process(capfd, "score", out, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert (out / "results.csv").read_bytes() == (finished.out / "results.csv").read_bytes()
    assert len(json.loads(ran.out)["results"]) == len(results.read(finished.out))


def test_scoring_with_more_resamples_changes_intervals_alone(
    finished: Finished, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished.copy(tmp_path)
    monkeypatch.setattr("coinbench.reports.report", lambda folder: None)
    ran = in_process(capfd, "score", out, "--bootstrap", "200", "--metrics", "mse,accuracy", "--json")
    assert (ran.code, ran.err) == (0, "")
    before, after = results.read(finished.out), results.read(out)
    interval = ["low", "high"]
    pd.testing.assert_frame_equal(before.drop(columns=interval), after.drop(columns=interval))
    moved = (before[interval] != after[interval]).any(axis=1) & before["low"].notna()
    mine = {spec.name for name in ("mse", "accuracy") for spec in METRICS.load(name).specs}
    assert set(before.loc[moved, "metric"]) <= mine
    assert (before.loc[moved, "metric"] == "mse").any()


def test_a_report_is_written_anew(finished: Finished, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = finished.copy(tmp_path)
    names = set(files(out))
    for name in ("tables", "figures"):
        shutil.rmtree(out / name)
    (out / "report.html").write_text("old")
    ran = in_process(capfd, "report", out)
    assert (ran.code, ran.err) == (0, "")
    assert "**Sparsity**" in ran.out
    assert set(files(out)) == names
    tables = [path for path in files(out) if path.startswith("tables")]
    assert all((out / path).read_bytes() == (finished.out / path).read_bytes() for path in tables)
    assert len((out / "report.html").read_bytes()) > 10_000


def test_a_run_grows_and_is_forced(finished: Finished, tmp_path: Path) -> None:
    words = ("run", *BOTH, *sets(), "--metrics", "accuracy", "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    shutil.copytree(finished.folder / "own", tmp_path / "cache")
    first = subprocess_run(tmp_path, *words)
    assert first.code == 0, first.err
    assert "fit 1/12" not in first.err
    old = {cell: stamps(cell) for cell in (tmp_path / "out" / "cells").iterdir()}
    rows = results.read(tmp_path / "out")

    second = subprocess_run(tmp_path, *words, "--seeds", "0:2", "--force", "flint")
    assert second.code == 0, second.err
    assert "birds/viscoin seed 0: kept" in second.err
    assert "birds/flint seed 0: kept" not in second.err
    for label in ("birds/flint seed 0", "birds/flint seed 1", "birds/viscoin seed 1"):
        assert f"{label}: fit 12/12" in second.err
    same = {cell.name for cell, times in old.items() if stamps(cell) == times}
    assert same == set(rows.loc[rows["method"] == "viscoin", "cell"])
    grown = results.read(tmp_path / "out")
    assert sorted(grown["seed"].unique()) == [0, 1]
    pd.testing.assert_frame_equal(grown.query("seed == 0").reset_index(drop=True), rows)


def test_a_failing_cell_is_named_and_the_others_stay(finished: Finished, tmp_path: Path) -> None:
    words = ("run", "-m", "flint", "-d", "birds", "--metrics", "accuracy", "--jobs", "2", *sets(), "--cache", "own")
    variants = ("--variant", "sane:", "--variant", "hot:method.train.lr=1e30")
    half = ("--variant", "half:method.train.precision=fp16")
    out = tmp_path / "out"
    ran = subprocess_run(finished.folder, *words, *variants, *half, "--out", out)
    assert ran.code == 1
    assert "Traceback" not in ran.out + ran.err
    hot = next(line for line in ran.out.splitlines() if line.startswith("birds/flint [hot] seed 0: failed: "))
    assert "the loss is not finite at step " in hot
    assert all(term in hot for term in ("fidelity ", "mse ", "conciseness ", "sparsity ", "train.lr"))
    low = next(line for line in ran.out.splitlines() if line.startswith("birds/flint [half] seed 0: failed: "))
    assert "fp16 needs a CUDA device" in low
    assert "birds/flint [sane] seed 0: done in" in ran.err
    assert set(results.read(out)["variant"]) == {"sane"}
    errors = [json.loads(path.read_text())["error"] for path in out.glob("cells/*/error.json")]
    assert len(errors) == 2

    # A failure is not kept: the same command tries the cell again, and says the same.
    kept = subprocess_run(finished.folder, *words, *variants, "--out", out, "--json")
    assert kept.code == 1
    found = json.loads(kept.out)
    assert {cell["label"]: (cell["exit"], cell["kept"]) for cell in found["cells"]} == {
        "birds/flint [sane] seed 0": (0, True),
        "birds/flint [hot] seed 0": (1, False),
    }
    assert hot.endswith(next(cell["error"] for cell in found["cells"] if cell["exit"]))


def test_an_interrupt_ends_soon_and_the_same_command_finishes(finished: Finished, tmp_path: Path) -> None:
    words = ("run", *BOTH, "-m", "flint", "--metrics", "accuracy", "--cache", "own", "--out", tmp_path / "out")
    words = (*words, *sets(method__train__steps="400"))
    with start(finished.folder, *words) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if ": fit " in line:
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        seconds = time.monotonic() - began
    assert process.returncode == 130, said + err
    assert seconds < 20
    assert "interrupted; the same command resumes" in out + err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "results.csv").exists()
    assert list((finished.folder / "own" / "fit").glob("*.partial/checkpoint.safetensors"))

    ran = subprocess_run(finished.folder, *words)
    assert ran.code == 0, ran.err
    first = next(line for line in ran.err.splitlines() if ": fit " in line)
    assert int(first.split(": fit ")[1].split("/")[0]) > 1, "the training began anew"
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="permission bits do not bind root")
def test_a_cache_that_may_not_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    ran = in_process(capfd, "run", *BOTH, *sets(), "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert "the cache cannot be written" in ran.err
