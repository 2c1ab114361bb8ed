"""The generators that the paper's presets start from: fetched, converted, found by a run, told where missing."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Cli, files, in_process, one_line
from official_files import serve
from published_files import everything, generator, pickled
from safetensors.torch import load_file, save

from coinbench import fetch, published_weights
from coinbench.cache import Cache
from coinbench.digests import generator_digest
from coinbench.errors import DataError
from coinbench.generators.stylegan2_config import StyleGAN2Config
from coinbench.plan import Planned, Request, cells, resolve
from coinbench.presets import preset

NAME = "celebahq256"
TINY = (
    *("data.n_train=60", "data.n_test=20", "data.size=16", "problem.classifier.train.steps=2"),
    *("problem.generator.net=stylegan2", f"problem.generator.init={NAME}", "problem.generator.finetune=false"),
    *("problem.generator.z_dim=6", "problem.generator.w_dim=5", "problem.generator.base=64"),
    *("problem.generator.most=8", "problem.generator.depth=2"),
)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "_TRIES", 0)
    return functools.partial(in_process, capfd)


def at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    entry = published_weights.FILES[NAME]
    there = replace(entry, remote=replace(entry.remote, url=f"{url}/g.pkl"))
    monkeypatch.setattr(published_weights, "FILES", {**published_weights.FILES, NAME: there})


def words(*command: str) -> list[str]:
    return [*command, "--dataset", "birds", "--quiet", *(word for text in TINY for word in ("--set", text))]


def test_a_published_generator_is_fetched_converted_and_drawn_with(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "cache" / "weights"
    with serve({"g.pkl": pickled(everything())}) as served:
        at(monkeypatch, served.url)
        assert cli("weights", "fetch", NAME, "--quiet").code == 0
        assert cli("weights", "fetch", NAME, "--quiet").code == 0
        assert len(served.asked) == 1
    assert NAME in cli("weights", "list").out
    ran = cli("weights", "verify", NAME, "--quiet")
    assert (ran.code, "its publisher gives no digest" in ran.out) == (0, True)
    ran = cli(*words("pretrain", "generator"), "--out", tmp_path / "g.safetensors")
    assert ran.code == 0, ran.err
    trained = load_file(tmp_path / "g.safetensors")
    for key, value in load_file(weights / f"{NAME}.safetensors").items():
        if key.startswith("G_ema."):
            assert torch.equal(trained[key.removeprefix("G_ema.")], value), key


def test_another_pickle_beside_what_was_converted_is_found_out(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve({"g.pkl": pickled(everything())}) as served:
        at(monkeypatch, served.url)
        assert cli("weights", "fetch", NAME, "--quiet").code == 0
    pickle = tmp_path / "cache" / "weights" / published_weights.FILES[NAME].remote.name
    pickle.write_bytes(pickled(everything(), protocol=2))
    one_line(cli("weights", "verify", NAME, "--quiet"), 4, "not made from", "delete both and fetch it again")


def test_what_is_no_stylegan2_is_refused(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({"g.pkl": b"<html>moved</html>" * 100}) as served:
        at(monkeypatch, served.url)
        one_line(cli("weights", "fetch", NAME, "--quiet"), 4)
    assert not list((tmp_path / "cache" / "weights").glob("*.safetensors"))


def test_without_it_a_run_ends_before_anything_is_trained_and_says_both_ways_on(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = cli(*words("run", "--methods", "viscoin"), "--out", out)
    one_line(ran, 4, f"`coinbench weights fetch {NAME}`", "--set problem.generator.init=scratch")
    assert not [path for path in files(tmp_path / "cache") if str(path).endswith("train.csv")]


def test_one_that_no_program_may_fetch_says_what_to_do(cli: Cli) -> None:
    one_line(cli("weights", "fetch", "imagenet256", "--quiet"), 4, "cannot be fetched by a program", "gan-transfer")


@pytest.mark.parametrize(
    ("dataset", "name", "finetune"),
    [("celebahq", "celebahq256", False), ("cub200", "imagenet256", True), ("stanfordcars", "lsuncars512", True)],
)
def test_the_papers_presets_start_from_published_generators(dataset: str, name: str, finetune: bool) -> None:
    config = preset(dataset, ("viscoin",)).problem.generator
    assert isinstance(config, StyleGAN2Config)
    assert (config.init, config.finetune) == (name, finetune)
    assert published_weights.FILES[name].generator


def test_another_file_makes_another_generator(tmp_path: Path) -> None:
    path = tmp_path / "weights" / f"{NAME}.safetensors"
    path.parent.mkdir()
    config = resolve(Request(methods="viscoin", datasets="birds", sets=TINY))

    def planned() -> Planned:
        (cell,) = cells(config, Cache(tmp_path), tmp_path / "out")
        return cell

    absent = planned()
    one, two = (save({f"G_ema.{k}": v for k, v in generator(seed).state_dict().items()}) for seed in (1, 2))
    path.write_bytes(one)
    first = planned()
    assert planned().digest == first.digest
    path.write_bytes(two)
    second = planned()
    found = [(generator_digest(cell.cell), cell.digest) for cell in (absent, first, second)]
    assert len({G for G, _ in found}) == len({cell for _, cell in found}) == 3
    # The file counts, not what it is called or where it lies.
    by_path = StyleGAN2Config(init=path)
    named = StyleGAN2Config(init=NAME).pinned(path.parent)
    assert by_path.digest() == named.digest() != StyleGAN2Config(init=NAME).digest()
    # A worker does not train from another file than the one that was planned.
    with pytest.raises(DataError, match=r"init_sha256 says .* restore that file"):
        first.cell.problem.generator.begin(path.parent)
    started: Any = second.cell.problem.generator.begin(path.parent)
    assert started.init == path
    path.write_bytes(one)
    assert planned().digest == first.digest


def test_a_digest_is_only_of_a_published_generator() -> None:
    with pytest.raises(ValueError, match="set init to its name"):
        StyleGAN2Config(init_sha256="0" * 64)
