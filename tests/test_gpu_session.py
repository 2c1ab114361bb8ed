"""benchmarks/gpu_session.py without a GPU: its plan is valid, time is shared out, what is cut goes on, all is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
import tomllib
from pathlib import Path
from typing import Any

import gpu_packs
import gpu_session
import gpu_told
import pytest
import torch
from safetensors.torch import load_file, save_file

from coinbench.cache import CHECKPOINT
from coinbench.errors import DataError
from coinbench.generators.stylegan2 import BEST, NETWORKS
from coinbench.plan import Request, resolve

PLAN = tomllib.loads(gpu_session.PLAN.read_text(encoding="utf-8"))
CHAINS = {chain["name"]: chain for chain in PLAN["chain"]}
PACKS = "COINBENCH_PACKS"
"""A variable that names the folder of --packs, with the real zips."""


@pytest.fixture
def session(tmp_path: Path) -> gpu_session.Session:
    out = tmp_path / "out"
    out.mkdir()
    packs, work = tmp_path / "packs", tmp_path / "work"
    for name in ("faces", "cub", "few-faces", "few-cub"):
        (work / "packs" / name).mkdir(parents=True)
    for name in ("f.safetensors", "few-f.safetensors"):
        save_file({"x": torch.zeros(1)}, work / "packs" / name)
    return gpu_session.Session(PLAN, packs, work, out, 100.0, False, "cpu", dict(os.environ))


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", CHAINS)
def test_all_settings_of_the_plan_exist(name: str, smoke: bool, session: gpu_session.Session) -> None:
    session.smoke = smoke
    chain = gpu_session.Chain(session, CHAINS[name])
    save_file({"x": torch.zeros(1)}, session.work / "G.safetensors")
    methods = CHAINS[name].get("methods", "viscoin")
    sets = [f"problem.generator.init={session.work / 'G.safetensors'}"]
    if "methods" in CHAINS[name]:
        sets += chain.method_sets(methods.split(","), dict.fromkeys(methods.split(","), 7))
    resolved = resolve(Request(methods=methods, datasets=CHAINS[name]["dataset"], sets=(*chain.sets(), *sets)))
    (variants,) = resolved.experiments.values()
    (experiment,) = variants.values()
    alone = resolve(Request(methods=methods, datasets=CHAINS[name]["dataset"], sets=tuple(chain.sets())))
    ((before,),) = (found.values() for found in alone.experiments.values())
    generator: Any = before.problem.generator
    assert (generator.net, generator.init) == ("stylegan2", "scratch")
    assert experiment.data.size == int(name.strip("abcdefghijklmnopqrstuvwxyz"))
    if "methods" in CHAINS[name]:
        assert tuple(experiment.methods) == tuple(methods.split(","))
        assert {method.train.steps for method in experiment.methods.values()} == {7}
        # Nothing that is a download: the packs are all that there is.
        assert experiment.problem.perceptual.net == "random"
        assert experiment.problem.classifier.net == "squeezenet1_1"
        assert resolve(Request(methods=methods, datasets="birds", metrics=PLAN["methods"]["metrics"]))


def test_the_best_average_is_taken_else_that_of_the_end_else_that_of_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no average of G"):
        gpu_told.average_of(tmp_path)
    for value, (name, prefix) in enumerate(((CHECKPOINT, "average."), (NETWORKS, "G_ema."), (BEST, "G_ema."))):
        others = {"D.b4.bias": torch.zeros(1), "adam_g.0.step": torch.zeros(())}
        save_file({f"{prefix}mapping.w_avg": torch.full((2,), float(value)), **others}, tmp_path / name)
        found = gpu_told.average_of(tmp_path)
        assert found.keys() == {"G_ema.mapping.w_avg"}
        assert found["G_ema.mapping.w_avg"].tolist() == [value, value]


def test_a_chain_that_fails_says_why_and_leaves_what_it_made(
    session: gpu_session.Session, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = gpu_session.Chain(session, CHAINS["birds64"] | {"sets": ["data.sice=64"]})
    chain.run(60.0)
    assert "ended with 2" in chain.error
    gpu_told.pack(chain.folder, chain.run_folder, chain.average, session.out, True)
    gpu_told.print_ends({chain.log: chain.error}, 4000)
    assert "data.sice" in capsys.readouterr().out
    assert "exit    2" in gpu_told.table({"birds64": chain.told()})
    with tarfile.open(session.out / "birds64.tar.gz") as archive:
        assert sorted(archive.getnames()) == ["birds64/log.txt", "birds64/state.json"]
    # What failed is tried again, what was begun with other settings is not gone on with.
    again = gpu_session.Chain(session, CHAINS["birds64"])
    again.run(60.0)
    assert "begun with other settings" in again.error


class Scripted(gpu_session.Chain):
    """A chain whose commands do nothing but leave files and end as a script says."""

    def __init__(self, session: gpu_session.Session, codes: list[int]) -> None:
        super().__init__(session, CHAINS["cub256"])
        self.codes = codes
        self.asked: list[list[str]] = []

    def _call(self, arguments: list[str], limit: float, enough: Any = None, out: Path | None = None) -> int:
        self.asked.append(arguments)
        if arguments[0] == "pretrain":
            stage = self.cache / "generator" / "01.partial"
            stage.mkdir(parents=True, exist_ok=True)
            save_file({"average.mapping.w_avg": torch.zeros(2)}, stage / CHECKPOINT)
        if out:
            names = self.given["methods"].split(",")
            rows = [{"of": f"cub200/{n} seed 0", "ms": 10.0 * (i + 1), "fit": 5.0, "seconds": 15.0, "note": ""}
                    for i, n in enumerate(names)]  # fmt: skip
            out.write_text(json.dumps({"estimate": {"cells": rows}}))
        self.state["commands"].append({"command": "coinbench x y", "exit": self.codes[0], "seconds": 40.0})
        return self.codes.pop(0)


def test_methods_get_steps_for_equal_time_and_keep_them_when_the_chain_goes_on(session: gpu_session.Session) -> None:
    first = Scripted(session, [130, 0, 130])
    # The time of G is over when its command ends.
    first.state["generator seconds"] = 0.0
    first.run(1000.0)
    assert [words[0] for words in first.asked] == ["pretrain", "plan", "run"]
    assert not first.error
    assert not first.state["finished"]
    # 0.8 · (0.93 · 1000 s less 4 · 10 s of evaluation) for four methods of 10, 20, 30, 40 ms a step.
    each = 0.8 * (0.93 * 1000 - 40) / 4
    for i, name in enumerate(("viscoin", "flint", "flaem", "random")):
        assert first.state["steps"][name] == pytest.approx(1000 * each / (10 * (i + 1)), rel=0.01)
    second = Scripted(session, [0])
    second.run(300.0)
    assert second.asked == [first.asked[2]], "the same command: it resumes"
    assert second.state["finished"]
    third = Scripted(session, [])
    third.run(300.0)
    assert not third.asked


def test_what_the_time_does_not_suffice_for_is_left_to_the_next_session(session: gpu_session.Session) -> None:
    # Cut in the trial of `plan`: no steps are fixed yet.
    first = Scripted(session, [130, 130])
    first.state["generator seconds"] = 0.0
    first.run(1000.0)
    assert [words[0] for words in first.asked] == ["pretrain", "plan"]
    assert (first.error, first.state["finished"], first.state["steps"]) == ("", False, {})
    second = Scripted(session, [0, 0])
    second.run(1000.0)
    assert [words[0] for words in second.asked] == ["plan", "run"]
    assert second.state["finished"]


def test_a_generator_that_was_cut_goes_on_before_the_methods(session: gpu_session.Session) -> None:
    first = Scripted(session, [130])
    first.run(100.0)
    # Half of the time is G's, which is not over at once.
    assert [words[0] for words in first.asked] == ["pretrain"]
    assert not first.average.exists()
    assert first.state["generator seconds"] == pytest.approx(50)
    second = Scripted(session, [0, 0, 0])
    second.run(100.0)
    assert [words[0] for words in second.asked] == ["pretrain", "plan", "run"]
    late = Scripted(session, [])
    late.folder = session.work / "late"
    late.record = late.folder / "state.json"
    late.run(5.0)
    assert (late.asked, late.error, late.state["finished"]) == ([], "", False)


def test_a_command_is_stopped_when_its_time_is_over_or_there_is_enough_of_it(session: gpu_session.Session) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    began = time.monotonic()
    for limit, enough in ((0.0, lambda: False), (began + 60, lambda: True)):
        with subprocess.Popen(sleeper) as process:
            assert gpu_session._ended(process, limit, enough) == -15
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        assert gpu_session._ended(process, time.monotonic() + 60, lambda: False) == 3


def test_an_archive_holds_g_in_half_precision_and_pictures_lie_beside_it(session: gpu_session.Session) -> None:
    chain = gpu_session.Chain(session, CHAINS["faces64"])
    stage = chain.cache / "generator" / "0123.partial"
    cell, figures = chain.run_folder / "cells" / "4567", chain.run_folder / "figures"
    for folder in (stage, cell, figures, chain.run_folder / "tables"):
        folder.mkdir(parents=True)
    (stage / "train.csv").write_text("step,loss_g\n" + "".join(f"{i},{i / 7}\n" for i in range(1, 1002)))
    (stage / "judged.csv").write_text("step,kimg,fd_f\n1000,64,12.5\n")
    (cell / "train.csv").write_text("step,loss\n25,1.5\n50,nan\n")
    (cell / "cell.json").write_text(json.dumps({"method": {"name": "flint", "train": {"steps": 80}}}))
    (chain.run_folder / "tables" / "accuracy.md").write_text("| f |\n")
    for path in (stage / "samples-00000100.png", stage / "samples-00001000.png", figures / "concepts-x-flint.png"):
        path.write_bytes(path.name.encode())
    for path in (stage / CHECKPOINT, cell / "weights.safetensors", chain.average):
        save_file({"G_ema.mapping.w_avg": torch.ones(2)}, path)
    gpu_told.pack(chain.folder, chain.run_folder, chain.average, session.out, False)
    with tarfile.open(session.out / "faces64.tar.gz") as archive:
        names = set(archive.getnames())
        archive.extract("faces64/G-fp16.safetensors", session.out, filter="data")
    assert names > {"faces64/G-fp16.safetensors", "faces64/run/cells/4567/train.csv"}
    assert not [n for n in names if n.endswith(".safetensors") and "fp16" not in n]
    assert load_file(session.out / "faces64" / "G-fp16.safetensors")["G_ema.mapping.w_avg"].dtype == torch.float16
    pictures = {path.name for path in (session.out / "faces64").glob("*.png")}
    assert pictures == {"samples-00001000.png", "concepts-x-flint.png"}
    told = chain.told()
    curve = told["curves"]["generator"]
    assert len(curve["step"]) <= gpu_told.POINTS
    assert curve["step"][-1] == 1001.0
    assert told["generator"]["judged"] == [{"step": 1000.0, "kimg": 64.0, "fd_f": 12.5}]
    assert told["methods"] == {"flint": {"steps": 80, "reached": 50, "seconds": None}}
    assert told["curves"]["flint"]["loss"] == [1.5, None]
    assert told["tables"] == {"accuracy": "| f |\n"}


@pytest.mark.skipif(PACKS not in os.environ, reason=f"{PACKS} names no folder with the packs of gpu_packs.py")
@pytest.mark.slow
def test_every_chain_takes_every_path_on_the_real_packs(tmp_path: Path) -> None:
    script = Path(gpu_packs.__file__).with_name("gpu_session.py")
    words = [sys.executable, str(script), "--packs", os.environ[PACKS], "--out", str(tmp_path / "out")]
    words += ["--work", str(tmp_path / "work"), "--smoke", "--device", "cpu"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "out" / "session.json").read_text())
    assert told["chains"].keys() == CHAINS.keys()
    for name, chain in told["chains"].items():
        assert chain["finished"]
        assert chain["generator"]["judged"]
        assert (tmp_path / "out" / f"{name}.tar.gz").is_file()
        if "methods" in CHAINS[name]:
            assert chain["methods"].keys() == set(CHAINS[name]["methods"].split(","))
            assert {"accuracy", "faithfulness", "reconstruction"} <= chain["tables"].keys()
            assert list((tmp_path / "out" / name).glob("concepts-*.png"))
    # Finished: the same command looks and does nothing.
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.returncode == 0
    assert "ended with" not in again.stdout
