"""coinbench pretrain, weights that are shipped, and p on the parts of the birds."""

from __future__ import annotations

import functools
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Cli, files, in_process, one_line, start
from ship import ship
from small_cell import SETS
from tiny import same_state

from coinbench import outlook, shipped
from coinbench.cache import Cache
from coinbench.config import Cell, PerceptualConfig, TrainConfig
from coinbench.data.birds import DATASET, BirdsConfig
from coinbench.digests import generator_digest
from coinbench.errors import DataError
from coinbench.generators.stylegan2 import NETWORKS
from coinbench.log import Log
from coinbench.networks.perceptual import PerceptualNet
from coinbench.parts import fit_parts, part_accuracy
from coinbench.plan import Request, cells, resolve
from coinbench.pretrain import load_problem, load_split, make
from coinbench.rng import Rng

SMALL = tuple(word for text in SETS if not text.startswith("method.") for word in ("--set", text))
GAN = (
    *("problem.generator.net=stylegan2", "problem.generator.z_dim=6", "problem.generator.w_dim=6"),
    *("problem.generator.base=64", "problem.generator.most=4", "problem.generator.judge_kimg=0.016"),
    "problem.generator.group=4",
    *("problem.generator.train.steps=8", "problem.generator.train.batch=4", "problem.generator.train.log_every=1"),
)
STYLED = tuple(text for text in SETS if not text.startswith(("problem.generator", "method."))) + GAN


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return functools.partial(in_process, capfd)


def words(kind: str, sets: tuple[str, ...], cache: Path) -> tuple[object, ...]:
    flags = [word for text in sets for word in ("--set", text)]
    return ("pretrain", kind, "--dataset", "birds", *flags, "--cache", cache, "--quiet")


def cell_of(sets: tuple[str, ...], cache: Cache, **changes: bool) -> Cell:
    cell = cells(resolve(Request(methods="viscoin", datasets="birds", sets=sets)), cache, Path("."))[0].cell
    tree = cell.model_dump(mode="json")
    tree["problem"] |= changes
    return Cell.model_validate(tree)


def test_a_generator_is_trained_judged_by_f_and_found_by_run(cli: Cli, tmp_path: Path) -> None:
    ran = cli(*words("generator", STYLED, tmp_path / "cache"), "--json", "--out", tmp_path / "g.safetensors")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert told["weights"] == str(tmp_path / "g.safetensors")
    assert (told["step"], told["kimg"]) == ("8", "0.032")
    assert float(told["fd_f"]) > 0
    assert Path(told["samples"]).read_bytes().startswith(b"\x89PNG")
    cache = Cache(tmp_path / "cache")
    cell = cell_of(STYLED, cache)
    assert generator_digest(cell) == told["generator"]
    events: list = []
    problem = load_problem(cell, cache, torch.device("cpu"), Log(tmp_path, events.append))
    assert not [event for event in events if "step" in event], "both come from the cache"
    assert problem.generator.n_styles == 6
    weights = next((tmp_path / "cache" / "generator").glob("*/weights.safetensors"))
    written = weights.stat().st_mtime_ns
    assert cli(*words("generator", STYLED, tmp_path / "cache")).code == 0
    assert weights.stat().st_mtime_ns == written, "not trained again"


@pytest.mark.slow
def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    sets = (*STYLED, "problem.generator.train.steps=18", "problem.generator.judge_kimg=100")
    loud = [word for word in words("generator", sets, tmp_path / "cut") if word != "--quiet"]
    with start(tmp_path, *loud) as process:
        while _lines(tmp_path / "cut" / "generator") < 5:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=400)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].endswith("generator: interrupted; the same command resumes")
    for name in ("cut", "whole"):
        with start(tmp_path, *words("generator", sets, tmp_path / name)) as process:
            assert process.wait(400) == 0
    a, b = (next((tmp_path / name / "generator").glob("*/weights.safetensors")) for name in ("cut", "whole"))
    assert a.read_bytes() == b.read_bytes()


def _lines(folder: Path) -> int:
    return sum(len(log.read_text().splitlines()) for log in folder.glob("*.partial/train.csv"))


@pytest.mark.parametrize(
    ("given", "code", "pieces"),
    [
        (("pretrain", "perceptual", "--dataset", "birds", *SMALL), 2, ["perceptual.net=random"]),
        (("pretrain", "generator", "--dataset", "brids"), 2, ["unknown data set 'brids'"]),
        (("pretrain", "generator", "--dataset", "birds,digits"), 2, ["one data set at a time"]),
        (
            ("pretrain", "perceptual", "--dataset", "digits", "--set", "problem.perceptual.net=parts"),
            2,
            ["problem.perceptual.net=parts", "does not tell the parts"],
        ),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    given: tuple[str, ...], code: int, pieces: list[str], cli: Cli, tmp_path: Path
) -> None:
    one_line(cli(*given, "--cache", tmp_path), code, *pieces)
    assert not [name for name in files(tmp_path) if "data" not in name]


def test_p_learns_the_parts_and_keeps_no_head(tmp_path: Path) -> None:
    data = BirdsConfig(n_train=300, n_test=60, size=16)
    source = DATASET.open(data, tmp_path)
    train, test = (load_split(name, data, source, Cache(tmp_path), torch.device("cpu")) for name in ("train", "test"))
    factors = torch.from_numpy(np.asarray(source.factors))
    net = PerceptualNet(3, 8, Rng(0))
    before = part_accuracy(net, factors, train, test)
    config = PerceptualConfig(net="parts", width=8, train=TrainConfig(steps=150, batch=32, lr=5e-3))
    fit_parts(net, config, train, factors, Log(tmp_path / "log"))
    ((name, after),) = part_accuracy(net, factors, train, test).items()
    assert after > before[name] + 8
    assert not any(p.requires_grad for p in net.parameters())
    assert net.state_dict().keys() == PerceptualNet(3, 8, Rng(0)).state_dict().keys()


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shipped weights of the tiny birds."""
    cache = Cache(tmp_path / "made")
    for kind in ("classifier", "generator"):
        make(kind, cell_of(STYLED, cache, pretrained=False), cache, torch.device("cpu"), Log(tmp_path))
    folder = tmp_path / "assets"
    ship(cell_of(STYLED, cache, pretrained=False), cache, folder / "birds-16", "coinbench pretrain")
    monkeypatch.setattr(shipped, "assets", lambda: folder)
    return folder


def test_shipped_weights_are_used_where_data_and_settings_fit(assets: Path, tmp_path: Path) -> None:
    cache, made, events = Cache(tmp_path / "new"), Cache(tmp_path / "made"), []
    cell = cell_of(STYLED, cache)
    problem = load_problem(cell, cache, torch.device("cpu"), Log(tmp_path, events.append))
    assert not [event for event in events if "step" in event], "nothing is trained"
    trained_cell = cell_of(STYLED, made, pretrained=False)
    trained = load_problem(trained_cell, made, torch.device("cpu"), Log(tmp_path))
    assert same_state(problem.generator, trained.generator)
    assert same_state(problem.classifier, trained.classifier)
    request = Request(methods="viscoin", datasets="birds", sets=STYLED)
    rows = outlook.rows(outlook.survey(resolve(request), cache, tmp_path), cache)
    assert (rows[0]["classifier"], rows[0]["generator"]) == ("shipped", "shipped")
    assert rows[0]["steps"] == cell.method.train.steps
    start_at = f"problem.generator.init={tmp_path / 'made' / 'generator' / generator_digest(trained_cell) / NETWORKS}"
    for changes in (("problem.pretrained=false",), ("problem.generator.r1=3",), ("data.noise=0.2",), (start_at,)):
        other = cell_of((*STYLED, *changes), cache)
        assert shipped.find("generator", other.problem.generator, other) is None, changes
    assert "FD-f" in (assets / "birds-16" / "README.md").read_text()


def test_damaged_shipped_weights_are_refused_in_one_line(assets: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new")
    cell = cell_of(STYLED, cache)
    path = assets / "birds-16" / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"generator\.safetensors: is damaged \(sha256 .*install coinbench again"):
        load_problem(cell, cache, torch.device("cpu"), Log(tmp_path))
    path.unlink()
    with pytest.raises(DataError, match=r"not readable \(No such file or directory\); install coinbench again"):
        load_problem(cell, cache, torch.device("cpu"), Log(tmp_path))
    (assets / "birds-16" / shipped.CARD).write_text("{}")
    with pytest.raises(DataError, match=r"card\.json: is damaged"):
        generator_digest(cell)


def test_nothing_ships_before_everything_is_trained(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "made")
    with pytest.raises(DataError, match="holds no classifier; run `coinbench pretrain classifier --dataset birds`"):
        ship(cell_of(STYLED, cache, pretrained=False), cache, tmp_path / "out", "")
    assert not (tmp_path / "out").exists()


def test_a_known_variant_needs_no_settings(cli: Cli) -> None:
    ran = cli("run", "-m", "viscoin", "-d", "digits", "--variant", "paper", "--variant", "released", "--dry-run")
    found = json.loads(ran.out)["experiments"]["digits"]
    told = {
        name: (e["methods"]["viscoin"]["variant"], e["problem"]["tap"], e["methods"]["viscoin"]["train"]["schedule"])
        for name, e in found.items()
    }
    assert told == {"paper": ("paper", "penultimate", "constant"), "released": ("released", "last", "staircase")}
    wrong = cli("run", "-m", "viscoin", "-d", "digits", "--variant", "publsihed", "--dry-run")
    assert wrong.code == 2
    assert "or paper or released" in wrong.err
