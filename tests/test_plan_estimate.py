"""`coinbench plan` estimates from trials of the run's own steps: what is there costs nothing, nothing is written."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Cli, files, in_process, one_line
from small_cell import Place
from small_run import make_small_run, words
from tiny import make_cell, make_problem, method_config
from torch import nn

from coinbench import estimate, registry, trial
from coinbench.config import TrainConfig
from coinbench.errors import Interrupted
from coinbench.generators.stylegan2_training import R1_EVERY
from coinbench.log import Log
from coinbench.noise import Noise, noise_split
from coinbench.plan_text import as_text, shown
from coinbench.pretrain import open_source
from coinbench.rng import Rng
from coinbench.training import train
from coinbench.trial import Clock, measure, peak_of, quick
from coinbench.trial_evaluation import Sample, extrapolated, measure_evaluation, sizes

CPU = torch.device("cpu")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return partial(in_process, capfd)


def planned(cli: Cli, *more: object) -> dict[str, Any]:
    ran = cli("plan", *more, "--json", "--quiet", "--steps", 2)
    assert (ran.code, ran.err) == (0, "")
    return json.loads(ran.out)


def flags(place: Place) -> tuple[object, ...]:
    """The flags of a run, without the command."""
    return place.command[1:]


def no_process(*_: object, **__: object) -> None:
    pytest.fail("a process was started")


# --- from end to end


def test_every_part_of_a_run_that_is_to_do_is_measured_and_nothing_is_written(cli: Cli, tmp_path: Path) -> None:
    place = Place(tmp_path)
    found = planned(cli, *flags(place), "--seeds", "0:3", "--jobs", 2)
    assert files(tmp_path) == {}
    (row, *_), told = found["cells"], found["estimate"]
    assert {row[kind] for kind in ("data", "classifier", "generator", "fit", "evaluate")} == {"to do"}
    assert row["perceptual"] == "none"
    kinds = {stage["kind"]: stage for stage in told["stages"]}
    assert kinds.keys() == {"data", "classifier", "generator"}
    assert kinds["classifier"]["count"] == kinds["generator"]["count"] == 2
    experiment = place.config.experiments["birds"]["default"]
    source = open_source(experiment.data, place.cache)
    n_train, n_val = (len(source.split(name, experiment.data.val_fraction)) for name in ("train", "val"))
    assert (n_train + n_val, int(source.is_test.sum())) == (60, 20)
    assert kinds["data"]["count"] == 2 * n_train + n_val + 20, "train in two sizes, val and test in one"
    assert kinds["data"]["disk"] == n_train * 3 * (16**2 + 18**2) + (n_val + 20) * 3 * 16**2
    for part in (*told["stages"], *told["cells"]):
        assert part["seconds"] > 0
        assert part["disk"] > 0
        if part["kind"] != "data":
            assert part["memory"] > 2**20
            low, high = part["quartiles"]
            assert 0 < low <= high
    cells = told["cells"]
    assert len(cells) == 3
    assert {cell["count"] for cell in cells} == {4}, "steps of the method"
    assert len({cell["seconds"] for cell in cells}) == 1, "seeds cost alike and are tried once"
    assert cells[0]["fit"] == pytest.approx(4 * cells[0]["ms"] / 1000)
    (evaluation,) = told["evaluations"]
    assert {"bank", "exhibits", "mse", "mse: numbers", "sparsity", "sparsity: numbers"} == evaluation["seconds"].keys()
    assert sum(evaluation["seconds"].values()) == pytest.approx(cells[0]["evaluate"])
    total = told["total"]
    assert total["jobs"] == 2
    first, one = [stage["seconds"] for stage in told["stages"]], cells[0]["seconds"]
    assert total["seconds"] == pytest.approx(estimate.makespan(first, 2) + 2 * one)
    assert total["memory"] == 2 * max(part["memory"] for part in (*told["stages"], evaluation, *cells))
    assert total["disk"] == sum(part["disk"] for part in (*told["stages"], *cells))
    assert total["not included"] == []
    how = "; ".join(told["how"])
    for said in ("on cpu", "noise", "at initialisation: classifier, generator", "untrained methods", "2 steps"):
        assert said in how
    text = as_text(found)
    for stage in (*told["stages"], *cells):
        assert shown(stage["seconds"]) in text
    assert f"with --jobs 2: {shown(total['seconds'])}, " in text
    assert all(line in text for line in told["how"])


def test_what_is_there_costs_nothing(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_small_run(tmp_path)
    given = (*words(), "--cache", run.cache, "--out", run.out)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", no_process)
        found = planned(cli, *given)
    assert {row["evaluate"] for row in found["cells"]} == {"done"}
    told = found["estimate"]
    assert (told["stages"], told["evaluations"], told["how"]) == ([], [], ["nothing is left to do"])
    assert [cell["seconds"] for cell in told["cells"]] == [0, 0]
    assert (told["total"]["seconds"], told["total"]["memory"], told["total"]["disk"]) == (0, 0, 0)
    # One cell is gone, and measured anew with the network that is in the cache; the other stays as it is.
    shutil.rmtree(run.cell)
    shutil.rmtree(run.cache / "evaluate")
    before = files(tmp_path)
    found = planned(cli, *given)
    told = found["estimate"]
    assert files(tmp_path) == before
    assert found["cells"][0]["steps"] == found["cells"][1]["steps"] == 0
    gone = next(i for i, row in enumerate(found["cells"]) if row["evaluate"] == "to do")
    assert told["cells"][1 - gone]["seconds"] == 0
    assert told["cells"][gone]["fit"] == 0
    assert told["cells"][gone]["evaluate"] > 0
    assert told["stages"] == []
    (evaluation,) = told["evaluations"]
    assert evaluation["trained"]
    assert "images of the data set" in told["how"][0]


def test_missing_data_of_a_published_size_are_measured_on_noise_and_named(cli: Cli, tmp_path: Path) -> None:
    sets = ("data.size=16", "problem.classifier.net=resnet", "problem.classifier.width=4", "method.K=4")
    sets += ("problem.classifier.train.steps=3", "problem.classifier.train.batch=8", "method.channels=4")
    sets += ("problem.classifier.select_every=2", "evaluation.bootstrap=100")
    sets += ("problem.generator.net=beta_vae", "problem.generator.width=4", "problem.generator.latent=4")
    sets += ("problem.perceptual.net=random",)
    given = [word for change in sets for word in ("--set", change)]
    found = planned(cli, "-m", "flint", "-d", "cub200", "--metrics", "mse", *given)
    assert files(tmp_path) == {}
    (line,) = found["missing"]
    assert "coinbench data prepare cub200" in line
    assert found["cells"][0]["data"] == "missing"
    told = found["estimate"]
    data, f, _ = told["stages"]
    assert (data["kind"], data["seconds"]) == ("data", None), "how long it takes to fetch and decode is not known"
    assert data["count"] == 2 * 5395 + 599 + 5794
    # Two looks at 599 validation images cost more than three steps of eight images.
    assert f["seconds"] > 2 * 3 * f["ms"] / 1000
    assert told["total"]["not included"] == ["cub200 data"]
    assert told["total"]["seconds"] > 0
    assert "noise" in told["how"][0]
    assert f"missing: {line}" in as_text(found)
    listed = cli("plan", "-m", "flint", "-d", "cub200", *given, "--no-measure", "--json")
    assert listed.code == 0
    assert json.loads(listed.out)["missing"] == [line]


def test_missing_weights_are_measured_at_initialisation_and_named(cli: Cli, tmp_path: Path) -> None:
    sets = (*Place(tmp_path).sets, "problem.classifier.net=squeezenet1_1", "data.size=64")
    sets = tuple(change for change in sets if not change.startswith("problem.classifier.width"))
    given = flags(Place(tmp_path, sets))
    found = planned(cli, *given)
    (line,) = found["missing"]
    assert "coinbench weights fetch squeezenet1_1" in line
    f = next(stage for stage in found["estimate"]["stages"] if stage["kind"] == "classifier")
    assert f["seconds"] > 0
    assert files(tmp_path) == {}


def test_trials_that_end_early_are_one_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no luck >&2\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    given = flags(Place(tmp_path))
    monkeypatch.setattr(estimate.sys, "executable", str(broken))
    one_line(cli("plan", *given, "--quiet"), 1, "the trials ended early (no luck)", "--no-measure")
    assert cli("plan", *given, "--no-measure").code == 0


@pytest.mark.parametrize(
    ("more", "piece"),
    [(("--steps", "0"), "--steps"), (("--jobs", "0"), "--jobs"), (("--device", "cuda:99"), "--device cuda:99")],
)
def test_wrong_options_are_usage_errors(cli: Cli, tmp_path: Path, more: tuple[str, ...], piece: str) -> None:
    one_line(cli("plan", *flags(Place(tmp_path)), *more), 2, piece)


# --- a trial of a training


def fit(log: Log, config: TrainConfig, loss: float = 1.0) -> nn.Module:
    module = nn.Linear(2, 1)
    train(module, lambda step: {"l": loss * module(torch.ones(3, 2)).square().mean()}, config, log)
    return module


def test_a_trial_ends_after_its_steps_and_counts_all_but_the_first(tmp_path: Path) -> None:
    config = quick(TrainConfig(steps=1000, warmup=5, schedule="cosine"), 4)
    found = measure(lambda log: fit(log, config), Clock(tmp_path, 4), CPU)
    assert len(found.seconds) == 4
    assert all(s > 0 for s in found.seconds)
    assert found.memory > 2**20
    assert (found.whole, found.note) == (False, "")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_slow_step_ends_the_trial_once_one_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SECONDS", 0.0)
    found = measure(lambda log: fit(log, quick(TrainConfig(steps=9), 4)), Clock(tmp_path, 4), CPU)
    assert len(found.seconds) == 1


def test_a_training_that_diverges_or_raises_is_noted(tmp_path: Path) -> None:
    found = measure(lambda log: fit(log, quick(TrainConfig(steps=9), 4), math.nan), Clock(tmp_path, 4), CPU)
    assert found.seconds == []
    assert found.note.startswith("ended early: ")
    assert "not finite at step 0" in found.note

    def broken(log: Log) -> None:
        raise ZeroDivisionError("of a plug-in")

    assert "of a plug-in" in measure(broken, Clock(tmp_path, 4), CPU).note


def test_a_training_without_steps_is_timed_whole(tmp_path: Path) -> None:
    found = measure(lambda log: time.sleep(0.05), Clock(tmp_path, 4), CPU)
    assert found.whole
    assert found.seconds[0] >= 0.05


def test_a_trial_stops_when_asked_to(tmp_path: Path) -> None:
    outer = Log(tmp_path)
    outer.stop.set()
    with pytest.raises(Interrupted):
        measure(lambda log: fit(log, quick(TrainConfig(steps=9), 4)), Clock(tmp_path, 4, outer), CPU)


def test_the_peak_is_that_of_the_block() -> None:
    with peak_of(CPU) as small:
        pass
    with peak_of(CPU) as large:
        torch.zeros(2**26).add_(1)
    assert large.memory - small.memory > 200 * 2**20
    assert "resident" in large.how


def test_a_generator_is_tried_for_whole_periods() -> None:
    assert registry.GENERATORS.load("stylegan2").period == R1_EVERY
    assert registry.GENERATORS.load("beta_vae").period == 1


# --- a trial of an evaluation


def samples(law: Any, *counts: int) -> list[Sample]:
    return [Sample(n, n, {"bank": 2.0 * n, "mse": law(n), "mse: numbers": 5.0 + n, "exhibits": 3.0}) for n in counts]


def test_two_samples_after_the_first_give_constant_and_slope() -> None:
    cell = make_cell(metrics=("mse",))
    found = extrapolated(samples(lambda n: 7 + 0.5 * n, 12, 12, 64), cell, n_train=1000, n_test=500)
    assert found == pytest.approx({"bank": 2000, "mse": 7 + 250, "mse: numbers": 505, "exhibits": 3})


def test_one_size_alone_counts_what_is_done_for_each_batch_by_image() -> None:
    found = extrapolated(samples(lambda n: 0.5 * n, 12, 12), make_cell(metrics=("mse",)), n_train=1000, n_test=500)
    assert found == pytest.approx({"bank": 2000, "mse": 250, "mse: numbers": 17, "exhibits": 3})


def test_a_metric_with_a_limit_costs_no_more_beyond_it() -> None:
    cell = make_cell(metrics=("faithfulness",))
    cell = cell.model_copy(update={"evaluation": cell.evaluation.model_copy(update={"faithfulness_images": 100})})
    parts = ("faithfulness", "faithfulness: numbers")
    for counts in ((12, 12, 64), (12, 12)):
        seen = [Sample(n, n, dict.fromkeys(parts, 0.5 * n)) for n in counts]
        assert extrapolated(seen, cell, 1000, 500) == pytest.approx(dict.fromkeys(parts, 50))
        assert extrapolated(seen, cell, 1000, 80) == pytest.approx(dict.fromkeys(parts, 40))
    # What still grows beyond the limit is not held by it.
    seen = [Sample(n, n, dict.fromkeys(parts, 0.5 * n)) for n in (12, 100, 200)]
    assert extrapolated(seen, cell, 1000, 500) == pytest.approx(dict.fromkeys(parts, 250))


def test_samples_grow_while_there_is_time(tmp_path: Path) -> None:
    cell, problem = make_cell("flint"), make_problem(train=60, test=60)
    coin = registry.METHODS.load("flint").build(method_config("flint"), problem, Rng(0)).eval()
    assert sizes(cell, 60) == [12, 12, 24]
    assert sizes(cell, 8) == [8, 8]
    found = measure_evaluation(cell, problem, coin, tmp_path, Log(tmp_path))
    assert [sample.test for sample in found] == sizes(cell, 60)
    last = found[-1]
    assert last.seconds.keys() == {"bank", "exhibits", "accuracy", "accuracy: numbers", "mse", "mse: numbers"}
    assert all(seconds > 0 for seconds in last.seconds.values())
    assert last.disk > 0
    assert last.failed == {}


# --- noise


def test_noise_has_the_shape_and_depends_on_nothing_else() -> None:
    source = Noise(classes=5, channels=1, train=20, test=7, parts=(3, 2))
    data = make_cell().data
    train, test = (noise_split(name, data, source, 6) for name in ("train", "test"))
    assert train.pixels.shape == (6, data.size, data.size, 1)
    assert train.large.shape == (6, data.resized, data.resized, 1)
    assert np.array_equal(train.pixels, noise_split("train", data, source, 6).pixels)
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 0]
    assert test.index.tolist() == [20, 21, 22, 23, 24, 25]
    assert source.factors is not None
    assert source.factors.max(0).tolist() == [2, 1]
    assert len(noise_split("val", data, source, 0)) == 0
