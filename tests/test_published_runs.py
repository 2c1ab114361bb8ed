"""Runs that measure or train with published weights: what they need, and what they do without it or without a net."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lpips
import numpy as np
import pytest
import random_weights
import tiny
import torch
import weight_files
from commands import Cli, in_process, one_line, subprocess_run
from official_files import archives, from_server, packed, publish, serve
from small_cell import SETS
from torchvision.datasets import FashionMNIST

from coinbench import fetch, published_weights
from coinbench.cache import Cache
from coinbench.check import check
from coinbench.config import PerceptualConfig
from coinbench.digests import fit_digest
from coinbench.errors import DataError, UsageError
from coinbench.log import Log
from coinbench.methods import viscoin
from coinbench.networks.lpips import LPIPS
from coinbench.overrides import validate
from coinbench.plan import Request, resolve
from coinbench.presets import default_metrics
from coinbench.pretrain import build_perceptual
from coinbench.rng import Rng

BIRDS = ("run", "-m", "flint", "-d", "birds", "--quiet", *(word for change in SETS for word in ("--set", change)))


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "_TRIES", 0)
    return functools.partial(in_process, capfd)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_weights.trunk("alexnet", tmp_path_factory.mktemp("weights") / "mine.pth")


# --- metrics


def test_small_data_sets_need_no_download_and_the_papers_have_its_metrics() -> None:
    assert not {"lpips_vgg", "inception"} & set(default_metrics(("birds", "digits", "cifar10")))
    of_paper = resolve(Request(methods="viscoin", datasets="cub200"))
    assert {"lpips_vgg", "lpips_alex", "inception", "mse"} < set(of_paper.metrics)
    assert "lpips_squeeze" not in of_paper.metrics
    assert of_paper.experiments["cub200"]["default"].problem.perceptual.net == "lpips_vgg"
    named = resolve(Request(methods="viscoin", datasets="birds", metrics="mse,lpips_squeeze"))
    assert named.metrics == ("mse", "lpips_squeeze")


@pytest.mark.slow
def test_a_run_without_weights_measures_the_rest(tmp_path: Path, alexnet: Path) -> None:
    words = (*BIRDS[:5], *BIRDS[6:], "--metrics", "mse,lpips_alex,inception", "--out", "out")
    ran = subprocess_run(tmp_path, *words)
    assert ran.code == 1
    lines = [line for line in ran.out.splitlines() if "not available, because" in line]
    assert len(lines) == 2
    for line, metric, name in zip(lines, ("lpips_alex", "inception"), ("alexnet", "inception"), strict=True):
        assert line.startswith(f"birds/flint seed 0: {metric}: not available, because ")
        assert f"coinbench weights fetch {name}" in line
        assert f"{metric} will have no numbers: `coinbench weights fetch {name}` brings what it needs" in ran.err
    assert "coinbench weights fetch inception" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    rows = (tmp_path / "out" / "results.csv").read_text(encoding="utf-8")
    assert ",mse," in rows
    assert not any(name in rows for name in ("lpips", ",fid,", "file"))
    (unavailable,) = (tmp_path / "out").glob("cells/*/unavailable.json")
    assert set(json.loads(unavailable.read_text())) == {"lpips_alex", "inception"}


def test_the_laws_hold_with_weights_and_are_not_tried_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    without = check("lpips_squeeze")
    assert without.passed
    assert f"cannot be measured here: {tmp_path}" in without.text()
    path = tmp_path / "cache" / "weights" / published_weights.FILES["squeezenet1_1"].remote.name
    path.parent.mkdir(parents=True)
    weight_files.publish(monkeypatch, "squeezenet1_1", random_weights.trunk("squeezenet1_1", path))
    report = check("lpips_squeeze")
    assert report.passed, report.text()
    assert "cannot be measured here" not in report.text()


# --- training


def test_training_on_lpips_without_its_weights_ends_before_anything(cli: Cli, tmp_path: Path, alexnet: Path) -> None:
    words = (*BIRDS, "--out", tmp_path / "out", "--set", "problem.perceptual.net=lpips_vgg")
    ran = cli(*words)
    one_line(
        ran, 4, "coinbench weights fetch vgg16", "problem.perceptual.weights=FILE", "problem.perceptual.net=random"
    )
    one_line(cli(*words, "--set", "problem.perceptual.weights=nowhere.pth"), 4, "nowhere.pth", "not readable")
    weights = tmp_path / "cache" / "weights"
    weights.mkdir(parents=True)
    (weights / "vgg16-397923af.pth").write_bytes(b"cut")
    one_line(cli(*words), 4, "vgg16-397923af.pth: sha256 is", "delete it and fetch it again")
    assert not (tmp_path / "cache" / "data").exists()
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"weights"}


def test_f_and_g_are_trained_without_the_weights_of_lpips(cli: Cli) -> None:
    words = [word for word in BIRDS[5:] if word != "--quiet" and not word.startswith("method.")]
    sets = [word for word in words if word != "--set"]
    given = (
        "-d",
        "birds",
        "--quiet",
        *(w for s in sets for w in ("--set", s)),
        "--set",
        "problem.perceptual.net=lpips_vgg",
    )
    assert cli("pretrain", "classifier", *given).code == 0
    one_line(cli("pretrain", "perceptual", *given), 2, "nothing to train with problem.perceptual.net=lpips_vgg")


def test_p_is_lpips_where_that_is_asked_for(tmp_path: Path, alexnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PerceptualConfig(net="lpips_alex", weights=alexnet)
    p = build_perceptual(config, 3, 32, Cache(tmp_path))
    assert isinstance(p, LPIPS)
    assert p.origin.startswith("p: LPIPS alex with weights of mine.pth (sha256 ")
    assert p.origin.endswith("not the published alexnet-owt-7be5be79.pth")
    with pytest.raises(UsageError, match=r"lpips_alex: reads RGB images of 31 pixels a side or more, not 3 x 16 x 16"):
        build_perceptual(config, 3, 16, Cache(tmp_path))
    weight_files.publish(monkeypatch, "alexnet", alexnet)
    assert build_perceptual(config, 3, 32, Cache(tmp_path)).origin == "p: LPIPS alex"


def test_viscoin_learns_with_lpips_and_sees_each_image_once(
    tmp_path: Path, alexnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = build_perceptual(PerceptualConfig(net="lpips_alex", weights=alexnet), 3, 32, Cache(tmp_path))
    problem = replace(tiny.make_problem(size=32), perceptual=p)
    config = tiny.method_config("viscoin", beta=3.0)
    assert isinstance(config, viscoin.VisCoINConfig)
    coin = viscoin.build(config, problem, Rng(0))
    images = problem.train.take(np.arange(4)).images
    calls: list[bool] = []
    forward = LPIPS.forward
    monkeypatch.setattr(
        LPIPS, "forward", lambda self, x: calls.append(x.requires_grad or x.grad_fn is not None) or forward(self, x)
    )
    term = viscoin.losses(coin, problem, images)["perceptual"]
    # x without a gradient, x̃ with one.
    assert calls == [False, True]
    with torch.no_grad():
        shown = coin.decode(coin.encode(images))
        expected = 3.0 * p.distance(p(images), p(shown)).mean()
    torch.testing.assert_close(term.detach(), expected)
    term.backward()
    assert all(parameter.grad is None for parameter in p.parameters())
    assert any(weight.grad is not None and bool(weight.grad.any()) for weight in coin.omega.parameters())
    trained = viscoin.fit(config, problem, Rng(0), Log(tmp_path / "fit"))
    assert not any(key.startswith("perceptual") for key in trained.state_dict())


def test_the_content_of_the_weights_counts_and_their_place_does_not(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("a.pth", "b.pth", "other.pth")]
    for place, content in zip(places, (b"one", b"one", b"two"), strict=True):
        place.write_bytes(content)

    def of(path: Path | None) -> str:
        cell = tiny.make_cell()
        p = PerceptualConfig(net="lpips_vgg", weights=path)
        return fit_digest(cell.model_copy(update={"problem": cell.problem.model_copy(update={"perceptual": p})}))

    same, again, other = map(of, places)
    assert same == again
    assert len({same, other, of(None), fit_digest(tiny.make_cell())}) == 4
    with pytest.raises(UsageError, match="only LPIPS reads weights: set net to one of lpips_vgg"):
        validate(PerceptualConfig, {"net": "random", "weights": str(places[0])})


# --- without a net


@pytest.fixture
def of_server(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def at(url: str) -> None:
        files = {
            name: replace(entry, remote=replace(entry.remote, url=f"{url}/{name}"))
            for name, entry in published_weights.FILES.items()
        }
        monkeypatch.setattr(published_weights, "FILES", files)

    return at


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_offline_nothing_is_asked_of_a_server(
    how: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_server: Callable[[str], None]
) -> None:
    flag = ("--offline",) if how == "flag" else ()
    if how == "variable":
        monkeypatch.setenv(fetch.OFFLINE, "1")
    files = packed(archives("cub200"))
    publish(monkeypatch, "cub200", files)
    with serve(files | {"alexnet": b"weights"}) as served:
        of_server(served.url)
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"{served.url}/"])
        one_line(cli("weights", "fetch", "alexnet", "--quiet", *flag), 4, "alexnet-owt", "not fetched", "--offline")
        one_line(cli(*from_server("cub200", tmp_path / "cub", served), *flag), 4, "CUB_200_2011.tgz: not there")
        run = ("run", "-m", "flint", "-d", "fashionmnist", "--set", "data.download=true", "--out", tmp_path / "out")
        one_line(cli(*run, *flag), 4, "fashionmnist: no folder", "not fetched, since --offline")
        assert served.asked == []
        # The same commands reach it otherwise.
        monkeypatch.delenv(fetch.OFFLINE, raising=False)
        assert cli("weights", "fetch", "alexnet", "--quiet").code == 4
        assert served.asked == [("alexnet", None)]


def test_a_run_that_needs_nothing_is_the_same_offline(cli: Cli, tmp_path: Path) -> None:
    assert cli(*BIRDS, "--metrics", "mse", "--out", tmp_path / "out", "--offline", "--dry-run").code == 0


# --- verify


def test_every_file_is_verified_and_reported(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    for name in ("vgg16", "alexnet", "squeezenet1_1"):
        path = folder / published_weights.FILES[name].remote.name
        path.write_bytes(name.encode())
        if name != "vgg16":
            weight_files.publish(monkeypatch, name, path)
    whole = published_weights.FILES["alexnet"]
    sha256 = published_weights.key_of(folder / whole.remote.name, "")
    entry = replace(whole, remote=replace(whole.remote, digests=(("sha256", sha256),)))
    monkeypatch.setattr(published_weights, "FILES", {**published_weights.FILES, "alexnet": entry})
    ran = cli("weights", "verify", "--quiet")
    assert ran.code == 4
    assert ran.err == "coinbench: weights: 1 of 3 files are missing or not as published; what each needs stands above\n"
    told = {line.split(":")[0]: line for line in ran.out.splitlines()}
    assert "sha256 is" in told["vgg16"]
    assert "delete it and fetch it again" in told["vgg16"]
    assert told["alexnet"].endswith(f"as published (sha256 {sha256})")
    assert "as published (sha256 begins with " in told["squeezenet1_1"]
    ran = cli("weights", "verify", "inception", "alexnet", "--quiet")
    assert (ran.code, len(ran.out.splitlines())) == (4, 2)
    assert "coinbench weights fetch inception" in ran.out


def test_looking_after_weights_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; from coinbench.published_weights import FILES; sys.exit('torch' in sys.modules and bool(FILES))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_an_early_state_dict_is_read(tmp_path: Path) -> None:
    # Python 2 gave a dictionary as a list of pairs; so are the heads of the package lpips.
    assert lpips.__file__ is not None
    path = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    found, expected = published_weights.read_state_dict(path), torch.load(path, map_location="cpu")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())

    class Early:
        def __init__(self, pairs: object) -> None:
            self.pairs = pairs

        def __reduce__(self) -> tuple[type, tuple[object]]:
            return OrderedDict, (self.pairs,)

    torch.save(Early([["a", torch.ones(2)]]), tmp_path / "w.pth")
    assert published_weights.read_state_dict(tmp_path / "w.pth")["a"].tolist() == [1, 1]
    for pairs in ([["a", 1, 2]], ["ab"], 5, [[("a",), torch.ones(2)]]):
        torch.save(Early(pairs), tmp_path / "w.pth")
        with pytest.raises(DataError, match=r"w\.pth: (holds a damaged dictionary|has a key that is neither)"):
            published_weights.read_state_dict(tmp_path / "w.pth")
