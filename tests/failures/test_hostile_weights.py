"""Files that are no published weights, or pretend to be: one line, code 4, nothing run and nothing written."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import random
import sys
import tracemalloc
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import published_files as files
import pytest
import torch
from commands import Cli, in_process, one_line
from hostile_costs import COSTS, OLDER, long_name
from hostile_files import (
    CALLS,
    NETWORKS,
    STREAMS,
    TENSORS,
    Make,
    alone,
    altered,
    blob,
    bomb,
    parameters,
    planted,
    tensorflow,
)
from safetensors.torch import save_file

from coinbench.errors import DataError
from coinbench.generators import stored_tensors
from coinbench.generators.convert import convert, describe
from coinbench.generators.initial import read_parts

TOLD = {
    **dict.fromkeys(("file", "sha256", "format", "licence", "coinbench"), "any"),
    "arguments": '{"size": 16}',
    "source_sha256": "[]",
    "not_converted": "[]",
}
"""Metadata of a converted file."""


def refused(content: bytes, pieces: list[str], folder: Path) -> None:
    path, out, before = folder / "file.pkl", folder / "out.safetensors", set(sys.modules)
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        convert(path, out)
    assert caught.value.exit_code == 4
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 700
    for piece in pieces:
        assert piece in message
    assert "docs/weights.md" in message
    assert [entry.name for entry in folder.iterdir()] == ["file.pkl"], "something was run or written"
    assert not {"torch_utils", "dnnlib"} & (set(sys.modules) - before)


@pytest.mark.parametrize(("make", "pieces"), CALLS.values(), ids=CALLS.keys())
def test_code_in_a_file_of_weights(tmp_path: Path, make: Make, pieces: list[str]) -> None:
    refused(make(tmp_path / "ran"), pieces, tmp_path)


@pytest.mark.parametrize("make", [alone(bomb), planted(bomb), blob(lambda at: pickle.dumps(bomb(at)))])
@pytest.mark.filterwarnings("ignore")
def test_the_canary_sings(tmp_path: Path, make: Make) -> None:
    # The files above do harm where Python's own reader takes them.
    content = make(tmp_path / "ran")
    with files.official_names(), suppress(Exception):
        pickle.loads(content)
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize(("make", "pieces"), TENSORS.values(), ids=TENSORS.keys())
def test_a_tensor_that_is_none(tmp_path: Path, make: Make, pieces: list[str]) -> None:
    refused(make(tmp_path / "ran"), pieces, tmp_path)


@pytest.mark.parametrize(("make", "pieces"), STREAMS.values(), ids=STREAMS.keys())
def test_a_file_that_holds_no_weights(tmp_path: Path, make: Make, pieces: list[str]) -> None:
    refused(make(tmp_path / "ran"), pieces, tmp_path)


@pytest.mark.parametrize(("make", "pieces"), NETWORKS.values(), ids=NETWORKS.keys())
def test_weights_of_another_network(tmp_path: Path, make: Make, pieces: list[str]) -> None:
    refused(make(tmp_path / "ran"), pieces, tmp_path)


@pytest.mark.parametrize(("make", "pieces"), COSTS.values(), ids=COSTS.keys())
def test_a_small_file_that_would_cost_much(tmp_path: Path, make: Make, pieces: list[str]) -> None:
    refused(make(tmp_path / "ran"), pieces, tmp_path)


@pytest.mark.parametrize(("end", "times"), [("", 4), ("\U0001f426", 8)])
def test_a_long_name_is_not_copied_again_and_again(tmp_path: Path, end: str, times: int) -> None:
    content = long_name(end)(tmp_path)
    (tmp_path / "file.pkl").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            convert(tmp_path / "file.pkl", tmp_path / "out.safetensors")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Entry, what is read of it, and its letters, while they widen in both widths.
    assert peak < times * len(content)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), OSError(errno.ENOMEM, "no memory")],
    ids=lambda error: type(error).__name__,
)
def test_a_file_that_takes_more_memory_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def short(*_: Any) -> None:
        raise error

    for kind, content in _sound().items():
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(stored_tensors, "storage", short)
        refused(content, ["more memory to read than there is", "free some"], tmp_path / kind)


@pytest.mark.parametrize(("make", "pieces"), OLDER.values(), ids=OLDER.keys())
def test_a_damaged_file_of_an_older_torch(tmp_path: Path, make: Make, pieces: list[str]) -> None:
    refused(make(tmp_path / "ran"), pieces, tmp_path)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("kind", ["pickle", "state dict", "older state dict", "TensorFlow"])
def test_a_download_that_was_cut(tmp_path: Path, kind: str, share: float) -> None:
    content = _sound()[kind]
    refused(content[: int(len(content) * share)], [], tmp_path)


def _sound() -> dict[str, bytes]:
    g = files.generator(3)
    return {
        "pickle": files.pickled(files.official(G_ema=files.record(g, files.ada_kwargs()))),
        "state dict": files.saved(g.state_dict()),
        "older state dict": files.older(g.state_dict()),
        "TensorFlow": tensorflow(lambda _: None)(Path()),
    }


@pytest.mark.parametrize("kind", ["pickle", "state dict", "older state dict", "TensorFlow"])
def test_changed_bytes(tmp_path: Path, kind: str) -> None:
    """Converted, where a weight changed, or a DataError; never anything else."""
    dice, content, refusals = random.Random(kind), _sound()[kind], 0
    for _ in range(10):
        changed = bytearray(content)
        for place in (dice.randrange(len(changed)) for _ in range(3)):
            changed[place] = dice.randrange(256)
        (tmp_path / "file.pkl").write_bytes(changed)
        try:
            convert(tmp_path / "file.pkl", tmp_path / "out.safetensors")
        except DataError:
            refusals += 1
    assert refusals > 0
    assert {entry.name for entry in tmp_path.iterdir()} <= {"file.pkl", "out.safetensors"}


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)
    return partial(in_process, capfd)


@pytest.mark.parametrize("kind", ["missing", "folder", "hostile", "foreign"])
def test_no_weights_on_the_command_line(cli: Cli, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.pkl"
    if kind == "folder":
        path.mkdir()
    elif kind == "hostile":
        path.write_bytes(planted(bomb)(tmp_path / "ran"))
    elif kind == "foreign":
        path.write_bytes(altered(lambda c: parameters(c).pop("const"))(tmp_path))
    before = {entry.name for entry in tmp_path.iterdir()}
    pieces = {"missing": "no such file", "folder": "is no file", "hostile": "nothing of it was run", "foreign": "lacks"}
    one_line(cli("weights", "convert", "file.pkl", "out.safetensors"), 4, "file.pkl: ", pieces[kind])
    assert {entry.name for entry in tmp_path.iterdir()} == before


DAMAGED = {
    "arguments": {"arguments": "5"},
    "arguments of lists": {"arguments": '{"size": [16]}'},
    "deep arguments": {"arguments": "[" * 100_000},
    "discriminator": {"discriminator": "[]"},
    "source_sha256": {"source_sha256": "3"},
    "not_converted": {"not_converted": "[5]"},
    "networks": {},
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_metadata_of_converted_weights(cli: Cli, tmp_path: Path, kind: str) -> None:
    tensors = {"\x1b[2J.a" if kind == "networks" else "G_ema.a": torch.zeros(2)}
    save_file(tensors, tmp_path / "g.safetensors", TOLD | DAMAGED[kind])
    for as_json in ((), ("--json",)):
        one_line(cli("weights", "show", "g.safetensors", *as_json), 4, "does not say what it was converted from")


def test_metadata_that_steer_a_terminal(cli: Cli, tmp_path: Path) -> None:
    metadata = dict.fromkeys(("file", "licence", "format", "sha256", "coinbench"), "\x1b[2J\n" * 1000)
    listed = {"not_converted": json.dumps(["\x1b[2J"]), "arguments": json.dumps({"\x1b[2J": 5})}
    save_file({"G_ema.a": torch.zeros(2)}, tmp_path / "g.safetensors", TOLD | metadata | listed)
    shown = cli("weights", "show", "g.safetensors")
    assert (shown.code, shown.err) == (0, "")
    assert all(line.isprintable() and len(line) < 600 for line in shown.out.splitlines())
    assert len(shown.out.splitlines()) < 12
    assert r"\x1b[2J" in shown.out


@pytest.mark.parametrize("method", ["is_file", "open"])
def test_a_file_that_may_not_be_read(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file.pkl").write_bytes(b"any")
    # Permission bits do not bind root.
    with monkeypatch.context() as patch:
        patch.setattr(Path, method, refuse)
        ran = cli("weights", "convert", "file.pkl", "out.safetensors")
    one_line(ran, 4, "file.pkl: cannot be read (Permission denied)")


@pytest.mark.parametrize("kind", ["pickle", "state dict"])
def test_a_file_replaced_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path, content, digest = tmp_path / "file.pkl", _sound()[kind], hashlib.file_digest
    path.write_bytes(content)

    def replaced(*given: Any) -> Any:
        found = digest(*given)
        path.unlink()
        path.write_bytes(files.saved(files.generator(5).state_dict()))
        return found

    monkeypatch.setattr(hashlib, "file_digest", replaced)
    convert(path, tmp_path / "out.safetensors")
    assert describe(tmp_path / "out.safetensors")["sha256"] == hashlib.sha256(content).hexdigest()
    found = read_parts(tmp_path / "out.safetensors")["G_ema"]
    assert all(torch.equal(found[name], value) for name, value in files.generator(3).state_dict().items())


def test_weights_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file.pkl").write_bytes(_sound()["TensorFlow"])
    (tmp_path / "taken").write_text("mine")
    one_line(
        cli("weights", "convert", "file.pkl", "taken/out.safetensors"), 1, "taken/out.safetensors: cannot be written"
    )
    assert {entry.name for entry in tmp_path.iterdir()} == {"file.pkl", "taken"}
    assert (tmp_path / "taken").read_text() == "mine"
