"""benchmarks/gpu_session.py without a GPU: its plan is valid, G is found, failures are told."""

from __future__ import annotations

import os
import tarfile
import time
import tomllib
from pathlib import Path

import gpu_session
import pytest
import torch
from safetensors.torch import load_file, save_file

from coinbench.cache import CHECKPOINT
from coinbench.errors import DataError
from coinbench.generators.stylegan2 import BEST, NETWORKS
from coinbench.plan import Request, resolve

PLAN = tomllib.loads(gpu_session.PLAN.read_text(encoding="utf-8"))
CHAINS = {chain["name"]: chain for chain in PLAN["chain"]}


@pytest.fixture
def session(tmp_path: Path) -> gpu_session.Session:
    out = tmp_path / "out"
    out.mkdir()
    packs, work = tmp_path / "packs", tmp_path / "work"
    return gpu_session.Session(PLAN, packs, work, out, 100.0, False, "cpu", dict(os.environ))


@pytest.mark.parametrize(("name", "smoke"), [*((name, False) for name in CHAINS), ("faces64", True), ("birds64", True)])
def test_all_settings_of_the_plan_exist(
    name: str, smoke: bool, session: gpu_session.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.smoke = smoke
    chain = gpu_session.Chain(session, CHAINS[name])
    monkeypatch.setattr(chain, "_unpacked", lambda: session.packs / "images")
    methods = CHAINS[name].get("methods", "viscoin")
    sets = chain.method_sets(CHAINS[name]["methods"].split(",")) if "methods" in CHAINS[name] else []
    resolved = resolve(Request(methods=methods, datasets=CHAINS[name]["dataset"], sets=(*chain.sets(), *sets)))
    (variants,) = resolved.experiments.values()
    (experiment,) = variants.values()
    assert experiment.problem.generator.net == "stylegan2"
    assert experiment.data.size == int(name.strip("abcdefghijklmnopqrstuvwxyz"))
    if "methods" in CHAINS[name]:
        assert tuple(experiment.methods) == tuple(methods.split(","))


def test_the_best_average_is_taken_else_that_of_the_end_else_that_of_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no average of G"):
        gpu_session.average_of(tmp_path)
    for value, (name, prefix) in enumerate(((CHECKPOINT, "average."), (NETWORKS, "G_ema."), (BEST, "G_ema."))):
        others = {"D.b4.bias": torch.zeros(1), "adam_g.0.step": torch.zeros(())}
        save_file({f"{prefix}mapping.w_avg": torch.full((2,), float(value)), **others}, tmp_path / name)
        found = gpu_session.average_of(tmp_path)
        assert found.keys() == {"G_ema.mapping.w_avg"}
        assert found["G_ema.mapping.w_avg"].tolist() == [value, value]


def test_a_chain_that_fails_says_why_and_leaves_what_it_made(
    session: gpu_session.Session, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = gpu_session.Chain(session, CHAINS["birds64"] | {"sets": ["data.sice=64"]})
    chain.run()
    assert "ended with 2" in chain.error
    chain.pack()
    gpu_session.print_ends([chain], 4000)
    assert "data.sice" in capsys.readouterr().out
    assert "exit    2" in gpu_session.table([chain])
    with tarfile.open(session.out / "birds64.tar.gz") as archive:
        assert archive.getnames() == ["birds64/log.txt"]


def test_an_archive_holds_g_in_half_precision_and_neither_images_nor_other_weights(
    session: gpu_session.Session,
) -> None:
    chain = gpu_session.Chain(session, CHAINS["faces64"])
    stage = chain.cache / "generator" / "0123.partial"
    cell = chain.run_folder / "cells" / "4567"
    for folder in (stage, cell, chain.folder / "faces_200" / "train"):
        folder.mkdir(parents=True)
    for path in (stage / "train.csv", cell / "results.csv", chain.folder / "faces_200" / "train" / "1.jpg"):
        path.write_text("step\n", encoding="utf-8")
    for path in (stage / CHECKPOINT, cell / "weights.safetensors", chain.average):
        save_file({"G_ema.mapping.w_avg": torch.ones(2)}, path)
    chain.pack()
    with tarfile.open(session.out / "faces64.tar.gz") as archive:
        names = set(archive.getnames())
        archive.extract("faces64/G-fp16.safetensors", session.out, filter="data")
    assert names == {
        "faces64/G-fp16.safetensors",
        "faces64/cache/generator/0123.partial/train.csv",
        "faces64/run/cells/4567/results.csv",
    }
    assert load_file(session.out / "faces64" / "G-fp16.safetensors")["G_ema.mapping.w_avg"].dtype == torch.float16


def test_time_is_shared_out_from_the_start(session: gpu_session.Session) -> None:
    session.began = time.monotonic() - 40
    assert session.left(0.6) == pytest.approx(20, abs=5)
    assert session.left(0.3) < 0
