"""`coinbench doctor` tells what is here and what a run would miss; no query that fails takes the others with it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import Cli, files, in_process, one_line, sets
from published_files import everything, pickled

from coinbench import doctor, outlook, published_weights
from coinbench.cache import Cache
from coinbench.doctor import as_text
from coinbench.plan import Request, resolve
from coinbench.published_weights import FILES
from coinbench.registry import PROBLEMS

SECTIONS = ["system", "cpu", "devices", "versions", "extras", "cache", "weights", "data sets"]
IMAGENET = ("--set", "problem.classifier.net=squeezenet1_1", "--set", "data.size=64")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    return partial(in_process, capfd)


def asked(cli: Cli, *words: object, code: int = 0) -> dict:
    ran = cli("doctor", *words, "--json")
    assert (ran.code, ran.err) == (code, "")
    return json.loads(ran.out)


def test_it_tells_what_this_machine_has_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    found = asked(cli)
    assert list(found) == SECTIONS
    assert found["cpu"]["cores"] >= found["cpu"]["usable cores"] >= 1
    assert found["cpu"]["memory"] > found["cpu"]["available"] > 2**20
    assert found["devices"]["auto"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "coinbench", "numpy", "safetensors"} <= found["versions"].keys()
    assert found["extras"]["track"].keys() == {"tensorboard"}
    assert found["cache"]["folder"] == str(tmp_path / "cache")
    assert (found["cache"]["size"], found["cache"]["files"], found["cache"]["writable"]) == (0, 0, True)
    assert found["cache"]["free on disk"] > 0
    assert list(found["weights"]) == list(FILES)
    assert list(found["data sets"]) == PROBLEMS.names()
    assert found["data sets"]["birds"] == "here"
    assert "data.root" in found["data sets"]["imagefolder"]
    assert "coinbench data prepare cub200 --download" in found["data sets"]["cub200"]
    assert "--download" not in found["data sets"]["celebahq"], "no program can fetch it"
    assert list(tmp_path.iterdir()) == []


def test_the_text_form_holds_what_the_json_form_holds(cli: Cli) -> None:
    # What changes from second to second is asked for once.
    text, found = cli("doctor").out, asked(cli)
    assert [line.partition(":")[0] for line in text.splitlines() if not line.startswith(" ")] == list(found)
    for name in (*found["versions"], *found["weights"], *found["data sets"]):
        assert any(line.startswith(f"  {name} ") for line in text.splitlines()), name
    for value in (*found["versions"].values(), *found["weights"].values(), *found["data sets"].values()):
        assert value in text
    assert as_text(found).splitlines()[0] == f"system: {found['system']}"


def test_the_size_of_the_cache_and_its_weights(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "cache" / "weights"
    place.mkdir(parents=True)
    (place / FILES["alexnet"].remote.name).write_bytes(b"x" * 1000)
    found = asked(cli)
    assert (found["cache"]["size"], found["cache"]["files"]) == (1000, 1)
    assert "sha256 is" in found["weights"]["alexnet"]
    assert "delete it and fetch it again" in found["weights"]["alexnet"]
    assert found["weights"]["vgg16"] == "not here; get them with `coinbench weights fetch vgg16`"
    trusted = replace(FILES["alexnet"], remote=replace(FILES["alexnet"].remote, digests=()))
    monkeypatch.setitem(published_weights.FILES, "alexnet", trusted)
    assert asked(cli)["weights"]["alexnet"] == "here, its publisher gives no digest to compare with"
    content = hashlib.sha256(b"x" * 1000).hexdigest()
    genuine = replace(trusted, remote=replace(trusted.remote, digests=(("sha256", content),)))
    monkeypatch.setitem(published_weights.FILES, "alexnet", genuine)
    assert asked(cli)["weights"]["alexnet"] == f"here, as published (sha256 {content})"


def test_of_a_generator_what_a_run_reads_is_looked_at(cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "cache" / "weights"
    place.mkdir(parents=True)
    pickle, name = place / FILES["celebahq256"].remote.name, "celebahq256"

    def told() -> tuple[str, str]:
        listed = {line.split()[0]: line[15:28].strip() for line in cli("weights", "list").out.splitlines()[:-1]}
        return asked(cli)["weights"][name], listed[name]

    assert told() == (f"not here; get them with `coinbench weights fetch {name}`", "not here")
    pickle.write_bytes(b"junk!")
    assert told() == (f"here, not converted: `coinbench weights fetch {name}`", "not converted")
    one_line(cli("weights", "verify", "--quiet"), 4, "not converted", f"`coinbench weights fetch {name}`")
    pickle.write_bytes(pickled(everything()))
    assert cli("weights", "fetch", name, "--quiet").code == 0
    sha256 = hashlib.sha256(pickle.read_bytes()).hexdigest()
    converted = f"converted from sha256 {sha256}; its publisher gives no digest to compare with"
    assert told() == (f"here, {converted}", "here")
    # A run reads no pickle: it may go.
    pickle.unlink()
    assert told() == (f"here, {converted}", "here")
    verified = cli("weights", "verify", "--quiet")
    assert (verified.code, verified.out) == (0, f"{name}: {place / name}.safetensors: {converted}\n")
    pickle.write_bytes(pickled(everything(), protocol=2))
    assert "not made from" in told()[0]


def test_weights_are_listed_with_where_they_come_from_and_their_terms(cli: Cli) -> None:
    lines = cli("weights", "list").out.splitlines()
    rows = json.loads(cli("weights", "list", "--json").out)
    for line, (name, row) in zip(lines, rows.items(), strict=False):
        assert line.startswith(name)
        assert (row["url"] or row["hint"]) in line
        assert row["licence"] in line
    assert "gan-transfer" in rows["imagenet256"]["hint"]
    one_line(cli("weights", "fetch"), 2, "weights fetch: name what to fetch")
    one_line(cli("weights", "verify"), 2, "none named and none here")
    one_line(cli("weights", "fetch", "nothere"), 2, "unknown weights 'nothere' (known: alexnet")


QUERIES = [
    name for name in vars(doctor) if name.startswith("_") and name[1:] in ("cpu", "devices", "versions", "extras")
]


@pytest.mark.parametrize("query", [*QUERIES, "_cache", "_weights", "_dataset", "_total", "_available"])
def test_a_query_that_fails_is_unknown_and_the_others_are_told(
    cli: Cli, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no such\nluck")

    monkeypatch.setattr(doctor, query, fail)
    found = asked(cli)
    assert list(found) == SECTIONS
    text = cli("doctor").out
    assert "unknown: OSError: no such luck" in text
    unknown = json.dumps(found).count('"unknown"')
    assert unknown == {"_weights": len(FILES), "_dataset": len(PROBLEMS.names())}.get(query, 1)


def test_a_gpu_is_told_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory, major, minor = "Some GPU", 80 * 2**30, 9, 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (40 * 2**30, 80 * 2**30))
    found = doctor._devices()
    assert found["cuda:0"] == {
        "name": "Some GPU", "memory": 80 * 2**30, "free": 40 * 2**30, "compute capability": "9.0",
    }  # fmt: skip
    assert found["auto"] == "cuda"
    told = as_text({"devices": found})
    assert "name Some GPU, memory 80.0 GiB, free 40.0 GiB, compute capability 9.0" in told


def test_a_run_that_could_start(cli: Cli, tmp_path: Path) -> None:
    found = asked(cli, "-m", "viscoin,flint", "-d", "birds", *sets())
    assert found["run"] == {"ready": True, "cells": 2, "missing": []}
    assert list(tmp_path.iterdir()) == []
    assert asked(cli, "-d", "birds")["run"]["ready"]


def test_a_run_that_lacks_weights_and_data_names_each_with_its_remedy(cli: Cli, tmp_path: Path) -> None:
    words = ("-m", "flint,random", "-d", "birds,cub200", *IMAGENET, "--metrics", "mse")
    words += ("--set", "problem.generator.net=beta_vae", "--set", "problem.perceptual.net=random")
    found = asked(cli, *words, code=4)
    weights, data = sorted(found["run"]["missing"], key=lambda line: "cub200" in line)
    assert "coinbench weights fetch squeezenet1_1" in weights
    assert "coinbench data prepare cub200" in data
    assert not found["run"]["ready"]
    ran = cli("doctor", *words)
    assert ran.code == 4
    assert f"  missing  {weights}" in ran.out
    assert list(tmp_path.iterdir()) == []
    # The same words end `run` with the same line.
    one_line(cli("run", "-m", "flint", "-d", "cub200", *IMAGENET, "--quiet"), 4, data[:60])


def test_of_missing_data_the_weights_are_looked_for_too(cli: Cli, tmp_path: Path) -> None:
    words = ("-m", "viscoin", "-d", "cub200")
    found = asked(cli, *words, code=4)["run"]
    assert not found["ready"]
    commands = (
        "`coinbench data prepare cub200",
        *(f"`coinbench weights fetch {name}`" for name in ("vgg16", "resnet50", "imagenet256", "alexnet", "inception")),
    )
    for command in commands:
        assert any(command in line for line in found["missing"]), command
    # A metric without its weights keeps no run from starting; p's trunk does.
    without = [line for line in found["missing"] if "will have no numbers" in line]
    assert {line.split()[0] for line in without} == {"lpips_vgg", "lpips_alex", "inception"}
    # `plan` lists the same.
    planned = cli("plan", *words, "--no-measure", "--json")
    assert planned.code == 0
    told = json.loads(planned.out)
    assert told["missing"] + told["unmeasured"] == found["missing"]
    assert all(line in cli("plan", *words, "--no-measure").out for line in found["missing"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("partition", "train", "val"), [("celeba", 24183, 2993), ("hash", 21600, 2400)])
def test_missing_faces_are_counted_by_the_split_that_will_be_theirs(
    tmp_path: Path, partition: str, train: int, val: int
) -> None:
    config = resolve(Request(methods="viscoin", datasets="celebahq", sets=(f"data.partition={partition}",)))
    (shape,) = outlook.look(config, Cache(tmp_path), tmp_path / "out").shapes.values()
    assert (shape.train, shape.val, shape.train + shape.val + shape.test) == (train, val, 30000)
    assert {n for n, _ in shape.unstored} == {train, val, shape.test}


def test_a_cache_that_cannot_be_written_keeps_a_run_from_starting(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("mine")
    found = asked(cli, "-m", "flint", "-d", "birds", code=4)
    assert [line for line in found["run"]["missing"] if "set --cache DIR" in line]


@pytest.mark.parametrize(
    ("words", "piece"),
    [(("-d", "brids"), "did you mean 'birds'"), (("--set", "data.size=64"), "no data set given")],
    ids=["data set", "settings alone"],
)
def test_a_wrong_run_is_a_usage_error(cli: Cli, words: tuple[str, ...], piece: str) -> None:
    one_line(cli("doctor", *words), 2, piece)


def test_nothing_of_the_environment_is_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "s3cr3t-value")
    assert "s3cr3t-value" not in cli("doctor", "-d", "birds").out


def test_no_connection_is_opened(tmp_path: Path) -> None:
    script = (
        "import socket\n"
        "def refuse(*_): raise AssertionError('went out')\n"
        "socket.socket.connect = refuse\n"
        "from pathlib import Path\n"
        "from coinbench import doctor\n"
        "from coinbench.cache import Cache\n"
        f"found = doctor.examine(Cache(Path({str(tmp_path)!r})), None)\n"
        "assert 'went out' not in str(found), found\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert files(tmp_path) == {}
